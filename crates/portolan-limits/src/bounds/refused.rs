//! What regions may refuse although the limit is not reached.

use portolan_config::{Algorithm, OnPartition};
use portolan_model::render_duration;

use super::{Bound, Fleet, Promise, admitted::slot_units};
use crate::{definition::prefers_rate, shares::base_shares};

/// Refused in one slot while every region hears every other.
pub(super) fn healthy(promise: &Promise, fleet: &Fleet) -> Bound {
    if let Some(bound) = nothing(promise, fleet) {
        return bound;
    }
    let quota = slot_units(&promise.algorithm);
    let least = smallest(promise, fleet);
    if promise.lent {
        let why = format!("a region that has spent its {least} refuses until the lender's next chunk is there");
        return Bound { units: quota - least, why };
    }
    if !lends(promise, fleet) {
        let why = format!("regions do not lend this kind of limit: one that has spent its share of {least} refuses");
        return Bound { units: quota - least, why };
    }
    let wait = render_duration(fleet.until_lent());
    let why = if promise.borrow_wait.is_zero() {
        format!(
            "a region may have lent its share when demand jumps to it: what is asked there at once is refused until \
             others have lent, which takes about {wait}{}{}",
            at_the_limits_rate(promise, fleet),
            slow_to_return(promise, fleet)
        )
    } else {
        format!(
            "a region may have lent its share when demand jumps to it: a request then waits up to {} for a loan, which \
             takes about {wait} and may come in parts, but not in the last {} of a window",
            render_duration(promise.borrow_wait),
            render_duration(fleet.worst_rtt / 2)
        )
    };
    Bound { units: quota, why }
}

/// What that means for demand that jumps to one region at no more than the limit's own rate.
fn at_the_limits_rate(promise: &Promise, fleet: &Fleet) -> String {
    let window = promise.algorithm.window().as_micros().max(1);
    let until = fleet.until_lent().as_micros().min(window);
    let come = u128::from(promise.algorithm.quota()).saturating_mul(until).div_ceil(window);
    format!("; if it comes evenly, these are about {come}, once")
}

/// What a lender of a bucket waits for before it can lend as much again.
fn slow_to_return(promise: &Promise, fleet: &Fleet) -> &'static str {
    match &promise.algorithm {
        algorithm if prefers_rate(algorithm, &[&promise.weights], fleet.regions) => {
            "; a region lends of its rate, a second at a time, and keeps its share of the burst"
        }
        Algorithm::TokenBucket { .. } => {
            "; a region lends at most its share of the burst, and again when the second that this was lent for is over"
        }
        _ => "",
    }
}

/// Refused in any slot while some regions do not hear some others, the first and the last of these included.
pub(super) fn in_a_partition(promise: &Promise, fleet: &Fleet) -> Bound {
    if let Some(bound) = nothing(promise, fleet) {
        return bound;
    }
    let quota = slot_units(&promise.algorithm);
    let alone = alone(promise, fleet);
    if lends(promise, fleet) && alone.units < quota {
        let why = "what a region had lent when it was cut off does not come back in that window or the next; regions that \
                   hear each other go on lending";
        return Bound { units: quota, why: why.to_owned() };
    }
    let kept = quota - smallest(promise, fleet);
    if alone.units < kept {
        let stale = render_duration(fleet.staleness);
        return Bound { units: kept, why: format!("until {stale} after the cut every region keeps to its share") };
    }
    alone
}

/// Refused in one slot by a region that hears no other: from the second that begins after they count as unheard, for of
/// that nothing can have been lent before.
pub(super) fn alone(promise: &Promise, fleet: &Fleet) -> Bound {
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
            let why = "a region refuses only when it has spent the whole limit by itself".to_owned();
            Bound { units: 0, why }
        }
        OnPartition::Open { cap: Some(cap) } => {
            let reach = quota.min(cap.of(least));
            let why = format!("the smallest region may reach {cap} of its share of {least}");
            Bound { units: quota - reach, why }
        }
        OnPartition::Static => {
            if let Some(after) = promise.reclaim {
                let after = render_duration(after);
                let why = format!(
                    "a region that nobody hears admits its share of {least} at least, and nothing once it was unheard \
                     for {after}: then its share goes to the others"
                );
                return Bound { units: quota, why };
            }
            let lender = if promise.lent { ", if it does not reach the lender either" } else { "" };
            let why = format!("the smallest region admits its share of {least} and refuses the rest{lender}");
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

/// Whether a region may have lent others what it owns.
pub(super) fn lends(promise: &Promise, fleet: &Fleet) -> bool {
    fleet.regions > 1 && !promise.lent && !promise.shadow && promise.can_be_lent()
}

/// The least that a region may admit in one slot by itself, of what it does not lend.
pub(super) fn smallest(promise: &Promise, fleet: &Fleet) -> u64 {
    own(promise, fleet).into_iter().min().unwrap_or(0)
}

/// What the regions may admit in one slot, each by itself: of a token bucket, its shares of rate and burst.
pub(super) fn own(promise: &Promise, fleet: &Fleet) -> Vec<u64> {
    let bursts = match &promise.algorithm {
        Algorithm::TokenBucket { burst, .. } => base_shares(*burst, &promise.weights, fleet.regions),
        _ => vec![0; fleet.regions],
    };
    promise.shares(fleet).into_iter().zip(bursts).map(|(share, burst)| share + burst).collect()
}

/// Of requests that may cost more than a region owns: that share, and when they pass.
pub(super) fn costly(promise: &Promise, fleet: &Fleet) -> Option<Bound> {
    let shares = match &promise.algorithm {
        Algorithm::TokenBucket { burst, .. } => base_shares(*burst, &promise.weights, fleet.regions),
        _ => promise.shares(fleet),
    };
    let least = shares.into_iter().min().unwrap_or(0);
    if u64::from(promise.cost) <= least || promise.shadow {
        return None;
    }
    let borrowed = match promise.on_partition {
        _ if promise.lent => "passes once the lender has given the rest",
        _ if !lends(promise, fleet) => "never passes there, for regions do not lend this kind of limit",
        _ if promise.borrow_wait.is_zero() => "is refused until others have lent the rest",
        _ => "waits for others to lend the rest",
    };
    let apart = match promise.on_partition {
        OnPartition::Open { cap: None } => "passes while the region is cut off",
        OnPartition::Open { cap: Some(_) } => "passes while the region is cut off if its open part covers it",
        _ => "is always refused while the region is cut off",
    };
    let why = format!("what costs more than a region owns, {least} in the smallest, {borrowed}, and {apart}");
    Some(Bound { units: least, why })
}
