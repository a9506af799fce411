//! The side of a node that does not own a key: what it holds, when it wants more, and what goes back.
//!
//! Decides from use, refusals and what the owner calls back alone. The caller publishes what is held to the key's entry, and
//! lowers it there before it is said here.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    ops::Bound::{Excluded, Unbounded},
    time::Duration,
};

use portolan_model::{NodeName, Timestamp};

use super::{Allotment, Beyond, Hold, Spot};
use crate::region::{Shard, ShardSet};

/// What this node holds of keys of others.
#[derive(Debug)]
pub(crate) struct Held {
    cells: BTreeMap<Spot, Cell>,
    capacity: usize,
    /// The last number that was given.
    number: u64,
    /// Cells to be told.
    due: BTreeSet<Spot>,
    /// When cells are told again that were not answered.
    overdue: BTreeSet<(Timestamp, Spot)>,
    /// When to look whether something of a cell goes back: one entry for each.
    looks: BTreeSet<(Timestamp, Spot)>,
    /// Cells there was no room for.
    pub refused: u64,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    number: u64,
    units: u64,
    /// What the owner lets this node keep, where that is less.
    most: Option<u64>,
    /// In flight when last looked at, and the most since it was asked what goes back.
    used: u64,
    peak: u64,
    waiting: u64,
    need: u64,
    /// When it is told again, and how often it was.
    again: Option<Timestamp>,
    tries: u32,
    /// No ask before this: the owner had nothing.
    quiet_until: Timestamp,
    look_at: Timestamp,
}

/// What may be in flight of a key from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub units: u64,
    /// More may come soon.
    pub pending: bool,
}

/// What a node is to keep of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lowering {
    pub spot: Spot,
    pub units: u64,
    /// The owner has called the rest back: nothing begins beyond what is kept, even if more is in flight.
    pub recalled: bool,
}

impl Held {
    /// For so many keys at one time; further ones are refused and counted.
    pub fn new(capacity: usize) -> Self {
        Self {
            cells: BTreeMap::new(),
            capacity,
            number: 0,
            due: BTreeSet::new(),
            overdue: BTreeSet::new(),
            looks: BTreeSet::new(),
            refused: 0,
        }
    }

    /// Takes note of an entry: units in flight, and units refused since the last call.
    pub fn handle_use(&mut self, spot: Spot, used: u64, refused: u64, now: Timestamp) {
        let known = self.cells.contains_key(&spot);
        if !known && refused == 0 {
            return;
        }
        if !known && self.cells.len() >= self.capacity {
            self.refused += 1;
            return;
        }
        let cell = self.cell(spot, 0, now);
        (cell.used, cell.peak) = (used, cell.peak.max(used));
        cell.waiting = cell.waiting.saturating_add(refused);
        if cell.waiting > cell.allowed().saturating_sub(used) && cell.again.is_none() && now >= cell.quiet_until {
            // A quarter of what is in flight besides: a node that gets busier gets there in a few asks.
            cell.need = cell.waiting.saturating_add(used / 4);
            self.due.insert(spot);
        }
    }

    /// Says what this node has in flight of a key that it does not own any more.
    pub fn insert(&mut self, spot: Spot, units: u64, now: Timestamp) {
        let cell = self.cell(spot, units, now);
        (cell.used, cell.peak) = (units, units);
        self.handle_lowered(spot, units);
    }

