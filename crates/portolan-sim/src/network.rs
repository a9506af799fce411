//! Decides the fate of every packet: how long it takes, whether it is lost, doubled or overtaken, whether a cut swallows
//! it.
//!
//! One-way delay is half the round trip between the regions plus jitter; within a region it is half a millisecond, and
//! nothing is lost there unless the scenario says so. Datagrams are lost; what travels on a stream is sent again after a round trip, as QUIC would, so loss
//! makes it late. A cut swallows both. Never moves bytes itself: the world does, at the time that is returned here.

use std::collections::BTreeMap;

use portolan_config::{Cut, LinkEffect, RegionMap, Scenario, Within};
use portolan_model::{ByteSize, NodeName, Ratio, RegionId, Timestamp};
use portolan_node::MAX_DATAGRAM;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tokio::time::Duration;

use crate::chance;

/// How a packet travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// Once; may be lost.
    Datagram,
    /// Repeated until it arrives.
    Stream,
}

/// What becomes of a packet when it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It arrives after this time, unless a cut falls in between.
    Arrives {
        /// Until it arrives.
        after: Duration,
        /// Until a second copy of it does.
        again: Option<Duration>,
    },
    /// It is lost.
    Lost,
    /// A cut lies in its way.
    Cut,
}

/// Way between two nodes of one region.
const LOCAL: Duration = Duration::from_micros(500);

/// Longest run of losses of one packet on a stream: after it the connection would be given up.
const MAX_REPEATS: u32 = 8;

/// What an overtaken packet is late by, beside its own way once more.
const OVERTAKEN: Duration = Duration::from_millis(20);

/// What such a packet is late by at most between nodes of one region.
const OVERTAKEN_WITHIN: Duration = Duration::from_millis(60);

/// Longest queue before a narrow link.
const MAX_QUEUE: Duration = Duration::from_secs(1);

/// The links between all pairs of regions, in each direction.
pub struct Network {
    regions: Vec<RegionId>,
    jitter: Duration,
    loss: Ratio,
    /// What becomes of packets between nodes of one region.
    within: Within,
    /// By place of the sender's region, then of the receiver's.
    links: Vec<Link>,
    /// All nodes, each with its region.
    nodes: Vec<(NodeName, RegionId)>,
    /// By place of the sender, then of the receiver, among the nodes: whether a cut between nodes lies in the way. Empty
    /// while there is none.
    severed: Vec<bool>,
    faults: BTreeMap<usize, Fault>,
}

/// What a step of the scenario does to links.
enum Fault {
    Cut(Cut),
    Worse(Cut, LinkEffect),
}

/// One direction of one pair.
struct Link {
    rtt: Duration,
    draws: ChaCha8Rng,
    state: State,
    /// When a narrow link has passed what it took.
    free_at: Timestamp,
}

/// What a link is like at the moment. Shares are in 65 536ths.
#[derive(Clone, Copy, Default)]
struct State {
    cut: bool,
    latency: Duration,
    loss: u64,
    duplicate: u64,
    reorder: u64,
    bandwidth: Option<u64>,
}

impl Network {
    /// Takes round trips from `regions`; `nodes` are told apart by their places.
    pub fn new(regions: &RegionMap, nodes: Vec<(NodeName, RegionId)>, scenario: &Scenario, seed: u64) -> Self {
        let ids = regions.ids();
        let pairs = ids.iter().flat_map(|from| ids.iter().map(move |to| (from, to)));
        let link = |(from, to): (&RegionId, &RegionId)| Link {
            rtt: regions.rtt(from, to),
            draws: chance::stream(seed, "link", &format!("{from} {to}")),
            state: State::default(),
            free_at: Timestamp::ZERO,
        };
        let links = pairs.map(link).collect();
        let Scenario { jitter, loss, within, .. } = *scenario;
        let (severed, faults) = (Vec::new(), BTreeMap::new());
        let mut network = Self { regions: ids.to_vec(), jitter, loss, within, links, nodes, severed, faults };
        network.renew();
        network
    }

    /// Cuts links until [`Network::mend`] is called with the same number.
    pub fn cut(&mut self, number: usize, cut: Cut) {
        self.faults.insert(number, Fault::Cut(cut));
        self.renew();
    }

