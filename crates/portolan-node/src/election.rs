//! May this node stand for election? Only when a majority of the voters says that it sees no live leader.
//!
//! openraft 0.9 has no pre-vote: a follower that lost the leader raises its term for as long as it is alone, and deposes
//! a healthy leader when it returns. Hearing a majority is not enough either: a follower cut from the leader alone would
//! hear one. So votes are asked for only after a majority, this node included, *reported* the loss. Hearing nothing is
//! no report, and reports age. Stands in for the pre-vote of D. Ongaro, "Consensus: Bridging Theory and Practice" §9.6.

use std::{collections::BTreeMap, time::Duration};

use portolan_model::{MemberId, NodeName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::MAX_PEERS;

/// How long a report counts. Five heartbeats, so that four in a row may be lost.
pub const REPORT_LIFETIME: Duration = Duration::from_secs(1);

/// What a node last saw of the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaderSight {
    /// Raft has not said anything yet.
    #[default]
    Unknown,
    /// A leader sends heartbeats, or this node is it.
    Alive,
    /// No leader sends heartbeats.
    Lost,
}

/// What Raft says of itself, as its driver reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// The leader, as far as known.
    pub leader: Option<MemberId>,
    /// Whether the leader was heard within an election timeout; true at the leader itself while it holds a quorum.
    pub leader_is_live: bool,
    /// Whether this node leads.
    pub is_leader: bool,
    /// The current term.
    pub term: u64,
    /// The nodes that vote.
    pub voters: Vec<NodeName>,
}

/// Collects what voters report, and decides.
#[derive(Debug)]
pub struct ElectionGuard {
    me: NodeName,
    raft: Option<RaftStatus>,
    reports: BTreeMap<NodeName, (LeaderSight, Timestamp)>,
}

impl ElectionGuard {
    /// A guard that has heard nothing: not eligible.
    pub fn new(me: NodeName) -> Self {
        Self { me, raft: None, reports: BTreeMap::new() }
    }

    /// Takes what Raft on this node says.
    pub fn handle_status(&mut self, raft: RaftStatus) {
        self.raft = Some(raft);
    }

    /// Takes what another node reports.
    pub fn handle_report(&mut self, from: &NodeName, sight: LeaderSight, now: Timestamp) {
        if self.reports.contains_key(from) || self.reports.len() < MAX_PEERS {
            self.reports.insert(from.clone(), (sight, now));
        }
    }

    /// What this node reports to others.
    pub fn own_sight(&self) -> LeaderSight {
        match &self.raft {
            None => LeaderSight::Unknown,
            Some(raft) if raft.leader_is_live => LeaderSight::Alive,
            Some(_) => LeaderSight::Lost,
        }
    }

    /// What Raft on this node said last.
    pub fn raft(&self) -> Option<&RaftStatus> {
        self.raft.as_ref()
    }

    /// Whether this node may stand now.
    pub fn is_eligible(&self, now: Timestamp) -> bool {
        let Some(raft) = &self.raft else { return false };
        if raft.leader_is_live || !raft.voters.contains(&self.me) {
            return false;
        }
        let reports_loss = |voter: &&NodeName| {
            **voter == self.me
                || self
                    .reports
                    .get(*voter)
                    .is_some_and(|(sight, at)| *sight == LeaderSight::Lost && now.since(*at) <= REPORT_LIFETIME)
        };
        raft.voters.iter().filter(reports_loss).count() > raft.voters.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a name")
    }

    /// Is `a`, which sees no leader, eligible when it has these reports, so many milliseconds old, from `voters`?
    fn check(voters: &[&str], reports: &[(&str, LeaderSight, u64)], expected: bool) {
        let now = Timestamp::ZERO + Duration::from_secs(60);
        let mut guard = ElectionGuard::new(node("a"));
        guard.handle_status(RaftStatus { voters: voters.iter().map(|v| node(v)).collect(), ..RaftStatus::default() });
        for (from, sight, age) in reports {
            guard.handle_report(&node(from), *sight, now - Duration::from_millis(*age));
        }
        assert_eq!(guard.is_eligible(now), expected, "voters {voters:?}, reports {reports:?}");
    }

    use LeaderSight::{Alive, Lost, Unknown};

    #[test]
    fn an_isolated_follower_is_never_eligible() {
        check(&["a", "b", "c"], &[], false);
        check(&["a", "b", "c", "d"], &[("b", Lost, 0)], false);
    }

    #[test]
    fn a_follower_cut_from_the_leader_alone_is_not_eligible_though_it_hears_a_majority() {
        check(&["a", "b", "c"], &[("b", Alive, 0)], false);
        check(&["a", "b", "c", "d", "e"], &[("b", Alive, 0), ("c", Alive, 0), ("d", Lost, 0)], false);
    }

    #[test]
    fn a_majority_without_a_leader_is_eligible() {
        check(&["a", "b", "c", "d", "e"], &[("b", Lost, 0), ("c", Lost, 100)], true);
        check(&["a"], &[], true);
    }

    #[test]
    fn two_of_three_nodes_without_a_leader_are_eligible() {
        check(&["a", "b", "c"], &[("b", Lost, 200)], true);
    }

    #[test]
    fn stale_reports_do_not_count() {
        check(&["a", "b", "c"], &[("b", Lost, 1000)], true);
        check(&["a", "b", "c"], &[("b", Lost, 1001)], false);
    }

    #[test]
    fn only_voters_reports_count() {
        check(&["a", "b", "c"], &[("x", Lost, 0), ("y", Lost, 0), ("b", Unknown, 0)], false);
        check(&["b", "c"], &[("b", Lost, 0), ("c", Lost, 0)], false);
    }

    #[test]
    fn a_later_report_takes_the_place_of_an_earlier_one() {
        check(&["a", "b", "c"], &[("b", Lost, 300), ("b", Alive, 100)], false);
    }

    #[test]
    fn a_node_that_sees_a_leader_reports_it_and_does_not_stand() {
        let mut guard = ElectionGuard::new(node("a"));
        assert_eq!((guard.own_sight(), guard.is_eligible(Timestamp::ZERO)), (Unknown, false));
        guard.handle_status(RaftStatus { leader_is_live: true, voters: vec![node("a")], ..RaftStatus::default() });
        assert_eq!((guard.own_sight(), guard.is_eligible(Timestamp::ZERO)), (Alive, false));
    }
}
