//! Keyed hashing that is the same on every machine and version, unlike the standard library's.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher24};

/// Secret of a cluster under which keys are hashed, so that nobody outside can craft collisions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey([u8; 16]);

impl HashKey {
    /// Takes 16 secret bytes.
    pub const fn new(secret: [u8; 16]) -> Self {
        Self(secret)
    }

    /// Hashes `parts` with SipHash-2-4-128; each part is length-prefixed, so no two tuples collide by concatenation.
    pub fn hash(&self, parts: &[&[u8]]) -> Hash128 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        for part in parts {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        Hash128(hasher.finish128().as_u128())
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// A 128-bit keyed hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hash128(pub u128);
