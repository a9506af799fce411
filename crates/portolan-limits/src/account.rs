//! One key's account: what every region consumed, gave back and lent in each live slot. One cell per number, each written
//! by one region alone; a merge takes the larger, so a message may be lost, repeated or overtaken. Kept flat and sparse:
//! 12 bytes per number that is not zero. Never decides what may be spent. Bounded counter from grow-only counters
//! (Balegas et al., SRDS 2015).

/// Most regions of a scope: a cell names the one lent to, and what, in a byte below the two special fields.
pub(crate) use portolan_config::MAX_REGIONS;
use smallvec::{SmallVec, smallvec};

use crate::forecast::Demand;

/// Largest number in a cell.
pub(crate) const MAX_AMOUNT: u64 = (1 << 40) - 1;

/// Which number of a region's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Field {
    /// Moved to the region at this position.
    Lent(Loan, u8),
    /// Consumed and given back.
    Refunded,
    /// Consumed, whether given back since or not.
    Consumed,
}

/// What is lent. It is told, since what it means may not follow from anything that regions hear of one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loan {
    /// Units of the slot, to be spent in it.
    Units,
    /// Rate of a bucket: so many tokens of those that drip in during the slot.
    Rate,
}

/// One region's row in one slot, as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Consumed, whether given back since or not.
    pub consumed: u64,
    /// Consumed and given back.
    pub refunded: u64,
    /// Moved to other regions, by their position in the scope.
    pub lent: SmallVec<[(Loan, u8, u64); 2]>,
    /// What the region expects to be asked for.
    pub demand: Demand,
}

/// A region's position in one slot: its rights are its base and what it borrowed, less what it lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    /// Consumed and not given back.
    pub consumed: u64,
    pub lent: u64,
    pub borrowed: u64,
    /// Of a bucket's rate.
    pub rate_lent: u64,
    pub rate_borrowed: u64,
    pub demand: Demand,
    /// Whether the region has told anything about this slot.
    pub told: bool,
}

impl Balance {
    /// What the region may still spend or lend, with this base share.
    pub const fn unspent(self, base: u64) -> u64 {
        base.saturating_add(self.borrowed).saturating_sub(self.lent).saturating_sub(self.consumed)
    }
}

/// The cells of one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// The highest slot any cell is of.
    newest: u64,
    /// Sorted by slot, region and field.
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    /// Low bits of the slot: an account never spans more than a few.
    slot: u8,
    region: u8,
    field: u8,
    high: u8,
    low: u32,
    /// Means something beside `Consumed` only.
    demand: Demand,
}

impl Account {
    /// Raises one number to at least `amount` and returns the one before, or nothing if it was as high.
    pub fn raise(&mut self, slot: u64, region: usize, field: Field, amount: u64) -> Option<u64> {
        let amount = amount.min(MAX_AMOUNT);
        let known = self.known_mut(slot, region, field);
        let before = known.as_ref().map_or(0, |cell| cell.amount());
        if amount <= before {
            return None;
        }
        match known {
            Some(cell) => cell.set_amount(amount),
            None => self.cell_mut(slot, region, field).set_amount(amount),
        }
        Some(before)
    }

    /// Replaces what a region expects of a slot.
    pub fn expect(&mut self, slot: u64, region: usize, demand: Demand) {
        if let Some(cell) = self.known_mut(slot, region, Field::Consumed) {
            cell.demand = demand;
        } else if demand != Demand::default() {
            self.cell_mut(slot, region, Field::Consumed).demand = demand;
        }
    }

    /// One number.
    pub fn amount(&self, slot: u64, region: usize, field: Field) -> u64 {
        self.find(slot, region, field).ok().filter(|_| self.knows(slot)).map_or(0, |at| self.cells[at].amount())
    }

    /// One region's row.
    pub fn row(&self, slot: u64, region: usize) -> Row {
        let mut row = Row::default();
        for cell in self.of_region(slot, region) {
            match cell.field() {
                Field::Consumed => (row.consumed, row.demand) = (cell.amount(), cell.demand),
                Field::Refunded => row.refunded = cell.amount(),
                Field::Lent(loan, to) => row.lent.push((loan, to, cell.amount())),
            }
        }
        row
    }

    /// Whether a region has told anything about a slot.
    pub fn has_row(&self, slot: u64, region: usize) -> bool {
        self.of_region(slot, region).next().is_some()
    }

