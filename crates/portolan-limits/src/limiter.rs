//! The admission decision that worker threads share: charges every claim of a request, or none.
//!
//! Each claim costs one probe and one compare-and-swap on the counter's word. Units charged for a request that a later
//! claim refuses are given back; until then they are hidden from others, so racing requests may be refused early but
//! never admitted in excess. Never takes a lock for a known key, never allocates, never waits.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use portolan_config::LimitId;
use portolan_model::{HashKey, Now, WallTime};
use smallvec::SmallVec;

use crate::{
    counter::{Counter, Receipt},
    horizon::Barrier,
    key::Key,
    rights::{Refusal, Rights, View},
    table::{Place, Table, Tenant},
    verdict::{Admission, Charge, Claim, DenyReason, Peek},
    word::{Age, Word},
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

/// What all limiters of a process share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub hash_key: HashKey,
    pub table: Table,
    /// Slots the process before this one may have spent.
    pub barrier: Barrier,
    /// Slots that begin before this durable instant may be spent, in Unix milliseconds.
    pub horizon: AtomicU64,
    /// Latest civil time seen, in Unix milliseconds: keeps the clock monotone.
    pub clock: AtomicU64,
    /// A durable mark is wanted.
    pub attention: AtomicBool,
    /// Charges that went to an overflow counter.
    pub overflowed: AtomicU64,
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
    /// `Wait`: it can only come from a view older or newer than this limiter.
    pub fn admit(&self, claims: &[Claim], now: Now) -> Admission {
        let wall = self.shared.wall(now);
        let mut charges = SmallVec::<[Charge; 4]>::new();
        let mut held = SmallVec::<[Held<'_>; 4]>::new();
        for claim in claims {
            match self.claim(claim, wall) {
                Ok((hold, charge)) => {
                    held.push(hold);
                    charges.push(charge);
                }
                Err(refused) => {
                    held.iter().rev().for_each(Held::give_back);
                    return refused;
                }
            }
        }
        Admission::Allow(charges)
    }

    /// The values each claim would be decided with; charges nothing. Claims of unknown limits are left out.
    pub fn peek(&self, claims: &[Claim], now: Now) -> Vec<Peek> {
        let wall = self.shared.wall(now);
        claims.iter().filter_map(|claim| Some(self.peek_one(self.rights(claim.limit)?, claim.key, wall))).collect()
    }

    /// Whether anything can be admitted: false until the first horizon is durable.
    pub fn active(&self) -> bool {
        self.shared.horizon.load(SeqCst) > 0
    }

    /// Whether a worker should wake the driver, so that it calls
    /// [`Limits::handle_timeout`](crate::Limits::handle_timeout) now: a durable mark is wanted. True once per want. Ask
    /// after every admission; costs one load.
    pub fn take_attention(&self) -> bool {
        self.shared.attention.load(SeqCst) && self.shared.attention.swap(false, SeqCst)
    }

    pub(crate) fn all_rights(&self) -> &[Rights] {
        &self.rights
    }

    pub(crate) fn rights(&self, limit: LimitId) -> Option<&Rights> {
        self.rights.binary_search_by_key(&limit, |rights| rights.id).ok().map(|at| &self.rights[at])
    }

    fn claim(&self, claim: &Claim, wall: WallTime) -> Result<(Held<'_>, Charge), Admission> {
        let Some(rights) = self.rights(claim.limit) else { return Err(Admission::Wait) };
        let shared = &*self.shared;
        let slot = rights.terms.slot(wall);
        if let Some(place) = shared.table.find(claim.key) {
            let mine = || shared.table.holds(place, claim.key);
            if let Attempt::Done(result) = self.spend(rights, shared.table.counter(place), mine, wall) {
                return self.settle(rights, Some(place), result);
            }
        }
        let tenant = Tenant { key: claim.key, limit: claim.limit, window_ms: rights.terms.window_ms };
        let start = || {
            // A key that was charged to the overflow counter in this slot may not start afresh.
            let overflow = rights.live.overflow.own();
            let shared_spend = if overflow.age(slot) == Age::Same { overflow.spent() } else { 0 };
            (slot, shared_spend.max(rights.start(&shared.barrier, slot)))
        };
        shared.table.enter(
            tenant,
            wall,
            start,
            |place| self.settle(rights, Some(place), self.spend_known(rights, shared.table.counter(place), wall)),
            || self.settle(rights, None, self.spend_known(rights, &rights.live.overflow, wall)),
        )
    }

    /// Charges a counter that cannot change its key meanwhile.
    fn spend_known<'a>(&self, rights: &Rights, counter: &'a Counter, wall: WallTime) -> Spend<'a> {
        match self.spend(rights, counter, || true, wall) {
            Attempt::Done(spend) => spend,
            // Unreachable under the partition's lock; refusing is the safe answer to a broken invariant.
            Attempt::KeyChanged => Spend::Refused(Admission::Wait),
        }
    }

    /// One compare-and-swap, more when other threads charge the same counter at the same instant.
    fn spend<'a>(&self, rights: &Rights, counter: &'a Counter, mine: impl Fn() -> bool, wall: WallTime) -> Attempt<'a> {
        let mut wall = wall;
        loop {
            let word = counter.own();
            if word.is_changing_key() || !mine() {
                return Attempt::KeyChanged;
            }
            let slot = rights.terms.slot(wall);
            if let Some(refused) = self.barred(rights, slot, wall) {
                return Attempt::Done(Spend::Refused(refused));
            }
            let age = word.age(slot);
            if age == Age::Ahead {
                // Another thread read a later clock and began the next slot while this one was held up.
                let latest = WallTime::from_unix_millis(self.shared.clock.load(SeqCst));
                if rights.terms.slot(latest) == slot {
                    let denial = rights.denial(slot, DenyReason::Degraded, rights.terms.end(slot), wall);
                    return Attempt::Done(Spend::Refused(Admission::Deny(denial)));
                }
                wall = latest;
                continue;
            }
            let view = self.view(rights, counter, word, slot);
            match rights.decide(view) {
                Ok(()) => {
                    if let Some(receipt) = counter.advance(word, slot, view.spent + 1) {
                        let view = View { spent: view.spent + 1, ..view };
                        let wants_mark = view.ceiling - view.spent == rights.terms.chunk / 2;
                        return Attempt::Done(Spend::Spent {
                            held: Held { counter, receipt },
                            charge: rights.charge(view, wall),
                            wants_mark: wants_mark && view.ceiling < rights.cap(view.mode),
                        });
                    }
                }
                Err(Refusal::Deny(reason)) => {
                    let denial = rights.denial(slot, reason, rights.terms.end(slot), wall);
                    return Attempt::Done(Spend::Refused(Admission::Deny(denial)));
                }
                Err(Refusal::Unmarked) => {
                    // The state machine reads from the word which slot wants a mark.
                    if age == Age::Same || counter.advance(word, slot, view.spent).is_some() {
                        return Attempt::Done(Spend::Unmarked);
                    }
                }
            }
        }
    }

    /// Why nothing at all may be spent in `slot`.
    fn barred(&self, rights: &Rights, slot: u64, wall: WallTime) -> Option<Admission> {
        let shared = &*self.shared;
        if let Some(open_again) = shared.barrier.bars(&rights.terms, slot) {
            return Some(Admission::Deny(rights.denial(slot, DenyReason::Degraded, open_again, wall)));
        }
        (rights.terms.begin(slot).as_unix_millis() >= shared.horizon.load(SeqCst)).then(|| {
            shared.attention.store(true, SeqCst);
            Admission::Wait
        })
    }

    fn view(&self, rights: &Rights, counter: &Counter, word: Word, slot: u64) -> View {
        let spent = if word.age(slot) == Age::Same { word.spent() } else { rights.start(&self.shared.barrier, slot) };
        let ceiling = rights.ceiling(counter, slot);
        View { slot, spent, others: counter.others(slot), ceiling, mode: rights.live.mode() }
    }

    /// Tells the state machine what happened, and the caller what it asked for. `place` is none for the overflow.
    fn settle<'a>(
        &self,
        rights: &Rights,
        place: Option<Place>,
        spend: Spend<'a>,
    ) -> Result<(Held<'a>, Charge), Admission> {
        let (answer, wants_mark) = match spend {
            Spend::Spent { held, charge, wants_mark } => (Ok((held, charge)), wants_mark),
            Spend::Unmarked => (Err(Admission::Wait), true),
            Spend::Refused(refused) => return Err(refused),
        };
        match place {
            Some(place) => self.shared.table.note_move(place),
            None => {
                rights.live.overflow_moved.store(true, SeqCst);
                self.shared.overflowed.fetch_add(1, SeqCst);
            }
        }
        if wants_mark {
            self.shared.attention.store(true, SeqCst);
        }
        answer
    }

    fn peek_one(&self, rights: &Rights, key: Key, wall: WallTime) -> Peek {
        let slot = rights.terms.slot(wall);
        let table = &self.shared.table;
        let unused = Counter::default();
        let found = table.find(key);
        let counter = found.map_or(&unused, |place| table.counter(place));
        let view = self.view(rights, counter, counter.own(), slot);
        let refusal = match self.barred(rights, slot, wall) {
            Some(Admission::Deny(denial)) => Some(denial.reason),
            Some(_) => Some(DenyReason::Degraded),
            None => match rights.decide(view) {
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

impl Shared {
    /// Civil time, monotone over all threads.
    pub fn wall(&self, now: Now) -> WallTime {
        let wall = now.wall.as_unix_millis();
        let seen = self.clock.load(SeqCst);
        if wall > seen {
            self.clock.fetch_max(wall, SeqCst);
        }
        WallTime::from_unix_millis(wall.max(seen))
    }
}

/// A charge that can still be undone.
struct Held<'a> {
    counter: &'a Counter,
    receipt: Receipt,
}

impl Held<'_> {
    fn give_back(&self) {
        self.counter.give_back(self.receipt);
    }
}

enum Spend<'a> {
    Spent { held: Held<'a>, charge: Charge, wants_mark: bool },
    Unmarked,
    Refused(Admission),
}

enum Attempt<'a> {
    Done(Spend<'a>),
    /// The entry is another key's now: look the key up again.
    KeyChanged,
}
