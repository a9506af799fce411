//! What is due when: one queue for the whole world, so that things that fall on one moment happen in the order in which
//! they were planned. Time is cut into milliseconds, as Tokio's clock is: a plan is due at the end of its own.

use std::collections::{BTreeMap, VecDeque};

use portolan_model::Timestamp;

/// Plans by millisecond, then by the order of planning.
pub struct Agenda<T> {
    /// Plans of the next milliseconds, that of `first` in front.
    near: VecDeque<VecDeque<T>>,
    first: u64,
    /// Plans beyond.
    far: BTreeMap<u64, VecDeque<T>>,
}

/// Milliseconds that have a queue of their own: round trips, heartbeats and most timeouts.
const NEAR: usize = 2048;

impl<T> Agenda<T> {
    /// Nothing planned.
    pub fn new() -> Self {
        Self { near: (0..NEAR).map(|_| VecDeque::new()).collect(), first: 0, far: BTreeMap::new() }
    }

    /// Plans something. What lies in the past is due at once.
    pub fn plan(&mut self, at: Timestamp, what: T) {
        let millis = at.as_nanos().div_ceil(1_000_000).max(self.first);
        match usize::try_from(millis - self.first).ok().filter(|ahead| *ahead < NEAR) {
            Some(ahead) => self.near[ahead].push_back(what),
            None => self.far.entry(millis).or_default().push_back(what),
        }
    }

    /// When the next plan is due.
    pub fn next_at(&self) -> Option<Timestamp> {
        let near = self.near.iter().position(|plans| !plans.is_empty()).map(|ahead| self.first + ahead as u64);
        near.or_else(|| self.far.keys().next().copied()).map(|millis| Timestamp::from_nanos(millis * 1_000_000))
    }

    /// Takes the next plan that is due.
    pub fn take_due(&mut self, now: Timestamp) -> Option<T> {
        let millis = now.as_nanos() / 1_000_000;
        loop {
            if let Some(what) = self.near[0].pop_front() {
                return Some(what);
            }
            if self.first >= millis {
                return None;
            }
            self.near.rotate_left(1);
            self.first += 1;
            let entering = self.first + NEAR as u64 - 1;
            if let Some(plans) = self.far.remove(&entering) {
                self.near[NEAR - 1] = plans;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn plans_of_one_moment_keep_their_order_and_none_comes_early() {
        let mut agenda = Agenda::new();
        for (millis, what) in [(5, "b"), (5, "c"), (3, "a"), (9, "d"), (7000, "f"), (7000, "g"), (3000, "e")] {
            agenda.plan(at(millis), what);
        }
        let due = |agenda: &mut Agenda<&'static str>, millis| {
            std::iter::from_fn(|| agenda.take_due(at(millis))).collect::<Vec<_>>()
        };
        assert_eq!(due(&mut agenda, 5), ["a", "b", "c"]);
        assert_eq!(agenda.next_at(), Some(at(9)));
        agenda.plan(at(4), "late");
        assert_eq!(due(&mut agenda, 5), ["late"]);
        assert_eq!(due(&mut agenda, 2999), ["d"]);
        assert_eq!(agenda.next_at(), Some(at(3000)));
        assert_eq!(due(&mut agenda, 7000), ["e", "f", "g"]);
        assert_eq!(agenda.next_at(), None);
    }

    #[test]
    fn a_part_of_a_millisecond_is_a_whole_one() {
        let mut agenda = Agenda::new();
        agenda.plan(Timestamp::from_nanos(1_000_001), "a");
        assert_eq!((agenda.take_due(at(1)), agenda.take_due(at(2))), (None, Some("a")));
    }
}