    /// Takes what the owner says. Under another number than the present one it only shows that the owner has to be told; what
    /// it calls back goes with the next [`idle`](Self::idle).
    pub fn handle_allotment(&mut self, allotment: Allotment, now: Timestamp) -> Option<Allowed> {
        let Allotment { spot, number, units, beyond } = allotment;
        if self.cells.get(&spot).is_none_or(|cell| cell.number != number) {
            if self.cells.get(&spot).is_none_or(|cell| cell.number > number) {
                if !self.cells.contains_key(&spot) && self.cells.len() >= self.capacity {
                    self.refused += 1;
                    return None;
                }
                self.cell(spot, 0, now);
                self.due.insert(spot);
            }
            return None;
        }
        let cell = self.cells.get_mut(&spot)?;
        let recalls = beyond == Beyond::Recall;
        if !recalls && (units < cell.units || (cell.again.is_none() && (cell.units, cell.most) == (units, None))) {
            // Overtaken by what was allotted later, or told again and not asked for.
            return None;
        }
        if let Some(at) = cell.again.take() {
            self.overdue.remove(&(at, spot));
        }
        if units <= cell.units && beyond != Beyond::More {
            cell.quiet_until = now + QUIET;
        }
        // What waited has its answer; whoever is refused anew counts anew.
        (cell.waiting, cell.need, cell.tries) = (0, 0, 0);
        if recalls && units < cell.units {
            cell.most = Some(units);
            self.looks.remove(&(cell.look_at, spot));
            cell.look_at = now;
            self.looks.insert((now, spot));
            return None;
        }
        if recalls {
            // All that is held may be kept, so the owner counts units of which this node never heard: they stay with it.
            let units = cell.units;
            cell.most = None;
            self.handle_lowered(spot, units);
            return Some(Allowed { units, pending: false });
        }
        (cell.most, cell.units) = (None, units);
        let allowed = Allowed { units, pending: beyond == Beyond::More };
        if cell.units == 0 && !self.due.contains(&spot) {
            self.remove(spot);
        }
        Some(allowed)
    }

    /// Cells of which something goes back, and how much is kept. The caller lowers the entry's rights, and says so by
    /// [`handle_lowered`](Self::handle_lowered) or [`handle_recalled`](Self::handle_recalled).
    pub fn idle(&mut self, now: Timestamp) -> Vec<Lowering> {
        let mut idle = Vec::new();
        while let Some(&(at, spot)) = self.looks.first().filter(|(at, _)| *at <= now) {
            self.looks.remove(&(at, spot));
            let Some(cell) = self.cells.get_mut(&spot) else { continue };
            let mut rest = IDLE;
            if let Some(units) = cell.most {
                idle.push(Lowering { spot, units, recalled: true });
                rest = ENDING;
            } else if cell.units > cell.peak {
                idle.push(Lowering { spot, units: cell.peak, recalled: false });
            }
            (cell.peak, cell.look_at) = (cell.used, now + rest);
            self.looks.insert((cell.look_at, spot));
        }
        idle
    }

    /// What may be in flight of a key is `units` from now on, and will not be more under what was allotted so far.
    pub fn handle_lowered(&mut self, spot: Spot, units: u64) {
        let Some(cell) = self.cells.get_mut(&spot) else { return };
        self.number += 1;
        (cell.number, cell.units) = (self.number, units);
        // What is kept of a recall is told; the rest of it is looked at until it is.
        cell.most = cell.most.filter(|most| *most < units);
        self.due.insert(spot);
    }

    /// The same of a recall: the owner hears of what ends, and of nothing else.
    pub fn handle_recalled(&mut self, spot: Spot, units: u64) {
        if self.cells.get(&spot).is_some_and(|cell| units < cell.units) {
            self.handle_lowered(spot, units);
        }
    }

    /// The owner of keys has changed, or its process: what is on its way will not be answered.
    pub fn handle_owner_change(&mut self) {
        for (spot, cell) in &mut self.cells {
            if let Some(at) = cell.again.take() {
                self.overdue.remove(&(at, *spot));
                self.due.insert(*spot);
            }
            // Whoever owns it now calls back what it has to.
            (cell.quiet_until, cell.tries, cell.most) = (Timestamp::ZERO, 0, None);
        }
    }