    /// Makes links worse until [`Network::mend`] is called with the same number.
    pub fn worsen(&mut self, number: usize, links: Cut, effect: LinkEffect) {
        self.faults.insert(number, Fault::Worse(links, effect));
        self.renew();
    }

    /// Ends what a step did.
    pub fn mend(&mut self, number: usize) {
        self.faults.remove(&number);
        self.renew();
    }

    /// Whether no fault makes any link worse than the scenario has it.
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether a cut lies between two nodes of one region.
    pub fn splits_a_region(&self) -> bool {
        let pairs = (0..self.nodes.len()).flat_map(|from| (0..self.nodes.len()).map(move |to| (from, to)));
        let of_one_region = |(from, to): &(usize, usize)| self.nodes[*from].1 == self.nodes[*to].1;
        !self.severed.is_empty() && pairs.filter(of_one_region).any(|(from, to)| self.is_severed(from, to))
    }

    /// Whether a cut between nodes swallows what the node at `from` sends to that at `to`.
    pub fn is_severed(&self, from: usize, to: usize) -> bool {
        self.severed.get(from * self.nodes.len() + to).copied().unwrap_or_default()
    }

    /// Whether a cut swallows all that the region at `from` sends to that at `to`.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.links[from * self.regions.len() + to].state.cut
    }

    /// By how much a datagram comes later at most than after half the round trip, on the worst link.
    pub fn late_by(&self) -> Duration {
        let late = |link: &Link| {
            let State { latency, reorder, duplicate, bandwidth, .. } = link.state;
            let overtaken = if reorder > 0 { link.rtt / 2 + latency + OVERTAKEN } else { Duration::ZERO };
            let again = if duplicate > 0 { OVERTAKEN } else { Duration::ZERO };
            let passing = |bandwidth: u64| Duration::from_secs_f64(MAX_DATAGRAM as f64 / bandwidth.max(1) as f64);
            let queued = bandwidth.map_or(Duration::ZERO, |bandwidth| MAX_QUEUE + passing(bandwidth));
            latency + overtaken + again + queued
        };
        self.jitter + self.links.iter().map(late).max().unwrap_or_default()
    }

    /// Whether what passes between these two is counted in bytes.
    pub fn is_narrow(&self, from: usize, to: usize) -> bool {
        self.links[from * self.regions.len() + to].state.bandwidth.is_some()
    }

    /// Decides what becomes of a packet of `bytes` that leaves at this moment; the size matters to narrow links only.
    pub fn depart(&mut self, from: usize, to: usize, carriage: Carriage, bytes: usize, now: Timestamp) -> Departure {
        if from == to {
            return self.depart_within(from, carriage);
        }
        let link = &mut self.links[from * self.regions.len() + to];
        // One draw for everything, before anything is looked at, so that no fault shifts a later draw.
        let draw: u64 = link.draws.random();
        let part = |at: u32| (draw >> (16 * at)) & 0xffff;
        if link.state.cut {
            return Departure::Cut;
        }
        let way = link.rtt / 2 + link.state.latency;
        let mut after = way + self.jitter.mul_f64(part(0) as f64 / 65_536.0);
        if let Some(bandwidth) = link.state.bandwidth {
            let queued = link.free_at.since(now);
            if queued > MAX_QUEUE {
                return Departure::Lost;
            }
            let passing = Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / bandwidth.max(1));
            link.free_at = now + queued + passing;
            after += queued + passing;
        }
        let lost = part(1) < link.state.loss;
        match carriage {
            Carriage::Datagram if lost => Departure::Lost,
            Carriage::Datagram => {
                if part(2) < link.state.reorder {
                    after += way + OVERTAKEN;
                }
                let again = (part(3) < link.state.duplicate).then(|| after + OVERTAKEN);
                Departure::Arrives { after, again }
            }
            Carriage::Stream => {
                // Each repetition looks at other bits of the same draw.
                let mut repeats = u32::from(lost);
                let mut bits = draw;
                while repeats > 0 && repeats < MAX_REPEATS {
                    bits = bits.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
                    if (bits >> 24) & 0xffff >= link.state.loss {
                        break;
                    }
                    repeats += 1;
                }
                Departure::Arrives { after: after + (link.rtt + link.state.latency) * repeats, again: None }
            }
        }
    }

    /// The same between nodes of one region. What travels on a stream is sent again at once, and nothing of that is felt.
    fn depart_within(&mut self, region: usize, carriage: Carriage) -> Departure {
        let Within { loss, reorder, duplicate } = self.within;
        let once = Departure::Arrives { after: LOCAL, again: None };
        if carriage == Carriage::Stream || self.within == Within::default() {
            return once;
        }
        let draw: u64 = self.links[region * self.regions.len() + region].draws.random();
        let part = |at: u32| (draw >> (16 * at)) & 0xffff;
        let late = LOCAL + OVERTAKEN_WITHIN.mul_f64(part(0) as f64 / 65_536.0);
        if part(1) < share(loss) {
            return Departure::Lost;
        }
        let after = if part(2) < share(reorder) { late } else { LOCAL };
        Departure::Arrives { after, again: (part(3) < share(duplicate)).then_some(late + OVERTAKEN) }
    }

    /// Combines all cuts between nodes anew.
    fn sever(&mut self) {
        let cuts = self.faults.values().filter_map(|fault| match fault {
            Fault::Cut(cut @ Cut::Nodes { .. }) => Some(cut),
            Fault::Cut(_) | Fault::Worse(..) => None,
        });
        let cuts: Vec<&Cut> = cuts.collect();
        let pairs = self.nodes.iter().flat_map(|from| self.nodes.iter().map(move |to| (from, to)));
        let severed =
            pairs.map(|(from, to)| cuts.iter().any(|cut| cut.concerns_nodes((&from.0, &from.1), (&to.0, &to.1))));
        self.severed = if cuts.is_empty() { Vec::new() } else { severed.collect() };
    }

    /// Whether cuts between nodes leave no way from one region to another.
    fn severs(&self, from: &RegionId, to: &RegionId) -> bool {
        let of = |region| {
            let nodes = self.nodes.iter().enumerate();
            nodes.filter(move |(_, (_, other))| other == region).map(|(node, _)| node)
        };
        !self.severed.is_empty() && of(from).all(|from| of(to).all(|to| self.is_severed(from, to)))
    }

    /// Combines all faults anew for every link.
    fn renew(&mut self) {
        self.sever();
        let pairs = self.regions.iter().flat_map(|from| self.regions.iter().map(move |to| (from, to)));
        let severed: Vec<bool> = pairs.map(|(from, to)| from != to && self.severs(from, to)).collect();
        let regions = &self.regions;
        let pairs = regions.iter().flat_map(|from| regions.iter().map(move |to| (from, to)));
        for (((from, to), link), cut) in pairs.zip(&mut self.links).zip(severed) {
            let mut state = State { loss: share(self.loss), cut, ..State::default() };
            for fault in self.faults.values().filter(|_| from != to) {
                match fault {
                    Fault::Cut(cut) => state.cut |= cut.concerns(from, to),
                    Fault::Worse(links, effect) if links.concerns(from, to) => state.take(*effect),
                    Fault::Worse(..) => {}
                }
            }
            link.state = state;
        }
    }
}

