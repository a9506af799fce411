//! What is due when: one queue for the whole world, so that things that fall on one moment happen in the order in which
//! they were planned.

use std::collections::BTreeMap;

use portolan_model::Timestamp;

/// Plans by time, then by the order of planning.
pub struct Agenda<T> {
    plans: BTreeMap<(Timestamp, u64), T>,
    planned: u64,
}

impl<T> Agenda<T> {
    /// Nothing planned.
    pub fn new() -> Self {
        Self { plans: BTreeMap::new(), planned: 0 }
    }

    /// Plans something.
    pub fn plan(&mut self, at: Timestamp, what: T) {
        self.plans.insert((at, self.planned), what);
        self.planned += 1;
    }

    /// When the next plan is due.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.plans.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next plan that is due.
    pub fn take_due(&mut self, now: Timestamp) -> Option<T> {
        let (due, _) = *self.plans.first_key_value()?.0;
        if due > now {
            return None;
        }
        self.plans.pop_first().map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_of_one_moment_keep_their_order_and_none_comes_early() {
        let mut agenda = Agenda::new();
        for (at, what) in [(5, "b"), (5, "c"), (3, "a"), (9, "d")] {
            agenda.plan(Timestamp::from_nanos(at), what);
        }
        let now = Timestamp::from_nanos(5);
        assert_eq!(std::iter::from_fn(|| agenda.take_due(now)).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(agenda.next_at(), Some(Timestamp::from_nanos(9)));
    }
}