    /// The next hold to tell, of a key whose owner `owner` tells.
    pub fn poll(&mut self, now: Timestamp, owner: impl Fn(&Spot) -> Option<NodeName>) -> Option<(NodeName, Hold)> {
        while let Some(spot) = self.due.pop_first() {
            let Some(cell) = self.cells.get_mut(&spot) else { continue };
            if let Some(at) = cell.again.take() {
                self.overdue.remove(&(at, spot));
            }
            let again = now + TELL_AGAIN * (1 << cell.tries.min(MAX_DOUBLED));
            (cell.again, cell.tries) = (Some(again), cell.tries + 1);
            self.overdue.insert((again, spot));
            if let Some(owner) = owner(&spot) {
                return Some((owner, cell.hold(spot)));
            }
        }
        None
    }

    /// Tells again what was not answered.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(&(at, spot)) = self.overdue.first().filter(|(at, _)| *at <= now) {
            self.overdue.remove(&(at, spot));
            if let Some(cell) = self.cells.get_mut(&spot) {
                cell.again = None;
                self.due.insert(spot);
            }
        }
    }

    /// What is held in some shards, in order, beginning `after` a key: at most `most`, and whether that is all.
    pub fn page(&self, shards: &ShardSet, after: Option<Spot>, most: usize) -> (Vec<Hold>, bool) {
        let from = after.map_or(Unbounded, Excluded);
        let held = self.cells.range((from, Unbounded)).filter(|(spot, _)| shards.contains(Shard::of(spot.key)));
        let mut holds: Vec<Hold> = held.take(most + 1).map(|(spot, cell)| cell.hold(*spot)).collect();
        let all = holds.len() <= most;
        holds.truncate(most);
        (holds, all)
    }

    /// Every key of which something is held or asked for.
    pub fn spots(&self) -> Vec<Spot> {
        self.cells.keys().copied().collect()
    }

    /// Whether nothing is held or asked for.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Forgets keys that are not `kept`.
    pub fn retain(&mut self, kept: impl Fn(&Spot) -> bool) {
        let gone: Vec<Spot> = self.cells.keys().copied().filter(|spot| !kept(spot)).collect();
        gone.into_iter().for_each(|spot| self.remove(spot));
    }

    fn cell(&mut self, spot: Spot, units: u64, now: Timestamp) -> &mut Cell {
        match self.cells.entry(spot) {
            Entry::Occupied(occupied) => occupied.into_mut(),
            Entry::Vacant(vacant) => {
                self.number += 1;
                let look_at = now + IDLE;
                self.looks.insert((look_at, spot));
                vacant.insert(Cell {
                    number: self.number,
                    units,
                    most: None,
                    used: 0,
                    peak: 0,
                    waiting: 0,
                    need: 0,
                    again: None,
                    tries: 0,
                    quiet_until: Timestamp::ZERO,
                    look_at,
                })
            }
        }
    }

    fn remove(&mut self, spot: Spot) {
        if let Some(cell) = self.cells.remove(&spot) {
            self.looks.remove(&(cell.look_at, spot));
            self.due.remove(&spot);
            if let Some(at) = cell.again {
                self.overdue.remove(&(at, spot));
            }
        }
    }
}

impl Cell {
    /// What may be in flight.
    fn allowed(&self) -> u64 {
        self.most.map_or(self.units, |most| most.min(self.units))
    }

    fn hold(&self, spot: Spot) -> Hold {
        Hold { spot, number: self.number, units: self.units, waiting: self.waiting, need: self.need }
    }
}

/// How long the most that was in flight is kept, once or twice: else a node that was busy once would keep what it had then.
const IDLE: Duration = Duration::from_millis(500);

/// How often the owner hears of what ended of that which it called back.
const ENDING: Duration = Duration::from_millis(50);

/// After which time a hold is told again: some round trips within a region. Doubled up to 32 times that.
const TELL_AGAIN: Duration = Duration::from_millis(20);
const MAX_DOUBLED: u32 = 5;

/// How long a node asks nothing after the owner had nothing.
const QUIET: Duration = Duration::from_millis(100);
