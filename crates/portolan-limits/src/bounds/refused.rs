//! What regions may refuse although the limit is not reached.

use portolan_config::{Algorithm, OnPartition};
use portolan_model::render_duration;

use super::{Bound, Fleet, Promise, admitted::slot_units};
use crate::{definition::can_be_lent, shares::base_shares};

/// Refused in one slot while every region hears every other.
pub(super) fn healthy(promise: &Promise, fleet: &Fleet) -> Bound {
    if let Some(bound) = nothing(promise, fleet) {
        return bound;
    }
    let quota = slot_units(&promise.algorithm);
    let least = smallest(promise, fleet);
    let until = fleet.until_lent();
    let wait = render_duration(until);
    if !can_be_lent(&promise.algorithm) {
        let why = format!("regions do not lend this kind of limit: one that has spent its share of {least} refuses");
        return Bound { units: quota - least, why };
    }
    if promise.lent {
        let why = format!("a region that has spent its {least} refuses until the lender's next chunk is there");
        return Bound { units: quota - least, why };
    }
    if promise.borrow_wait >= until {
        let why = format!(
            "a request that finds its share empty waits up to {} for a loan, and loans are there after {wait}",
            render_duration(promise.borrow_wait)
        );
        return Bound { units: 0, why };
    }
    let taken = if promise.overdraft.parts() == 0 { 0 } else { promise.overdraft.of(least).max(1) };
    let at_once = least.saturating_add(taken);
    let why = format!(
        "if all of it is asked at once of the region with the smallest share, {at_once} pass and the rest is refused \
         until others have lent, which takes up to {wait}{}{}",
        at_the_limits_rate(promise, fleet, at_once),
        slow_to_return(promise)
    );
    Bound { units: quota.saturating_sub(at_once), why }
}

/// What that means for demand that jumps to one region at no more than the limit's own rate.
fn at_the_limits_rate(promise: &Promise, fleet: &Fleet, at_once: u64) -> String {
    let window = promise.algorithm.window().as_micros().max(1);
    let until = fleet.until_lent().as_micros();
    let come = u128::from(promise.algorithm.quota()).saturating_mul(until).div_ceil(window);
    match come.saturating_sub(u128::from(at_once)) {
        0 => "; spread evenly, none is refused".to_owned(),
        refused => format!("; spread evenly, {refused} are refused once"),
    }
}

/// What a lender of tokens waits for before it can lend as much again.
fn slow_to_return(promise: &Promise) -> &'static str {
    match &promise.algorithm {
        Algorithm::TokenBucket { .. } => {
            "; a region lends at most its share of the burst, and again when the second that this was lent for is over"
        }
        _ => "",
    }
}

/// Refused in one slot while some regions do not hear some others.
pub(super) fn in_a_partition(promise: &Promise, fleet: &Fleet) -> Bound {
    if let Some(bound) = nothing(promise, fleet) {
        return bound;
    }
    let quota = slot_units(&promise.algorithm);
    let least = smallest(promise, fleet);
    let stale = render_duration(fleet.staleness);
    match promise.on_partition {
        OnPartition::Closed => {
            let why = format!("everything, in every region, from {stale} after the cut until it is healed");
            Bound { units: quota, why }
        }
        OnPartition::ClosedMinority => {
            let why = "everything in parts with at most half of the shares, until the cut is healed".to_owned();
            Bound { units: quota, why }
        }
        OnPartition::Open { cap: None } => {
            let why = format!(
                "a part refuses only when it has spent the whole limit by itself; until {stale} after the cut it keeps \
                 to its shares"
            );
            Bound { units: 0, why }
        }
        OnPartition::Open { cap: Some(cap) } => {
            let reach = quota.min(cap.of(least));
            let why = format!("the smallest region alone may reach {cap} of its share of {least}");
            Bound { units: quota - reach, why }
        }
        OnPartition::Static => {
            if let Some(after) = promise.reclaim {
                let after = render_duration(after);
                let why = format!(
                    "a cut-off region admits its share of {least} at least, and nothing once it was unheard for {after}: \
                     then its share goes to the others"
                );
                return Bound { units: quota, why };
            }
            let lender = if promise.lent { ", if it does not reach the lender either" } else { "" };
            let why =
                format!("the smallest region, cut off alone, admits its share of {least} and refuses the rest{lender}");
            Bound { units: quota - least, why }
        }
    }
}

/// Limits that never refuse wrongly.
fn nothing(promise: &Promise, fleet: &Fleet) -> Option<Bound> {
    let why = if promise.shadow {
        "refusals are only counted: every request passes"
    } else if fleet.regions == 1 && !promise.lent {
        "one region holds the whole limit"
    } else {
        return None;
    };
    Some(Bound { units: 0, why: why.to_owned() })
}

/// The least that a region may admit in one slot by itself: of a token bucket, its shares of rate and burst.
pub(super) fn smallest(promise: &Promise, fleet: &Fleet) -> u64 {
    let bursts = match &promise.algorithm {
        Algorithm::TokenBucket { burst, .. } => base_shares(*burst, &promise.weights, fleet.regions),
        _ => vec![0; fleet.regions],
    };
    promise.shares(fleet).into_iter().zip(bursts).map(|(share, burst)| share + burst).min().unwrap_or(0)
}
