//! Bytes that may be sent to each other region: a token bucket of one second. Never drops anything: what finds no budget
//! is told later.

use portolan_model::{ByteSize, Timestamp};

/// One bucket for all regions: each is told the same.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: u64,
    left: u64,
    since: Timestamp,
}

impl Budget {
    pub const fn new(per_second: ByteSize, now: Timestamp) -> Self {
        Self { per_second: per_second.0, left: per_second.0, since: now }
    }

    /// Takes `bytes` if they are there.
    pub fn take(&mut self, bytes: usize, now: Timestamp) -> bool {
        let elapsed = now.since(self.since).as_millis().min(1000) as u64;
        let earned = self.per_second.saturating_mul(elapsed) / 1000;
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(self.per_second);
            self.since = now;
        }
        let enough = self.left >= bytes as u64;
        if enough {
            self.left -= bytes as u64;
        }
        enough
    }
}

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
}
