//! The admission decision that worker threads share: charges every claim of a request, or none.
//!
//! Each claim costs one probe and one compare-and-swap on the counter's word. Units charged for a request that a later
//! claim refuses are given back; until then they are hidden from others, so racing requests may be refused early but
//! never admitted in excess. Never takes a lock for a known key, never allocates, never waits.

use std::{sync::Arc, time::Duration};

use portolan_config::LimitId;
use portolan_model::{Name, Now, WallTime};
use smallvec::{SmallVec, smallvec};

use crate::{
    counter::{Counter, Receipt},
    definition::Kind,
    drip::purse,
    key::Key,
    peers::Mode,
    plain::Plain,
    region::sublease::held::TOLD_APART,
    rights::{Refusal, Rights},
    shared::Shared,
    slide::peek_carried,
    spend::{Held, Site, Turned, check_slot, spend, view},
    table::{Place, Tenant},
    verdict::{Admission, Charge, ChargeReceipt, Claim, DenyReason, Peek, Policy, Spot, Waited},
};

/// The decision function for one set of definitions; the counters behind it outlive it.
///
/// [`Limits::limiter`](crate::Limits::limiter) returns another one after each change of definitions.
#[derive(Debug)]
pub struct Limiter {
    /// Sorted by id.
    rights: Box<[Rights]>,
    /// What plain decisions read of them.
    plain: Box<[Plain]>,
    /// The lowest id.
    first: LimitId,
    shared: Arc<Shared>,
    /// Stands where a limit that is not known would.
    unknown: Name,
}

impl Limiter {
    /// `rights` sorted by id.
    pub(crate) fn new(rights: Box<[Rights]>, shared: Arc<Shared>) -> Self {
        let unknown = Name::new("unknown-limit").expect("lower-case letters and a hyphen");
        let plain = rights.iter().map(Plain::new).collect();
        let first = rights.first().map_or(LimitId(0), |rights| rights.id);
        Self { rights, plain, first, shared, unknown }
    }

    /// The counter of `limit` for what it counts by. Costs one SipHash, allocates nothing up to four parts.
    pub fn key(&self, limit: LimitId, parts: &[&[u8]]) -> Key {
        Key::new(&self.shared.hash_key, limit, parts)
    }

    /// Has the processor fetch what a decision about `key` will read, while the request does something else. Call it as soon
    /// as the key is known: nearly all of a decision is that wait where there are many keys. Costs about as much as a
    /// decision about a key in the cache, changes nothing, and decides nothing: a key without an entry is left alone.
    #[inline]
    pub fn prefetch(&self, key: Key) {
        self.shared.table.prefetch(key);
    }

    /// Charges every claim, or none; refusals are not counted. A claim of a limit that is not defined is answered
    /// `Wait`: it can only come from a view older or newer than this limiter. Limits in shadow never refuse: their charge
    /// says that they would have. Allocates only above four claims.
    #[inline]
    pub fn admit(&self, claims: &[Claim], now: Now) -> Admission {
        let wall = self.shared.wall(now);
        // Most requests owe one limit. Nothing is kept for taking it back.
        if let [claim] = claims
            && let Some(charge) = self.charge_plain(claim, wall)
        {
            return Admission::Allow(smallvec![charge]);
        }
        self.admit_asked(claims, Asked::First, wall)
    }

    /// The same for a request that was answered `Wait` before: it is no new demand, unless of a slot that has begun since.
    pub fn admit_again(&self, claims: &[Claim], waited: Waited, now: Now) -> Admission {
        self.admit_asked(claims, Asked::Again(waited), self.shared.wall(now))
    }

    #[inline(never)]
    fn admit_asked(&self, claims: &[Claim], asked: Asked, wall: WallTime) -> Admission {
        let mut charges = SmallVec::<[Charge; 4]>::new();
        for claim in claims {
            if let Some(charge) = self.charge_plain(claim, wall) {
                charges.push(charge);
                continue;
            }
            match self.claim(claim, asked, wall) {
                Ok(charge) => charges.push(charge),
                Err(refusal) => {
                    charges.iter().rev().for_each(|charge| self.take_back(charge));
                    return refusal;
                }
            }
        }
        Admission::Allow(charges)
    }

