//! What every region has told of its spend and its loans, as far as is known here: one [`Account`] per limit and key,
//! joined by maximum, and digests per region and shard beside them. Never deletes by message and never reads a clock:
//! slots before a limit's floor are dropped silently and refused from then on.

use std::collections::BTreeMap;

use portolan_config::LimitId;
use portolan_model::HashKey;

use crate::{
    account::{Account, Field, MAX_AMOUNT, Row},
    key::Key,
    message::DIGEST_BUCKETS,
    region::Shard,
};

/// Accounts of the live slots.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    /// Of the cluster, for hashes of cells.
    seeds: [u64; 2],
    /// Most rows per region: one per key and slot.
    max_rows: usize,
    /// Rows held per region.
    held: Vec<usize>,
    accounts: BTreeMap<(LimitId, Key), Account>,
    digests: BTreeMap<(LimitId, u64), Digests>,
    /// The oldest slot of each limit that is kept; only rises.
    floors: BTreeMap<LimitId, u64>,
    /// Where the next sweep begins, and how many accounts are left to look at since a floor rose.
    swept_up_to: (LimitId, Key),
    unswept: usize,
}

/// The effect of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// Some cell rose.
    Raised,
    /// Everything was known already.
    Known,
    /// There is no room for another row of this region.
    Full,
    /// The slot is before the floor.
    Dead,
}

/// Digests of one slot: of each region's cells of the keys of each shard, sorted.
#[derive(Clone, Debug, Default)]
struct Digests(Vec<((u8, Shard), u64)>);

impl Ledger {
    pub fn new(hash_key: HashKey, regions: usize, max_rows: usize) -> Self {
        let seed = hash_key.hash(&[b"digests of a ledger"]).0;
        Self {
            seeds: [seed as u64, (seed >> 64) as u64],
            max_rows,
            held: vec![0; regions],
            accounts: BTreeMap::new(),
            digests: BTreeMap::new(),
            floors: BTreeMap::new(),
            swept_up_to: (LimitId(0), Key::EVERY),
            unswept: 0,
        }
    }

    /// Raises the cells of one region's row to at least those of `row`.
    pub fn join(&mut self, limit: LimitId, key: Key, slot: u64, region: usize, row: &Row) -> Joined {
        let floor = self.floors.get(&limit).copied().unwrap_or(0);
        if slot < floor {
            return Joined::Dead;
        }
        let account = self.accounts.entry((limit, key)).or_default();
        let known = account.has_row(slot, region);
        if !known && self.held[region] >= self.max_rows {
            if account.is_empty() {
                self.accounts.remove(&(limit, key));
            }
            return Joined::Full;
        }
        drop_dead(&mut self.held, account, floor);
        let mut joined = Joined::Known;
        let mut moved = 0;
        let numbers = [(Field::Consumed, row.consumed), (Field::Refunded, row.refunded)];
        let lent = row.lent.iter().map(|&(loan, to, amount)| (Field::Lent(loan, to), amount));
        for (field, amount) in numbers.into_iter().chain(lent) {
            let amount = amount.min(MAX_AMOUNT);
            let Some(before) = account.raise(slot, region, field, amount) else { continue };
            let place = Place { limit, slot, key, region: region as u8, field: field.code() };
            moved ^= place.hash(self.seeds, before) ^ place.hash(self.seeds, amount);
            joined = Joined::Raised;
        }
        account.expect(slot, region, row.demand);
        if account.is_empty() {
            self.accounts.remove(&(limit, key));
        } else if !known && account.has_row(slot, region) {
            self.held[region] += 1;
        }
        if joined == Joined::Raised {
            self.digests.entry((limit, slot)).or_default().flip(region as u8, Shard::of(key), moved);
        }
        joined
    }

    /// The account of a key, if any region has told of it.
    pub fn account(&self, limit: LimitId, key: Key) -> Option<&Account> {
        self.accounts.get(&(limit, key))
    }

    /// One region's row.
    pub fn row(&self, limit: LimitId, key: Key, slot: u64, region: usize) -> Row {
        self.account(limit, key).map(|account| account.row(slot, region)).unwrap_or_default()
    }