impl State {
    /// Adds one more effect.
    fn take(&mut self, effect: LinkEffect) {
        match effect {
            LinkEffect::Latency(by) => self.latency += by,
            LinkEffect::Loss(loss) => self.loss = (self.loss + share(loss)).min(65_536),
            LinkEffect::Duplicate(duplicate) => self.duplicate = self.duplicate.max(share(duplicate)),
            LinkEffect::Reorder(reorder) => self.reorder = self.reorder.max(share(reorder)),
            LinkEffect::Bandwidth(ByteSize(bytes)) => {
                self.bandwidth = Some(self.bandwidth.map_or(bytes, |narrower| narrower.min(bytes)));
            }
        }
    }
}

fn share(ratio: Ratio) -> u64 {
    u64::from(ratio.parts()) * 65_536 / u64::from(Ratio::ONE.parts())
}

#[cfg(test)]
mod tests {
    use portolan_config::{Direction, RegionSource, SourceFile};

    use super::*;

    fn network(loss: &str, seed: u64) -> Network {
        network_with(&format!("loss: {loss}"), seed)
    }

    fn network_with(keys: &str, seed: u64) -> Network {
        let text = format!(
            "version: 1\ntitle: t\nlength: 1s\nregions: {{ a: {{}}, b: {{}}, c: {{}} }}\nrtt: 100ms\njitter: 10ms\n{keys}\n"
        );
        let scenario = Scenario::parse(&SourceFile { path: "s.yaml".to_owned(), text });
        let scenario = scenario.unwrap_or_else(|faults| panic!("{}", faults.render()));
        let RegionSource::Inline(map) = &scenario.regions else { panic!("the regions stand in the scenario") };
        let nodes = ["a-1", "a-2", "b-1", "c-1"].map(|name| (NodeName::new(name).expect("a node"), region(&name[..1])));
        Network::new(map, nodes.into(), &scenario, seed)
    }