    /// What a region told that it consumed of a slot and is asked for, if it told anything.
    pub fn told(&self, slot: u64, region: usize) -> Option<(u64, Demand)> {
        let mut cells = self.of_region(slot, region).peekable();
        cells.peek()?;
        let consumed = cells.find(|cell| cell.field() == Field::Consumed);
        Some(consumed.map(|cell| (cell.amount(), cell.demand)).unwrap_or_default())
    }

    /// Every region's position in a slot.
    pub fn balances(&self, slot: u64, regions: usize) -> SmallVec<[Balance; 8]> {
        let mut balances: SmallVec<[Balance; 8]> = smallvec![Balance::default(); regions];
        let mut refunded: SmallVec<[u64; 8]> = smallvec![0; regions];
        for cell in self.of_slot(slot) {
            let (region, amount) = (usize::from(cell.region), cell.amount());
            balances[region].told = true;
            match cell.field() {
                Field::Consumed => {
                    balances[region].consumed += amount;
                    balances[region].demand = cell.demand;
                }
                Field::Refunded => refunded[region] = amount,
                Field::Lent(Loan::Units, to) => {
                    balances[region].lent += amount;
                    balances[usize::from(to)].borrowed += amount;
                }
                Field::Lent(Loan::Rate, to) => {
                    balances[region].rate_lent += amount;
                    balances[usize::from(to)].rate_borrowed += amount;
                }
            }
        }
        for (balance, refunded) in balances.iter_mut().zip(refunded) {
            balance.consumed = balance.consumed.saturating_sub(refunded);
        }
        balances
    }

    /// One region's position in a slot.
    pub fn balance(&self, slot: u64, region: usize) -> Balance {
        let mut balance = Balance::default();
        let mut refunded = 0;
        for cell in self.of_slot(slot) {
            let own = usize::from(cell.region) == region;
            balance.told |= own;
            match cell.field() {
                Field::Consumed if own => (balance.consumed, balance.demand) = (cell.amount(), cell.demand),
                Field::Refunded if own => refunded = cell.amount(),
                Field::Lent(Loan::Units, _) if own => balance.lent += cell.amount(),
                Field::Lent(Loan::Rate, _) if own => balance.rate_lent += cell.amount(),
                Field::Lent(Loan::Units, to) if usize::from(to) == region => balance.borrowed += cell.amount(),
                Field::Lent(Loan::Rate, to) if usize::from(to) == region => balance.rate_borrowed += cell.amount(),
                _ => {}
            }
        }
        balance.consumed = balance.consumed.saturating_sub(refunded);
        balance
    }

    /// Units that one region borrowed of a slot from those that count.
    pub fn borrowed(&self, slot: u64, region: usize, counts: impl Fn(usize) -> bool) -> u64 {
        let lent = |cell: &&Cell| matches!(cell.field(), Field::Lent(Loan::Units, to) if usize::from(to) == region);
        let valid = self.of_slot(slot).filter(lent).filter(|cell| counts(usize::from(cell.region)));
        valid.fold(0, |sum: u64, cell| sum.saturating_add(cell.amount()))
    }

    /// Units that one region lent of a slot.
    pub fn lent_out(&self, slot: u64, region: usize) -> u64 {
        let lent = self.of_region(slot, region).filter(|cell| matches!(cell.field(), Field::Lent(Loan::Units, _)));
        lent.fold(0, |sum: u64, cell| sum.saturating_add(cell.amount()))
    }

    /// Consumed in a slot by all regions but `except`, less what was given back.
    pub fn consumed(&self, slot: u64, except: Option<usize>) -> u64 {
        let mut sum = 0;
        // Of a region what was given back stands right before what was consumed.
        let mut refunded = (0, 0);
        for cell in self.of_slot(slot).filter(|cell| Some(usize::from(cell.region)) != except) {
            match cell.field() {
                Field::Refunded => refunded = (cell.region, cell.amount()),
                Field::Consumed if refunded.0 == cell.region => sum += cell.amount().saturating_sub(refunded.1),
                Field::Consumed => sum += cell.amount(),
                Field::Lent(..) => {}
            }
        }
        sum
    }

