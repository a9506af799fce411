//! Decides the fate of every packet: how long it takes, whether it is lost, whether a cut swallows it.
//!
//! One-way delay is half the round trip between the regions plus jitter. Datagrams are lost; what travels on a stream
//! is sent again after a round trip, as QUIC would, so loss makes it late. A cut swallows both. Never moves bytes itself:
//! the world does, at the time that is returned here.

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Cut, RegionMap};
use portolan_model::{Ratio, RegionId};
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
    Arrives(Duration),
    /// It is lost.
    Lost,
    /// A cut lies in its way.
    Cut,
}

/// Longest run of losses of one packet on a stream: after it the connection would be given up.
const MAX_REPEATS: u32 = 8;

/// The links between all pairs of regions.
pub struct Network {
    regions: Arc<RegionMap>,
    loss: Ratio,
    jitter: Duration,
    seed: u64,
    draws: BTreeMap<(RegionId, RegionId), ChaCha8Rng>,
    cuts: BTreeMap<usize, Cut>,
}

impl Network {
    /// Takes round trips from `regions`.
    pub fn new(regions: Arc<RegionMap>, loss: Ratio, jitter: Duration, seed: u64) -> Self {
        Self { regions, loss, jitter, seed, draws: BTreeMap::new(), cuts: BTreeMap::new() }
    }

    /// Cuts links until [`Network::heal`] is called with the same number.
    pub fn cut(&mut self, number: usize, cut: Cut) {
        self.cuts.insert(number, cut);
    }

    /// Ends a cut.
    pub fn heal(&mut self, number: usize) {
        self.cuts.remove(&number);
    }

    /// Whether a cut swallows what `from` sends to `to`.
    pub fn is_cut(&self, from: &RegionId, to: &RegionId) -> bool {
        self.cuts.values().any(|cut| cut.concerns(from, to))
    }

    /// Whether any pair of regions is cut in any direction.
    pub fn has_cuts(&self) -> bool {
        !self.cuts.is_empty()
    }

    /// Decides what becomes of a packet that leaves at this moment.
    pub fn depart(&mut self, from: &RegionId, to: &RegionId, carriage: Carriage) -> Departure {
        // Drawn before the cut is looked at, so that a cut shifts no later draw.
        let seed = self.seed;
        let link = || chance::stream(seed, "link", &format!("{from} {to}"));
        let draw = self.draws.entry((from.clone(), to.clone())).or_insert_with(link);
        let jitter = self.jitter.mul_f64(draw.random_range(0.0..1.0));
        let repeats = (0..MAX_REPEATS).take_while(|_| draw.random_range(0..Ratio::ONE.parts()) < self.loss.parts());
        let repeats = repeats.count() as u32;
        if self.is_cut(from, to) {
            return Departure::Cut;
        }
        let rtt = self.regions.rtt(from, to);
        match carriage {
            Carriage::Datagram if repeats > 0 => Departure::Lost,
            Carriage::Datagram => Departure::Arrives(rtt / 2 + jitter),
            Carriage::Stream => Departure::Arrives(rtt / 2 + jitter + rtt * repeats),
        }
    }
}

#[cfg(test)]
mod tests {
    use portolan_config::{Direction, SourceFile};

    use super::*;

    fn network(loss: u32, seed: u64) -> Network {
        let file = |name: &str, text: String| SourceFile { path: format!("{name}.yaml"), text };
        let region = |name: &str, host: u8| {
            let rest = format!("coordinates: {{ latitude: 1, longitude: 1 }}, addresses: [192.0.2.{host}] }}");
            file(name, format!("{{ version: 1, region: {name}, title: T, {rest}"))
        };
        let trips = "{ version: 1, rtt: [{ between: [a, b], rtt: 100ms }] }".to_owned();
        let map = RegionMap::parse(&[region("a", 1), region("b", 2), file("rtt", trips)]);
        let map = Arc::new(map.unwrap_or_else(|faults| panic!("{}", faults.render())));
        Network::new(map, Ratio::from_parts(loss), Duration::from_millis(10), seed)
    }

    fn region(text: &str) -> RegionId {
        RegionId::new(text).expect("a region")
    }

    fn departures(network: &mut Network, carriage: Carriage) -> Vec<Departure> {
        (0..200).map(|_| network.depart(&region("a"), &region("b"), carriage)).collect()
    }

    #[test]
    fn a_packet_takes_half_the_round_trip_and_some_jitter() {
        let least = Duration::from_millis(50);
        for departure in departures(&mut network(0, 1), Carriage::Datagram) {
            let Departure::Arrives(after) = departure else { panic!("{departure:?} without loss or cut") };
            assert!(after >= least && after <= least + Duration::from_millis(10));
        }
    }

    #[test]
    fn loss_takes_datagrams_and_makes_streams_late() {
        let lost = |carriage| {
            let found = departures(&mut network(2000, 1), carriage);
            found.into_iter().filter(|departure| *departure == Departure::Lost).count()
        };
        assert!((20..60).contains(&lost(Carriage::Datagram)), "a fifth of 200");
        assert_eq!(lost(Carriage::Stream), 0);
        let late = |departure: &&Departure| match departure {
            Departure::Arrives(after) => *after >= Duration::from_millis(150),
            _ => false,
        };
        let streams = departures(&mut network(2000, 1), Carriage::Stream);
        assert!((20..60).contains(&streams.iter().filter(late).count()));
    }

    #[test]
    fn a_cut_takes_what_its_direction_says_and_shifts_no_later_draw() {
        let check = |direction, out, back| {
            let mut network = network(0, 1);
            network.cut(0, Cut::Side { regions: vec![region("a")], direction });
            assert_eq!(network.is_cut(&region("a"), &region("b")), out, "{direction:?}");
            assert_eq!(network.is_cut(&region("b"), &region("a")), back, "{direction:?}");
            departures(&mut network, Carriage::Datagram);
            network.heal(0);
            departures(&mut network, Carriage::Datagram)
        };
        let mut uncut = network(0, 1);
        departures(&mut uncut, Carriage::Datagram);
        let undisturbed = departures(&mut uncut, Carriage::Datagram);
        assert_eq!(check(Direction::Both, true, true), undisturbed);
        assert_eq!(check(Direction::In, false, true), undisturbed);
        assert_eq!(check(Direction::Out, true, false), undisturbed);
    }
}
