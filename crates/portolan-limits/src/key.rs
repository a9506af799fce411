//! The counter a request falls under: a keyed hash of the limit and of what the limit counts by.
//!
//! 64 bits: at a million keys two share a counter with odds of 3e-8, and then both are only limited sooner. The hash is
//! keyed with the cluster's secret, so nobody outside can aim for that.

use std::fmt;

use portolan_config::LimitId;
use portolan_model::HashKey;
use serde::{Deserialize, Serialize};

/// One counter of one limit; the same on every node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(u64);

impl Key {
    /// The counter that keys share when the table has no room for their own.
    pub(crate) const OVERFLOW: Self = Self(u64::MAX);

    /// Stands for every key of a limit in durable marks.
    pub(crate) const EVERY: Self = Self(0);

    /// Hashes what a limit counts by; `limit` is part of the hash, so no two limits share a counter.
    pub fn new(hash_key: &HashKey, limit: LimitId, parts: &[&[u8]]) -> Self {
        let id = limit.0.to_le_bytes();
        let mut all = smallvec::SmallVec::<[&[u8]; 5]>::new();
        all.push(&id);
        all.extend_from_slice(parts);
        // 0 marks a free entry of the table and the largest value the overflow counter.
        Self((hash_key.hash(&all).0 as u64).clamp(1, u64::MAX - 1))
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// As operators read it and lenders are told it: 16 hexadecimal digits.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
