//! How long Raft waits, given the round trips between the voters' regions. Reads no clock.
//!
//! openraft gives an append as long as one heartbeat interval to be answered, sends heartbeats every 1.5 intervals, and
//! lets a follower stand once it heard nothing for `election_max` (the lease) plus its own draw from
//! `election_min..election_max`. The silence before an election is therefore at least `election_min + election_max`,
//! which is kept at ten times the worst round trip (Raft dissertation, section 3.9: an order of magnitude).

use std::time::Duration;

/// Heartbeat and election timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Interval by which openraft counts heartbeats, and the deadline of an append.
    pub heartbeat: Duration,
    /// Least election timeout.
    pub election_min: Duration,
    /// Largest election timeout, and the leader's lease.
    pub election_max: Duration,
}

/// Heartbeat between near regions.
const HEARTBEAT: Duration = Duration::from_millis(200);
/// What an append may take besides the round trip: two durable commits and scheduling.
const APPEND_COST: Duration = Duration::from_millis(50);
/// Least and largest election timeout between near regions.
const ELECTION: (Duration, Duration) = (Duration::from_millis(600), Duration::from_millis(1200));
/// Silence after which a leader is not live, in heartbeat intervals.
const LIVE_HEARTBEATS: u32 = 5;

impl Timing {
    /// Chooses for voters whose longest round trip is `worst_rtt`.
    pub fn for_rtt(worst_rtt: Duration) -> Self {
        Self {
            heartbeat: HEARTBEAT.max(worst_rtt * 3 / 2 + APPEND_COST),
            election_min: ELECTION.0.max(worst_rtt * 4),
            election_max: ELECTION.1.max(worst_rtt * 6),
        }
    }

    /// Silence after which a leader is not called live any more. Shorter than the silence before an election, so that
    /// the election guard has opened when the first follower's timeout passes.
    pub fn live_for(&self) -> Duration {
        self.heartbeat * LIVE_HEARTBEATS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_election_waits_for_ten_round_trips_and_the_guard_opens_before() {
        for millis in [0, 20, 80, 120, 180, 230, 400] {
            let rtt = Duration::from_millis(millis);
            let timing = Timing::for_rtt(rtt);
            assert!(timing.election_min + timing.election_max >= rtt * 10, "{millis} ms");
            assert!(timing.live_for() < timing.election_min + timing.election_max, "{millis} ms");
            assert!(timing.heartbeat > rtt + rtt / 4, "{millis} ms");
            assert!(timing.heartbeat < timing.election_min, "{millis} ms");
        }
    }
}
