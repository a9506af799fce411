//! What the Redis of a lender holds, and what it lends: the rules of the server's `lend.lua`, cell for cell. Never talks
//! to anybody; who reaches it, and when, is in `lenders`.

use std::collections::BTreeMap;

use portolan_limits::{Granted, Key, LimitId, LoanRequest};
use portolan_model::Timestamp;
use tokio::time::Duration;

use crate::clock::BEGIN;

/// One Redis. It keeps no slot longer than it was last told to.
#[derive(Default)]
pub struct Vault {
    slots: BTreeMap<(LimitId, u64, Key), Slot>,
    lent: u64,
}

/// One slot of one key.
struct Slot {
    total: u64,
    /// By place of the region.
    regions: BTreeMap<usize, Lent>,
    until: Timestamp,
}

/// What one region was lent, and the highest sequence that it asked with.
#[derive(Clone, Copy, Default)]
struct Lent {
    units: u64,
    sequence: u64,
}

/// Every how many requests slots that are over are swept out.
const SWEPT_EVERY: u64 = 1024;

impl Vault {
    /// Lends a part of a slot to the region at this place, at once or not at all; the slot is then kept for `lifetime`, and
    /// until it is over by this server's own clock, which is true. A sequence that was answered before is answered alike, and
    /// of a slot that is far ahead of that clock nothing is lent or kept.
    pub fn lend(&mut self, region: usize, request: &LoanRequest, lifetime: Duration, now: Timestamp) -> Granted {
        self.lent += 1;
        if self.lent.is_multiple_of(SWEPT_EVERY) {
            self.slots.retain(|_, slot| slot.until > now);
        }
        let name = (request.limit, request.slot, request.key);
        let kept = self.slots.get(&name).filter(|slot| slot.until > now);
        let mut total = kept.map_or(0, |slot| slot.total);
        let mut lent = kept.and_then(|slot| slot.regions.get(&region)).copied().unwrap_or_default();
        let before = lent.sequence;
        let wall = BEGIN + now.since(Timestamp::ZERO);
        if wall < request.lent_from() {
            return Granted { held: lent.units, total, before };
        }
        if request.held > lent.units {
            total += request.held - lent.units;
            lent.units = request.held;
        } else if before >= request.sequence {
            return Granted { held: lent.units, total, before };
        }
        let chunk = request.units.min(request.quota.saturating_sub(total));
        lent = Lent { units: lent.units + chunk, sequence: request.sequence };
        let regions = match self.slots.remove(&name) {
            Some(slot) if slot.until > now => slot.regions,
            _ => BTreeMap::new(),
        };
        let slot = self.slots.entry(name).or_insert(Slot { total: 0, regions, until: now });
        slot.regions.insert(region, lent);
        (slot.total, slot.until) = (total + chunk, now + lifetime.max(request.kept_for(wall)));
        Granted { held: lent.units, total: slot.total, before }
    }

