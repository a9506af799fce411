//! Bytes of rows that a node may send to each other region, of what its region may send to all: a token bucket of one
//! second. Never drops anything: what finds no budget is told later.

use portolan_model::{ByteSize, Timestamp};

/// One bucket for all regions: each is told the same.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Of the whole region, to all others.
    whole: u64,
    per_second: u64,
    left: u64,
    since: Timestamp,
}

impl Budget {
    /// Of a region that sends all others `whole` bytes a second at most; all of it for one of them, until
    /// [`divide`](Self::divide) is called.
    pub const fn new(whole: ByteSize, now: Timestamp) -> Self {
        Self { whole: whole.0, per_second: whole.0, left: whole.0, since: now }
    }

    /// Leaves this node its part, being one of so many.
    pub fn divide(&mut self, regions: usize, nodes: usize) {
        let parts = (regions.max(1) * nodes.max(1)) as u64;
        self.per_second = (self.whole / parts).max(LEAST);
        self.left = self.left.min(self.per_second);
    }

    /// Takes `bytes` if they are there.
    pub fn take(&mut self, bytes: usize, now: Timestamp) -> bool {
        self.earn(now);
        let enough = self.left >= bytes as u64;
        if enough {
            self.left -= bytes as u64;
        }
        enough
    }

    /// Whether half a second's bytes are there. With less, messages wait for the round: many small ones would spend on
    /// packets what rows need.
    pub fn is_ample(&mut self, now: Timestamp) -> bool {
        self.earn(now);
        self.left * 2 >= self.per_second
    }

    fn earn(&mut self, now: Timestamp) {
        let elapsed = now.since(self.since).as_millis().min(1000) as u64;
        let earned = self.per_second.saturating_mul(elapsed) / 1000;
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(self.per_second);
            self.since = now;
        }
    }
}

/// A node's part of the budget for one region at least: 27 rows in each round.
const LEAST: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_of_budget_may_be_spent_at_once_and_comes_back_with_time() {
        let at = |millis| Timestamp::ZERO + Duration::from_millis(millis);
        let mut budget = Budget::new(ByteSize(1000), at(0));
        assert!(budget.take(1000, at(0)) && !budget.take(1, at(0)));
        assert!(budget.take(100, at(100)) && !budget.take(1, at(100)));
        assert!(budget.take(1000, at(9000)) && !budget.take(1, at(9000)));
    }

    #[test]
    fn nodes_share_the_budget_of_their_region_and_regions_share_it_too() {
        let mut budget = Budget::new(ByteSize(1_000_000), Timestamp::ZERO);
        budget.divide(4, 5);
        assert!(budget.take(50_000, Timestamp::ZERO) && !budget.take(1, Timestamp::ZERO));
        budget.divide(200, 1000);
        assert!(budget.take(4096, Timestamp::ZERO + Duration::from_secs(1)), "a part that is too small for any use");
    }
}