    /// The slots there are cells of, oldest first.
    pub fn slots(&self) -> SmallVec<[u64; 3]> {
        let mut slots: SmallVec<[u64; 3]> = self.cells.iter().map(|cell| self.full_slot(cell.slot)).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Whether there are cells of slots before `floor`.
    pub fn reaches_before(&self, floor: u64) -> bool {
        let (Some(first), Some(last)) = (self.cells.first(), self.cells.last()) else { return false };
        let [first, last] = [first, last].map(|cell| self.full_slot(cell.slot));
        // Cells are sorted by the low bits of their slots: where these have not turned over, the first is the oldest.
        first < floor || last < first && self.cells.iter().any(|cell| self.full_slot(cell.slot) < floor)
    }

    /// Drops the cells of one slot.
    pub fn forget(&mut self, slot: u64) {
        self.cells.retain(|cell| cell.slot != slot as u8);
        self.cells.shrink_to_fit();
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        self.cells.capacity() * size_of::<Cell>()
    }

    fn full_slot(&self, low: u8) -> u64 {
        full_slot(self.newest, low)
    }

    /// Whether cells can be of `slot`, and not of one that has the same low bits.
    fn knows(&self, slot: u64) -> bool {
        slot <= self.newest && self.newest - slot < SLOTS
    }

    fn of_slot(&self, slot: u64) -> impl Iterator<Item = &Cell> {
        self.cells_from(slot, 0, 0).take_while(move |cell| cell.slot == slot as u8)
    }

    fn find(&self, slot: u64, region: usize, field: Field) -> Result<usize, usize> {
        self.cells.binary_search_by_key(&place(slot, region, field.code()), Cell::place)
    }

    fn known_mut(&mut self, slot: u64, region: usize, field: Field) -> Option<&mut Cell> {
        let at = self.find(slot, region, field).ok().filter(|_| self.knows(slot))?;
        Some(&mut self.cells[at])
    }

    fn of_region(&self, slot: u64, region: usize) -> impl Iterator<Item = &Cell> {
        let of_row = move |cell: &&Cell| cell.slot == slot as u8 && usize::from(cell.region) == region;
        self.cells_from(slot, region, 0).take_while(of_row)
    }

    fn cells_from(&self, slot: u64, region: usize, field: u8) -> std::slice::Iter<'_, Cell> {
        let first = place(slot, region, field);
        let from =
            if self.knows(slot) { self.cells.partition_point(|cell| cell.place() < first) } else { self.cells.len() };
        self.cells[from..].iter()
    }

    fn cell_mut(&mut self, slot: u64, region: usize, field: Field) -> &mut Cell {
        debug_assert!(slot > self.newest || self.knows(slot), "nothing is told of a slot that is long over");
        if slot > self.newest {
            // After a long pause there may be cells of slots that would read as later ones.
            let oldest = slot.saturating_sub(SLOTS - 1);
            let before = self.newest;
            self.cells.retain(|cell| full_slot(before, cell.slot) >= oldest);
            self.newest = slot;
        }
        let at = match self.find(slot, region, field) {
            Ok(at) => at,
            Err(at) => {
                // Small steps: half of what a doubling vector holds would be unused, over a million keys.
                if self.cells.len() == self.cells.capacity() {
                    self.cells.reserve_exact(GROWTH);
                }
                let cell = Cell {
                    slot: slot as u8,
                    region: region as u8,
                    field: field.code(),
                    high: 0,
                    low: 0,
                    demand: Demand::default(),
                };
                self.cells.insert(at, cell);
                at
            }
        };
        &mut self.cells[at]
    }
}

impl Field {
    pub const fn code(self) -> u8 {
        match self {
            Self::Lent(Loan::Units, to) => to,
            Self::Lent(Loan::Rate, to) => MAX_REGIONS as u8 + to,
            Self::Refunded => 254,
            Self::Consumed => 255,
        }
    }
}

impl Cell {
    const fn place(&self) -> u32 {
        (self.slot as u32) << 16 | (self.region as u32) << 8 | self.field as u32
    }

    fn field(self) -> Field {
        match self.field {
            255 => Field::Consumed,
            254 => Field::Refunded,
            to if usize::from(to) < MAX_REGIONS => Field::Lent(Loan::Units, to),
            to => Field::Lent(Loan::Rate, to - MAX_REGIONS as u8),
        }
    }

    const fn amount(self) -> u64 {
        (self.high as u64) << 32 | self.low as u64
    }

    const fn set_amount(&mut self, amount: u64) {
        (self.high, self.low) = ((amount >> 32) as u8, amount as u32);
    }
}

impl Row {
    /// Consumed and not given back.
    pub fn net(&self) -> u64 {
        self.consumed.saturating_sub(self.refunded)
    }

    /// Moved to other regions, whatever it is.
    pub fn lent_out(&self) -> u64 {
        self.lent.iter().fold(0, |sum: u64, &(.., amount)| sum.saturating_add(amount))
    }
}

