//! The admission decision that worker threads share.

use portolan_config::LimitId;
use portolan_model::{HashKey, Now};

use crate::{
    key::Key,
    verdict::{Admission, Claim, Peek},
};

/// The decision function for one generation of definitions; the counters behind it outlive it.
///
/// [`Limits::limiter`](crate::Limits::limiter) returns another one after each change of definitions.
#[derive(Debug)]
pub struct Limiter {
    hash_key: HashKey,
}

impl Limiter {
    pub(crate) fn new(hash_key: HashKey) -> Self {
        Self { hash_key }
    }

    /// The counter of `limit` for what it counts by. Costs one SipHash, allocates nothing up to four parts.
    pub fn key(&self, limit: LimitId, parts: &[&[u8]]) -> Key {
        Key::new(&self.hash_key, limit, parts)
    }

    /// Charges every claim, or none.
    pub fn admit(&self, claims: &[Claim], _now: Now) -> Admission {
        if claims.is_empty() { Admission::Allow(Default::default()) } else { Admission::Wait }
    }

    /// The values each claim would be decided with; charges nothing. Claims of unknown limits are left out.
    pub fn peek(&self, _claims: &[Claim], _now: Now) -> Vec<Peek> {
        Vec::new()
    }

    /// Whether anything can be admitted: false until the first horizon is durable.
    pub fn active(&self) -> bool {
        false
    }

    /// Whether a worker should wake the driver, so that it calls [`Limits::handle_timeout`](crate::Limits::handle_timeout)
    /// now: a durable mark is wanted. True once per want. Ask after every admission; costs one load.
    pub fn take_attention(&self) -> bool {
        false
    }
}
