//! Decides which regions are heard and what follows for the limits. A region is stale when it was not heard for the
//! staleness bound, or when by its own account it has not heard us: a cut that is deaf in one direction must degrade
//! both sides. Silence counts from our start. Until then a process that is the region's first one takes every region for
//! heard and tells it so: it needs no waiting. Any other one knows of a region nothing before it has heard it. Reads no clock.

use std::time::Duration;

use portolan_model::{RegionId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::marks::Recovery;

/// State of a limit, by the regions of its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Mode {
    /// Every region is heard and hears us.
    Healthy = 0,
    /// No region is known not to be heard; some are not for long enough, or have not been heard by this process yet.
    Healing = 1,
    /// Some region is not heard, or does not hear us.
    Degraded = 2,
}

/// State of another region as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerState {
    /// Heard, and hears us.
    Fresh,
    /// Not heard, or does not hear us, for longer than the staleness bound.
    Stale,
    /// Heard again; fresh after 5 heartbeats over at least 2 s.
    Healing,
    /// Not heard since our start, which is not the region's first; fresh once it is heard and says that it hears us.
    Unheard,
}

/// Another region as seen from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The region.
    pub region: RegionId,
    /// Its state.
    pub state: PeerState,
    /// Time since it was heard; since our start when it never was.
    pub heard: Duration,
    /// Time since it heard us, by its own account; since our start when it never gave one.
    pub hears_us: Duration,
}

/// Time between heartbeats, and between rows of a key under pressure.
pub(crate) const GOSSIP_INTERVAL: Duration = Duration::from_millis(100);

/// All regions of the scope, by their position in it; our own is there and always fresh.
#[derive(Debug)]
pub(crate) struct Peers {
    peers: Vec<Peer>,
    stale_after: Duration,
}

/// A change of a region's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub region: usize,
    pub state: PeerState,
    /// How long it was not heard, or did not hear us.
    pub silent: Duration,
}

#[derive(Debug)]
struct Peer {
    state: PeerState,
    heard: Timestamp,
    /// By this process; from the beginning where it is the first one.
    was_heard: bool,
    hears_us: Timestamp,
    /// Heartbeats since healing began, and when that was.
    timely: u32,
    healing_since: Timestamp,
    stale_since: Timestamp,
}

impl Peers {
    pub fn new(regions: usize, me: usize, worst_rtt: Duration, recovery: &Recovery, now: Timestamp) -> Self {
        let was_heard = *recovery == Recovery::FirstStart;
        let peer = |region: usize| Peer {
            state: if was_heard || region == me { PeerState::Fresh } else { PeerState::Unheard },
            heard: now,
            was_heard,
            hears_us: now,
            timely: 0,
            healing_since: now,
            stale_since: now,
        };
        Self { peers: (0..regions).map(peer).collect(), stale_after: stale_after(worst_rtt) }
    }

    /// Takes in a heartbeat of a region that says to have heard us `heard_us_ago` before it sent. Heartbeats may overtake
    /// each other: both times only rise.
    pub fn handle_heartbeat(&mut self, region: usize, heard_us_ago: Duration, now: Timestamp) -> Option<Change> {
        let stale_after = self.stale_after;
        let peer = &mut self.peers[region];
        (peer.heard, peer.was_heard) = (peer.heard.max(now), true);
        peer.hears_us = peer.hears_us.max(now - heard_us_ago);
        if peer.is_silent(stale_after, now) {
            return None;
        }
        match peer.state {
            PeerState::Fresh => None,
            PeerState::Unheard => (heard_us_ago <= stale_after).then(|| peer.enter(region, PeerState::Fresh, now)),
            PeerState::Stale => {
                (peer.timely, peer.healing_since) = (1, now);
                Some(peer.enter(region, PeerState::Healing, now))
            }
            PeerState::Healing => {
                peer.timely += 1;
                let healed = peer.timely >= TIMELY_TO_HEAL && now.since(peer.healing_since) >= SHORTEST_HEALING;
                healed.then(|| peer.enter(region, PeerState::Fresh, now))
            }
        }
    }

