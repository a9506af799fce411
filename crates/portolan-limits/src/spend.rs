//! Charges one counter, or says why not. Reads the words that the decision needs, decides, and moves the word of the slot
//! by one compare-and-swap; more only when other threads charge the same counter at the same instant.

use std::time::Duration;

use portolan_config::LimitId;
use portolan_model::{Name, WallTime};

use crate::{
    counter::{Counter, Receipt},
    definition::Kind,
    drip,
    key::Key,
    region::gates::Gate,
    rights::{Refusal, Rights, Standing, View},
    shared::Shared,
    slide::{self, carry},
    table::Place,
    verdict::{Admission, Charge, ChargeReceipt, Denial, DenyReason, Spot, Wait, WaitReason},
    word::{Age, Word},
};

/// Where a claim is charged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'a> {
    pub rights: &'a Rights,
    pub counter: &'a Counter,
    pub key: Key,
    /// None for the counter that keys share when the table is full; it never changes its key.
    pub place: Option<Place>,
}

/// Units charged, which can still be given back.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    pub site: Site<'a>,
    pub receipt: Receipt,
    /// After the charge.
    pub view: View,
    pub cost: u32,
    pub wall: WallTime,
}

/// Units not charged.
#[derive(Debug)]
pub(crate) enum Turned<'a> {
    Refused {
        rights: &'a Rights,
        slot: u64,
        reason: DenyReason,
        retry_after: Duration,
        /// What may come before that.
        wait: Option<WaitReason>,
        wall: WallTime,
    },
    /// The entry is another key's by now: look the key up again.
    KeyChanged,
    /// The limit is not known.
    Unknown(LimitId),
}

/// Charges `cost` units at `wall`, or in a later slot that has begun meanwhile.
#[inline(always)]
pub(crate) fn spend<'a>(shared: &Shared, site: Site<'a>, cost: u32, wall: WallTime) -> Result<Held<'a>, Turned<'a>> {
    match &site.rights.terms.kind {
        Kind::Bucket(buckets) if shared.owns(site.key) => drip::spend(shared, site, buckets, cost, wall),
        _ => spend_slot(shared, site, cost, wall),
    }
}

/// Charges the word of a slot.
#[inline(always)]
pub(crate) fn spend_slot<'a>(
    shared: &Shared,
    site: Site<'a>,
    cost: u32,
    mut wall: WallTime,
) -> Result<Held<'a>, Turned<'a>> {
    let Site { rights, counter, .. } = site;
    loop {
        let slot = rights.terms.slot(wall);
        let word = counter.word(slot);
        if word.is_changing_key() || !site.is_sound() {
            return Err(Turned::KeyChanged);
        }
        let refused =
            |reason, retry_after, wait| Err(Turned::Refused { rights, slot, reason, retry_after, wait, wall });
        let standing = match check_slot(shared, rights, site.key, slot, wall) {
            Ok(standing) => standing,
            Err((retry_at, wait)) => return refused(DenyReason::Degraded, retry_at.since(wall), wait),
        };
        let age = word.age(slot);
        let over = age == Age::Ahead || (age == Age::Same && word.is_sealed());
        let carried = if over { None } else { carry(shared, site, slot) };
        let Some(carried) = carried else {
            // Another thread read a later clock and began the next slot while this one was held up.
            let latest = shared.latest();
            if rights.terms.slot(latest) == slot {
                return refused(DenyReason::Degraded, rights.terms.left(slot, wall), None);
            }
            wall = latest;
            continue;
        };
        let view = view_of(standing, shared, site, word, slot, carried.weighed(rights, slot, wall));
        match rights.decide(view, cost.into()) {
            Ok(()) => {
                let used = view.used + u64::from(cost);
                if let Some(receipt) = counter.advance(word, slot, used) {
                    return Ok(Held { site, receipt, view: View { used, ..view }, cost, wall });
                }
            }
            Err(Refusal::Deny(reason)) => {
                return refused(reason, carried.retry_after(site, view, cost, wall), None);
            }
            Err(Refusal::Wait(wait, reason)) => {
                // The state machine reads from the word which slot is wanted.
                if age == Age::Same || counter.advance(word, slot, view.used).is_some() {
                    return refused(reason, rights.terms.left(slot, wall), Some(wait));
                }
            }
        }
    }
}

