//! What regions together may admit.

use portolan_config::{Algorithm, OnPartition, Window};
use portolan_model::{Ratio, render_duration};

use super::{Bound, Fleet, Promise};

/// Admitted in one slot while every region hears every other.
pub(super) fn healthy(promise: &Promise, fleet: &Fleet) -> Bound {
    let quota = promise.algorithm.quota();
    let over = overdraft(promise, fleet);
    let why = match &promise.algorithm {
        Algorithm::TokenBucket { rate, burst } => {
            let why = format!(
                "{rate} and a burst of {burst}: the regions' shares of both add up; tokens that are lent or granted, and \
                 rate that is lent, are missing from their bucket until nobody can spend them, so a span t sees at most \
                 burst + rate × t"
            );
            return Bound { units: quota.saturating_add(*burst), why };
        }
        Algorithm::Concurrency { .. } => {
            "every request in flight holds one of the rights, and there are no more of them".to_owned()
        }
        _ if over > 0 => format!("the regions' rights add up to {quota}, and overdraft lets them take {over} beyond"),
        _ if fleet.regions == 1 => "one region holds the whole limit".to_owned(),
        _ => format!("a region spends its own share and what others lent it, and these add up to {quota}"),
    };
    Bound { units: quota.saturating_add(over), why }
}

/// Admitted in one slot while some regions do not hear some others.
pub(super) fn in_a_partition(promise: &Promise, fleet: &Fleet) -> Bound {
    let strict = healthy(promise, fleet);
    let stale = render_duration(fleet.staleness);
    match promise.on_partition {
        OnPartition::Static => {
            let why =
                "a cut-off region keeps to its own share; what it does not hear only makes it more careful".to_owned();
            Bound { why, ..strict }
        }
        OnPartition::Closed => {
            let why = format!("nothing, from {stale} after the cut on; until then the regions keep to their shares");
            Bound { why, ..strict }
        }
        OnPartition::ClosedMinority => {
            let why = format!(
                "parts with at most half of the shares admit nothing from {stale} after the cut on; the other keeps to \
                 its shares"
            );
            Bound { why, ..strict }
        }
        OnPartition::Open { cap } => open(promise, cap, fleet),
    }
}

/// `L` per region whoever hears whom, or what the cap leaves of it.
fn open(promise: &Promise, cap: Option<Ratio>, fleet: &Fleet) -> Bound {
    let whole = slot_units(&promise.algorithm);
    let stale = render_duration(fleet.staleness);
    let shares = promise.shares(fleet);
    // A region is degraded when at least one other is not heard: its part is largest without the smallest other.
    let part = |region: usize| {
        let others = shares.iter().enumerate().filter(|(at, _)| *at != region).map(|(_, share)| *share);
        shares.iter().sum::<u64>() - others.min().unwrap_or(0)
    };
    let reach: Vec<u64> = (0..fleet.regions).map(|region| reach(promise, cap, part(region))).collect();
    let units = beyond_loans(promise, reach.iter().copied(), fleet);
    let part = match cap {
        None => format!("each part admits up to {whole}"),
        Some(cap) => format!("each part admits up to {cap} of its shares (at most {whole}) and what it had borrowed"),
    };
    let why = format!(
        "{part}, and its regions spend beyond that until they hear of each other, for up to {stale}; none goes beyond \
         that by itself, so never more than this"
    );
    Bound { units, why }
}

/// What regions that own `share` together admit before they stop.
fn reach(promise: &Promise, cap: Option<Ratio>, share: u64) -> u64 {
    let whole = slot_units(&promise.algorithm);
    cap.map_or(whole, |cap| whole.min(cap.of(scaled(share, &promise.algorithm))))
}

/// The sum of what each may reach, and what one of them was lent beyond that before the cut: rights add up to the limit,
/// so it is worst when one holds them all. `L` for each is more than any of this.
fn beyond_loans(promise: &Promise, reach: impl Iterator<Item = u64> + Clone, fleet: &Fleet) -> u64 {
    let whole = slot_units(&promise.algorithm);
    let most = reach.clone().fold(0, |sum: u64, _| sum.saturating_add(whole));
    let least = reach.clone().min().unwrap_or(0);
    let over = overdraft(promise, fleet);
    reach.fold(whole - least, u64::saturating_add).saturating_add(over).min(most.max(whole.saturating_add(over)))
}

/// Of an open limit, for 2, 3, … parts: admitted in one slot if the regions of a part hear each other at once.
pub(super) fn by_parts(promise: &Promise, fleet: &Fleet) -> Vec<u64> {
    let OnPartition::Open { cap } = promise.on_partition else { return Vec::new() };
    let whole = slot_units(&promise.algorithm);
    let over = overdraft(promise, fleet);
    // One part holds all rights by loans and spends the whole; the others own all but the smallest share at most.
    let least = super::refused::smallest(promise, fleet);
    let capped = cap.map_or(u64::MAX, |cap| cap.of(whole - least.min(whole)));
    let of = |parts: u64| {
        let others = whole.saturating_mul(parts - 1);
        whole.saturating_add(others.min(capped).saturating_add(over).min(others))
    };
    (2..=fleet.regions as u64).map(of).collect()
}

