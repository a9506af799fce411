//! Parts of the key space that have one owner each. 256: with 20 nodes every one owns about 13, so that none has much
//! more than another, and a set of them fits 32 bytes.

use serde::{Deserialize, Serialize};

use crate::key::Key;

/// Number of shards.
pub const SHARDS: usize = 256;

/// One part of the key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shard(pub u8);

impl Shard {
    /// The shard of a key: the high bits of its keyed hash, which nobody outside can aim for.
    pub fn of(key: Key) -> Self {
        Self((key.bits() >> 56) as u8)
    }

    /// Every shard, in order.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + Clone {
        (0..=u8::MAX).map(Self)
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A set of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardSet([u64; 4]);

impl ShardSet {
    /// All shards.
    pub const ALL: Self = Self([u64::MAX; 4]);

    /// Whether `shard` is in it.
    pub fn contains(&self, shard: Shard) -> bool {
        self.0[shard.index() / 64] & (1 << (shard.index() % 64)) != 0
    }

    /// Adds `shard`.
    pub fn insert(&mut self, shard: Shard) {
        self.0[shard.index() / 64] |= 1 << (shard.index() % 64);
    }

    /// Number of shards in it.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// Those in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = Shard> + '_ {
        Shard::all().filter(|shard| self.contains(*shard))
    }

    /// Those in both.
    pub fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] & other.0[at]))
    }

    /// Those in this one only.
    pub fn without(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] & !other.0[at]))
    }

    /// Those in either.
    pub fn or(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at] | other.0[at]))
    }

    pub(crate) const fn words(&self) -> [u64; 4] {
        self.0
    }

    pub(crate) const fn from_words(words: [u64; 4]) -> Self {
        Self(words)
    }
}

impl FromIterator<Shard> for ShardSet {
    fn from_iter<I: IntoIterator<Item = Shard>>(shards: I) -> Self {
        let mut set = Self::default();
        shards.into_iter().for_each(|shard| set.insert(shard));
        set
    }
}
