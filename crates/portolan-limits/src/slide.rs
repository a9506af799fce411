//! Sliding windows: what of the slot before still counts. The estimate `before * (1 - f) + now`, with `f` the part of the
//! slot that has passed, is kept within the region's rights; the sum over regions is then within the limit (rights ledger,
//! rule 9.7). For that three things hold in every region, lenders and borrowers alike: use of a slot stays within the
//! rights of the slot, and within those of the next, so that what is carried over never exceeds what may be; and a slot is
//! sealed before its use is carried over, so that nothing is added to it later.
//!
//! Loans come in pairs of a slot and the next (`replica::loans`); whoever takes rights of the next away takes as much of the present one
//! first, so what is lent is in both words and the second rule needs no look at the next word.

use std::time::Duration;

use portolan_model::WallTime;

use crate::{
    counter::Counter,
    rights::{Rights, View},
    shared::Shared,
    spend::Site,
    verdict::WaitReason,
    word::Age,
};

/// Use of the slot before, all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carried(u64);

/// What `slot` carries over from the one before, which is sealed by that; nothing for other algorithms. `None` when the
/// slot is over.
#[inline(always)]
pub(crate) fn carry(shared: &Shared, site: Site<'_>, slot: u64) -> Option<Carried> {
    if !site.slides(shared) {
        return Some(Carried(0));
    }
    carry_over(shared, site, slot)
}

fn carry_over(shared: &Shared, site: Site<'_>, slot: u64) -> Option<Carried> {
    let Site { rights, counter, .. } = site;
    let before = slot.wrapping_sub(1);
    if let Some(published) = counter.carried(before) {
        // Said when the word was needed for the slot to come, or without what was lent.
        let word = counter.word(before);
        if word.age(before) == Age::Ahead || (word.age(before) == Age::Same && word.is_sealed()) {
            return Some(Carried(published));
        }
    }
    let used = counter.seal(before, rights.start(shared, site.key, before))?;
    Some(Carried(counter.carried(before).unwrap_or(used)))
}

/// The same without sealing, to look at.
pub(crate) fn peek_carried(shared: &Shared, site: Site<'_>, slot: u64) -> Carried {
    let before = slot.wrapping_sub(1);
    let Site { rights, counter, .. } = site;
    let counted = || match counter.word(before).age(before) {
        Age::Same => counter.used(before),
        Age::Past(_) | Age::Ahead => rights.start(shared, site.key, before),
    };
    Carried(if site.slides(shared) { counter.carried(before).unwrap_or_else(counted) } else { 0 })
}

/// Narrows the rights of a slot by what it carries over and by the rights of the next.
pub(crate) fn within_window(rights: &Rights, counter: &Counter, view: View) -> View {
    let base = |slot| rights.cap(view.mode, slot, 0);
    // A durable mark bounds use, not the estimate.
    let own = match view.rights.pending {
        Some(WaitReason::Mark) => view.rights.amount.max(base(view.slot)),
        _ => view.rights.amount,
    };
    let next = counter.rights(view.slot + 1).map_or(0, |published| published.amount).max(base(view.slot + 1));
    let most = own.saturating_sub(view.carried).min(next);
    let mut narrowed = view;
    if most < view.rights.amount {
        narrowed.rights.amount = most;
        // Not for want of a mark: only another region could help.
        narrowed.rights.pending = view.rights.pending.filter(|reason| *reason != WaitReason::Mark);
    }
    narrowed
}

impl Carried {
    /// What still counts at `wall`, rounded up.
    #[inline]
    pub fn weighed(self, rights: &Rights, slot: u64, wall: WallTime) -> u64 {
        if self.0 == 0 {
            return 0;
        }
        let length = rights.terms.window.as_millis().max(1);
        let left = rights.terms.left(slot, wall).as_millis().min(length);
        u64::try_from((u128::from(self.0) * left).div_ceil(length)).unwrap_or(self.0)
    }

    /// When `cost` more may be admitted if nothing else is: as soon as little enough is left of what was carried over, or
    /// with the next slot.
    pub fn retry_after(self, site: Site<'_>, view: View, cost: u32, wall: WallTime) -> Duration {
        let Site { rights, .. } = site;
        let left = rights.terms.left(view.slot, wall);
        let room = view.rights.amount.saturating_add(view.carried).saturating_sub(view.used);
        let Some(room) = room.checked_sub(u64::from(cost)).filter(|_| self.0 > 0) else { return left };
        // Carried over at most `room`: length * room / carried before the end of the slot.
        let length = rights.terms.window.as_millis();
        let enough = u64::try_from(length * u128::from(room) / u128::from(self.0)).unwrap_or(u64::MAX);
        left.saturating_sub(Duration::from_millis(enough))
    }
}
