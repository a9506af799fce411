//! The one encoder of what a client is told about its limits: `RateLimit-Policy`, `RateLimit` and, for limits that ask
//! for it, `Portolan-Slot`. One list member per limit, in the order of the route; none in `RateLimit` for a limit of which
//! this node knows no remainder: a client that is told too little stays away for nothing.
//!
//! Decides the syntax and nothing else; the values are the limiter's. Source:
//! draft-ietf-httpapi-ratelimit-headers-11, in the form of RFC 9651.

use std::{fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use portolan_config::LimitId;
use portolan_limits::{Charge, Denial, Limiter, Policy};
use portolan_model::Name;

use crate::head::PORTOLAN_SLOT;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What a quota is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Requests in a window; what the fields mean when they name no unit.
    Requests,
    /// Requests at one time: there is no window, and no moment at which all come back.
    ConcurrentRequests,
}

/// What is told of one limit.
#[derive(Clone, Copy, Debug)]
pub struct Quota<'a> {
    /// Its name.
    pub name: &'a Name,
    /// How much is admitted over all regions.
    pub quota: u64,
    /// In what.
    pub unit: Unit,
    /// Over what time.
    pub window: Duration,
    /// How much is left; `None` where that is not known.
    pub remaining: Option<u64>,
    /// Until it is whole again.
    pub resets_in: Duration,
    /// The number and the slot that was charged, for clients that verify the limit.
    pub slot: Option<(LimitId, u64)>,
}

impl<'a> Quota<'a> {
    /// What a charge tells; `None` if it is not one of `limiter`.
    pub fn of_charge(limiter: &'a Limiter, charge: &Charge, unit: Unit) -> Option<Self> {
        let Policy { name, quota, window, expose_slot } = limiter.policy(charge)?;
        Some(Self {
            name,
            quota,
            unit,
            window,
            remaining: limiter.knows_remainder(charge).then_some(charge.remaining),
            resets_in: limiter.resets_in(charge),
            slot: expose_slot.then_some((charge.limit, charge.slot)),
        })
    }

    /// What a refusal tells.
    pub fn of_denial(denial: &'a Denial, unit: Unit) -> Self {
        Self {
            name: &denial.name,
            quota: denial.quota,
            unit,
            window: denial.window,
            remaining: Some(denial.remaining),
            resets_in: denial.retry_after,
            slot: denial.expose_slot.then_some((denial.limit, denial.slot)),
        }
    }
}

/// Writes the fields; none for no quotas.
pub fn write<'a>(headers: &mut HeaderMap, quotas: impl IntoIterator<Item = Quota<'a>>) {
    let (mut policy, mut state, mut slots) = (String::new(), String::new(), String::new());
    for Quota { name, quota, unit, window, remaining, resets_in, slot } in quotas {
        // A name is lower-case letters, digits and hyphens, so it needs no escapes in a string.
        let separator = if policy.is_empty() { "" } else { ", " };
        let _ = match unit {
            Unit::Requests => write!(policy, "{separator}\"{name}\";q={quota};w={}", window.as_secs_f64().ceil()),
            Unit::ConcurrentRequests => write!(policy, "{separator}\"{name}\";q={quota};qu=\"concurrent-requests\""),
        };
        if let Some(remaining) = remaining {
            let separator = if state.is_empty() { "" } else { ", " };
            let _ = match unit {
                Unit::Requests => write!(state, "{separator}\"{name}\";r={remaining};t={}", seconds_up(resets_in)),
                Unit::ConcurrentRequests => write!(state, "{separator}\"{name}\";r={remaining}"),
            };
        }
        if let Some((limit, slot)) = slot {
            let separator = if slots.is_empty() { "" } else { ", " };
            let _ = write!(slots, "{separator}{name};id={};slot={slot}", limit.0);
        }
    }
    for (field, value) in [(RATELIMIT_POLICY, policy), (RATELIMIT, state), (PORTOLAN_SLOT, slots)] {
        if !value.is_empty()
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            headers.insert(field, value);
        }
    }
}

/// Whole seconds, rounded up: a client that waits this long is not too early. At least 1.
pub fn seconds_up(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(quotas: &[Quota<'_>], expected: &str) {
        let mut headers = HeaderMap::new();
        write(&mut headers, quotas.iter().copied());
        let mut seen = String::new();
        for (name, value) in &headers {
            let _ = writeln!(seen, "{name}: {}", value.to_str().expect("is text"));
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn several_limits_stand_in_one_list() {
        let (burst, daily, streams) = ("burst", "daily", "streams");
        let [burst, daily, streams] = [burst, daily, streams].map(|name| Name::new(name).expect("a name"));
        let quota = Quota {
            name: &burst,
            quota: 100,
            unit: Unit::Requests,
            window: Duration::from_millis(1500),
            remaining: Some(7),
            resets_in: Duration::from_millis(10),
            slot: Some((LimitId(3), 77)),
        };
        let daily = Quota { name: &daily, quota: 10_000, window: Duration::from_secs(86_400), slot: None, ..quota };
        let streams = Quota { name: &streams, unit: Unit::ConcurrentRequests, ..daily };
        let unknown = Quota { remaining: None, ..daily };
        check(&[], "");
        check(
            &[unknown, streams],
            "ratelimit-policy: \"daily\";q=10000;w=86400, \"streams\";q=10000;qu=\"concurrent-requests\"\n\
             ratelimit: \"streams\";r=7\n",
        );
        check(
            &[quota, daily, streams],
            "ratelimit-policy: \"burst\";q=100;w=2, \"daily\";q=10000;w=86400, \
             \"streams\";q=10000;qu=\"concurrent-requests\"\n\
             ratelimit: \"burst\";r=7;t=1, \"daily\";r=7;t=1, \"streams\";r=7\n\
             portolan-slot: burst;id=3;slot=77\n",
        );
    }
}