    /// Units that a region lent of a key.
    pub fn lent_out(&self, limit: LimitId, key: Key, slot: u64, region: usize) -> u64 {
        self.account(limit, key).map_or(0, |account| account.lent_out(slot, region))
    }

    /// What the regions other than `region` consumed of a key.
    pub fn others(&self, limit: LimitId, key: Key, slot: u64, region: usize) -> u64 {
        self.account(limit, key).map_or(0, |account| account.consumed(slot, Some(region)))
    }

    /// Digests of one region's rows in a slot over the shards that `of` names, folded by the keys' high bits.
    pub fn digests(
        &self,
        limit: LimitId,
        slot: u64,
        region: usize,
        of: impl Fn(Shard) -> bool,
    ) -> [u64; DIGEST_BUCKETS] {
        let mut digests = [0; DIGEST_BUCKETS];
        let held = self.digests.get(&(limit, slot)).map_or(&[][..], |digests| digests.of(region as u8));
        for &((_, shard), digest) in held.iter().filter(|((_, shard), _)| of(*shard)) {
            digests[bucket(shard)] ^= digest;
        }
        digests
    }

    /// Digest of all regions' rows in a slot over the shards that `of` names.
    pub fn digest(&self, limit: LimitId, slot: u64, of: impl Fn(Shard) -> bool) -> u64 {
        let digests = self.digests.get(&(limit, slot)).map_or(&[][..], |digests| &digests.0);
        let held = digests.iter().filter(|((_, shard), _)| of(*shard));
        held.fold(0, |sum, (_, digest)| sum ^ digest)
    }

    /// One region's rows in the digest buckets of `buckets`, of the shards that `of` names.
    pub fn rows(
        &self,
        limit: LimitId,
        slot: u64,
        region: usize,
        buckets: u16,
        of: impl Fn(Shard) -> bool,
    ) -> impl Iterator<Item = (Key, Row)> {
        let asked = (0..DIGEST_BUCKETS as u64).filter(move |bucket| buckets >> bucket & 1 == 1);
        let keys = asked.flat_map(move |bucket| {
            let first = Key::from_bits(bucket << 60);
            let last = Key::from_bits((bucket << 60) | ((1 << 60) - 1));
            self.accounts.range((limit, first)..=(limit, last))
        });
        keys.filter(move |((_, key), account)| of(Shard::of(*key)) && account.has_row(slot, region))
            .map(move |(&(_, key), account)| (key, account.row(slot, region)))
    }

    /// The accounts of a limit.
    pub fn of_limit(&self, limit: LimitId) -> impl Iterator<Item = (Key, &Account)> {
        let range = (limit, Key::from_bits(0))..=(limit, Key::from_bits(u64::MAX));
        self.accounts.range(range).map(|(&(_, key), account)| (key, account))
    }

    /// Slots that have rows.
    pub fn slots(&self) -> Vec<(LimitId, u64)> {
        self.digests.keys().copied().collect()
    }

    /// Keeps no slot of a limit before `floor`; says whether it kept one that it does not any more. Their cells are
    /// dropped when a join or a sweep comes by.
    pub fn raise_floor(&mut self, limit: LimitId, floor: u64) -> bool {
        let held = self.floors.entry(limit).or_insert(0);
        let rises = *held < floor;
        if rises {
            *held = floor;
            while let Some((&dead, _)) = self.digests.range((limit, 0)..(limit, floor)).next() {
                self.digests.remove(&dead);
            }
            self.unswept = self.accounts.len();
        }
        rises
    }

    /// Drops the dead slots of the next `count` accounts, after `last` has seen each. Costs nothing once every account
    /// was looked at since the last floor rose: none of a dead slot is added.
    pub fn sweep(&mut self, count: usize, mut last: impl FnMut(LimitId, u64, Key, &Account)) {
        let count = count.min(self.unswept);
        if count == 0 {
            return;
        }
        self.unswept -= count;
        let Self { held, accounts, floors, .. } = self;
        let mut emptied = Vec::new();
        let mut swept = accounts.range_mut(self.swept_up_to..);
        for (&(limit, key), account) in swept.by_ref().take(count) {
            let Some(&floor) = floors.get(&limit).filter(|floor| account.reaches_before(**floor)) else { continue };
            account.slots().iter().filter(|&&slot| slot < floor).for_each(|&slot| last(limit, slot, key, account));
            drop_dead(held, account, floor);
            if account.is_empty() {
                emptied.push((limit, key));
            }
        }
        self.swept_up_to = swept.next().map_or((LimitId(0), Key::EVERY), |(&place, _)| place);
        for place in emptied {
            self.accounts.remove(&place);
        }
    }

