//! Randomness of a run: one stream per seed, entity and purpose, so that adding a node or a link shifts no other draw.

use portolan_model::HashKey;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The stream of one entity for one purpose.
pub fn stream(seed: u64, purpose: &str, entity: &str) -> ChaCha8Rng {
    let half =
        |index: u8| HashKey::new([index; 16]).hash(&[&seed.to_le_bytes(), purpose.as_bytes(), entity.as_bytes()]).0;
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&half(0).to_le_bytes());
    bytes[16..].copy_from_slice(&half(1).to_le_bytes());
    ChaCha8Rng::from_seed(bytes)
}

/// One number for code that takes a seed of its own.
pub fn derived_seed(seed: u64, purpose: &str, entity: &str) -> u64 {
    HashKey::new([2; 16]).hash(&[&seed.to_le_bytes(), purpose.as_bytes(), entity.as_bytes()]).0 as u64
}