/// Refuses slots that a process before may have spent, those that no durable horizon covers, and those that the region has
/// no lease of: says when others come, and what may come before. What another node grants is under that
/// node's horizon; of what runs at one time nothing begins beyond the horizon.
#[inline(always)]
pub(crate) fn check_slot(
    shared: &Shared,
    rights: &Rights,
    key: Key,
    slot: u64,
    wall: WallTime,
) -> Result<Standing, (WallTime, Option<WaitReason>)> {
    let (gate, begin) = (shared.gates.of(key), rights.terms.begin(slot));
    let (horizon, untouched) = (gate.horizon(), gate.is_untouched(begin));
    let standing = Standing { mode: rights.live.mode(), foreign: horizon.is_none(), untouched };
    if rights.terms.kind == Kind::Concurrency {
        // The only slot began long ago: what counts is when a request begins.
        let wait = if standing.foreign { WaitReason::Owner } else { WaitReason::Mark };
        return if wall < gate.flow() { Ok(standing) } else { Err((wall + rights.terms.window, Some(wait))) };
    }
    let open = horizon.is_none_or(|horizon| untouched && begin < horizon);
    if open && rights.live.may_spend(begin) {
        return Ok(standing);
    }
    check_touched(standing, gate, rights, slot)?;
    match horizon {
        Some(horizon) if begin >= horizon => Err((rights.terms.end(slot), Some(WaitReason::Mark))),
        _ => Ok(standing),
    }
}

/// The same for a slot that a process before may have spent, whatever the horizon.
#[cold]
#[inline(never)]
fn check_touched(
    standing: Standing,
    gate: &Gate,
    rights: &Rights,
    slot: u64,
) -> Result<(), (WallTime, Option<WaitReason>)> {
    let (terms, begin) = (&rights.terms, rights.terms.begin(slot));
    if !rights.live.may_spend(begin) {
        return Err((terms.end(slot), None));
    }
    if standing.foreign {
        return Ok(());
    }
    let barrier = gate.barrier();
    if barrier.opens(terms, slot, begin) { Ok(()) } else { Err((terms.begin(barrier.first_open(terms)), None)) }
}

/// Everything the decision about a slot's word reads.
#[inline(always)]
pub(crate) fn view(shared: &Shared, site: Site<'_>, word: Word, slot: u64, carried: u64) -> View {
    view_of(site.rights.standing(shared, site.key, slot), shared, site, word, slot, carried)
}

#[inline(always)]
fn view_of(standing: Standing, shared: &Shared, site: Site<'_>, word: Word, slot: u64, carried: u64) -> View {
    let Site { rights, counter, key, .. } = site;
    let used = match word.age(slot) {
        Age::Same => word.amount(),
        _ if standing.untouched => 0,
        _ => rights.start(shared, key, slot),
    };
    let mut own = rights.allowance_of(standing, counter, slot);
    if site.place.is_none() && std::ptr::eq(counter, &rights.live.overflow) {
        // Other regions do not hear of it, so no policy makes it more.
        own.amount = own.amount.min(rights.terms.base(slot));
    }
    // At another node than the owner there stands how much may be used before more is asked for.
    let others = if own.pending == Some(WaitReason::Owner) { 0 } else { counter.others(slot) };
    let view = View { slot, used, others, rights: own, mode: standing.mode, carried };
    if site.slides(shared) { slide::within_window(rights, counter, view) } else { view }
}

impl Site<'_> {
    /// Whether the entry is the key's. Ask after reading what is to be moved.
    #[inline]
    pub fn is_sound(&self) -> bool {
        self.place.is_none() || self.counter.is_of(self.key)
    }

    /// Whether what was spent in the slot before counts.
    #[inline]
    pub fn slides(&self, shared: &Shared) -> bool {
        self.rights.terms.kind == Kind::Sliding && shared.owns(self.key)
    }
}

impl Held<'_> {
    #[inline(always)]
    pub fn charge(&self) -> Charge {
        let (Site { rights, key, place, .. }, Receipt { reuse, time, .. }) = (self.site, self.receipt);
        let spot = place.map_or(Spot::Overflow, Spot::Entry);
        rights.charge(self.view, self.cost, reuse, ChargeReceipt { key, time, spot }, self.wall)
    }

    /// Whether this charge has brought the counter so close to its rights that more should be on its way.
    #[inline(always)]
    pub fn wants_more(&self) -> bool {
        let View { slot, used, rights: allowance, .. } = self.view;
        let low = match allowance.pending {
            // A mark that is less than that beyond what is used was low when it came: then the last unit tells.
            Some(WaitReason::Mark) if used == allowance.amount => return true,
            Some(WaitReason::Mark) => allowance.amount.saturating_sub(self.site.rights.terms.chunk / 2),
            Some(WaitReason::Owner) => self.site.counter.others(slot),
            Some(WaitReason::Borrow) | None => return false,
        };
        used >= low && used - u64::from(self.cost) < low
    }
}

