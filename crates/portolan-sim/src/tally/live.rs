//! What is under way of one key of a limit of concurrency, and what would be if nothing had been refused. Decides what was
//! asked for at one time: requests refused one after another ask for no more than one of them alone. Never says what may be
//! under way, and never asks a gateway what is.

use std::collections::BTreeMap;

use portolan_model::Timestamp;

/// Units under way, by host with the place of its region, and such as were refused.
#[derive(Debug, Default)]
pub struct Live {
    begun: BTreeMap<(usize, usize), u64>,
    /// Refused units by when they would have ended and the place of the region; at most as many instants as requests were
    /// refused while one lasts.
    refused: BTreeMap<(Timestamp, usize), u64>,
    refused_units: BTreeMap<usize, u64>,
}

impl Live {
    /// A request begins on a host in the region at `place`.
    pub fn begin(&mut self, host: usize, place: usize, cost: u64) {
        *self.begun.entry((host, place)).or_default() += cost;
    }

    /// One has ended on a host.
    pub fn end(&mut self, host: usize, cost: u64) {
        let of_host = self.begun.iter_mut().filter(|((of, _), _)| *of == host);
        of_host.for_each(|(_, units)| *units = units.saturating_sub(cost));
    }

    /// All have ended on a host.
    pub fn end_all(&mut self, host: usize) {
        self.begun.retain(|(of, _), _| *of != host);
    }

    /// Units under way in regions whose places are `among` some.
    pub fn units(&self, among: impl Fn(usize) -> bool) -> u64 {
        self.begun.iter().filter(|((_, place), _)| among(*place)).map(|(_, units)| units).sum()
    }

    /// A request is refused in the region at `place` that would have ended at an instant: what would be under way with it,
    /// and in that region.
    pub fn refuse(&mut self, place: usize, cost: u64, ends: Timestamp, now: Timestamp) -> (u64, u64) {
        let (wanted, there) = (self.wanted(now) + cost, self.wanted_in(place) + cost);
        if ends > now {
            *self.refused.entry((ends, place)).or_default() += cost;
            *self.refused_units.entry(place).or_default() += cost;
        }
        (wanted, there)
    }

    /// What would be under way if nothing had been refused.
    pub fn wanted(&mut self, now: Timestamp) -> u64 {
        while let Some(ended) = self.refused.first_entry().filter(|first| first.key().0 <= now) {
            let (_, place) = *ended.key();
            let units = ended.remove();
            self.refused_units.entry(place).and_modify(|refused| *refused -= units);
        }
        self.units(|_| true) + self.refused_units.values().sum::<u64>()
    }

    /// The same of the region at `place`, as it was when all were asked last.
    pub fn wanted_in(&self, place: usize) -> u64 {
        self.units(|other| other == place) + self.refused_units.get(&place).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn what_is_wanted_at_one_time_is_what_lasts_and_what_would() {
        let mut live = Live::default();
        live.begin(0, 0, 3);
        live.begin(4, 1, 2);
        assert_eq!((live.wanted(at(0)), live.units(|place| place == 1)), (5, 2));
        assert_eq!(live.refuse(1, 1, at(50), at(0)), (6, 3));
        assert_eq!(live.refuse(0, 2, at(60), at(10)), (8, 5));
        live.end(4, 2);
        assert_eq!([49, 50, 60].map(|millis| live.wanted(at(millis))), [6, 5, 3]);
        // One that lasts no time is wanted while it is asked for.
        assert_eq!((live.refuse(1, 1, at(60), at(60)), live.wanted(at(60))), ((4, 1), 3));
        live.end_all(0);
        assert_eq!(live.wanted(at(60)), 0);
    }
}
