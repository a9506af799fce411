//! What every region has spent, as far as is known here: one cell per limit, slot, key and region, joined by maximum
//! (state-based G-counter: Shapiro et al., INRIA RR-7506). Keeps a digest per region's rows beside them. Never deletes by
//! message and never reads a clock: slots are dropped when the caller says that they are over.

use std::collections::BTreeMap;

use portolan_config::LimitId;
use portolan_model::HashKey;
use smallvec::{SmallVec, smallvec};

use crate::{key::Key, message::DIGEST_BUCKETS, word::MAX_AMOUNT};

/// Rows of the live slots.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    hash_key: HashKey,
    regions: usize,
    /// Most rows per region.
    max_rows: usize,
    /// Rows held per region, over all slots.
    held: Vec<usize>,
    slots: BTreeMap<(LimitId, u64), Slot>,
}

/// The effect of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// The cell rose.
    Raised,
    /// The cell already was as high.
    Known,
    /// There is no room for another row of this region.
    Full,
}

#[derive(Clone, Debug)]
struct Slot {
    rows: BTreeMap<Key, SmallVec<[u64; 6]>>,
    regions: Vec<RegionRows>,
}

#[derive(Clone, Debug, Default)]
struct RegionRows {
    count: usize,
    spent: u64,
    digests: [u64; DIGEST_BUCKETS],
}

impl Ledger {
    pub fn new(hash_key: HashKey, regions: usize, max_rows: usize) -> Self {
        Self { hash_key, regions, max_rows, held: vec![0; regions], slots: BTreeMap::new() }
    }

    /// Raises one cell to at least `spent`.
    pub fn join(&mut self, limit: LimitId, slot: u64, region: usize, key: Key, spent: u64) -> Joined {
        let spent = spent.min(MAX_AMOUNT);
        let regions = self.regions;
        let fresh = || Slot { rows: BTreeMap::new(), regions: vec![RegionRows::default(); regions] };
        let rows = self.slots.entry((limit, slot)).or_insert_with(fresh);
        let held = rows.rows.get(&key).map_or(0, |counts| counts[region]);
        if held >= spent {
            return Joined::Known;
        }
        if held == 0 && self.held[region] >= self.max_rows {
            return Joined::Full;
        }
        self.held[region] += usize::from(held == 0);
        let of_region = &mut rows.regions[region];
        of_region.count += usize::from(held == 0);
        of_region.spent = of_region.spent.saturating_add(spent - held);
        let hash = |spent| if spent == 0 { 0 } else { cell_hash(&self.hash_key, limit, slot, region, key, spent) };
        of_region.digests[bucket(key)] ^= hash(held) ^ hash(spent);
        rows.rows.entry(key).or_insert_with(|| smallvec![0; regions])[region] = spent;
        Joined::Raised
    }

    /// One cell.
    pub fn spent(&self, limit: LimitId, slot: u64, region: usize, key: Key) -> u64 {
        self.slots.get(&(limit, slot)).and_then(|rows| rows.rows.get(&key)).map_or(0, |counts| counts[region])
    }

    /// What the regions other than `region` have spent of a key.
    pub fn others(&self, limit: LimitId, slot: u64, region: usize, key: Key) -> u64 {
        let counts = self.slots.get(&(limit, slot)).and_then(|rows| rows.rows.get(&key));
        counts.map_or(0, |counts| {
            let others = counts.iter().enumerate().filter(|&(at, _)| at != region);
            others.fold(0, |sum: u64, (_, &spent)| sum.saturating_add(spent))
        })
    }

    /// Digests of one region's rows in a slot.
    pub fn digests(&self, limit: LimitId, slot: u64, region: usize) -> [u64; DIGEST_BUCKETS] {
        self.slots.get(&(limit, slot)).map_or([0; DIGEST_BUCKETS], |rows| rows.regions[region].digests)
    }

    /// Digest of all regions' rows in a slot.
    pub fn digest(&self, limit: LimitId, slot: u64) -> u64 {
        let rows = self.slots.get(&(limit, slot));
        rows.into_iter().flat_map(|rows| &rows.regions).flat_map(|of| of.digests).fold(0, |sum, digest| sum ^ digest)
    }

    /// One region's rows in the buckets of `buckets`.
    pub fn rows(
        &self,
        limit: LimitId,
        slot: u64,
        region: usize,
        buckets: u16,
    ) -> impl Iterator<Item = (Key, u64)> + '_ {
        let rows = self.slots.get(&(limit, slot)).into_iter().flat_map(|rows| &rows.rows);
        rows.filter(move |(key, counts)| counts[region] > 0 && buckets >> bucket(**key) & 1 == 1)
            .map(move |(key, counts)| (*key, counts[region]))
    }

    /// Keys of a slot that any region spent from, and each region's spend over all of them.
    pub fn totals(&self, limit: LimitId, slot: u64) -> (u64, Vec<u64>) {
        match self.slots.get(&(limit, slot)) {
            Some(rows) => (rows.rows.len() as u64, rows.regions.iter().map(|of| of.spent).collect()),
            None => (0, vec![0; self.regions]),
        }
    }

    /// Slots that have rows.
    pub fn slots(&self) -> impl Iterator<Item = (LimitId, u64)> + '_ {
        self.slots.keys().copied()
    }

    /// Drops the slots that are not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(LimitId, u64) -> bool) {
        self.slots.retain(|&(limit, slot), rows| {
            let kept = keep(limit, slot);
            if !kept {
                self.held.iter_mut().zip(&rows.regions).for_each(|(held, of)| *held -= of.count);
            }
            kept
        });
    }
}

