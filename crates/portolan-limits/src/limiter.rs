//! The admission decision that worker threads share: charges every claim of a request, or none.
//!
//! Each claim costs one probe and one compare-and-swap on the counter's word. Units charged for a request that a later
//! claim refuses are given back; until then they are hidden from others, so racing requests may be refused early but
//! never admitted in excess. Never takes a lock for a known key, never allocates, never waits.

use std::sync::Arc;

use portolan_config::LimitId;
use portolan_model::{Now, WallTime};
use smallvec::SmallVec;

use crate::{
    counter::Counter,
    key::Key,
    rights::{Refusal, Rights},
    shared::Shared,
    spend::{Held, Turned, check_slot, spend, view},
    table::{Place, Tenant},
    verdict::{Admission, Claim, DenyReason, Peek},
    word::Age,
};

/// The decision function for one set of definitions; the counters behind it outlive it.
///
/// [`Limits::limiter`](crate::Limits::limiter) returns another one after each change of definitions.
#[derive(Debug)]
pub struct Limiter {
    /// Sorted by id.
    rights: Box<[Rights]>,
    shared: Arc<Shared>,
}

impl Limiter {
    /// `rights` sorted by id.
    pub(crate) fn new(rights: Box<[Rights]>, shared: Arc<Shared>) -> Self {
        Self { rights, shared }
    }

    /// The counter of `limit` for what it counts by. Costs one SipHash, allocates nothing up to four parts.
    pub fn key(&self, limit: LimitId, parts: &[&[u8]]) -> Key {
        Key::new(&self.shared.hash_key, limit, parts)
    }

    /// Charges every claim, or none; refusals are not counted. A claim of a limit that is not defined is answered
    /// `Wait`: it can only come from a view older or newer than this limiter. Allocates only above four claims.
    pub fn admit(&self, claims: &[Claim], now: Now) -> Admission {
        let wall = self.shared.wall(now);
        let mut held = SmallVec::<[Held<'_>; 4]>::new();
        for claim in claims {
            match self.claim(claim, wall) {
                Ok(unit) => held.push(unit),
                Err(turned) => {
                    held.iter().rev().for_each(Held::give_back);
                    return turned.denial().map_or(Admission::Wait, Admission::Deny);
                }
            }
        }
        Admission::Allow(held.iter().map(Held::charge).collect())
    }

    /// The values each claim would be decided with; charges nothing. Claims of unknown limits are left out.
    pub fn peek(&self, claims: &[Claim], now: Now) -> Vec<Peek> {
        let wall = self.shared.wall(now);
        claims.iter().filter_map(|claim| Some(self.peek_one(self.rights(claim.limit)?, claim.key, wall))).collect()
    }

    /// Whether anything can be admitted: false until the first horizon is durable.
    pub fn active(&self) -> bool {
        self.shared.horizon() > WallTime::default()
    }

    /// Whether a worker should wake the driver, so that it calls
    /// [`Limits::handle_timeout`](crate::Limits::handle_timeout) now: a durable mark is wanted. True once per want. Ask
    /// after every admission; costs one load.
    pub fn take_attention(&self) -> bool {
        self.shared.take_attention()
    }

    pub(crate) fn all_rights(&self) -> &[Rights] {
        &self.rights
    }

    pub(crate) fn rights(&self, limit: LimitId) -> Option<&Rights> {
        self.rights.binary_search_by_key(&limit, |rights| rights.id).ok().map(|at| &self.rights[at])
    }

    fn claim(&self, claim: &Claim, wall: WallTime) -> Result<Held<'_>, Turned<'_>> {
        let rights = self.rights(claim.limit).ok_or(Turned::Wait)?;
        let table = &self.shared.table;
        if let Some(place) = table.find(claim.key) {
            let mine = || table.holds(place, claim.key);
            let spent = spend(&self.shared, rights, table.counter(place), mine, wall);
            if !matches!(spent, Err(Turned::KeyChanged)) {
                return self.note(rights, Some(place), spent);
            }
        }
        self.claim_new(rights, claim.key, wall)
    }

    /// The first request of a key: makes its entry, or shares the overflow counter.
    fn claim_new<'a>(&'a self, rights: &'a Rights, key: Key, wall: WallTime) -> Result<Held<'a>, Turned<'a>> {
        let shared = &*self.shared;
        // Asked where no other thread can make or unmake the entry: one that was held up on its way here must not make
        // it for a slot that others have seen the end of, whose count may be gone.
        let latest = || wall.max(shared.latest());
        let tenant = Tenant { key, limit: rights.id, window_ms: rights.terms.window_ms };
        let start = || {
            let slot = rights.terms.slot(latest());
            // A key that was charged to the overflow counter in this slot, or by a thread with a later clock in the
            // next one, may not start afresh.
            let overflow = rights.live.overflow.own();
            let begun = rights.start(&shared.barrier, slot);
            match overflow.age(slot) {
                Age::Same | Age::Ahead if overflow.spent() > 0 => {
                    (overflow.slot_near(slot), overflow.spent().max(begun))
                }
                _ => (slot, begun),
            }
        };
        let known = |counter| spend(shared, rights, counter, || true, latest());
        shared.table.enter(
            tenant,
            wall,
            start,
            |place| self.note(rights, Some(place), known(shared.table.counter(place))),
            || self.note(rights, None, known(&rights.live.overflow)),
        )
    }

