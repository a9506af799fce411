//! Whom this node hears, by itself and through what others say, and which regions are therefore gone.
//!
//! The rule for DNS: a region is down when at least one observer finds it silent for [`SILENT_AFTER`] and none hears it,
//! or when it says itself that it is not ready. Observers are this node and every node of another region whose facts
//! are fresh; one that started lately has no say. So a region that died is down at all survivors, one that only some
//! cannot reach is not, and a region cut off from all finds everyone else down and itself up.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use portolan_model::{NodeName, RegionId, Timestamp};

use crate::facts::Sight;

/// Silence after which an observer reports a region as silent.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);

/// How long a region that was silent must be well before it is named again, so that one lucky packet does not do it. A
/// region that was down by its own word is named again as soon as it says so.
pub const RECOVERY_HOLD: Duration = Duration::from_secs(2);

/// When each node was heard last, by this node.
#[derive(Debug)]
pub struct Presence {
    started: Timestamp,
    nodes: BTreeMap<NodeName, Observed>,
    /// When any node of a region was heard last, in the order of names.
    regions: Vec<(RegionId, Option<Timestamp>)>,
}

#[derive(Debug)]
struct Observed {
    /// Its place among the regions.
    region: usize,
    heard: Option<Timestamp>,
}

impl Presence {
    /// Starts listening for `peers`. No other node is ever counted, which bounds the state.
    pub fn new(peers: &BTreeMap<NodeName, RegionId>, now: Timestamp) -> Self {
        let regions: BTreeSet<&RegionId> = peers.values().collect();
        let regions: Vec<_> = regions.into_iter().map(|region| (region.clone(), None)).collect();
        let nodes = peers.iter().map(|(node, region)| {
            let region = regions.partition_point(|(other, _)| other < region);
            (node.clone(), Observed { region, heard: None })
        });
        Self { started: now, nodes: nodes.collect(), regions }
    }

    /// Takes note that `node` spoke; says whether for the first time.
    pub fn hear(&mut self, node: &NodeName, now: Timestamp) -> bool {
        let Some(observed) = self.nodes.get_mut(node) else { return false };
        let of_region = &mut self.regions[observed.region].1;
        *of_region = Some(now).max(*of_region);
        observed.heard.replace(now).is_none()
    }

    /// When each node was heard last, in the order of names.
    pub fn all_heard(&self) -> impl Iterator<Item = (&NodeName, Option<Timestamp>)> {
        self.nodes.iter().map(|(node, observed)| (node, observed.heard))
    }

    /// When `node` was heard last; `None` for never.
    pub fn heard(&self, node: &NodeName) -> Option<Timestamp> {
        self.nodes.get(node)?.heard
    }

    /// When this node began to listen.
    pub fn started(&self) -> Timestamp {
        self.started
    }

    /// The node of `region` that was heard last; before any was, the first by name.
    pub fn liveliest(&self, region: &RegionId) -> Option<&NodeName> {
        let region = self.place(region)?;
        let of_region = self.nodes.iter().filter(|(_, observed)| observed.region == region);
        of_region.rev().max_by_key(|(_, observed)| observed.heard).map(|(node, _)| node)
    }

    /// What this node hears of `region`.
    pub fn sight(&self, region: &RegionId, now: Timestamp) -> Sight {
        match self.place(region).and_then(|place| self.regions[place].1) {
            Some(heard) if now.since(heard) < SILENT_AFTER => Sight::Heard { age: now.since(heard) },
            Some(heard) => Sight::Silent { age: now.since(heard) },
            None if now.since(self.started) < SILENT_AFTER => Sight::Unknown,
            None => Sight::Silent { age: now.since(self.started) },
        }
    }

    fn place(&self, region: &RegionId) -> Option<usize> {
        self.regions.binary_search_by(|(other, _)| other.cmp(region)).ok()
    }
}

/// What speaks for and against one region at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// An observer hears it.
    pub heard: bool,
    /// An observer finds it silent.
    pub silent: bool,
    /// One of its nodes said lately that it is ready.
    pub ready: bool,
    /// One of its nodes said lately that it is not.
    pub not_ready: bool,
}

impl Evidence {
    /// Adds what an observer of another region sees.
    pub fn add_sight(&mut self, sight: Sight) {
        match sight {
            Sight::Heard { .. } => self.heard = true,
            Sight::Silent { .. } => self.silent = true,
            Sight::Unknown => {}
        }
    }

    /// Adds what one of the region's own nodes says.
    pub fn add_own(&mut self, ready: bool) {
        self.ready |= ready;
        self.not_ready |= !ready;
    }

    /// Whether clients should not be sent there.
    pub fn is_down(&self) -> bool {
        (self.silent && !self.heard) || (self.not_ready && !self.ready)
    }
}

