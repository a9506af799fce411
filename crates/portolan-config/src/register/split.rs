//! The split of one limit between regions, and how another follows it (rights ledger, rule 9.2): a change is recorded,
//! every node that shares limits acknowledges it, and only then does it get the moment from which slots have it. So no
//! two regions ever cut one slot differently in a way that adds up to more than the quota.
//!
//! Until the moment is known, a region that knows of the change takes the smaller of both shares for slots that the
//! change may govern. Once it is set, every region has acknowledged, so in slots from then on each has either the new
//! share or the smaller of both: the sum is at most the quota. In slots before, each has the old share or the smaller of
//! both, and the same holds. The times are of clocks that agree within a second, as those of sound nodes do.
//!
//! A region whose lease lapsed is another matter: it holds no slot from the end of its lease on, whatever it knows, and
//! without it no other region has less. So its share goes to the others at once, and nobody has to acknowledge that.

use std::time::Duration;

use portolan_model::WallTime;
use serde::{Deserialize, Serialize};

use crate::{Algorithm, SLOT_LEAD, ShareChange, SharePlan};

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

    /// Asks every node again to acknowledge a change that waits, under a new number.
    pub fn ask_anew(&mut self, number: u64) {
        if self.pending().is_some() {
            self.number = number;
        }
    }

    /// The number of a change that waits for acknowledgements.
    pub fn pending(&self) -> Option<u64> {
        self.plan.change.as_ref().filter(|change| change.from.is_none()).map(|_| self.number)
    }

    /// Whether [`Split::advance`] at `at` would begin a change, given that nothing is acknowledged.
    pub fn is_due(&self, algorithm: &Algorithm, at: WallTime) -> bool {
        match &self.plan.change {
            None => self.wanted != self.plan.weights,
            Some(change) => change.from.is_some_and(|from| at >= from + settled(algorithm)),
        }
    }

    /// Takes the next steps that are possible: drops what is superseded, sets the moment of a change that everybody has
    /// seen, forgets the split before when its slots are over, begins the change that is wanted. Returns whether one began
    /// that has to be acknowledged.
    pub fn advance(&mut self, algorithm: &Algorithm, step: Step<'_>) -> bool {
        let Step { at, number, seen_by_all, gone } = step;
        if let Some(change) = &mut self.plan.change {
            self.latest = self.latest.max(at);
            match change.from {
                // Nobody has a split that not all have acknowledged, so it can be dropped for another.
                None if change.weights != self.wanted => self.plan.change = None,
                None if self.number <= seen_by_all => change.from = Some(self.latest + lead(algorithm)),
                Some(from) if at >= from + settled(algorithm) => {
                    self.plan.weights = std::mem::take(&mut change.weights);
                    self.plan.change = None;
                }
                _ => {}
            }
        }
        if self.plan.change.is_some() || self.plan.weights == self.wanted {
            return false;
        }
        if let Some((weights, from)) = without(&self.plan.weights, gone) {
            self.plan.change = Some(ShareChange { weights, from: Some(from), earliest: from });
            return false;
        }
        let earliest = at + lead(algorithm);
        self.plan.change = Some(ShareChange { weights: self.wanted.clone(), from: None, earliest });
        (self.number, self.latest) = (number, at);
        true
    }
}

/// What a step depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    /// When it is taken.
    pub at: WallTime,
    /// For a change that begins.
    pub number: u64,
    /// The newest change that all nodes know.
    pub seen_by_all: u64,
    /// For each region in the order of the scope, the instant from which it holds no slot.
    pub gone: &'a [Option<WallTime>],
}

/// The same split without the regions that are gone, and the first instant from which all of them are; nothing where they
/// have no part in it, or all of it.
fn without(weights: &[u32], gone: &[Option<WallTime>]) -> Option<(Vec<u32>, WallTime)> {
    let weight = |at: usize| if weights.is_empty() { 1 } else { weights.get(at).copied().unwrap_or(0) };
    let lost = gone.iter().enumerate().filter(|&(at, _)| weight(at) > 0);
    let from = lost.filter_map(|(_, gone)| *gone).max()?;
    let left: Vec<u32> =
        gone.iter().enumerate().map(|(at, gone)| if gone.is_some() { 0 } else { weight(at) }).collect();
    left.iter().any(|weight| *weight > 0).then(|| (canonical(left), from))
}

/// How far ahead of the last acknowledgement a split begins: beyond every slot that may have been spent or lent in by any
/// clock. Of fixed windows those begin at most [`SLOT_LEAD`] later, which is also how long a node that was dropped may
/// go on; a sliding window counts the slot before it too.
fn lead(algorithm: &Algorithm) -> Duration {
    let touched = match algorithm {
        Algorithm::FixedWindow { .. } => SLOT_LEAD,
        other => SLOT_LEAD.max(2 * other.window()),
    };
    touched + CLOCK_TOLERANCE
}

