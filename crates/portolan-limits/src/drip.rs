//! Charges a token bucket where its key is owned. Tokens that were borrowed are slot rights of a second, and are asked for
//! when the bucket is empty.

use std::time::Duration;

use portolan_model::WallTime;

use crate::{
    bucket::{Bucket, Level, to_duration, to_fractions},
    counter::{Allowance, Counter, Receipt},
    definition::{Buckets, Terms},
    horizon::CLOCK_TOLERANCE,
    peers::Mode,
    rights::View,
    shared::Shared,
    spend::{Held, Site, Turned, check_slot, spend_slot},
    verdict::{DenyReason, WaitReason},
};

/// What a bucket holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Purse {
    /// As found.
    pub seen: Level,
    /// What is gone of the burst or out, in the bucket's time.
    pub debt: u64,
    /// What of that is out or not there yet, so that time does not pay it.
    pub missing: u64,
    pub burst: u64,
    /// What the cost takes.
    pub time: u64,
    pub view: View,
}

/// Charges the bucket, or what was borrowed for the present second.
#[inline(never)]
pub(crate) fn spend<'a>(
    shared: &Shared,
    site: Site<'a>,
    buckets: &Buckets,
    cost: u32,
    wall: WallTime,
) -> Result<Held<'a>, Turned<'a>> {
    let Site { rights, counter, .. } = site;
    let slot = rights.terms.slot(wall);
    loop {
        let purse = purse(shared, site, buckets, cost, wall);
        if purse.seen == Level::CHANGING_KEY || counter.word(slot).is_changing_key() || !site.is_sound() {
            return Err(Turned::KeyChanged);
        }
        let refused =
            |reason, retry_after, wait| Err(Turned::Refused { rights, slot, reason, retry_after, wait, wall });
        if rights.closed(purse.view.mode) {
            return refused(DenyReason::Closed, rights.terms.left(slot, wall), None);
        }
        if let Err((retry_at, wait)) = check_slot(shared, rights, site.key, slot, wall) {
            return refused(DenyReason::Degraded, retry_at.since(wall), wait);
        }
        if purse.fits() {
            let reuse = if site.place.is_some() { purse.seen.reuse() } else { 0 };
            if counter.advance_level(purse.seen, Level::new(reuse, wall, purse.debt + purse.time)) {
                let receipt = Receipt { slot, reuse, time: purse.time };
                let view = View { used: purse.view.used + u64::from(cost), ..purse.view };
                return Ok(Held { site, receipt, view, cost, wall });
            }
            continue;
        }
        if counter.rights(slot).is_some_and(|borrowed| borrowed.amount > counter.used(slot)) {
            return spend_slot(shared, site, cost, wall);
        }
        let (reason, wait) = purse.refusal(site, cost);
        return refused(reason, purse.retry_after(), wait);
    }
}

/// Reads the bucket. Its view counts tokens: what is there of the burst, and what is gone.
pub(crate) fn purse(shared: &Shared, site: Site<'_>, buckets: &Buckets, cost: u32, wall: WallTime) -> Purse {
    let Site { rights, counter, .. } = site;
    let slot = rights.terms.slot(wall);
    let mode = rights.live.mode();
    let bucket = rights.terms.bucket(buckets, slot, mode == Mode::Degraded && rights.is_open());
    let seen = counter.level();
    let level = if seen.was_asked() { seen } else { rights.first_level(shared, site.key, &bucket, wall) };
    // The level was read first: whoever takes tokens out says so before it moves the level.
    let missing = held(&rights.terms, counter, &bucket, wall).max(rights.terms.unfilled(buckets, slot, wall));
    let (debt, burst) = (level.debt(wall).max(missing), bucket.burst());
    let (whole, left) = (bucket.tokens(burst), bucket.tokens(burst.saturating_sub(debt)));
    let view = View {
        slot,
        used: whole - left,
        others: 0,
        rights: Allowance { amount: whole, pending: None },
        mode,
        carried: 0,
    };
    Purse { seen, debt, missing, burst, time: bucket.time_of(cost.into()), view }
}

/// What is not there because it is out: as a debt, which is paid off from the moment on that nobody can spend it any more,
/// by a clock that is as far behind as is tolerated.
pub(crate) fn held(terms: &Terms, counter: &Counter, bucket: &Bucket, wall: WallTime) -> u64 {
    let Some((slot, out)) = counter.out(terms.slot(wall)) else { return 0 };
    let lapsed = wall.since(terms.end(slot) + CLOCK_TOLERANCE);
    bucket.time_of(out).min(bucket.burst()).saturating_sub(to_fractions(lapsed))
}

/// Raises a level to a debt of at least so much.
pub(crate) fn owe(counter: &Counter, debt: u64, wall: WallTime) {
    counter.change_level(|level| (level.debt(wall) < debt).then(|| Level::new(level.reuse(), wall, debt)));
}

/// Moves what is left of tokens that nobody can spend any more into the level, so that their slot can be forgotten.
pub(crate) fn lapse(terms: &Terms, counter: &Counter, bucket: &Bucket, wall: WallTime) {
    if let Some((slot, _)) = counter.out(terms.slot(wall))
        && terms.end(slot) + CLOCK_TOLERANCE <= wall
    {
        owe(counter, held(terms, counter, bucket, wall), wall);
        counter.publish_out(slot, 0);
    }
}

impl Purse {
    /// Whole tokens that are there.
    pub fn tokens(&self) -> u64 {
        self.view.rights.amount - self.view.used
    }

    /// Whether the tokens are there.
    pub fn fits(&self) -> bool {
        self.debt.saturating_add(self.time) <= self.burst
    }

    /// Why they may not be taken, and what to wait for.
    pub fn refusal(&self, site: Site<'_>, cost: u32) -> (DenyReason, Option<WaitReason>) {
        let never = u64::from(cost) > site.rights.terms.burst;
        let degraded = self.view.mode == Mode::Degraded && !never;
        let reason = if degraded { DenyReason::Degraded } else { DenyReason::Exhausted };
        (reason, site.rights.borrowing(self.view.mode).filter(|_| !never))
    }

    /// When they are there, if nothing else is taken.
    pub fn retry_after(&self) -> Duration {
        to_duration(self.debt.saturating_add(self.time).saturating_sub(self.burst))
    }
}
