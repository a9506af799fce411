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
        loans_too_slow(limit, fleet),
        open_without_cap(limit, bounds),
        closed(limit, fleet),
        two_windows(limit, bounds),
        stranded(limit, bounds),
    ];
    advice.into_iter().flatten().collect()
}

/// A share that a handful of requests empties is refused at its region's first burst.
fn small_shares(limit: &Limit, promise: &Promise, fleet: &Fleet) -> Option<String> {
    let least = promise.shares(fleet).into_iter().min()?;
    let cost = u64::from(promise.cost);
    if least >= SMALL_SHARE.max(cost) || promise.lent {
        return None;
    }
    let wait = render_duration(fleet.until_lent());
    let whose = if least < cost {
        format!("the smallest share is {least}, and a request costs up to {cost}")
    } else {
        format!("the smallest share is {least}")
    };
    let waits = limit.borrow_wait >= fleet.until_lent();
    let over = limit.overdraft.parts() > 0;
    if waits || over || matches!(limit.on_partition, OnPartition::Open { .. }) && waits {
        return None;
    }
    Some(format!(
        "{whose}: a client that meets another region is soon refused there while the limit is not reached. \
         `borrow_wait: {wait}` lets it wait for a loan; `overdraft: 100%` lets it pass and the limit be exceeded"
    ))
}

/// Loans cross the longest round trip: a window that is hardly longer sees few of them.
fn loans_too_slow(limit: &Limit, fleet: &Fleet) -> Option<String> {
    let (window, until) = (limit.window(), fleet.until_lent());
    let windowed = matches!(limit.algorithm, Algorithm::FixedWindow { .. } | Algorithm::SlidingWindow { .. });
    (windowed && window < 2 * until).then(|| {
        format!(
            "a loan takes up to {}, and a window is {}: little of it can be moved to where it is asked for. A longer \
             window with as many more units refuses less",
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
         `open(1.5)` lets each part have 1.5 times its shares, and `static` holds {quota}"
    ))
}

fn closed(limit: &Limit, fleet: &Fleet) -> Option<String> {
    let stale = render_duration(fleet.staleness);
    (limit.on_partition == OnPartition::Closed).then(|| {
        format!(
            "`closed` refuses every request {stale} after any region falls silent, in all regions, until it is back. \
             `closed(minority)` keeps the larger part going, `static` all parts within their shares"
        )
    })
}

/// Two windows beside each other are twice the limit: said only where the promise is not doubled anyway.
fn two_windows(limit: &Limit, bounds: &Bounds) -> Option<String> {
    let Algorithm::FixedWindow { quota, window: Window::Length(window) } = &limit.algorithm else { return None };
    let span = bounds.healthy.admitted_in_any_window.as_ref()?.units;
    let window = render_duration(*window);
    (*quota >= 10).then(|| {
        format!(
            "{span} may come within {window}, half of them at the end of one window. `algorithm: sliding` makes that \
             rare; `algorithm: token_bucket` with `burst: {}` holds {} in any {window}",
            quota / 10,
            quota + quota / 10
        )
    })
}

fn stranded(limit: &Limit, bounds: &Bounds) -> Option<String> {
    let idle = bounds.dead_region.units;
    (limit.reclaim.is_none() && idle > 0 && limit.lender.is_none()).then(|| {
        format!(
            "if a region dies, up to {idle} lie idle until `portolan limits fence REGION`. `reclaim: 30s` gives them to \
             the others by itself, and then refuses all in a region that is only cut off for longer"
        )
    })
}

/// Below this, a handful of requests empties a share, and whole units make shares uneven.
const SMALL_SHARE: u64 = 20;
