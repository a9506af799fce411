//! Counts verdicts of all nodes of a region by key, knows what each algorithm promises, and remembers who broke it.

use std::collections::BTreeMap;

use portolan_limits::{Algorithm, Definition, LimitId};

type Place = (LimitId, Vec<u8>);

#[derive(Default)]
pub struct Oracle {
    admitted: BTreeMap<(Place, u64), u64>,
    /// Tokens in thousandths, times the length of the rate's unit, and when that was.
    buckets: BTreeMap<Place, (u64, u64)>,
    in_flight: BTreeMap<Place, u64>,
    broken: Vec<String>,
}

impl Oracle {
    /// A request that costs so many units of a key was admitted in `slot` at `now_ms`.
    pub fn allow(&mut self, definition: &Definition, key: &[u8], slot: u64, cost: u32, now_ms: u64) {
        let cost = u64::from(cost);
        let place = (definition.id, key.to_vec());
        let admitted = *self.admitted.entry((place.clone(), slot)).and_modify(|units| *units += cost).or_insert(cost);
        let fault = match &definition.algorithm {
            Algorithm::FixedWindow { quota, .. } => {
                (admitted > *quota).then(|| format!("{admitted} of {quota} in slot {slot}"))
            }
            Algorithm::SlidingWindow { quota, window } => {
                let length = window.as_millis() as u64;
                let before = slot.checked_sub(1).and_then(|before| self.admitted.get(&(place.clone(), before)));
                let (before, left) = (before.copied().unwrap_or(0), (slot + 1) * length - now_ms);
                let estimate = before * left + admitted * length;
                (estimate > quota * length).then(|| format!("{before} * {left}/{length} + {admitted} of {quota}"))
            }
            Algorithm::TokenBucket { rate, burst } => {
                let per = rate.per.as_millis() as u64;
                let (level, at) = self.buckets.get(&place).copied().unwrap_or((burst * per, now_ms));
                let level = (level + (now_ms - at) * rate.count).min(burst * per);
                self.buckets.insert(place.clone(), (level.saturating_sub(cost * per), now_ms));
                (level < cost * per).then(|| format!("{cost} tokens of {level}/{per}"))
            }
            Algorithm::Concurrency { limit } => {
                let in_flight = self.in_flight.entry(place.clone()).or_default();
                *in_flight += cost;
                (*in_flight > *limit).then(|| format!("{in_flight} of {limit} in flight"))
            }
        };
        let name = &definition.name;
        self.broken.extend(fault.map(|fault| format!("{name} of {} at {now_ms}: {fault}", key.escape_ascii())));
    }

    /// What was in flight has ended.
    pub fn release(&mut self, limit: LimitId, key: &[u8]) {
        if let Some(in_flight) = self.in_flight.get_mut(&(limit, key.to_vec())) {
            *in_flight -= 1;
        }
    }

    /// Units of a key admitted in all.
    pub fn admitted(&self, limit: LimitId, key: &[u8]) -> u64 {
        let of = |((place, _), _): &(&(Place, u64), &u64)| place.0 == limit && place.1 == key;
        self.admitted.iter().filter(of).map(|(_, units)| units).sum()
    }

    /// By slot of a limit, what all keys were admitted.
    pub fn by_slot(&self, limit: LimitId) -> BTreeMap<u64, u64> {
        let mut slots = BTreeMap::new();
        for ((_, slot), units) in self.admitted.iter().filter(|((place, _), _)| place.0 == limit) {
            *slots.entry(*slot).or_default() += units;
        }
        slots
    }

    /// Nobody broke a promise.
    pub fn check(&self) {
        assert!(self.broken.is_empty(), "{} times too much, first {}", self.broken.len(), self.broken[0]);
    }
}
