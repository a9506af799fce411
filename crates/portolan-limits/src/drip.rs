//! Charges a token bucket where its key is owned. Tokens that were borrowed are slot rights of a second, and are asked for
//! when the bucket is empty.

use std::time::Duration;

use portolan_model::WallTime;

use crate::{
    bucket::{Bucket, BucketTime, Level, to_duration, to_fractions},
    counter::{Allowance, Counter, Receipt},
    definition::{Buckets, Terms},
    horizon::CLOCK_TOLERANCE,
    pace::{self, bucket_time},
    peers::Mode,
    rights::View,
    shared::Shared,
    spend::{Held, Site, Turned, check_slot, spend_slot},
    verdict::{DenyReason, WaitReason},
};

/// What a bucket holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Purse {
    /// As found, and the time it is read by.
    pub seen: Level,
    pub at: BucketTime,
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
            let reuse = purse.seen.reuse();
            if counter.advance_level(purse.seen, Level::new(reuse, purse.at, purse.debt + purse.time)) {
                if rights.lends_rate(slot) {
                    counter.count(slot, cost.into(), 0);
                }
                let receipt = Receipt { slot, reuse, time: purse.time };
                let view = View { used: purse.view.used + u64::from(cost), ..purse.view };
                return Ok(Held { site, receipt, view, cost, wall });
            }
            continue;
        }
        if counter.borrowed(slot) > counter.used(slot) {
            return spend_slot(shared, site, cost, wall);
        }
        let (reason, wait) = purse.refusal(site, cost);
        return refused(reason, purse.retry_after(), wait);
    }
}

/// Reads the bucket. Its view counts tokens: what is there of the burst, and what is gone.
pub(crate) fn purse(shared: &Shared, site: Site<'_>, buckets: &Buckets, cost: u32, wall: WallTime) -> Purse {
    purse_at(shared, site, buckets, cost, (site.counter.level(), wall))
}

/// The same of a level that was read. Whoever takes tokens out says so before it moves the level, and whoever changes the
/// pace bars it: the level is read first.
pub(crate) fn purse_at(
    shared: &Shared,
    site: Site<'_>,
    buckets: &Buckets,
    cost: u32,
    (seen, wall): (Level, WallTime),
) -> Purse {
    let Site { rights, counter, .. } = site;
    let slot = rights.terms.slot(wall);
    let mode = rights.live.mode();
    let opened = mode == Mode::Degraded && rights.is_open();
    let bucket = rights.terms.bucket(buckets, slot, opened);
    let at = bucket_time(&rights.terms, counter, wall);
    // An open limit counts on no other region, nor on what one has lent.
    let at = if opened { at.not_ahead() } else { at };
    let level = if seen.was_asked() { seen } else { rights.first_level(shared, site.key, &bucket, wall) };
    let missing = held(&rights.terms, counter, &bucket, at).max(rights.terms.unfilled(buckets, slot, at));
    let (debt, burst) = (level.debt(at).max(missing), bucket.burst());
    let (whole, left) = (bucket.tokens(burst), bucket.tokens(burst.saturating_sub(debt)));
    let view = View {
        slot,
        used: whole - left,
        others: 0,
        rights: Allowance { amount: whole, pending: None },
        mode,
        carried: 0,
    };
    Purse { seen, at, debt, missing, burst, time: bucket.time_of(cost.into()), view }
}

/// What is not there because it is out: as a debt, which is paid off from the moment on that nobody can spend it any more,
/// by a clock that is as far behind as is tolerated.
pub(crate) fn held(terms: &Terms, counter: &Counter, bucket: &Bucket, at: BucketTime) -> u64 {
    let Some((slot, out)) = counter.out(terms.slot(at.wall)) else { return 0 };
    let lapsed = to_fractions(at.wall.since(terms.end(slot) + CLOCK_TOLERANCE)).saturating_sub(at.behind());
    bucket.time_of(out).min(bucket.burst()).saturating_sub(lapsed)
}

/// Raises a level to a debt of at least so much.
pub(crate) fn owe(counter: &Counter, debt: u64, at: BucketTime) {
    counter.change_level(|level| (level.debt(at) < debt).then(|| Level::new(level.reuse(), at, debt)));
}

/// Moves what is left of tokens that nobody can spend any more into the level, so that their slot can be forgotten; and
/// what a bucket filled by paces that are over, unless it has rate `on_loan`. Only by the state machine, under the partition's lock.
pub(crate) fn lapse(terms: &Terms, counter: &Counter, bucket: &Bucket, on_loan: bool, wall: WallTime) {
    let slot = terms.slot(wall);
    let at = bucket_time(terms, counter, wall);
    if counter.paces(slot).iter().any(Option::is_some) && pace::is_over(terms, counter, on_loan, wall) {
        let missing = held(terms, counter, bucket, at);
        pace::publish(counter, slot, [None, None], |level| {
            Level::new(level.reuse(), BucketTime::civil(wall), level.debt(at).max(missing))
        });
    }
    let at = bucket_time(terms, counter, wall);
    if let Some((slot, _)) = counter.out(terms.slot(wall))
        && terms.end(slot) + CLOCK_TOLERANCE <= wall
    {
        owe(counter, held(terms, counter, bucket, at), at);
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