    /// Drops everything of the limits that `ended` names.
    pub fn forget_limits(&mut self, ended: impl Fn(LimitId) -> bool) {
        let Self { held, accounts, digests, floors, .. } = self;
        accounts.retain(|&(limit, _), account| {
            let over = ended(limit);
            if over {
                account.slots().iter().for_each(|&slot| release(held, account, slot));
            }
            !over
        });
        digests.retain(|&(limit, _), _| !ended(limit));
        floors.retain(|&limit, _| !ended(limit));
    }

    /// Keys that have an account.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }
}

impl Digests {
    fn flip(&mut self, region: u8, shard: Shard, bits: u64) {
        match self.0.binary_search_by_key(&(region, shard), |(place, _)| *place) {
            Ok(at) => self.0[at].1 ^= bits,
            Err(at) => self.0.insert(at, ((region, shard), bits)),
        }
    }

    fn of(&self, region: u8) -> &[((u8, Shard), u64)] {
        let from = self.0.partition_point(|((of, _), _)| *of < region);
        let to = self.0.partition_point(|((of, _), _)| *of <= region);
        &self.0[from..to]
    }
}

/// What one number of a ledger is.
struct Place {
    limit: LimitId,
    slot: u64,
    key: Key,
    region: u8,
    field: u8,
}

impl Place {
    /// Of the number with what it is; nothing of a number that is not there. Folded products (Yi, wyhash) under a secret
    /// of the cluster: a cell of a key under pressure is hashed with every row that comes, and what it is made of is no
    /// stranger's choice.
    fn hash(&self, [first, second]: [u64; 2], amount: u64) -> u64 {
        if amount == 0 {
            return 0;
        }
        let place = u64::from(self.limit.0) << 16 | u64::from(self.region) << 8 | u64::from(self.field);
        let cell = folded(self.key.bits() ^ first, self.slot ^ second);
        folded(folded(cell ^ place, amount ^ first) ^ second, place ^ GOLDEN)
    }
}