    /// Charges a claim if that is plain.
    #[inline(always)]
    fn charge_plain(&self, claim: &Claim, wall: WallTime) -> Option<Charge> {
        self.plain(claim.limit)?.spend(&self.shared, claim, wall)
    }

    /// Gives up to `units` of a charge back, while its slot lasts; for outcomes that a limit does not count.
    pub fn refund(&self, charge: &Charge, units: u32, now: Now) {
        let Some(rights) = self.rights(charge.limit) else { return };
        let wall = self.shared.wall(now);
        let lasts = rights.terms.slot(wall) == charge.slot;
        // What was granted of a bucket is settled so often that charges can be told apart for a while only.
        let granted = || charge.receipt.is_some_and(|receipt| !self.shared.owns(receipt.key));
        let late = wall.since(charge.charged_at) >= TOLD_APART;
        if late && matches!(rights.terms.kind, Kind::Bucket(_)) && granted() {
            return;
        }
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

    /// What a charge has in common with all others of its limit and slot; `None` for a limit that is not defined.
    pub fn policy(&self, charge: &Charge) -> Option<Policy<'_>> {
        self.rights(charge.limit).map(|rights| rights.policy(charge.slot))
    }

    /// Whether the remainder that a charge tells is that of its region; else it is that of a chunk, which another node of
    /// the region granted to this one and may add to.
    pub fn knows_remainder(&self, charge: &Charge) -> bool {
        charge.receipt.is_none_or(|receipt| self.shared.owns(receipt.key))
    }

    /// From the moment of a charge to the end of its slot; zero for a limit that is not defined.
    pub fn resets_in(&self, charge: &Charge) -> Duration {
        let left = |rights: &Rights| rights.terms.left(charge.slot, charge.charged_at);
        self.rights(charge.limit).map_or(Duration::ZERO, left)
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
        numbered(&self.rights, self.first, limit, |rights| rights.id)
    }

    #[inline(always)]
    fn plain(&self, limit: LimitId) -> Option<&Plain> {
        numbered(&self.plain, self.first, limit, |plain| plain.limit)
    }

    /// Charges one claim that may not be plain. The charge of a limit in shadow takes the place of a refusal.
    #[expect(clippy::result_large_err, reason = "an answer is moved once, and must not allocate")]
    fn claim(&self, claim: &Claim, asked: Asked, wall: WallTime) -> Result<Charge, Admission> {
        let charged = match self.rights(claim.limit) {
            Some(rights) => self.claim_known(rights, claim, asked, wall).map(|held| held.charge()),
            None => Err(Turned::Unknown(claim.limit)),
        };
        charged.or_else(|turned| turned.shadow_charge().ok_or_else(|| turned.admission(&self.unknown)))
    }