/// How long after a split began the one before matters: while reports of its last slot may still come, and buckets fill
/// that began empty.
fn settled(algorithm: &Algorithm) -> Duration {
    let windows = match algorithm {
        // A region's bucket fills in its burst by its rate, of which it may have a unit more and nearly one less.
        Algorithm::TokenBucket { rate, burst } => u32::try_from(burst / rate.count.max(1) * 2 + 5).unwrap_or(u32::MAX),
        _ => 1,
    };
    algorithm.window().saturating_mul(windows) + LONGEST_REPORT
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
    use crate::Window;

    const WINDOW: Algorithm = Algorithm::FixedWindow { quota: 10, window: Window::Length(Duration::from_secs(10)) };

    fn step(at: WallTime, number: u64, seen_by_all: u64) -> Step<'static> {
        Step { at, number, seen_by_all, gone: &[None, None] }
    }

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
        assert!(split.is_due(&WINDOW, at(100)));
        assert!(split.advance(&WINDOW, step(at(100), 7, 0)));
        assert_eq!(split.pending(), Some(7));
        assert!(!split.advance(&WINDOW, step(at(500), 8, 0)));
        let change = |split: &Split| split.plan().change.clone().expect("a change");
        assert_eq!((change(&split).from, split.plan().weights.clone()), (None, vec![6, 4]));
        assert!(!split.advance(&WINDOW, step(at(600), 8, 7)));
        assert_eq!(change(&split).from, Some(at(603)));
        assert_eq!(split.pending(), None);
        // The split before is known until its last slot is over and reported.
        assert!(!split.is_due(&WINDOW, at(622)));
        split.advance(&WINDOW, step(at(622), 8, 99));
        assert_eq!(split.plan().weights, [6, 4]);
        assert!(split.is_due(&WINDOW, at(623)));
        split.advance(&WINDOW, step(at(623), 8, 99));
        assert_eq!(split.plan(), &SharePlan { weights: vec![4, 6], change: None });
    }

    #[test]
    fn the_moment_is_after_the_latest_clock_that_acknowledged() {
        let mut split = split();
        split.want(vec![4, 6]);
        split.advance(&WINDOW, step(at(100), 1, 0));
        split.advance(&WINDOW, step(at(103), 2, 0));
        split.advance(&WINDOW, step(at(101), 2, 1));
        assert_eq!(split.plan().change.as_ref().and_then(|change| change.from), Some(at(106)));
    }

    #[test]
    fn a_change_that_is_not_acknowledged_gives_way_to_another() {
        let mut split = split();
        split.want(vec![4, 6]);
        split.advance(&WINDOW, step(at(100), 1, 0));
        split.want(vec![5, 5]);
        assert!(split.advance(&WINDOW, step(at(101), 2, 1)));
        assert_eq!(split.pending(), Some(2));
        split.want(vec![6, 4]);
        assert!(!split.advance(&WINDOW, step(at(102), 3, 99)));
        assert_eq!((split.plan().change.is_none(), split.pending()), (true, None));
    }

    #[test]
    fn a_change_with_a_moment_is_completed_before_the_next_begins() {
        let mut split = split();
        split.want(vec![4, 6]);
        split.advance(&WINDOW, step(at(100), 1, 0));
        split.advance(&WINDOW, step(at(101), 2, 99));
        split.want(vec![1, 9]);
        assert!(!split.is_due(&WINDOW, at(123)));
        assert!(!split.advance(&WINDOW, step(at(123), 2, 99)));
        assert!(split.is_due(&WINDOW, at(124)));
        assert!(split.advance(&WINDOW, step(at(124), 2, 99)));
        assert_eq!((split.plan().weights.clone(), split.pending()), (vec![4, 6], Some(2)));
    }

    #[test]
    fn the_share_of_a_region_that_is_gone_goes_at_once_from_the_instant_it_is_gone() {
        let mut split = Split::new(vec![6, 3, 1], Vec::new(), None);
        let gone = [None, Some(at(90)), None];
        split.want(vec![6, 0, 2]);
        assert!(!split.advance(&WINDOW, Step { gone: &gone, ..step(at(100), 1, 0) }));
        let change = ShareChange { weights: vec![6, 0, 1], from: Some(at(90)), earliest: at(90) };
        assert_eq!((split.plan().change.as_ref(), split.pending()), (Some(&change), None));
        // What else is wanted follows, acknowledged by those that are left.
        assert!(split.advance(&WINDOW, Step { gone: &gone, ..step(at(110), 1, 0) }));
        assert_eq!((split.plan().weights.clone(), split.pending()), (vec![6, 0, 1], Some(1)));
    }

    #[test]
    fn of_a_month_a_split_changes_with_the_next_one() {
        let month = Window::Calendar { period: crate::Period::Month, zone: "UTC".into() };
        assert_eq!(lead(&Algorithm::FixedWindow { quota: 10, window: month }), Duration::from_secs(3));
        let window = Duration::from_secs(60);
        assert_eq!(lead(&Algorithm::SlidingWindow { quota: 10, window }), Duration::from_secs(121));
        // However short its period: a node that is dropped spends tokens for two seconds more.
        let rate = portolan_model::Rate { count: 1, per: Duration::from_millis(1) };
        assert_eq!(lead(&Algorithm::TokenBucket { rate, burst: 1 }), Duration::from_secs(3));
    }
}
