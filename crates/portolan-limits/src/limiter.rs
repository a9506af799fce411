//! The admission decision that worker threads share: charges every claim of a request, or none.
//!
//! Each claim costs one probe and one compare-and-swap on the counter's word. Units charged for a request that a later
//! claim refuses are given back; until then they are hidden from others, so racing requests may be refused early but
//! never admitted in excess. Never takes a lock for a known key, never allocates, never waits.

use std::sync::Arc;

use portolan_config::LimitId;
use portolan_model::{Name, Now, WallTime};
use smallvec::SmallVec;

use crate::{
    counter::{Counter, Receipt},
    definition::Kind,
    drip::purse,
    key::Key,
    peers::Mode,
    rights::{Refusal, Rights},
    shared::Shared,
    slide::peek_carried,
    spend::{Held, Site, Turned, check_slot, spend, view},
    table::{Place, Tenant},
    verdict::{Admission, Charge, ChargeReceipt, Claim, DenyReason, Peek},
};

/// The decision function for one set of definitions; the counters behind it outlive it.
///
/// [`Limits::limiter`](crate::Limits::limiter) returns another one after each change of definitions.
#[derive(Debug)]
pub struct Limiter {
    /// Sorted by id.
    rights: Box<[Rights]>,
    shared: Arc<Shared>,
    /// Stands where a limit that is not known would.
    unknown: Name,
}

impl Limiter {
    /// `rights` sorted by id.
    pub(crate) fn new(rights: Box<[Rights]>, shared: Arc<Shared>) -> Self {
        let unknown = Name::new("unknown-limit").expect("lower-case letters and a hyphen");
        Self { rights, shared, unknown }
    }

    /// The counter of `limit` for what it counts by. Costs one SipHash, allocates nothing up to four parts.
    pub fn key(&self, limit: LimitId, parts: &[&[u8]]) -> Key {
        Key::new(&self.shared.hash_key, limit, parts)
    }

    /// Charges every claim, or none; refusals are not counted. A claim of a limit that is not defined is answered
    /// `Wait`: it can only come from a view older or newer than this limiter. Limits in shadow never refuse: their charge
    /// says that they would have. Allocates only above four claims.
    pub fn admit(&self, claims: &[Claim], now: Now) -> Admission {
        self.admit_asked(claims, Asked::First, now)
    }

    /// The same for a request that was answered `Wait` before: it is no new demand.
    pub fn admit_again(&self, claims: &[Claim], now: Now) -> Admission {
        self.admit_asked(claims, Asked::Again, now)
    }

    /// [`admit`](Self::admit) that appends the charges to `charges`: nothing is returned when all claims were charged,
    /// and nothing appended when not. Spares the copies of an answer of half a kilobyte.
    pub fn admit_into(&self, claims: &[Claim], now: Now, charges: &mut SmallVec<[Charge; 4]>) -> Option<Admission> {
        self.charge(claims, Asked::First, now, charges)
    }

    fn admit_asked(&self, claims: &[Claim], asked: Asked, now: Now) -> Admission {
        let mut charges = SmallVec::new();
        self.charge(claims, asked, now, &mut charges).unwrap_or(Admission::Allow(charges))
    }

    #[inline]
    fn charge(
        &self,
        claims: &[Claim],
        asked: Asked,
        now: Now,
        charges: &mut SmallVec<[Charge; 4]>,
    ) -> Option<Admission> {
        let wall = self.shared.wall(now);
        let before = charges.len();
        for claim in claims {
            let refusal = match self.rights(claim.limit) {
                Some(rights) => match self.claim(rights, claim, asked, wall, charges) {
                    Ok(()) => continue,
                    Err(turned) => turned,
                },
                None => Turned::Unknown(claim.limit),
            };
            match refusal.shadow_charge() {
                Some(charge) => charges.push(charge),
                None => {
                    charges[before..].iter().rev().for_each(|charge| self.take_back(charge));
                    charges.truncate(before);
                    return Some(refusal.admission(&self.unknown));
                }
            }
        }
        None
    }

    /// Gives up to `units` of a charge back, while its slot lasts; for outcomes that a limit does not count.
    pub fn refund(&self, charge: &Charge, units: u32, now: Now) {
        let Some(rights) = self.rights(charge.limit) else { return };
        let lasts = rights.terms.slot(self.shared.wall(now)) == charge.slot;
        // What is in flight is released instead.
        if lasts && rights.terms.kind != Kind::Concurrency {
            self.give_back(rights, charge, units.min(charge.cost));
        }
    }

