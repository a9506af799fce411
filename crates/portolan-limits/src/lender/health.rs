//! Whether a lender can be counted on, from how its refills end.
//!
//! Unreachable after two failures in a row, or when for a whole second the slowest hundredth took longer than 50 ms;
//! reachable again after five timely answers over two seconds. Never reads a clock.

use std::{collections::VecDeque, time::Duration};

use portolan_model::Timestamp;

/// Longest wait for one answer. A refill that takes longer has failed, whatever comes later.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(50);

/// Failures in a row that end trust.
const MAX_FAILURES: u32 = 2;

/// How far back slowness is looked at, and how long it must last.
const WINDOW: Duration = Duration::from_secs(1);

/// Outcomes remembered; at more refills a second than this, the window is shorter.
const MAX_OUTCOMES: usize = 4096;

/// One refill in this many may be slow.
const SLOW_SHARE: usize = 100;

/// Timely answers, and the time they must span, before trust returns.
const HEALING_ANSWERS: u32 = 5;
const HEALING_TIME: Duration = Duration::from_secs(2);

/// What is known of one lender.
#[derive(Debug, Default)]
pub struct LenderHealth {
    failures: u32,
    /// When recent refills ended, and whether they were slow or failed.
    outcomes: VecDeque<(Timestamp, bool)>,
    slow: usize,
    slow_since: Option<Timestamp>,
    /// Since when, and how often, an unreachable lender has been answering.
    healing: Option<(Timestamp, u32)>,
    unreachable: bool,
}

impl LenderHealth {
    /// Whether refills should be asked for.
    pub fn is_reachable(&self) -> bool {
        !self.unreachable
    }

    /// An answer came after `took`.
    pub fn answered(&mut self, took: Duration, now: Timestamp) {
        let slow = took > ANSWER_TIMEOUT;
        self.failures = 0;
        self.remember(slow, now);
        if !self.unreachable {
            return;
        }
        self.healing = match self.healing {
            _ if slow => None,
            None => Some((now, 1)),
            Some((since, answers)) => Some((since, answers + 1)),
        };
        let healed = |(since, answers)| answers >= HEALING_ANSWERS && now.since(since) >= HEALING_TIME;
        if self.healing.is_some_and(healed) {
            *self = Self::default();
        }
    }

    /// No answer came in time, or none can be had.
    pub fn failed(&mut self, now: Timestamp) {
        self.failures += 1;
        self.healing = None;
        self.remember(true, now);
        self.unreachable |= self.failures >= MAX_FAILURES;
    }

    fn remember(&mut self, slow: bool, now: Timestamp) {
        let old = |&(at, _): &(Timestamp, bool)| now.since(at) >= WINDOW;
        while self.outcomes.len() >= MAX_OUTCOMES || self.outcomes.front().is_some_and(old) {
            let dropped = self.outcomes.pop_front();
            self.slow -= usize::from(dropped.is_some_and(|(_, slow)| slow));
        }
        if self.outcomes.is_empty() {
            // Nothing was asked for a second: what was slow before has not lasted until here.
            self.slow_since = None;
        }
        self.outcomes.push_back((now, slow));
        self.slow += usize::from(slow);
        // The hundredth percentile is slow when more than one in a hundred is.
        if self.slow * SLOW_SHARE <= self.outcomes.len() {
            self.slow_since = None;
            return;
        }
        let since = *self.slow_since.get_or_insert(now);
        self.unreachable |= now.since(since) >= WINDOW;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(ms)
    }

    const QUICK: Duration = Duration::from_millis(2);

    const SLOW: Duration = Duration::from_millis(51);

    #[test]
    fn two_failures_in_a_row_end_trust() {
        let mut health = LenderHealth::default();
        health.failed(at(0));
        health.answered(QUICK, at(10));
        health.failed(at(1500));
        assert!(health.is_reachable());
        health.failed(at(1600));
        assert!(!health.is_reachable());
    }

    #[test]
    fn slowness_ends_trust_when_it_lasts_a_second() {
        let mut health = LenderHealth::default();
        let mut ended = None;
        for ms in (0..3000).step_by(10) {
            // One answer in fifty is slow.
            health.answered(if ms % 500 == 0 { SLOW } else { QUICK }, at(ms));
            ended = ended.or_else(|| (!health.is_reachable()).then_some(ms));
        }
        assert_eq!(ended, Some(1000));
        let mut health = LenderHealth::default();
        (0..3000).for_each(|ms| health.answered(if ms == 500 { SLOW } else { QUICK }, at(ms)));
        assert!(health.is_reachable(), "one slow answer in a thousand is below the hundredth");
    }

    #[test]
    fn trust_returns_after_five_timely_answers_over_two_seconds() {
        let mut health = LenderHealth::default();
        (0..2).for_each(|_| health.failed(at(0)));
        let reachable: Vec<bool> = (0..6)
            .map(|turn| {
                health.answered(QUICK, at(1000 + turn * 500));
                health.is_reachable()
            })
            .collect();
        assert_eq!(reachable, [false, false, false, false, true, true]);
        (0..2).for_each(|_| health.failed(at(5000)));
        (0..100).for_each(|ms| health.answered(QUICK, at(6000 + ms)));
        assert!(!health.is_reachable(), "many answers within a moment prove nothing");
        health.failed(at(7000));
        health.answered(QUICK, at(9000));
        assert!(!health.is_reachable(), "a failure begins the wait anew");
    }
}