impl<'a> Turned<'a> {
    /// There is no entry for what another node would grant of a key.
    pub fn without_room(rights: &'a Rights, wall: WallTime) -> Self {
        let slot = rights.terms.slot(wall);
        let retry_after = rights.terms.left(slot, wall);
        Self::Refused { rights, slot, reason: DenyReason::Degraded, retry_after, wait: None, wall }
    }
}

impl Turned<'_> {
    /// Whether the state machine can help.
    #[inline(always)]
    pub fn wants_more(&self) -> bool {
        matches!(self, Self::Refused { wait: Some(_), .. })
    }

    /// The answer. `unknown` stands for the name of a limit that is not known.
    #[cold]
    pub fn admission(&self, unknown: &Name) -> Admission {
        match (self, self.denial()) {
            (Self::Refused { rights, wait: Some(reason), .. }, Some(denial)) => {
                Admission::Wait(rights.wait(*reason, denial))
            }
            (_, Some(denial)) => Admission::Deny(denial),
            (Self::Unknown(limit), None) => Admission::Wait(Wait::unknown(*limit, unknown.clone())),
            (_, None) => Admission::Wait(Wait::unknown(LimitId(u32::MAX), unknown.clone())),
        }
    }

    /// The charge instead, if the limit is in shadow.
    pub fn shadow_charge(&self) -> Option<Charge> {
        match self {
            Self::Refused { rights, slot, wall, .. } if rights.shadow => Some(rights.shadow_charge(*slot, *wall)),
            _ => None,
        }
    }

    fn denial(&self) -> Option<Denial> {
        match self {
            Self::Refused { rights, slot, reason, retry_after, .. } => {
                Some(rights.denial(*slot, *reason, *retry_after))
            }
            Self::KeyChanged | Self::Unknown(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portolan_model::{HashKey, Now};

    use super::*;
    use crate::{
        Definition, Key, Recovery,
        counter::{Aux, Start},
        definition::Terms,
        horizon::Barrier,
        peers::Mode,
        rights::Live,
        table::Tenant,
    };

    fn at(slot: u64) -> WallTime {
        WallTime::from_unix_millis(slot * 1000)
    }

    fn shared() -> Shared {
        let barrier = Barrier::new(&Recovery::FirstStart, Now::default());
        let shared = Shared::new(HashKey::new([7; 16]), 8, barrier, Now::default());
        shared.raise_horizon(at(100));
        shared
    }

    fn rights() -> Rights {
        let live = Arc::new(Live::new(Mode::Healthy));
        Rights::new(&Definition::of_rate(1, "3/s"), Terms::of_rate("3/s", 1), live)
    }

    #[test]
    fn a_charge_meant_for_the_key_before_fails_when_the_entry_has_changed_its_key() {
        let (shared, rights) = (shared(), rights());
        let enter = |key, slot| {
            let tenant = Tenant { key, limit: LimitId(1) };
            let is_dead = |counter: &Counter| counter.is_over(slot);
            shared.table.enter(tenant, is_dead, || Start { slot, used: [0; 2], aux: Aux::None }, Some, || None)
        };
        let key = |n: u64| Key::from_bits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let old = key(1);
        let place = enter(old, 5).expect("there is room");
        let site = Site { rights: &rights, counter: shared.table.counter(place), key: old, place: Some(place) };
        let late = || spend(&shared, site, 1, at(9));
        assert!(late().is_ok());
        // Fill the table with the next slots' keys until the entry is another key's.
        let next = (2..1000).find(|&n| enter(key(n), 20) == Some(place)).expect("the entry is reused");
        assert!(matches!(late(), Err(Turned::KeyChanged)));
        assert_eq!((shared.table.find(key(next)), shared.table.counter(place).used(20)), (Some(place), 0));
    }

    #[test]
    fn a_thread_with_an_earlier_clock_charges_the_slot_that_has_begun() {
        let (shared, rights, counter) = (shared(), rights(), Counter::default());
        let site = Site { rights: &rights, counter: &counter, key: Key::OVERFLOW, place: None };
        let charged = |wall| spend(&shared, site, 1, wall).ok().map(|held| held.charge().slot);
        shared.raise_clock(at(10));
        // The word of slot 8 is that of slot 10 too.
        assert_eq!(
            (charged(at(10)), charged(at(8)), charged(at(10)), charged(at(8))),
            (Some(10), Some(10), Some(10), None)
        );
    }
}