    /// Ends what a charge of a concurrency limit stands for; does nothing for other limits. Call once for each charge.
    pub fn release(&self, charge: &Charge) {
        let Some(rights) = self.rights(charge.limit) else { return };
        if rights.terms.kind == Kind::Concurrency {
            self.give_back(rights, charge, charge.cost);
        }
    }

    /// The values each claim would be decided with; charges nothing. Claims of unknown limits are left out.
    pub fn peek(&self, claims: &[Claim], now: Now) -> Vec<Peek> {
        let wall = self.shared.wall(now);
        claims.iter().filter_map(|claim| Some(self.peek_one(self.rights(claim.limit)?, claim, wall))).collect()
    }

    /// The state of a limit; `None` for one that is not defined.
    pub fn mode(&self, limit: LimitId) -> Option<Mode> {
        self.rights(limit).map(|rights| rights.live.mode())
    }

    /// Whether anything can be admitted: false until the first horizon is durable.
    pub fn active(&self) -> bool {
        self.shared.is_active()
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
        let at = self.rights.partition_point(|rights| rights.id < limit);
        self.rights.get(at).filter(|rights| rights.id == limit)
    }

    /// Charges one claim and appends what the answer says of it. In one piece with all it calls: the shorter a decision,
    /// the sooner the misses of the next begin.
    #[inline(always)]
    fn claim<'a>(
        &'a self,
        rights: &'a Rights,
        claim: &Claim,
        asked: Asked,
        wall: WallTime,
        charges: &mut SmallVec<[Charge; 4]>,
    ) -> Result<(), Turned<'a>> {
        let Claim { key, cost, .. } = *claim;
        let table = &self.shared.table;
        if let Some(place) = table.find(key) {
            let site = Site { rights, counter: table.counter(place), key, place: Some(place) };
            match spend(&self.shared, site, cost, wall) {
                Err(Turned::KeyChanged) => {}
                spent => {
                    self.note(site, cost, asked, &spent);
                    return spent.map(|held| charges.push(held.charge()));
                }
            }
        }
        self.claim_new(rights, claim, asked, wall).map(|held| charges.push(held.charge()))
    }

    /// The first request of a key: makes its entry, or shares the overflow counter.
    #[cold]
    #[inline(never)]
    fn claim_new<'a>(
        &'a self,
        rights: &'a Rights,
        claim: &Claim,
        asked: Asked,
        wall: WallTime,
    ) -> Result<Held<'a>, Turned<'a>> {
        let shared: &'a Shared = &self.shared;
        let Claim { key, cost, .. } = *claim;
        // Asked where no other thread can make or unmake the entry: one that was held up on its way here must not make
        // it for a slot that others have seen the end of, whose count may be gone.
        let latest = || wall.max(shared.latest());
        let charge = |counter: &'a Counter, place: Option<Place>| {
            let site = Site { rights, counter, key, place };
            let spent = spend(shared, site, cost, latest());
            self.note(site, cost, asked, &spent);
            spent
        };
        shared.table.enter(
            Tenant { key, limit: rights.id },
            |counter| self.is_dead(counter, wall),
            || rights.beginning(shared, key, latest()),
            |place| charge(shared.table.counter(place), Some(place)),
            || match rights.overflow(shared, key, latest()) {
                Some(overflow) => charge(overflow, None),
                None => Err(Turned::without_room(rights, latest())),
            },
        )
    }

    /// Whether an entry counts nothing of a live slot. A limit that is not known here may be newer than this limiter.
    pub(crate) fn is_dead(&self, counter: &Counter, wall: WallTime) -> bool {
        self.rights(counter.limit()).is_some_and(|rights| rights.terms.is_over(counter, wall))
    }

    /// Tells the state machine what moved.
    #[inline(always)]
    fn note(&self, site: Site<'_>, cost: u32, asked: Asked, spent: &Result<Held<'_>, Turned<'_>>) {
        if asked == Asked::First && matches!(spent, Err(Turned::Refused { .. })) {
            site.counter.refuse(cost);
        }
        match site.place {
            Some(place) => self.shared.table.note_move(place),
            None => site.rights.live.note_overflow(&self.shared.overflowed),
        }
        let wants_more = match spent {
            Ok(held) => held.wants_more(),
            Err(turned) => turned.wants_more(),
        };
        if wants_more {
            self.shared.ask_attention();
        }
    }

    /// Undoes a charge of a request that another claim refuses.
    #[cold]
    fn take_back(&self, charge: &Charge) {
        if let Some(rights) = self.rights(charge.limit) {
            self.give_back(rights, charge, charge.cost);
        }
    }

    fn give_back(&self, rights: &Rights, charge: &Charge, units: u32) {
        let Some(ChargeReceipt { key, place, reuse, time }) = charge.receipt else { return };
        let receipt = Receipt { slot: charge.slot, reuse, time };
        let counter = place.map_or(&rights.live.overflow, |place| self.shared.table.counter(place));
        if (place.is_none() || counter.is_of(key))
            && counter.give_back(rights.part_of(receipt, units, charge.cost), units.into())
        {
            match place {
                Some(place) => self.shared.table.note_move(place),
                None => rights.live.note_overflow(&self.shared.overflowed),
            }
        }
    }

    fn peek_one(&self, rights: &Rights, claim: &Claim, wall: WallTime) -> Peek {
        let slot = rights.terms.slot(wall);
        let shared = &*self.shared;
        let unused = Counter::default();
        let place = shared.table.find(claim.key);
        let counter = place.map_or(&unused, |place| shared.table.counter(place));
        let site = Site { rights, counter, key: claim.key, place };
        let (view, verdict, wait) = match &rights.terms.kind {
            Kind::Bucket(buckets) if shared.owns(claim.key) => {
                let purse = purse(shared, site, buckets, claim.cost, wall);
                let refusal = match rights.closed(purse.view.mode) {
                    true => Some(DenyReason::Closed),
                    false => (!purse.fits()).then(|| purse.refusal(site, claim.cost).0),
                };
                (purse.view, refusal, None)
            }
            _ => {
                let carried = peek_carried(shared, site, slot).weighed(rights, slot, wall);
                let view = view(shared, site, counter.word(slot), slot, carried);
                let (refusal, wait) = match rights.decide(view, claim.cost.into()) {
                    Ok(()) => (None, None),
                    Err(Refusal::Deny(reason)) => (Some(reason), None),
                    Err(Refusal::Wait(wait, _)) => (None, Some(wait)),
                };
                (view, refusal, wait)
            }
        };
        let refusal =
            if check_slot(shared, rights, claim.key, slot).is_err() { Some(DenyReason::Degraded) } else { verdict };
        Peek {
            limit: rights.id,
            key: claim.key,
            name: rights.name.clone(),
            slot,
            quota: rights.terms.quota,
            share: rights.terms.base(slot),
            spent: view.used,
            others: view.others,
            remaining: if refusal.is_some() { 0 } else { rights.remaining(view) },
            mode: view.mode,
            resets_in: rights.terms.left(slot, wall),
            refusal,
            wait: wait.filter(|_| refusal.is_none()),
            shadow: rights.shadow,
        }
    }
}