    fn region(text: &str) -> RegionId {
        RegionId::new(text).expect("a region")
    }

    fn departures(network: &mut Network, carriage: Carriage) -> Vec<Departure> {
        (0..200).map(|_| network.depart(0, 1, carriage, 100, Timestamp::ZERO)).collect()
    }

    fn later_than(departures: &[Departure], millis: u64) -> usize {
        let late = |departure: &&Departure| matches!(departure, Departure::Arrives { after, .. } if *after >= Duration::from_millis(millis));
        departures.iter().filter(late).count()
    }

    #[test]
    fn a_packet_takes_half_the_round_trip_and_some_jitter() {
        let departures = departures(&mut network("0%", 1), Carriage::Datagram);
        assert_eq!((later_than(&departures, 50), later_than(&departures, 60)), (200, 0));
    }

    #[test]
    fn loss_takes_datagrams_and_makes_streams_late() {
        let lost = |carriage| {
            let found = departures(&mut network("20%", 1), carriage);
            found.into_iter().filter(|departure| *departure == Departure::Lost).count()
        };
        assert!((20..60).contains(&lost(Carriage::Datagram)), "a fifth of 200");
        assert_eq!(lost(Carriage::Stream), 0);
        let streams = departures(&mut network("20%", 1), Carriage::Stream);
        assert!((20..60).contains(&later_than(&streams, 150)));
    }

    #[test]
    fn each_effect_does_what_it_says() {
        let check = |effect| {
            let mut network = network("0%", 1);
            network.worsen(0, Cut::All, effect);
            departures(&mut network, Carriage::Datagram)
        };
        let fifth = Ratio::from_parts(2000);
        assert_eq!(later_than(&check(LinkEffect::Latency(Duration::from_millis(30))), 80), 200);
        assert!((20..60).contains(&later_than(&check(LinkEffect::Reorder(fifth)), 110)));
        let twice = |departure: &&Departure| matches!(departure, Departure::Arrives { again: Some(_), .. });
        assert!((20..60).contains(&check(LinkEffect::Duplicate(fifth)).iter().filter(twice).count()));
        // 200 packets of 100 bytes: one second's worth passes, one second's worth waits.
        let narrow = check(LinkEffect::Bandwidth(ByteSize(5000)));
        let lost = narrow.iter().filter(|departure| **departure == Departure::Lost).count();
        assert!((130..160).contains(&lost), "{lost}");
    }

    #[test]
    fn datagrams_between_nodes_of_one_region_are_lost_late_and_doubled_as_the_scenario_says() {
        let check = |within: &str, carriage, lost: bool, late: bool, twice: bool| {
            let mut network = network_with(&format!("within: {{ {within} }}"), 1);
            let found: Vec<Departure> =
                (0..200).map(|_| network.depart(0, 0, carriage, 100, Timestamp::ZERO)).collect();
            let doubled = |departure: &&Departure| matches!(departure, Departure::Arrives { again: Some(_), .. });
            let of = [
                found.iter().filter(|departure| **departure == Departure::Lost).count(),
                later_than(&found, 1),
                found.iter().filter(doubled).count(),
            ];
            for (count, expected) in of.into_iter().zip([lost, late, twice]) {
                let about = if expected { 20..60 } else { 0..1 };
                assert!(about.contains(&count), "{within}: {of:?}");
            }
            assert_eq!(later_than(&found, 61), 0);
            // Links between regions are as they were.
            let undisturbed = departures(&mut network_with("loss: 0%", 1), Carriage::Datagram);
            assert_eq!(departures(&mut network, Carriage::Datagram), undisturbed);
        };
        check("loss: 20%", Carriage::Datagram, true, false, false);
        check("reorder: 20%", Carriage::Datagram, false, true, false);
        check("duplicate: 20%", Carriage::Datagram, false, false, true);
        check("loss: 20%, reorder: 20%, duplicate: 20%", Carriage::Stream, false, false, false);
    }

