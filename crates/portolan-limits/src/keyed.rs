//! Maps by limit and key. A key is a keyed hash already (see `key`), so its bits place it and nothing is hashed again.
//! Never iterated where the order would show.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use portolan_config::LimitId;

use crate::key::Key;

/// A map by limit and key.
pub(crate) type Keyed<V> = HashMap<(LimitId, Key), V, BuildHasherDefault<KeyHasher>>;

/// Spreads the limit over the bits of the key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write_u32(&mut self, limit: u32) {
        self.0 ^= u64::from(limit).wrapping_mul(GOLDEN);
    }

    fn write_u64(&mut self, key: u64) {
        self.0 ^= key;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(GOLDEN));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// 2^64 over the golden ratio: neighbouring numbers end up far apart (Knuth, The Art of Computer Programming, 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
