//! What to change about a limit whose worst case will surprise somebody, and why. Says nothing about limits that are as
//! tight as they can be.

use portolan_config::{Algorithm, Limit, OnPartition, Window};
use portolan_limits::{Bounds, Fleet, Promise};
use portolan_model::render_duration;

/// Advice for one limit, most important first.
pub fn of(limit: &Limit, promise: &Promise, bounds: &Bounds, fleet: &Fleet) -> Vec<String> {
    if fleet.regions == 1 || limit.shadow {
        return Vec::new();
    }
    let advice = [
        small_shares(limit, promise, fleet),
        loans_too_slow(limit, promise, fleet),
        open_without_cap(limit, bounds),
        closed(limit, fleet),
        two_windows(limit, bounds),
    ];
    advice.into_iter().flatten().collect()
}

/// A share that a handful of requests empties is refused at its region's first burst.
fn small_shares(limit: &Limit, promise: &Promise, fleet: &Fleet) -> Option<String> {
    let least = promise.shares(fleet).into_iter().min()?;
    let cost = u64::from(promise.cost);
    let waits = promise.can_be_lent() && limit.borrow_wait >= fleet.until_lent();
    let relieved = waits || limit.overdraft.parts() > 0 || promise.lent;
    if least >= SMALL_SHARE.max(cost) || relieved {
        return None;
    }
    let dear = if least < cost { format!(", and a request costs up to {cost}") } else { String::new() };
    if !promise.can_be_lent() {
        return Some(format!(
            "The smallest share is {least}{dear}: what comes beyond it at once in one region is refused although the limit \
             is not reached, since regions do not lend this kind of limit. A larger limit, or `shares` by weight where \
             the load is, refuses less."
        ));
    }
    let wait = render_duration(fleet.until_lent());
    let pass = if windowed(limit) { ", `overdraft: 100%` lets them pass and the limit be exceeded" } else { "" };
    Some(format!(
        "The smallest share is {least}{dear}: what comes beyond it at once in one region is refused although the limit is \
         not reached. `borrow_wait: {wait}` lets such requests wait for a loan{pass}."
    ))
}

/// Loans cross the longest round trip: a window that is hardly longer sees few of them.
fn loans_too_slow(limit: &Limit, promise: &Promise, fleet: &Fleet) -> Option<String> {
    let (window, until) = (limit.window(), fleet.until_lent());
    (windowed(limit) && promise.can_be_lent() && window < 2 * until).then(|| {
        format!(
            "A loan takes up to {}, and a window is {}: little can be moved to where it is asked for. A longer window \
             with as many more units refuses less.",
            render_duration(until),
            render_duration(window)
        )
    })
}

fn open_without_cap(limit: &Limit, bounds: &Bounds) -> Option<String> {
    let OnPartition::Open { cap: None } = limit.on_partition else { return None };
    let (quota, most) = (bounds.quota, bounds.partition.admitted_per_slot.units);
    Some(format!(
        "`open` may admit {most} in place of {quota}, for as long as regions are cut off. If something breaks at that, \
         `open(1.5)` lets each part have 1.5 times its shares, and `static` holds {quota}."
    ))
}

fn closed(limit: &Limit, fleet: &Fleet) -> Option<String> {
    let stale = render_duration(fleet.staleness);
    (limit.on_partition == OnPartition::Closed).then(|| {
        format!(
            "`closed` refuses every request, in all regions, from {stale} after any region falls silent until it is \
             back. `closed(minority)` keeps the larger part going, `static` all parts within their shares."
        )
    })
}

/// Two windows beside each other are twice the limit; tiny ones are not worth smoothing.
fn two_windows(limit: &Limit, bounds: &Bounds) -> Option<String> {
    let Algorithm::FixedWindow { quota, window: Window::Length(window) } = &limit.algorithm else { return None };
    let span = bounds.healthy.admitted_in_any_window.as_ref()?.units;
    let window = render_duration(*window);
    (*quota >= SMALL_SHARE).then(|| {
        format!(
            "If {span} within {window} are too many: `algorithm: sliding` makes that rare, and `algorithm: token_bucket` \
             with `burst: {}` holds {} in any {window}.",
            quota / 10,
            quota + quota / 10
        )
    })
}

fn windowed(limit: &Limit) -> bool {
    matches!(limit.algorithm, Algorithm::FixedWindow { .. } | Algorithm::SlidingWindow { .. })
}

/// Below this, a handful of requests empties a share, and whole units make shares uneven.
const SMALL_SHARE: u64 = 20;