    #[test]
    fn no_datagram_comes_later_than_the_network_says() {
        for effect in [
            LinkEffect::Latency(Duration::from_millis(30)),
            LinkEffect::Duplicate(Ratio::from_parts(5000)),
            LinkEffect::Reorder(Ratio::from_parts(5000)),
            LinkEffect::Bandwidth(ByteSize(50_000)),
        ] {
            let mut network = network("0%", 1);
            assert_eq!(network.late_by(), Duration::from_millis(10));
            network.worsen(0, Cut::All, effect);
            // Two steps add up on a link that both are about, and on no other.
            network.worsen(1, Cut::All, LinkEffect::Latency(Duration::from_millis(20)));
            let later = |departure| match departure {
                Departure::Arrives { after, again } => again.unwrap_or(after).saturating_sub(Duration::from_millis(50)),
                Departure::Lost | Departure::Cut => Duration::ZERO,
            };
            let latest = (0..200)
                .map(|_| network.depart(0, 1, Carriage::Datagram, MAX_DATAGRAM, Timestamp::ZERO))
                .map(later)
                .max();
            let (said, latest) = (network.late_by(), latest.expect("there were departures"));
            assert!(latest <= said && said < latest + Duration::from_millis(50), "{effect:?}: {latest:?} of {said:?}");
        }
    }

    #[test]
    fn a_cut_takes_what_its_direction_says_and_shifts_no_later_draw() {
        let check = |cut: Cut, out, back, elsewhere| {
            let mut network = network("0%", 1);
            network.cut(0, cut);
            assert_eq!((network.is_cut(0, 1), network.is_cut(1, 0), network.is_cut(0, 2)), (out, back, elsewhere));
            departures(&mut network, Carriage::Datagram);
            network.mend(0);
            departures(&mut network, Carriage::Datagram)
        };
        let mut uncut = network("0%", 1);
        departures(&mut uncut, Carriage::Datagram);
        let undisturbed = departures(&mut uncut, Carriage::Datagram);
        let side = |direction| Cut::Side { regions: vec![region("a")], direction };
        assert_eq!(check(side(Direction::Both), true, true, true), undisturbed);
        assert_eq!(check(side(Direction::In), false, true, false), undisturbed);
        assert_eq!(check(side(Direction::Out), true, false, true), undisturbed);
        let bridge = Cut::Pairs { pairs: vec![(region("a"), region("b"))], direction: Direction::Both };
        assert_eq!(check(bridge, true, true, false), undisturbed);
    }

    #[test]
    fn a_cut_between_nodes_leaves_the_others_of_their_regions_alone() {
        let nodes = |names: &[&str]| names.iter().map(|name| NodeName::new(name).expect("a node")).collect();
        let check = |names: &[&str], regions: &[&str], severed: [bool; 3], regions_cut: [bool; 2]| {
            let mut network = network("0%", 1);
            let regions = regions.iter().map(|id| region(id)).collect();
            network.cut(0, Cut::Nodes { nodes: nodes(names), regions, direction: Direction::Both });
            let found = [(0, 1), (0, 2), (1, 2)].map(|(from, to)| network.is_severed(from, to));
            assert_eq!(found, severed, "{names:?}");
            assert_eq!([(0, 1), (1, 2)].map(|(from, to)| network.is_cut(from, to)), regions_cut, "{names:?}");
            network.mend(0);
            assert!(!network.is_severed(0, 1) && !network.is_cut(0, 1));
        };
        check(&["a-1"], &[], [true, true, false], [false, false]);
        check(&["a-1"], &["a"], [true, false, false], [false, false]);
        check(&["a-1", "a-2"], &[], [false, true, true], [true, false]);
        check(&["b-1"], &["c"], [false, false, false], [false, true]);
    }
}