    /// Finds the regions that went stale.
    pub fn handle_timeout(&mut self, me: usize, now: Timestamp) -> Vec<Change> {
        let stale_after = self.stale_after;
        let peers = self.peers.iter_mut().enumerate().filter(|&(region, _)| region != me);
        let silent = peers.filter(|(_, peer)| peer.state != PeerState::Stale && peer.is_silent(stale_after, now));
        silent.map(|(region, peer)| peer.enter(region, PeerState::Stale, now)).collect()
    }

    /// State of every limit: all have the same scope.
    pub fn mode(&self) -> Mode {
        let any = |state| self.peers.iter().any(|peer| peer.state == state);
        if any(PeerState::Stale) {
            Mode::Degraded
        } else if any(PeerState::Healing) || any(PeerState::Unheard) {
            Mode::Healing
        } else {
            Mode::Healthy
        }
    }

    /// The last-heard vector for our heartbeats. What the process before heard is not known, and others know what it told:
    /// a region that this one has not heard yet it may never hear.
    pub fn heard(&self, me: usize, now: Timestamp) -> Vec<u32> {
        let age = |peer: &Peer| match u32::try_from(now.since(peer.heard).as_millis()) {
            Ok(age) if peer.was_heard => age,
            _ => u32::MAX,
        };
        self.peers.iter().enumerate().map(|(region, peer)| if region == me { 0 } else { age(peer) }).collect()
    }

    pub fn state(&self, region: usize) -> PeerState {
        self.peers[region].state
    }

    /// Whether what this process heard of a region says that it is within reach.
    pub fn is_in_reach(&self, region: usize) -> bool {
        matches!(self.peers[region].state, PeerState::Fresh | PeerState::Healing)
    }

    /// Ages of a region: heard, hears us.
    pub fn ages(&self, region: usize, now: Timestamp) -> (Duration, Duration) {
        let peer = &self.peers[region];
        (now.since(peer.heard), now.since(peer.hears_us))
    }
}

impl Peer {
    /// The two directions are judged apart: added up, ordinary loss in both would look like silence in one.
    fn is_silent(&self, stale_after: Duration, now: Timestamp) -> bool {
        now.since(self.heard) > stale_after || self.heard.since(self.hears_us) > stale_after
    }

    fn enter(&mut self, region: usize, state: PeerState, now: Timestamp) -> Change {
        if state == PeerState::Stale && matches!(self.state, PeerState::Fresh | PeerState::Unheard) {
            self.stale_since = self.heard.min(self.hears_us);
        }
        self.state = state;
        Change { region, state, silent: now.since(self.stale_since) }
    }
}

/// How long a region may be silent before it counts as unheard.
pub(crate) fn stale_after(worst_rtt: Duration) -> Duration {
    SHORTEST_STALENESS.max(3 * GOSSIP_INTERVAL + worst_rtt)
}

/// Shortest silence that counts: shorter ones are ordinary loss.
const SHORTEST_STALENESS: Duration = Duration::from_millis(500);

