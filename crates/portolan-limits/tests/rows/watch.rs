//! The invariants that can be seen from outside, checked at every step of every run: what a region knows, and what it
//! sends. The bound itself is the oracle's affair.

use std::collections::{BTreeMap, BTreeSet};

use portolan_limits::{Message, Number, Row as LedgerRow, Rows};

use crate::{region::Region, table::Row};

/// Windows this long keep durable marks.
const MARKED_SECONDS: u64 = 10;

#[derive(Debug)]
pub struct Watch {
    /// By sender and slot: the highest it told of consumption and refunds, and of loans by receiver.
    told: BTreeMap<(usize, u64), Told>,
    /// Sender and slots whose marks were lost.
    unmarked: BTreeSet<(usize, u64)>,
    /// By sender and receiver: the newest number of a message.
    numbers: BTreeMap<(usize, usize), Number>,
    /// By region, slot and region that lent: the highest loan known.
    lent: BTreeMap<(usize, u64, usize), u64>,
    /// Slots before this were dropped by a region's process.
    floors: Vec<u64>,
    /// From which slot on a region's process knows all loans to it: the first that begins after its start.
    whole_from: Vec<Option<u64>>,
}

#[derive(Debug, Default)]
struct Told {
    consumed: u64,
    refunded: u64,
    lent: BTreeMap<u8, u64>,
}

impl Watch {
    pub fn new(regions: usize) -> Self {
        Self {
            told: BTreeMap::new(),
            unmarked: BTreeSet::new(),
            numbers: BTreeMap::new(),
            lent: BTreeMap::new(),
            floors: vec![0; regions],
            whole_from: vec![Some(0); regions],
        }
    }

    /// A new process does not remember what it heard.
    pub fn restarted(&mut self, at: usize) {
        self.lent.retain(|&(region, ..), _| region != at);
        self.floors[at] = 0;
        self.whole_from[at] = None;
    }

    /// Of what a region told before no mark is left; others tell it again what it had told.
    pub fn disk_lost(&mut self, at: usize) {
        self.unmarked.extend(self.told.keys().filter(|&&(from, _)| from == at));
    }

    /// A message leaves a region.
    pub fn sent(&mut self, from: usize, to: usize, message: &Message, region: &Region, row: &Row) {
        match message {
            Message::Rows(rows) => {
                assert!(rows.slot >= self.floors[from], "{}: a dropped slot travels: {rows:?}", row.name);
                if let Some(number) = rows.number {
                    let last = self.numbers.insert((from, to), number);
                    let before = last.filter(|last| last.life == number.life).map_or(0, |last| last.count);
                    assert_eq!(number.count, before + 1, "{}: message {number:?} after {last:?}", row.name);
                }
                for (_, of_key) in &rows.rows {
                    self.row_told(from, rows, of_key, region, row);
                }
            }
            Message::Heartbeat(heartbeat) => {
                let Some(&last) = self.numbers.get(&(to, from)) else { return };
                let beyond = (1..4).map(|ahead| Number { count: last.count + ahead, ..last });
                let beyond = beyond.into_iter().find(|&number| heartbeat.seen.contains(number));
                assert_eq!(beyond, None, "{}: a message is acknowledged that was never sent", row.name);
            }
            _ => {}
        }
    }

    fn row_told(&mut self, from: usize, rows: &Rows, of_key: &LedgerRow, region: &Region, row: &Row) {
        let base = row.base_of(from);
        let told = self.told.entry((from, rows.slot)).or_default();
        for &(_, to, amount) in &of_key.lent {
            let before = told.lent.entry(to).or_default();
            // A repair may tell an older state again, never a lower total than what the receiver keeps.
            *before = amount.max(*before);
            assert_ne!(usize::from(to), from, "{}: a region lends to itself", row.name);
        }
        told.consumed = told.consumed.max(of_key.consumed);
        told.refunded = told.refunded.max(of_key.refunded);
        assert!(of_key.refunded <= of_key.consumed, "{}: more given back than taken: {of_key:?}", row.name);
        if row.window.as_secs() >= MARKED_SECONDS && !self.unmarked.contains(&(from, rows.slot)) {
            let lent: u64 = told.lent.values().sum();
            let durable = region.durable(rows.slot).max((base / 10).max(1));
            assert!(lent <= durable, "{}: lent {lent} of slot {} on a mark of {durable}", row.name, rows.slot);
        }
    }

    /// Something happened to a region.
    pub fn stepped(&mut self, at: usize, region: &Region, row: &Row, us: u64) {
        let Some(usage) = region.usage(us) else { return };
        let whole = usage.slot >= *self.whole_from[at].get_or_insert(usage.slot + 2);
        let strict = row.overdraft == 0 && row.bands.over_units == 0;
        // What may be spent without a mark counts as spent after a restart, and is a unit even of a base of nothing.
        let own = &usage.regions[at];
        let most = usage.allowed.max(own.base + own.borrowed).max(1);
        assert!(!strict || !whole || usage.used <= most, "{}: {usage:?}", row.name);
        // One region's may be negative in this view: what it borrowed before it lent may not be known yet.
        let rights = usage.regions.iter().map(|of| (of.base + of.borrowed) as i64 - of.lent as i64);
        let known = usage.regions.iter().any(|of| of.base > 0);
        // A slot that a step of the clock leads to is cut up at the next round.
        let expected = if known { row.quota as i64 } else { 0 };
        assert_eq!(rights.sum::<i64>(), expected, "{}: rights are made or lost: {usage:?}", row.name);
        for (from, of) in usage.regions.iter().enumerate() {
            let known = self.lent.entry((at, usage.slot, from)).or_default();
            assert!(of.lent >= *known, "{}: a loan shrinks: {usage:?}", row.name);
            *known = of.lent;
        }
        self.lent.retain(|&(region, slot, _), _| region != at || slot + 1 >= usage.slot);
    }

    /// A region's process has looked at its clock and dropped what is over.
    pub fn round_ended(&mut self, at: usize, region: &Region, us: u64) {
        if let Some(usage) = region.usage(us) {
            self.floors[at] = self.floors[at].max(usage.slot.saturating_sub(1));
        }
    }
}