/// Admitted in any span as long as a slot.
pub(super) fn in_any_window(promise: &Promise, per_slot: u64) -> Option<Bound> {
    let twice = per_slot.saturating_mul(2);
    Some(match &promise.algorithm {
        Algorithm::FixedWindow { window: Window::Length(_), .. } => {
            Bound { units: twice, why: "it may hold the end of one window and the begin of the next".to_owned() }
        }
        Algorithm::FixedWindow { .. } => {
            Bound { units: twice, why: "it may hold the end of one civil period and the begin of the next".to_owned() }
        }
        Algorithm::SlidingWindow { .. } => Bound {
            units: twice,
            why:
                "the estimate takes what came in the window before for evenly spread; when it all came at its end, the \
                  true count nearly doubles"
                    .to_owned(),
        },
        Algorithm::TokenBucket { rate, burst } => Bound {
            units: per_slot,
            why: format!("a full bucket of {burst} and what drips in during {}", render_duration(rate.per)),
        },
        Algorithm::Concurrency { .. } => return None,
    })
}

/// The estimate of a sliding window.
pub(super) fn estimate(promise: &Promise, fleet: &Fleet) -> Option<Bound> {
    let Algorithm::SlidingWindow { .. } = &promise.algorithm else { return None };
    let (strict, units) = (healthy(promise, fleet).units, in_a_partition(promise, fleet).units);
    let apart = if units > strict { format!(", which add up to {strict} while all is well") } else { String::new() };
    let why = format!(
        "what is left of the window before, and what came in this one: each region keeps this sum to its rights{apart}"
    );
    Some(Bound { units, why })
}

/// Admitted in any span as long as a slot, by clocks that differ.
pub(super) fn skewed(promise: &Promise, fleet: &Fleet) -> Option<Bound> {
    let tolerance = render_duration(fleet.clock_tolerance);
    match &promise.algorithm {
        Algorithm::FixedWindow { .. } | Algorithm::SlidingWindow { .. } => {
            let units = in_a_partition(promise, fleet).units.saturating_mul(3);
            let why = format!(
                "a node whose clock is up to {tolerance} ahead begins a window while one that is behind ends another: \
                 a span can touch three"
            );
            Some(Bound { units, why })
        }
        Algorithm::TokenBucket { rate, .. } => {
            let dripped = u128::from(rate.count).saturating_mul(fleet.clock_tolerance.as_micros());
            let dripped = u64::try_from(dripped.div_ceil(rate.per.as_micros().max(1))).unwrap_or(u64::MAX);
            // What all regions drip together is the rate, but for open ones: each of them may drip the whole.
            let open = matches!(promise.on_partition, OnPartition::Open { .. });
            let times = if open { fleet.regions as u64 } else { 1 };
            let each = if times > 1 { " in each region" } else { "" };
            let why = format!(
                "a clock that is set forward lets {dripped} tokens drip in at once{each}, what the rate gives in \
                 {tolerance}; one that is set further than clocks of sound nodes differ fills what its region has of the \
                 burst"
            );
            let dripped = dripped.saturating_mul(times);
            Some(Bound { units: in_a_partition(promise, fleet).units.saturating_add(dripped), why })
        }
        Algorithm::Concurrency { .. } => None,
    }
}

/// Units that overdraft lets all regions take beyond their rights in one slot.
pub(super) fn overdraft(promise: &Promise, fleet: &Fleet) -> u64 {
    if promise.overdraft == Ratio::default() || fleet.regions == 1 {
        return 0;
    }
    let shares = promise.shares(fleet);
    let taken = |share: &u64| promise.overdraft.of(*share).max(1);
    let sum = if promise.by_demand {
        // Of a split that is not known: the parts add up to that of the whole at most, and where they can be less than a
        // unit, all regions but one may round up to one.
        let small = shares.iter().any(|share| promise.overdraft.of(*share) == 0);
        let rounded = if small { shares.len() as u64 - 1 } else { 0 };
        promise.overdraft.of(shares.iter().sum()).saturating_add(rounded).max(shares.len() as u64)
    } else {
        shares.iter().map(taken).fold(0, u64::saturating_add)
    };
    sum.min(promise.algorithm.quota().saturating_mul(fleet.regions as u64 - 1))
}

pub(super) fn overdraft_bound(promise: &Promise, units: u64) -> Bound {
    let why = format!(
        "each region may go {} of its share beyond its rights, and at least by 1, while the spend it knows of is below {}",
        promise.overdraft,
        promise.algorithm.quota()
    );
    Bound { units, why }
}

/// What one region could admit in a slot by itself.
pub(super) fn slot_units(algorithm: &Algorithm) -> u64 {
    match algorithm {
        Algorithm::TokenBucket { rate, burst } => rate.count.saturating_add(*burst),
        other => other.quota(),
    }
}

/// A share of the rate as a share of what a slot may see.
fn scaled(share: u64, algorithm: &Algorithm) -> u64 {
    let scaled = u128::from(share) * u128::from(slot_units(algorithm)) / u128::from(algorithm.quota().max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}
