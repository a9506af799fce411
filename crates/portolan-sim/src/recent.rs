//! What a limit admitted of late, whatever slots it was charged to: holds a limit to what `plan` states of any span. Never
//! asks which slot the gateway says that it was.

use std::collections::VecDeque;

/// Admitted units of one counter.
#[derive(Debug, Default)]
pub struct Recent {
    /// When, in milliseconds of the scenario, and how many.
    parts: VecDeque<(i64, u64)>,
    units: u64,
}

/// Parts that are kept: those of a long span are put together.
const PARTS: i64 = 1024;

impl Recent {
    /// What it holds, what is over by now included.
    pub fn units(&self) -> u64 {
        self.units
    }

    /// Takes back what was admitted at `at_ms`, unless that is over.
    pub fn take_back(&mut self, units: u64, at_ms: i64, span_ms: i64) {
        let part_ms = part_of(at_ms, span_ms);
        if let Some((_, part)) = self.parts.iter_mut().rev().find(|(at, _)| *at == part_ms) {
            let taken = units.min(*part);
            *part -= taken;
            self.units -= taken;
        }
    }

    /// Adds what is admitted at `at_ms`; returns what was in the last `span_ms`, a part of it at most left out.
    pub fn add(&mut self, units: u64, at_ms: i64, span_ms: i64) -> u64 {
        while let Some((_, over)) = self.parts.pop_front_if(|(at, _)| *at <= at_ms - span_ms) {
            self.units -= over;
        }
        let part_ms = part_of(at_ms, span_ms);
        match self.parts.back_mut().filter(|(at, _)| *at == part_ms) {
            Some((_, last)) => *last += units,
            None => self.parts.push_back((part_ms, units)),
        }
        self.units += units;
        self.units
    }
}

/// When the part begins that a moment belongs to.
fn part_of(at_ms: i64, span_ms: i64) -> i64 {
    at_ms - at_ms.rem_euclid((span_ms / PARTS).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_span_does_not_count() {
        let mut recent = Recent::default();
        let added = [(0, 3), (0, 4), (979, 1), (980, 1), (2000, 1)].map(|(at_ms, units)| recent.add(units, at_ms, 980));
        assert_eq!(added, [3, 7, 8, 2, 1]);
    }

    #[test]
    fn a_day_is_kept_in_few_parts_and_nothing_of_it_is_lost() {
        let mut recent = Recent::default();
        let day = 86_400_000;
        let last = (0..day).step_by(10_000).map(|at_ms| recent.add(1, at_ms, day)).last();
        assert_eq!(last, Some(8640));
        assert!(recent.parts.len() <= 1030, "{}", recent.parts.len());
    }
}