    /// Tells the state machine what moved. `place` is none for the overflow counter.
    fn note<'a>(
        &self,
        rights: &Rights,
        place: Option<Place>,
        spent: Result<Held<'a>, Turned<'a>>,
    ) -> Result<Held<'a>, Turned<'a>> {
        let wants_write = match &spent {
            Ok(held) => held.wants_mark(),
            Err(Turned::Wait | Turned::Unmarked) => true,
            Err(Turned::Denied { .. } | Turned::KeyChanged) => return spent,
        };
        match place {
            Some(place) => self.shared.table.note_move(place),
            None => rights.live.note_overflow(&self.shared.overflowed),
        }
        if wants_write {
            self.shared.ask_attention();
        }
        spent
    }

    fn peek_one(&self, rights: &Rights, key: Key, wall: WallTime) -> Peek {
        let slot = rights.terms.slot(wall);
        let table = &self.shared.table;
        let unused = Counter::default();
        let found = table.find(key);
        let counter = found.map_or(&unused, |place| table.counter(place));
        let view = view(&self.shared, rights, counter, counter.own(), slot);
        let refusal = match check_slot(&self.shared, rights, slot, wall) {
            Err(Turned::Denied { reason, .. }) => Some(reason),
            Err(_) => Some(DenyReason::Degraded),
            Ok(()) => match rights.decide(view) {
                Err(Refusal::Deny(reason)) => Some(reason),
                Ok(()) | Err(Refusal::Unmarked) => None,
            },
        };
        Peek {
            limit: rights.id,
            name: rights.name.clone(),
            slot,
            quota: rights.terms.quota,
            share: rights.terms.base,
            spent: view.spent,
            others: view.others,
            remaining: if refusal.is_some() { 0 } else { rights.remaining(view) },
            mode: view.mode,
            resets_in: rights.terms.end(slot).since(wall),
            refusal,
        }
    }
}

#[cfg(test)]
mod tests {
    use portolan_config::OnPartition;
    use portolan_model::{HashKey, Name};

    use super::*;
    use crate::{Definition, Recovery, definition::Terms, horizon::Barrier, peers::Mode, rights::Live};

    #[test]
    fn a_thread_held_up_since_an_earlier_slot_makes_no_entry_for_it() {
        let at = |slot: u64| WallTime::from_unix_millis(slot * 1000);
        let barrier = Barrier::new(&Recovery::FirstStart, Now::default());
        let shared = Arc::new(Shared::new(HashKey::new([7; 16]), 8, barrier, Now::default()));
        shared.raise_horizon(at(100));
        let definition = Definition {
            id: LimitId(1),
            generation: 1,
            name: Name::new("per-user").expect("a name"),
            rate: "3/s".parse().expect("a rate"),
            on_partition: OnPartition::Static,
            expose_slot: false,
        };
        let rights = Rights::new(&definition, Terms::new(definition.rate, 0, 1), Arc::new(Live::new(Mode::Healthy)));
        let limiter = Limiter::new(Box::new([rights]), Arc::clone(&shared));
        let claim = Claim { limit: LimitId(1), key: limiter.key(LimitId(1), &[]) };
        // The slot was spent and its entry swept while the thread stood still between reading the clock and its claim.
        let spent = (0..4).filter(|_| limiter.claim(&claim, at(5)).is_ok()).count();
        shared.raise_clock(at(9));
        shared.table.sweep(0, usize::MAX, at(9), |_| false);
        let late = limiter.claim(&claim, at(5)).ok().map(|held| held.charge().slot);
        assert_eq!((spent, late), (3, Some(9)));
    }
}