    fn claim_known<'a>(
        &'a self,
        rights: &'a Rights,
        claim: &Claim,
        asked: Asked,
        wall: WallTime,
    ) -> Result<Held<'a>, Turned<'a>> {
        let Claim { key, cost, .. } = *claim;
        let table = &self.shared.table;
        if let Some(place) = table.find(key) {
            let site = Site { rights, counter: table.counter(place), key, place: Some(place) };
            match spend(&self.shared, site, cost, wall) {
                Err(Turned::KeyChanged) => {}
                spent => {
                    self.note(site, cost, asked, &spent);
                    return spent;
                }
            }
        }
        self.claim_new(rights, claim, asked, wall)
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
    fn note(&self, site: Site<'_>, cost: u32, asked: Asked, spent: &Result<Held<'_>, Turned<'_>>) {
        if let Err(Turned::Refused { rights, slot, .. }) = spent
            && asked.is_new(Waited { limit: rights.id, slot: *slot })
        {
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
        let Some(ChargeReceipt { key, time, spot }) = charge.receipt else { return };
        let receipt = Receipt { slot: charge.slot, reuse: charge.reuse, time };
        let place = match spot {
            Spot::Entry(place) => Some(place),
            Spot::Overflow => None,
        };
        let counter = place.map_or(&rights.live.overflow, |place| self.shared.table.counter(place));
        let give_back = || match rights.terms.kind {
            Kind::Concurrency => counter.release(charge.slot, units.into()),
            _ => counter.give_back(rights.part_of(receipt, units, charge.cost), units.into()),
        };
        if (place.is_none() || counter.is_of(key)) && give_back() {
            if time > 0 && rights.lends_rate(charge.slot) {
                counter.count(charge.slot, 0, units.into());
            }
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
        let refusal = if check_slot(shared, rights, claim.key, slot, wall).is_err() {
            Some(DenyReason::Degraded)
        } else {
            verdict
        };
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

/// The one with the number `limit` among some that are sorted by it.
#[inline(always)]
fn numbered<T>(sorted: &[T], first: LimitId, limit: LimitId, number: impl Fn(&T) -> LimitId) -> Option<&T> {
    // Numbers are given in turn, so as long as none was taken back they have no gaps.
    match sorted.get(limit.0.wrapping_sub(first.0) as usize) {
        Some(found) if number(found) == limit => Some(found),
        _ => search(sorted, limit, number),
    }
}

#[cold]
#[inline(never)]
fn search<T>(sorted: &[T], limit: LimitId, number: impl Fn(&T) -> LimitId) -> Option<&T> {
    sorted.binary_search_by_key(&limit, number).ok().map(|at| &sorted[at])
}

/// Whether a request is asked for the first time, or waited and asks again: demand is counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    First,
    Again(Waited),
}

impl Asked {
    /// Whether a refusal is demand that was not counted yet.
    fn is_new(self, refused: Waited) -> bool {
        match self {
            Self::First => true,
            Self::Again(waited) => waited.limit == refused.limit && waited.slot != refused.slot,
        }
    }
}

#[cfg(test)]
mod tests {
    use portolan_model::HashKey;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Algorithm, Definition, RecoveredMarks, Recovery, Window,
        calendar::Calendars,
        counter::{Allowance, Aux, Start},
        definition::Terms,
        horizon::Barrier,
        peers::Mode,
        rights::Live,
        verdict::WaitReason,
    };

    fn at(slot: u64) -> WallTime {
        WallTime::from_unix_millis(slot * 1000)
    }

    fn limiter(definition: &Definition, recovery: &Recovery, mode: Mode) -> Limiter {
        let barrier = Barrier::new(recovery, Now::default());
        let shared = Arc::new(Shared::new(HashKey::new([7; 16]), 8, barrier, Now::default()));
        let terms = Terms::new(definition, 0, 3, &mut Calendars::default());
        let rights = Rights::new(definition, terms, Arc::new(Live::new(mode)));
        Limiter::new(Box::new([rights]), shared)
    }

    #[test]
    fn a_request_that_waits_into_the_next_slot_is_demand_of_that_one() {
        let of = |limit, slot| Waited { limit: LimitId(limit), slot };
        assert!(Asked::First.is_new(of(1, 7)));
        let again = |refused| Asked::Again(of(1, 7)).is_new(refused);
        assert_eq!([of(1, 7), of(1, 8), of(2, 8)].map(again), [false, true, false]);
    }

    #[test]
    fn a_thread_held_up_since_an_earlier_slot_makes_no_entry_for_it() {
        let definition = Definition::of_rate(1, "9/s");
        let limiter = limiter(&definition, &Recovery::FirstStart, Mode::Healthy);
        let shared = Arc::clone(&limiter.shared);
        shared.raise_horizon(at(100));
        let claim = Claim { limit: LimitId(1), key: limiter.key(LimitId(1), &[]), cost: 1 };
        let charged = |wall| match limiter.admit(&[claim], Now { wall, ..Now::default() }) {
            Admission::Allow(charges) => Some(charges[0].slot),
            _ => None,
        };
        // The slot was spent and its entry swept while the thread stood still between reading the clock and its claim.
        let spent = (0..4).filter(|_| charged(at(5)).is_some()).count();
        shared.raise_clock(at(9));
        shared.table.sweep(0, usize::MAX >> 1, |counter| limiter.is_dead(counter, at(9)));
        let late = limiter.claim(&claim, Asked::First, at(5)).expect("there is room");
        assert_eq!((spent, late.slot), (3, 9));
    }

    #[test]
    fn a_number_is_found_whatever_gaps_there_are() {
        let check = |ids: &[u32]| {
            let rights = ids.iter().map(|&id| {
                let definition = Definition::of_rate(id, "9/s");
                Rights::new(&definition, Terms::of_rate("9/s", 1), Arc::new(Live::new(Mode::Healthy)))
            });
            let barrier = Barrier::new(&Recovery::FirstStart, Now::default());
            let shared = Arc::new(Shared::new(HashKey::new([7; 16]), 8, barrier, Now::default()));
            let limiter = Limiter::new(rights.collect(), shared);
            let found: Vec<u32> = (0..20).filter(|&id| limiter.mode(LimitId(id)).is_some()).collect();
            assert_eq!(found, ids);
        };
        check(&[]);
        check(&[1, 2, 3]);
        check(&[2, 3, 7, 19]);
        check(&[5]);
    }

    /// What an entry and a node can look like when a claim for the slot 1000 comes.
    #[derive(Clone, Copy, Debug)]
    struct Scene {
        algorithm: u8,
        mode: Mode,
        foreign: bool,
        restarted: bool,
        /// Horizon and lease end so many seconds after the slot begins.
        horizon: i64,
        lease: i64,
        /// The entry began so many slots before or after.
        began: i64,
        used: [u64; 2],
        sealed: bool,
        published: Option<(i64, u64, Option<WaitReason>)>,
        others: Option<(i64, u64)>,
        cost: u32,
    }

    const SLOT: u64 = 1000;

    fn slot_near(by: i64) -> u64 {
        SLOT.saturating_add_signed(by)
    }

    impl Scene {
        fn definition(self) -> Definition {
            let second = Duration::from_secs(1);
            let algorithm = match self.algorithm {
                0 => Algorithm::FixedWindow { quota: 90, window: Window::Length(second) },
                // With marks, in slots that are as many seconds long as the number of the slot says.
                1 => Algorithm::FixedWindow { quota: 90, window: Window::Length(10 * second) },
                2 => Algorithm::Concurrency { limit: 90 },
                3 => Algorithm::SlidingWindow { quota: 90, window: second },
                _ => Algorithm::TokenBucket { rate: "90/s".parse().expect("a rate"), burst: 90 },
            };
            Definition { algorithm, ..Definition::of_rate(1, "90/s") }
        }

        /// A limiter that finds it, the entry's place in it, and what is claimed.
        fn set(self) -> (Limiter, Place, Claim, WallTime) {
            let definition = self.definition();
            let seconds = if self.algorithm == 1 { 10 } else { 1 };
            let instant = |after: i64| WallTime::from_unix_millis(slot_near(after) * 1000 * seconds);
            let marks = RecoveredMarks { horizon: instant(1), floor: instant(0), ..RecoveredMarks::default() };
            let recovery = if self.restarted { Recovery::Marks(marks) } else { Recovery::FirstStart };
            let limiter = limiter(&definition, &recovery, self.mode);
            limiter.rights[0].live.set_lease((self.lease < 3).then(|| instant(self.lease)));
            let shared = &limiter.shared;
            shared.raise_horizon(instant(self.horizon));
            let claim = Claim { limit: LimitId(1), key: limiter.key(LimitId(1), &[]), cost: self.cost };
            shared.gates.of(claim.key).raise_flow(instant(self.horizon));
            if self.foreign {
                shared.gates.of(claim.key).give_away();
            }
            let endless = self.algorithm == 2;
            let of = |by: i64| if endless { by.unsigned_abs() } else { slot_near(by) };
            let start = Start { slot: of(self.began), used: self.used, aux: Aux::None };
            let tenant = Tenant { key: claim.key, limit: claim.limit };
            let place = shared.table.enter(tenant, |_| false, || start, Some, || None).expect("there is room");
            let counter = shared.table.counter(place);
            if self.sealed {
                counter.seal(of(0), 0);
            }
            if let Some((by, amount, pending)) = self.published {
                counter.publish_rights(of(by), Allowance { amount, pending });
            }
            if let Some((by, amount)) = self.others {
                counter.publish_others(of(by), amount);
            }
            (limiter, place, claim, instant(0) + Duration::from_millis(10))
        }
    }

    fn scenes() -> impl Strategy<Value = Scene> {
        use WaitReason::{Borrow, Mark, Owner};
        let modes = prop_oneof![4 => Just(Mode::Healthy), 1 => Just(Mode::Healing), 1 => Just(Mode::Degraded)];
        let reasons = prop_oneof![Just(None), Just(Some(Mark)), Just(Some(Owner)), Just(Some(Borrow))];
        let near = || prop_oneof![3 => Just(0i64), 1 => -3i64..3];
        let rarely = || prop::bool::weighted(0.2);
        let node = (0u8..5, modes, any::<bool>(), rarely(), -1i64..8, -1i64..30);
        let published = prop::option::of((near(), 0u64..60, reasons));
        let entry = (near(), [0u64..40, 0u64..40], rarely(), published, prop::option::of((near(), 0u64..60)), 0u32..6);
        (node, entry).prop_map(|(node, entry)| {
            let (algorithm, mode, foreign, restarted, horizon, lease) = node;
            let (began, used, sealed, published, others, cost) = entry;
            Scene { algorithm, mode, foreign, restarted, horizon, lease, began, used, sealed, published, others, cost }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn a_plain_decision_is_the_general_one(scene in scenes()) {
            let (plain, place, claim, wall) = scene.set();
            let before = plain.shared.table.counter(place).words();
            let charged = plain.charge_plain(&claim, wall);
            let after = plain.shared.table.counter(place).words();
            if charged.is_some() {
                let (general, ..) = scene.set();
                let expected = general.claim(&claim, Asked::First, wall);
                prop_assert_eq!(expected.ok(), charged);
                prop_assert_eq!(after, general.shared.table.counter(place).words());
                prop_assert_eq!(plain.take_attention(), general.take_attention());
            } else {
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn what_is_plain_goes_the_short_way() {
        let own = Scene {
            algorithm: 0,
            mode: Mode::Healthy,
            foreign: false,
            restarted: false,
            horizon: 5,
            lease: 10,
            began: 0,
            used: [3, 0],
            sealed: false,
            published: None,
            others: None,
            cost: 1,
        };
        let check = |scene: Scene, expected: Option<u64>| {
            let (limiter, _, claim, wall) = scene.set();
            let charged = limiter.charge_plain(&claim, wall);
            assert_eq!(charged.map(|charge| charge.remaining), expected, "{scene:?}");
        };
        check(own, Some(26));
        check(Scene { began: -2, ..own }, Some(29));
        check(Scene { algorithm: 1, used: [0, 0], ..own }, Some(29));
        check(Scene { algorithm: 2, ..own }, Some(26));
        check(Scene { algorithm: 2, horizon: 0, ..own }, None);
        check(Scene { published: Some((0, 40, None)), ..own }, Some(36));
        let granted = Scene { foreign: true, published: Some((0, 20, Some(WaitReason::Owner))), ..own };
        check(granted, Some(16));
        check(Scene { others: Some((0, 5)), ..granted }, Some(16));
        check(Scene { others: Some((0, 4)), ..granted }, None);
        check(Scene { used: [30, 0], ..own }, None);
        check(Scene { mode: Mode::Healing, ..own }, None);
        check(Scene { algorithm: 3, ..own }, None);
        check(Scene { restarted: true, ..own }, None);
    }
}
