//! What a dead region, a restarted node, a node cut from its region and a failover of the lender cost.

use std::time::Duration;

use portolan_config::Algorithm;
use portolan_model::render_duration;

use super::{Bound, Fleet, KEPT, Promise, admitted::in_a_partition};
use crate::{
    definition::MARKED_WINDOW,
    horizon::{CLOCK_TOLERANCE, HORIZON_LEAD},
};

/// The share of a dead region lies idle until it is taken away from it.
pub(super) fn dead_region(promise: &Promise, fleet: &Fleet) -> Bound {
    let largest = promise.shares(fleet).into_iter().max().unwrap_or(0);
    if fleet.regions == 1 {
        return Bound { units: 0, why: "there is no other region that could lack its share".to_owned() };
    }
    let why = match promise.reclaim {
        Some(after) => format!("its share lies idle until it was unheard for {}", render_duration(after)),
        None => String::from(
            "its share lies idle until `portolan limits fence REGION`, since nobody can tell dead from cut off; \
             `reclaim: 30s` would give it to the others by itself",
        ),
    };
    Bound { units: largest, why }
}

/// What a restarted node does not spend, and for how long it refuses.
pub(super) fn restart(promise: &Promise, fleet: &Fleet) -> (Bound, Duration) {
    let share = promise.shares(fleet).into_iter().max().unwrap_or(0);
    let window = promise.algorithm.window();
    let lead = render_duration(HORIZON_LEAD);
    let slides = matches!(promise.algorithm, Algorithm::SlidingWindow { .. });
    let (units, lasts, why) = match &promise.algorithm {
        Algorithm::Concurrency { .. } if fleet.nodes > 1 => {
            let lasts = HORIZON_LEAD + CLOCK_TOLERANCE;
            let why = format!(
                "nothing begins before every node of the region has told what it has in flight, or {} after the last word \
                 of one that cannot",
                render_duration(lasts)
            );
            (share, lasts, why)
        }
        Algorithm::Concurrency { .. } => {
            (0, Duration::ZERO, "requests in flight end with the process, and their rights come back".to_owned())
        }
        Algorithm::TokenBucket { burst, .. } => {
            // To the end of the last second that the process before may have lent of, by a clock that is behind.
            let lasts = HORIZON_LEAD + Duration::from_secs(1) + CLOCK_TOLERANCE;
            let dripped = u128::from(share) * lasts.as_micros() / window.as_micros().max(1);
            let why = format!(
                "the bucket begins empty, and fills from when nothing can be spent any more that the process before may \
                 have lent: {} after its last word at most",
                render_duration(lasts)
            );
            let units = share_of(*burst, share, promise).saturating_add(u64::try_from(dripped).unwrap_or(u64::MAX));
            (units, lasts, why)
        }
        _ if window >= MARKED_WINDOW => {
            let second = share.saturating_mul(1000) / u64::try_from(window.as_millis()).unwrap_or(u64::MAX).max(1);
            let why = "it goes on from a durable mark, which is at most this far ahead of what was spent".to_owned();
            let ahead = (share / 10).max(second).max(1).min(share);
            let counted = if slides { ahead.saturating_mul(2) } else { ahead };
            (counted, Duration::ZERO, why)
        }
        _ => {
            // A sliding window takes the last of them to be spent, which counts in the next.
            let after = if slides { 2 } else { 1 };
            let lasts = HORIZON_LEAD + window * after;
            let slots = HORIZON_LEAD.as_millis().div_ceil(window.as_millis().max(1)) + u128::from(after);
            let slots = u64::try_from(slots).unwrap_or(u64::MAX);
            let why = format!(
                "windows that the process before may have spent give no rights: {slots} at most, those that begin up \
                 to {lead} after its last word"
            );
            (share.saturating_mul(slots), lasts, why)
        }
    };
    (Bound { units, why }, lasts)
}

fn share_of(amount: u64, share: u64, promise: &Promise) -> u64 {
    let part = u128::from(amount) * u128::from(share) / u128::from(promise.algorithm.quota().max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
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
