//! When the leader was last heard of, and by whom the leader was last heard. Decides whether there is a live leader as
//! this node sees it. The basis of the election guard, so silence must never count as life.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::types::Vote;

/// Contacts of one node with leaders and followers.
#[derive(Debug, Default)]
pub struct Liveness {
    contacts: Mutex<Contacts>,
}

#[derive(Debug, Default)]
struct Contacts {
    /// The vote of the leader heard last, and when.
    heard: Option<(Vote, Instant)>,
    /// By voter: under which vote of this node it answered an append last, and when that append was sent.
    acknowledged: BTreeMap<u64, (Vote, Instant)>,
}

impl Liveness {
    /// An append of the leader with `vote` was accepted at `now`.
    pub fn heard(&self, vote: Vote, now: Instant) {
        self.contacts().heard = Some((vote, now));
    }

    /// `voter` accepted an append that this leader had sent at `sent`.
    pub fn acknowledged(&self, voter: u64, vote: Vote, sent: Instant) {
        self.contacts().acknowledged.insert(voter, (vote, sent));
    }

    /// Time since the leader with `vote` was heard; `None` if it never was.
    pub fn since_heard(&self, vote: Vote, now: Instant) -> Option<Duration> {
        let heard = self.contacts().heard;
        heard.filter(|(of, _)| *of == vote).map(|(_, at)| now.saturating_duration_since(at))
    }

    /// Time since a majority of `voters`, this leader `me` included, acknowledged its `vote`; `None` if none ever did.
    pub fn since_quorum(&self, me: u64, vote: Vote, voters: &[u64], now: Instant) -> Option<Duration> {
        let contacts = self.contacts();
        let at = |voter: &u64| {
            if *voter == me {
                return Some(now);
            }
            contacts.acknowledged.get(voter).filter(|(of, _)| *of == vote).map(|(_, at)| *at)
        };
        let mut seen: Vec<Instant> = voters.iter().filter_map(at).collect();
        seen.sort_unstable_by(|a, b| b.cmp(a));
        let majority = voters.len() / 2 + 1;
        seen.get(majority - 1).map(|at| now.saturating_duration_since(*at))
    }

    fn contacts(&self) -> MutexGuard<'_, Contacts> {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_as_fresh_as_its_stalest_member() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let vote = Vote::new_committed(3, 1);
        let liveness = Liveness::default();
        let quorum = |voters: &[u64]| liveness.since_quorum(1, vote, voters, at(1000)).map(|age| age.as_millis());
        assert_eq!(quorum(&[1]), Some(0));
        assert_eq!(quorum(&[1, 2, 3]), None);
        liveness.acknowledged(2, Vote::new_committed(2, 1), at(999));
        assert_eq!(quorum(&[1, 2, 3]), None, "an earlier term does not count");
        liveness.acknowledged(2, vote, at(400));
        assert_eq!(quorum(&[1, 2, 3]), Some(600));
        assert_eq!(quorum(&[1, 2, 3, 4, 5]), None);
        liveness.acknowledged(3, vote, at(900));
        assert_eq!(quorum(&[1, 2, 3]), Some(100));
        assert_eq!(quorum(&[1, 2, 3, 4, 5]), Some(600));
    }

    #[test]
    fn only_the_present_leader_counts_as_heard() {
        let now = Instant::now();
        let liveness = Liveness::default();
        liveness.heard(Vote::new_committed(3, 1), now);
        assert_eq!(liveness.since_heard(Vote::new_committed(3, 1), now), Some(Duration::ZERO));
        assert_eq!(liveness.since_heard(Vote::new_committed(4, 2), now), None);
    }
}