/// The digest bucket of a key.
fn bucket(key: Key) -> usize {
    // High bits: the low ones pick the partition of the table, so they would correlate with nothing useful here either.
    (key.bits() >> 60) as usize % DIGEST_BUCKETS
}

fn cell_hash(hash_key: &HashKey, limit: LimitId, slot: u64, region: usize, key: Key, spent: u64) -> u64 {
    let mut cell = [0; 36];
    cell[..4].copy_from_slice(&limit.0.to_le_bytes());
    for (at, field) in [slot, region as u64, key.bits(), spent].into_iter().enumerate() {
        cell[4 + at * 8..][..8].copy_from_slice(&field.to_le_bytes());
    }
    hash_key.hash(&[&cell]).0 as u64
}

#[cfg(test)]
mod tests {
    use crdts::{CmRDT, CvRDT, Dot, GCounter};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const REGIONS: usize = 3;

    /// Slot, region, key, spend.
    type Write = (u64, usize, u64, u64);

    fn ledger(writes: &[Write]) -> Ledger {
        let mut ledger = Ledger::new(HashKey::new([7; 16]), REGIONS, 1000);
        for &(slot, region, key, spent) in writes {
            ledger.join(LimitId(1), slot, region, Key::from_bits(key << 58 | 1), spent);
        }
        ledger
    }

    fn merged(into: &[Write], from: &[Write]) -> Ledger {
        ledger(&[into, from].concat())
    }

    /// A slot, its rows per region, and its digest.
    type State = (u64, Vec<Vec<(Key, u64)>>, u64);

    fn state(ledger: &Ledger) -> Vec<State> {
        let rows =
            |slot| (0..REGIONS).map(|region| ledger.rows(LimitId(1), slot, region, u16::MAX).collect()).collect();
        let state = ledger.slots().map(|(limit, slot)| (slot, rows(slot), ledger.digest(limit, slot)));
        state.collect()
    }

    fn writes() -> impl Strategy<Value = Vec<Write>> {
        vec((0..3u64, 0..REGIONS, 0..20u64, 1..50u64), 0..60)
    }

    proptest! {
        #[test]
        fn joins_commute_associate_and_repeat_without_effect(a in writes(), b in writes(), c in writes()) {
            prop_assert_eq!(state(&merged(&a, &b)), state(&merged(&b, &a)));
            let (ab, bc) = ([&a[..], &b[..]].concat(), [&b[..], &c[..]].concat());
            prop_assert_eq!(state(&merged(&ab, &c)), state(&merged(&a, &bc)));
            prop_assert_eq!(state(&merged(&ab, &ab)), state(&ledger(&ab)));
        }

        #[test]
        fn the_ledger_counts_what_a_gcounter_per_key_counts(a in writes(), b in writes()) {
            let gcounters = |writes: &[Write]| {
                let mut counters = BTreeMap::<(u64, u64), GCounter<usize>>::new();
                for &(slot, region, key, spent) in writes {
                    counters.entry((slot, key)).or_default().apply(Dot::new(region, spent));
                }
                counters
            };
            let mut oracle = gcounters(&a);
            for (cell, counter) in gcounters(&b) {
                oracle.entry(cell).or_default().merge(counter);
            }
            let ledger = merged(&a, &b);
            for ((slot, key), counter) in oracle {
                let key = Key::from_bits(key << 58 | 1);
                let sum = ledger.spent(LimitId(1), slot, 0, key) + ledger.others(LimitId(1), slot, 0, key);
                prop_assert_eq!(sum.to_string(), counter.read().to_string());
            }
        }

        #[test]
        fn digests_are_equal_exactly_when_the_rows_are(a in writes(), b in writes()) {
            let (a, b) = (ledger(&a), ledger(&b));
            let rows = |ledger: &Ledger| state(ledger).into_iter().map(|(slot, rows, _)| (slot, rows)).collect::<Vec<_>>();
            let digests = |ledger: &Ledger| state(ledger).into_iter().map(|(slot, _, digest)| (slot, digest)).collect::<Vec<_>>();
            prop_assert_eq!(rows(&a) == rows(&b), digests(&a) == digests(&b));
        }
    }

    #[test]
    fn rows_of_one_region_cannot_fill_the_ledger() {
        let mut ledger = Ledger::new(HashKey::new([7; 16]), REGIONS, 2);
        let join =
            |ledger: &mut Ledger, region, slot, key| ledger.join(LimitId(1), slot, region, Key::from_bits(key), 1);
        let joined = [(5, 1), (6, 1), (6, 2)].map(|(slot, key)| join(&mut ledger, 1, slot, key));
        assert_eq!(joined, [Joined::Raised, Joined::Raised, Joined::Full]);
        assert_eq!(join(&mut ledger, 2, 6, 2), Joined::Raised);
        ledger.retain(|_, slot| slot > 5);
        assert_eq!(join(&mut ledger, 1, 6, 2), Joined::Raised);
    }
}