/// What cells are sorted by.
const fn place(slot: u64, region: usize, field: u8) -> u32 {
    (slot as u8 as u32) << 16 | (region as u8 as u32) << 8 | field as u32
}

/// The slot up to `newest` that has these low bits.
fn full_slot(newest: u64, low: u8) -> u64 {
    newest.saturating_sub(u64::from((newest as u8).wrapping_sub(low)))
}

/// Slots that their low bits tell apart.
const SLOTS: u64 = 256;

/// Cells that a full account grows by.
const GROWTH: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loan_moves_rights_and_a_refund_lowers_what_was_consumed() {
        let mut account = Account::default();
        account.raise(7, 0, Field::Lent(Loan::Units, 2), 5);
        account.raise(7, 0, Field::Lent(Loan::Rate, 2), 3);
        account.raise(7, 0, Field::Consumed, 9);
        account.raise(7, 0, Field::Refunded, 4);
        account.raise(8, 0, Field::Consumed, 100);
        assert_eq!(account.raise(7, 0, Field::Consumed, 8), None, "a cell never falls");
        let balances = account.balances(7, 3);
        assert_eq!((balances[0].consumed, balances[0].lent, balances[2].borrowed), (5, 5, 5));
        assert_eq!((balances[0].rate_lent, balances[2].rate_borrowed, account.lent_out(7, 0)), (3, 3, 5));
        assert_eq!([0, 2].map(|at| account.balance(7, at)), [balances[0], balances[2]]);
        assert_eq!((balances[2].told, account.consumed(7, None), account.consumed(8, None)), (false, 5, 100));
        let row = account.row(7, 0);
        assert_eq!(
            (row.consumed, row.refunded, row.lent.as_slice()),
            (9, 4, &[(Loan::Units, 2, 5), (Loan::Rate, 2, 3)][..])
        );
    }

    #[test]
    fn a_region_that_only_lent_of_a_slot_told_nothing_of_demand() {
        let demand = Demand::new(20.0, 500.0);
        let mut account = Account::default();
        account.raise(8, 0, Field::Lent(Loan::Units, 1), 5);
        assert_eq!((account.told(8, 0), account.told(8, 1)), (Some((0, Demand::default())), None));
        account.raise(8, 0, Field::Consumed, 3);
        account.expect(8, 0, demand);
        assert_eq!(account.told(8, 0), Some((3, demand)));
    }

    #[test]
    fn slots_keep_apart_and_go_one_by_one() {
        let mut account = Account::default();
        for slot in [255, 256, 257] {
            account.raise(slot, 1, Field::Consumed, slot);
        }
        assert_eq!(account.slots().as_slice(), [255, 256, 257]);
        account.forget(255);
        assert_eq!((account.slots().as_slice(), account.amount(256, 1, Field::Consumed)), (&[256, 257][..], 256));
    }

    #[test]
    fn amounts_above_32_bits_keep_every_bit() {
        let mut account = Account::default();
        let large = (1 << 36) + 12_345;
        account.raise(1, 3, Field::Consumed, large);
        assert_eq!(account.amount(1, 3, Field::Consumed), large);
    }

    #[test]
    fn a_key_that_twenty_regions_spend_from_fits_330_bytes_and_one_that_two_do_a_fifth_of_it() {
        let bytes = |active: usize| {
            let mut account = Account::default();
            for region in 0..active {
                account.raise(1, region, Field::Consumed, 1000);
                account.expect(1, region, Demand::new(1000.0, 2000.0));
            }
            // The key, the account, and what a B-tree and the allocator leave unused.
            let entry = (16 + size_of::<Account>()) * 100 / 69;
            account.heap_bytes() + 16 + entry
        };
        println!("bytes per key: {} with 20 regions active, {} with 2", bytes(20), bytes(2));
        assert!(bytes(20) <= 330 && bytes(2) <= 110);
    }

    #[test]
    fn a_slot_is_not_taken_for_one_256_later() {
        let mut account = Account::default();
        account.raise(5, 1, Field::Lent(Loan::Units, 0), 50);
        account.raise(5, 1, Field::Consumed, 7);
        let later = 5 + 256;
        assert_eq!((account.amount(later, 1, Field::Lent(Loan::Units, 0)), account.row(later, 1)), (0, Row::default()));
        assert!(!account.has_row(later, 1) && account.balances(later, 2)[0].borrowed == 0);
        assert_eq!(account.raise(later, 1, Field::Lent(Loan::Units, 0), 10), Some(0));
        assert_eq!((account.balances(later, 2)[0].borrowed, account.slots().as_slice()), (10, &[later][..]));
    }
}
