//! What a dead region, a restarted node, a node cut from its region and a failover of the lender cost.

use std::time::Duration;

use portolan_config::{Algorithm, OnPartition};
use portolan_model::render_duration;

use super::{
    Bound, Fleet, KEPT, Promise,
    admitted::{in_a_partition, slot_units},
    refused::{lends, own},
};
use crate::{
    definition::MARKED_WINDOW,
    horizon::{CLOCK_TOLERANCE, HORIZON_LEAD},
    replica::MAX_MARKED,
};

/// What a dead region held lies idle, and its share until that is taken away from it.
pub(super) fn dead_region(promise: &Promise, fleet: &Fleet) -> Bound {
    if fleet.regions == 1 {
        return Bound { units: 0, why: "there is no other region that could lack its share".to_owned() };
    }
    let (quota, own) = (slot_units(&promise.algorithm), own(promise, fleet));
    let largest = own.iter().copied().max().unwrap_or(0);
    let until = match promise.reclaim {
        Some(after) => format!("until it was unheard for {}", render_duration(after)),
        None => {
            // What a region that is cut off holds in flight has no window to end with.
            let goes = !matches!(promise.algorithm, Algorithm::Concurrency { .. });
            let reclaim = if goes { "; `reclaim: 30s` would give it to the others by itself" } else { "" };
            format!("until `portolan limits fence REGION`, since nobody can tell dead from cut off{reclaim}")
        }
    };
    let minority = largest.saturating_mul(2) >= own.iter().sum();
    match promise.on_partition {
        OnPartition::Closed => {
            let why = "the other regions refuse everything until it is back; a fence does not end that".to_owned();
            return Bound { units: quota, why };
        }
        OnPartition::ClosedMinority if minority => {
            return Bound { units: quota, why: format!("the other regions refuse everything {until}") };
        }
        _ => {}
    }
    let held = most_held(promise, fleet);
    let borrowed = if held > largest {
        format!("what it had borrowed is lost in the window it dies in and the next; its share of {largest}")
    } else {
        "its share".to_owned()
    };
    Bound { units: held, why: format!("{borrowed} lies idle {until}") }
}

/// The most that a region may hold of a slot while all is well: what it owns, and what it is lent.
fn most_held(promise: &Promise, fleet: &Fleet) -> u64 {
    let quota = slot_units(&promise.algorithm);
    let largest = own(promise, fleet).into_iter().max().unwrap_or(0);
    let lent = if promise.lent { quota - KEPT.of(quota) } else { 0 };
    if lends(promise, fleet) { quota } else { largest.saturating_add(lent).min(quota) }
}

/// What a restarted node does not spend, and for how long it refuses everything; no time where that depends on others.
pub(super) fn restart(promise: &Promise, fleet: &Fleet) -> (Bound, Option<Duration>) {
    let open = matches!(promise.on_partition, OnPartition::Open { .. });
    let held = if open { slot_units(&promise.algorithm) } else { most_held(promise, fleet) };
    let window = promise.algorithm.window();
    let slides = matches!(promise.algorithm, Algorithm::SlidingWindow { .. });
    let (units, lasts, why) = match &promise.algorithm {
        Algorithm::Concurrency { .. } if fleet.nodes > 1 => {
            let why = format!(
                "nothing begins before every node on the region's roster has told what it has in flight, and before {} \
                 after the last word of one that was dropped from it",
                render_duration(HORIZON_LEAD + CLOCK_TOLERANCE)
            );
            (held, None, why)
        }
        Algorithm::Concurrency { .. } => {
            (0, Some(Duration::ZERO), "requests in flight end with the process, and their rights come back".to_owned())
        }
        Algorithm::TokenBucket { rate, burst } => {
            // To the end of the last second that the process before may have lent of, by a clock that is behind.
            let lasts = HORIZON_LEAD + Duration::from_secs(1) + CLOCK_TOLERANCE;
            let dripped = u128::from(rate.count) * lasts.as_micros() / window.as_micros().max(1);
            let why = format!(
                "the bucket begins empty, and fills from when nothing can be spent any more that the process before may \
                 have lent: {} after its last word at most",
                render_duration(lasts)
            );
            (burst.saturating_add(u64::try_from(dripped).unwrap_or(u64::MAX)), Some(lasts), why)
        }
        _ if window >= MARKED_WINDOW => {
            let why = format!(
                "it goes on from a durable mark, which is ahead of a key's spend by a tenth of its share or as much again; \
                 after a further restart in the window by as much again as was spent since the one before, or a second's \
                 part or a thousandth of the share; but once more than {MAX_MARKED} keys are past a tenth of their \
                 share, later ones go by one mark for all of them, which may be all of it"
            );
            // Of a sliding window that counts in the next one, too.
            let counted = if slides { 2 } else { 1 };
            (held.saturating_mul(counted.into()), Some(window * counted), why)
        }
        _ => {
            // A sliding window takes the last of them to be spent, which counts in the next.
            let after = if slides { 2 } else { 1 };
            let lasts = HORIZON_LEAD + window * after;
            let slots = HORIZON_LEAD.as_millis().div_ceil(window.as_millis().max(1)) + u128::from(after);
            let slots = u64::try_from(slots).unwrap_or(u64::MAX);
            let why = format!(
                "windows that the process before may have spent give no rights: {slots} at most, those that begin up \
                 to {} after its last word",
                render_duration(HORIZON_LEAD)
            );
            (held.saturating_mul(slots), Some(lasts), why)
        }
    };
    (Bound { units, why }, lasts)
}

/// A node that is cut from its region keeps working on what it had admitted.
pub(super) fn cut_node(promise: &Promise, fleet: &Fleet) -> Option<Bound> {
    let Algorithm::Concurrency { .. } = &promise.algorithm else { return None };
    let why =
        "a node cut from its region still works on what it had admitted, while its rights lapse and go to others; \
               once more for every further cut before that work is done"
            .to_owned();
    let begun = in_a_partition(promise, fleet).units;
    (fleet.nodes > 1).then(|| Bound { units: begun.saturating_mul(2), why })
}

/// A failover of the lender that forgets what it had lent.
pub(super) fn failover(promise: &Promise, fleet: &Fleet) -> Option<Bound> {
    if !promise.lent {
        return None;
    }
    let quota = promise.algorithm.quota();
    let held = quota - KEPT.of(quota);
    // No region goes beyond the limit by itself, whatever it is lent.
    let most = quota.saturating_mul(fleet.regions as u64);
    let why = format!(
        "a failover that forgets acknowledged writes lends those chunks again; one that forgets everything, the {held} \
         that the lender holds, and once more with every further failover in the window, but never more than {most}"
    );
    Some(Bound { units: in_a_partition(promise, fleet).units.saturating_add(held).min(most), why })
}