/// Which regions are down, with memory: going down is immediate, coming back from silence is held.
#[derive(Debug, Default)]
pub struct Liveness {
    down: BTreeMap<RegionId, Down>,
}

#[derive(Debug, Default)]
struct Down {
    was_silent: bool,
    well_since: Option<Timestamp>,
}

impl Liveness {
    /// Whether clients should not be sent to `region`.
    pub fn is_down(&self, region: &RegionId) -> bool {
        self.down.contains_key(region)
    }

    /// Weighs the evidence of the moment, and returns the verdict when it changed.
    pub fn weigh(&mut self, region: &RegionId, evidence: Evidence, now: Timestamp) -> Option<Verdict> {
        if evidence.is_down() {
            let was_up = !self.down.contains_key(region);
            let down = self.down.entry(region.clone()).or_default();
            down.was_silent |= evidence.silent && !evidence.heard;
            down.well_since = None;
            return was_up.then_some(Verdict::Down);
        }
        let down = self.down.get_mut(region)?;
        let well_since = *down.well_since.get_or_insert(now);
        if down.was_silent && now.since(well_since) < RECOVERY_HOLD {
            return None;
        }
        self.down.remove(region);
        Some(Verdict::Up)
    }
}

/// A change of a region's liveness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Clients should not be sent there from here on.
    Down,
    /// Clients may be sent there again.
    Up,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARD: Sight = Sight::Heard { age: Duration::ZERO };
    const SILENT: Sight = Sight::Silent { age: SILENT_AFTER };

    /// Is a region down in the light of these sights and its own nodes' words?
    fn check(sights: &[Sight], own: &[bool], expected_down: bool) {
        let mut evidence = Evidence::default();
        sights.iter().for_each(|sight| evidence.add_sight(*sight));
        own.iter().for_each(|ready| evidence.add_own(*ready));
        assert_eq!(evidence.is_down(), expected_down, "sights {sights:?}, own {own:?}");
    }

    #[test]
    fn a_region_is_down_when_somebody_finds_it_silent_and_nobody_hears_it() {
        check(&[], &[], false);
        check(&[Sight::Unknown], &[], false);
        check(&[SILENT], &[], true);
        check(&[SILENT, Sight::Unknown], &[], true);
        check(&[SILENT, HEARD], &[true], false);
        check(&[SILENT, SILENT], &[true], true);
    }

    #[test]
    fn a_region_is_down_when_all_its_nodes_say_they_are_not_ready() {
        check(&[HEARD], &[false], true);
        check(&[HEARD], &[false, true], false);
        check(&[HEARD], &[true], false);
        check(&[HEARD], &[], false);
    }

    #[test]
    fn a_silent_region_goes_down_at_once_and_comes_back_after_a_hold() {
        let region = RegionId::new("r").expect("a name");
        let (down, well) = (Evidence { silent: true, ..Evidence::default() }, Evidence::default());
        let unready = Evidence { not_ready: true, ..Evidence::default() };
        let mut liveness = Liveness::default();
        let mut check = |evidence, millis: u64, expected, is_down| {
            let now = Timestamp::ZERO + Duration::from_millis(millis);
            assert_eq!(liveness.weigh(&region, evidence, now), expected, "at {millis} ms");
            assert_eq!(liveness.is_down(&region), is_down, "at {millis} ms");
        };
        check(well, 0, None, false);
        check(down, 100, Some(Verdict::Down), true);
        check(well, 200, None, true);
        check(down, 1000, None, true);
        check(well, 1100, None, true);
        check(well, 3000, None, true);
        check(well, 3100, Some(Verdict::Up), false);
        check(unready, 4000, Some(Verdict::Down), true);
        check(well, 4100, Some(Verdict::Up), false);
    }

    #[test]
    fn silence_is_unknown_until_the_observer_has_listened_long_enough() {
        let (node, region) = (NodeName::new("n").expect("a name"), RegionId::new("r").expect("a name"));
        let mut presence = Presence::new(&BTreeMap::from([(node.clone(), region.clone())]), Timestamp::ZERO);
        let at = |millis| Timestamp::ZERO + Duration::from_millis(millis);
        assert_eq!(presence.sight(&region, at(4999)), Sight::Unknown);
        assert_eq!(presence.sight(&region, at(5000)), SILENT);
        presence.hear(&node, at(6000));
        presence.hear(&NodeName::new("stranger").expect("a name"), at(6000));
        assert_eq!(presence.sight(&region, at(10_999)), Sight::Heard { age: Duration::from_millis(4999) });
        assert_eq!(presence.sight(&region, at(11_000)), SILENT);
    }
}
