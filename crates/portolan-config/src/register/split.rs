//! The split of one limit between regions, and how another follows it (rights ledger, rule 9.2): a change is recorded,
//! every node that shares limits acknowledges it, and only then does it get the moment from which slots have it. So no
//! two regions ever cut one slot differently in a way that adds up to more than the quota.
//!
//! Until the moment is known, a region that knows of the change takes the smaller of both shares for slots that begin two
//! windows after it was ordered. Once it is set, every region has acknowledged, so in slots from then on each has either
//! the new share or the smaller of both: the sum is at most the quota. In slots before, each has the old share or the
//! smaller of both, and the same holds. The times are of clocks that agree within a second, as those of sound nodes do.

use std::time::Duration;

use portolan_model::WallTime;
use serde::{Deserialize, Serialize};

use crate::{ShareChange, SharePlan};

/// The split of one limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Split {
    plan: SharePlan,
    /// The number of the change in `plan`, if there is one.
    number: u64,
    /// The latest time that came with a command while the change waited.
    latest: WallTime,
    /// What the document, the demand and the fences ask for.
    wanted: Vec<u32>,
    /// The split by demand, of limits that ask for it; empty until there was any.
    pub demanded: Vec<u32>,
    /// When the demand was weighed last.
    pub weighed: Option<WallTime>,
}

impl Split {
    /// The split of a limit whose counters are new: in force at once, since nothing was spent or lent.
    pub fn new(weights: Vec<u32>, demanded: Vec<u32>, weighed: Option<WallTime>) -> Self {
        let plan = SharePlan { weights: weights.clone(), change: None };
        Self { plan, number: 0, latest: WallTime::default(), wanted: weights, demanded, weighed }
    }

    pub fn plan(&self) -> &SharePlan {
        &self.plan
    }

    /// Asks for another split. It comes into force in steps: see [`Split::advance`].
    pub fn want(&mut self, weights: Vec<u32>) {
        self.wanted = weights;
    }

    /// Number and time of a change that waits for acknowledgements.
    pub fn pending(&self) -> Option<(u64, WallTime)> {
        let change = self.plan.change.as_ref().filter(|change| change.from.is_none())?;
        Some((self.number, change.since))
    }

    /// Whether [`Split::advance`] at `at` would begin a change, given that nothing is acknowledged.
    pub fn is_due(&self, window: Duration, at: WallTime) -> bool {
        match &self.plan.change {
            None => self.wanted != self.plan.weights,
            Some(change) => change.from.is_some_and(|from| at >= from + settled(window)),
        }
    }

    /// Takes the next steps that are possible at `at`: drops what is superseded, sets the moment of a change that
    /// everybody has seen, forgets the split before when its slots are over, begins the change that is wanted. `number` is given to a change that begins; returns whether one did.
    pub fn advance(&mut self, window: Duration, at: WallTime, number: u64, seen_by_all: u64) -> bool {
        if let Some(change) = &mut self.plan.change {
            self.latest = self.latest.max(at);
            match change.from {
                // Nobody has a split that not all have acknowledged, so it can be dropped for another.
                None if change.weights != self.wanted => self.plan.change = None,
                None if self.number <= seen_by_all => change.from = Some(self.latest + lead(window)),
                Some(from) if at >= from + settled(window) => {
                    self.plan.weights = std::mem::take(&mut change.weights);
                    self.plan.change = None;
                }
                _ => {}
            }
        }
        let begins = self.plan.change.is_none() && self.plan.weights != self.wanted;
        if begins {
            self.plan.change = Some(ShareChange { weights: self.wanted.clone(), from: None, since: at });
            (self.number, self.latest) = (number, at);
        }
        begins
    }
}

/// How far ahead of the last acknowledgement a split begins: beyond the slot under way and the next, which may be lent
/// already, by any clock.
fn lead(window: Duration) -> Duration {
    2 * window + CLOCK_TOLERANCE
}

/// How long after a split began the one before matters: while reports of its last slot may still come.
fn settled(window: Duration) -> Duration {
    window + LONGEST_REPORT
}

/// Twice what clocks of sound regions may differ.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// Age of the oldest report that is taken in.
const LONGEST_REPORT: Duration = Duration::from_secs(10);

/// One number for all equal weights, so that equal splits compare equal.
pub(super) fn canonical(weights: Vec<u32>) -> Vec<u32> {
    if weights.windows(2).all(|pair| pair[0] == pair[1]) { Vec::new() } else { weights }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn at(secs: u64) -> WallTime {
        WallTime::from_unix_millis(secs * 1000)
    }

    fn split() -> Split {
        Split::new(vec![6, 4], Vec::new(), None)
    }

    #[test]
    fn a_split_changes_only_when_all_have_acknowledged_and_after_what_may_be_lent() {
        let mut split = split();
        split.want(vec![4, 6]);
        assert!(split.is_due(WINDOW, at(100)));
        assert!(split.advance(WINDOW, at(100), 7, 0));
        assert_eq!(split.pending(), Some((7, at(100))));
        assert!(!split.advance(WINDOW, at(500), 8, 0));
        let change = |split: &Split| split.plan().change.clone().expect("a change");
        assert_eq!((change(&split).from, split.plan().weights.clone()), (None, vec![6, 4]));
        assert!(!split.advance(WINDOW, at(600), 8, 7));
        assert_eq!(change(&split).from, Some(at(621)));
        assert_eq!(split.pending(), None);
        // The split before is known until its last slot is over and reported.
        assert!(!split.is_due(WINDOW, at(640)));
        split.advance(WINDOW, at(640), 8, 99);
        assert_eq!(split.plan().weights, [6, 4]);
        assert!(split.is_due(WINDOW, at(641)));
        split.advance(WINDOW, at(641), 8, 99);
        assert_eq!(split.plan(), &SharePlan { weights: vec![4, 6], change: None });
    }

    #[test]
    fn the_moment_is_after_the_latest_clock_that_acknowledged() {
        let mut split = split();
        split.want(vec![4, 6]);
        split.advance(WINDOW, at(100), 1, 0);
        split.advance(WINDOW, at(103), 2, 0);
        split.advance(WINDOW, at(101), 2, 1);
        assert_eq!(split.plan().change.as_ref().and_then(|change| change.from), Some(at(124)));
    }

    #[test]
    fn a_change_that_is_not_acknowledged_gives_way_to_another() {
        let mut split = split();
        split.want(vec![4, 6]);
        split.advance(WINDOW, at(100), 1, 0);
        split.want(vec![5, 5]);
        assert!(split.advance(WINDOW, at(101), 2, 1));
        assert_eq!(split.pending(), Some((2, at(101))));
        split.want(vec![6, 4]);
        assert!(!split.advance(WINDOW, at(102), 3, 99));
        assert_eq!((split.plan().change.is_none(), split.pending()), (true, None));
    }

    #[test]
    fn a_change_with_a_moment_is_completed_before_the_next_begins() {
        let mut split = split();
        split.want(vec![4, 6]);
        split.advance(WINDOW, at(100), 1, 0);
        split.advance(WINDOW, at(101), 2, 99);
        split.want(vec![1, 9]);
        assert!(!split.is_due(WINDOW, at(141)));
        assert!(!split.advance(WINDOW, at(141), 2, 99));
        assert!(split.is_due(WINDOW, at(142)));
        assert!(split.advance(WINDOW, at(142), 2, 99));
        assert_eq!((split.plan().weights.clone(), split.pending()), (vec![4, 6], Some((2, at(142)))));
    }
}