fn folded(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

/// Drops the cells of slots before `floor`.
fn drop_dead(held: &mut [usize], account: &mut Account, floor: u64) {
    if account.reaches_before(floor) {
        for slot in account.slots().into_iter().filter(|&slot| slot < floor) {
            release(held, account, slot);
            account.forget(slot);
        }
    }
}

/// The rows of a slot that is dropped no longer count against their regions.
fn release(held: &mut [usize], account: &Account, slot: u64) {
    held.iter_mut().enumerate().filter(|(at, _)| account.has_row(slot, *at)).for_each(|(_, held)| *held -= 1);
}

/// The digest bucket of a shard.
const fn bucket(shard: Shard) -> usize {
    (shard.0 >> 4) as usize % DIGEST_BUCKETS
}

/// 2^64 over the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use crdts::{CmRDT, CvRDT, Dot, GCounter};
    use proptest::{collection::vec, prelude::*};
    use smallvec::smallvec;

    use super::*;
    use crate::{account::Loan, forecast::Demand};

    const REGIONS: usize = 3;

    /// Slot, region, key, and the numbers of the row: consumed, refunded, lent to the next region.
    type Write = (u64, usize, u64, (u64, u64, u64));

    fn key(key: u64) -> Key {
        Key::from_bits(key << 58 | 1)
    }

    fn row(region: usize, (consumed, refunded, lent): (u64, u64, u64)) -> Row {
        Row {
            consumed,
            refunded,
            lent: smallvec![(Loan::Units, (region as u8 + 1) % 3, lent)],
            demand: Demand::default(),
        }
    }

    fn ledger(writes: &[Write]) -> Ledger {
        let mut ledger = Ledger::new(HashKey::new([7; 16]), REGIONS, 1000);
        for &(slot, region, at, numbers) in writes {
            ledger.join(LimitId(1), key(at), slot, region, &row(region, numbers));
        }
        ledger
    }

    fn merged(into: &[Write], from: &[Write]) -> Ledger {
        ledger(&[into, from].concat())
    }

    /// A slot, its rows per region, and its digest.
    type State = (u64, Vec<Vec<(Key, Row)>>, u64);

    fn state(ledger: &Ledger) -> Vec<State> {
        let of = |slot, region| ledger.rows(LimitId(1), slot, region, u16::MAX, |_| true).collect();
        let rows = |slot| (0..REGIONS).map(|region| of(slot, region)).collect();
        ledger
            .slots()
            .into_iter()
            .map(|(limit, slot)| (slot, rows(slot), ledger.digest(limit, slot, |_| true)))
            .collect()
    }

    fn writes() -> impl Strategy<Value = Vec<Write>> {
        vec((0..3u64, 0..REGIONS, 0..20u64, (1..50u64, 0..50u64, 0..50u64)), 0..60)
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
        fn the_ledger_counts_what_gcounters_per_key_count(a in writes(), b in writes()) {
            // One counter per number of the row: consumed, refunded and lent.
            type Counters = BTreeMap<(u64, u64, usize), GCounter<usize>>;
            let gcounters = |writes: &[Write]| {
                let mut counters = Counters::new();
                for &(slot, region, at, (consumed, refunded, lent)) in writes {
                    for (field, number) in [consumed, refunded, lent].into_iter().enumerate() {
                        counters.entry((slot, at, field)).or_default().apply(Dot::new(region, number));
                    }
                }
                counters
            };
            let mut oracle = gcounters(&a);
            for (cell, counter) in gcounters(&b) {
                oracle.entry(cell).or_default().merge(counter);
            }
            let ledger = merged(&a, &b);
            for ((slot, at, field), counter) in oracle {
                let rows = (0..REGIONS).map(|region| ledger.row(LimitId(1), key(at), slot, region));
                let sum: u64 = rows.map(|row| [row.consumed, row.refunded, row.lent_out()][field]).sum();
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

        #[test]
        fn dropping_dead_slots_changes_nothing_that_is_alive(a in writes(), b in writes(), sweep in 0..40usize) {
            let mut swept = ledger(&a);
            swept.raise_floor(LimitId(1), 1);
            swept.sweep(sweep, |_, slot, _, _| assert_eq!(slot, 0));
            for &(slot, region, at, numbers) in &b {
                let joined = swept.join(LimitId(1), key(at), slot, region, &row(region, numbers));
                prop_assert_eq!(slot == 0, joined == Joined::Dead);
            }
            let alive = |ledger: &Ledger| state(ledger).into_iter().filter(|&(slot, ..)| slot > 0).collect::<Vec<_>>();
            prop_assert_eq!(alive(&swept), alive(&merged(&a, &b)));
        }
    }

    #[test]
    fn rows_of_one_region_cannot_fill_the_ledger() {
        let mut ledger = Ledger::new(HashKey::new([7; 16]), REGIONS, 2);
        let join = |ledger: &mut Ledger, region, slot, at| {
            ledger.join(LimitId(1), key(at), slot, region, &row(region, (1, 0, 0)))
        };
        let joined = [(5, 1), (6, 1), (6, 2)].map(|(slot, at)| join(&mut ledger, 1, slot, at));
        assert_eq!(joined, [Joined::Raised, Joined::Raised, Joined::Full]);
        assert_eq!(join(&mut ledger, 2, 6, 2), Joined::Raised);
        ledger.raise_floor(LimitId(1), 6);
        ledger.sweep(10, |_, _, _, _| ());
        assert_eq!(join(&mut ledger, 1, 6, 2), Joined::Raised);
    }

    #[test]
    fn a_digest_covers_the_shards_that_two_nodes_share() {
        let ledger = ledger(&[(5, 1, 3, (9, 0, 0)), (5, 1, 40, (9, 0, 4))]);
        let all = ledger.digests(LimitId(1), 5, 1, |_| true);
        let one = ledger.digests(LimitId(1), 5, 1, |shard| shard == Shard::of(key(3)));
        assert_eq!(
            (all.iter().filter(|&&digest| digest != 0).count(), one.iter().filter(|&&digest| digest != 0).count()),
            (2, 1)
        );
    }
}