/// Heartbeats that end healing, and the time they must span: a flapping link stays degraded.
const TIMELY_TO_HEAL: u32 = 5;
const SHORTEST_HEALING: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(millis)
    }

    /// Feeds heartbeats of region 1, `(time, age of hearing us)`, and returns the mode seen from region 0 at `end`.
    fn mode(heartbeats: impl IntoIterator<Item = (u64, u64)>, end: u64) -> Mode {
        let mut peers = Peers::new(2, 0, Duration::from_millis(100), &Recovery::FirstStart, at(0));
        let mut heartbeats = heartbeats.into_iter().peekable();
        for now in 0..=end {
            while let Some((_, age)) = heartbeats.next_if(|&(time, _)| time <= now) {
                peers.handle_heartbeat(1, Duration::from_millis(age), at(now));
            }
            peers.handle_timeout(0, at(now));
        }
        peers.mode()
    }

    fn every_100ms(from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
        (from / 100..to / 100).map(|n| (n * 100, 50))
    }

    #[test]
    fn a_region_never_heard_counts_from_our_start() {
        assert_eq!(mode([], 500), Mode::Healthy);
        assert_eq!(mode([], 501), Mode::Degraded);
    }

    #[test]
    fn heartbeats_keep_an_idle_region_fresh_and_silence_makes_it_stale() {
        assert_eq!(mode(every_100ms(0, 5000), 5000), Mode::Healthy);
        assert_eq!(mode(every_100ms(0, 5000), 5600), Mode::Degraded);
    }

    #[test]
    fn a_region_that_a_restarted_process_has_not_heard_yet_is_told_so() {
        let check = |recovery: &Recovery, before: u32| {
            let mut peers = Peers::new(2, 0, Duration::from_millis(100), recovery, at(1000));
            assert_eq!(peers.heard(0, at(1030)), [0, before], "{recovery:?}");
            assert_eq!(peers.ages(1, at(1030)).0, Duration::from_millis(30), "silence is judged from our start");
            peers.handle_heartbeat(1, Duration::from_millis(50), at(1040));
            assert_eq!(peers.heard(0, at(1060)), [0, 20], "{recovery:?}");
        };
        check(&Recovery::FirstStart, 30);
        check(&Recovery::Lost, u32::MAX);
    }

    #[test]
    fn a_process_that_is_not_the_first_takes_no_region_for_heard_before_it_is_and_hears_us() {
        let check = |recovery: &Recovery, heartbeats: &[(u64, u64)], end: u64, expected: Mode| {
            let mut peers = Peers::new(2, 0, Duration::from_millis(100), recovery, at(1000));
            for &(time, age) in heartbeats {
                peers.handle_heartbeat(1, Duration::from_millis(age), at(1000 + time));
            }
            peers.handle_timeout(0, at(1000 + end));
            assert_eq!(peers.mode(), expected, "{recovery:?} {heartbeats:?} at {end}");
            assert_eq!(peers.is_in_reach(1), expected == Mode::Healthy, "a minority is counted alike");
        };
        check(&Recovery::FirstStart, &[], 0, Mode::Healthy);
        check(&Recovery::Lost, &[], 0, Mode::Healing);
        check(&Recovery::Lost, &[], 501, Mode::Degraded);
        check(&Recovery::Lost, &[(40, 200)], 50, Mode::Healthy);
        check(&Recovery::Lost, &[(40, 200)], 540, Mode::Healthy);
        // It hears nobody of this region, or not since a time before this start.
        check(&Recovery::Lost, &[(40, 4000)], 50, Mode::Healing);
        check(&Recovery::Lost, &[(40, 4000), (140, 60)], 150, Mode::Healthy);
        check(&Recovery::Lost, &[(40, 4000), (540, 4500)], 550, Mode::Degraded);
    }

    #[test]
    fn a_restart_does_not_heal_a_cut_that_is_deaf_in_one_direction() {
        let deaf = |peers: &mut Peers, from: u64, to: u64, age: &dyn Fn(u64) -> u32| {
            for now in (from..to).step_by(100) {
                peers.handle_heartbeat(1, Duration::from_millis(age(now).into()), at(now));
                peers.handle_timeout(0, at(now));
                assert_eq!(peers.mode(), Mode::Degraded, "at {now} ms");
            }
        };
        let mut peers = Peers::new(2, 0, Duration::from_millis(100), &Recovery::FirstStart, at(0));
        peers.handle_heartbeat(1, Duration::from_millis(50), at(0));
        deaf(&mut peers, 1000, 3000, &|now| now as u32);
        let started = Peers::new(2, 0, Duration::from_millis(100), &Recovery::Lost, at(3000));
        deaf(&mut peers, 3000, 6000, &|now| started.heard(1, at(now))[0]);
    }

    #[test]
    fn a_region_that_does_not_hear_us_is_stale() {
        let deaf = (0..50).map(|n| (n * 100, n * 100));
        assert_eq!(mode(deaf, 5000), Mode::Degraded);
    }

    #[test]
    fn healing_takes_five_heartbeats_over_two_seconds() {
        let gap = || every_100ms(0, 1000).chain(every_100ms(3000, 9000));
        assert_eq!(mode(gap(), 2900), Mode::Degraded);
        assert_eq!(mode(gap(), 3100), Mode::Healing);
        assert_eq!(mode(gap(), 4999), Mode::Healing);
        assert_eq!(mode(gap(), 5000), Mode::Healthy);
        let few = every_100ms(0, 1000).chain([(3000, 50), (3400, 50), (3800, 50)]).chain(every_100ms(4600, 9000));
        assert_eq!(mode(few, 5000), Mode::Healing);
    }
}