    /// Starts again with nothing.
    pub fn forget(&mut self) {
        self.slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use portolan_model::HashKey;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(11);

    fn at(secs: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(secs)
    }

    fn request(sequence: u64, held: u64, units: u64) -> LoanRequest {
        LoanRequest {
            limit: LimitId(1),
            key: Key::new(&HashKey::new([7; 16]), LimitId(1), &[]),
            slot: 77,
            sequence,
            held,
            units,
            quota: 100,
            slot_begins: BEGIN,
            slot_ends: BEGIN + Duration::from_secs(1),
        }
    }

    /// Asks in turn, each time with what the region was lent before unless it says otherwise.
    fn lent(vault: &mut Vault, region: usize, (sequence, held, units): (u64, u64, u64)) -> (u64, u64, u64) {
        let Granted { held, total, before } = vault.lend(region, &request(sequence, held, units), LIFETIME, at(0));
        (held, total, before)
    }

    #[test]
    fn regions_together_are_lent_the_quota_and_no_more() {
        let (mut vault, mut held) = (Vault::default(), [0; 3]);
        for sequence in 1..=8 {
            for (region, held) in held.iter_mut().enumerate() {
                *held = lent(&mut vault, region, (sequence, *held, 7)).0;
            }
        }
        assert_eq!(held, [35, 35, 30]);
    }

    #[test]
    fn a_request_that_is_repeated_lends_nothing_twice() {
        let mut vault = Vault::default();
        let answers = [1, 1, 1].map(|sequence| lent(&mut vault, 0, (sequence, 0, 30)));
        assert_eq!(answers, [(30, 30, 0), (30, 30, 1), (30, 30, 1)]);
    }

    #[test]
    fn a_server_that_forgot_a_chunk_learns_it_before_it_lends_more() {
        let mut vault = Vault::default();
        assert_eq!(lent(&mut vault, 0, (1, 0, 60)), (60, 60, 0));
        vault.forget();
        assert_eq!(lent(&mut vault, 0, (2, 60, 10)), (70, 70, 0));
        assert_eq!(lent(&mut vault, 1, (1, 0, 60)), (30, 100, 0));
    }

    #[test]
    fn a_process_after_another_is_told_what_the_region_holds_and_is_lent_the_rest() {
        let mut vault = Vault::default();
        let asked = [(5000, 0, 60), (4000, 0, 30), (5001, 60, 30), (5002, 90, 30)];
        let answers = asked.map(|ask| lent(&mut vault, 0, ask));
        assert_eq!(answers, [(60, 60, 0), (60, 60, 5000), (90, 90, 5000), (100, 100, 5001)]);
    }

    #[test]
    fn a_slot_is_kept_for_its_lifetime_and_no_longer() {
        let mut vault = Vault::default();
        let total =
            |vault: &mut Vault, sequence, secs| vault.lend(0, &request(sequence, 0, 10), LIFETIME, at(secs)).total;
        assert_eq!(
            [(1, 0), (2, 10), (3, 20), (4, 31)].map(|(sequence, secs)| total(&mut vault, sequence, secs)),
            [10, 20, 30, 10]
        );
    }

    #[test]
    fn a_slot_that_was_asked_for_ahead_of_time_is_kept_until_it_is_over() {
        let mut vault = Vault::default();
        let mut total = |sequence, secs| {
            let [slot_begins, slot_ends] = [20, 40].map(|secs| BEGIN + Duration::from_secs(secs));
            let ahead = LoanRequest { slot_begins, slot_ends, ..request(sequence, 0, 10) };
            vault.lend(0, &ahead, LIFETIME, at(secs)).total
        };
        assert_eq!([(1, 0), (2, 39), (3, 49), (4, 61)].map(|(sequence, secs)| total(sequence, secs)), [10, 20, 30, 10]);
    }

    #[test]
    fn of_a_slot_that_is_more_than_a_window_and_ten_seconds_ahead_nothing_is_lent_or_kept() {
        let mut vault = Vault::default();
        let mut total = |sequence, ahead| {
            let slot_begins = BEGIN + Duration::from_millis(ahead);
            let slot_ends = slot_begins + Duration::from_secs(1);
            vault.lend(0, &LoanRequest { slot_begins, slot_ends, ..request(sequence, 0, 10) }, LIFETIME, at(0)).total
        };
        assert_eq!(
            [(1, 11_001), (2, 11_000), (3, 11_001)].map(|(sequence, ahead)| total(sequence, ahead)),
            [0, 10, 10]
        );
        let year = Duration::from_secs(365 * 86_400);
        let mut ahead = request(4, 30, 10);
        (ahead.slot, ahead.slot_begins, ahead.slot_ends) = (78, ahead.slot_begins + year, ahead.slot_ends + year);
        assert_eq!(vault.lend(0, &ahead, year, at(0)), Granted { held: 0, total: 0, before: 0 });
        assert_eq!(vault.slots.len(), 1);
    }
}