/// Whether a request is asked for the first time, or waited and asks again: demand is counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    First,
    Again,
}

#[cfg(test)]
mod tests {
    use portolan_model::HashKey;

    use super::*;
    use crate::{Definition, Recovery, definition::Terms, horizon::Barrier, peers::Mode, rights::Live};

    #[test]
    fn a_thread_held_up_since_an_earlier_slot_makes_no_entry_for_it() {
        let at = |slot: u64| WallTime::from_unix_millis(slot * 1000);
        let barrier = Barrier::new(&Recovery::FirstStart, Now::default());
        let shared = Arc::new(Shared::new(HashKey::new([7; 16]), 8, barrier, Now::default()));
        shared.raise_horizon(at(100));
        let (definition, terms) = (Definition::of_rate(1, "3/s"), Terms::of_rate("3/s", 1));
        let rights = Rights::new(&definition, terms, Arc::new(Live::new(Mode::Healthy)));
        let limiter = Limiter::new(Box::new([rights]), Arc::clone(&shared));
        let claim = Claim { limit: LimitId(1), key: limiter.key(LimitId(1), &[]), cost: 1 };
        let charged = |wall| match limiter.admit(&[claim], Now { wall, ..Now::default() }) {
            Admission::Allow(charges) => Some(charges[0].slot),
            _ => None,
        };
        // The slot was spent and its entry swept while the thread stood still between reading the clock and its claim.
        let spent = (0..4).filter(|_| charged(at(5)).is_some()).count();
        shared.raise_clock(at(9));
        shared.table.sweep(0, usize::MAX >> 1, |counter| limiter.is_dead(counter, at(9)));
        let (rights, mut late) = (limiter.rights(LimitId(1)).expect("it is defined"), SmallVec::new());
        assert!(limiter.claim(rights, &claim, Asked::First, at(5), &mut late).is_ok());
        assert_eq!((spent, late[0].slot), (3, 9));
    }
}
