//! The side of a node that does not own a key: when it asks, how much it says it needs, and when it hands back.
//!
//! Decides from use and refusals alone. The caller publishes what is granted to the key's entry, and takes what is handed
//! back from there first.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    time::Duration,
};

use portolan_model::{NodeName, Timestamp};

use super::{Ask, Cell, Grant};

/// What a node was granted by owners.
#[derive(Debug)]
pub(crate) struct Requests {
    /// Boxed: cells come and go with every slot, and what a tree moves for that is then small.
    cells: BTreeMap<Cell, Box<Held>>,
    capacity: usize,
    /// Cells whose ask is to be sent.
    due: BTreeSet<Cell>,
    /// When asks on their way are sent again: all after the same time, so in the order in which they left.
    overdue: VecDeque<(Timestamp, Cell)>,
    /// When to look whether something of a cell goes back: one entry for each.
    looks: BTreeSet<(Timestamp, Cell)>,
    /// Cells there was no room for.
    pub refused: u64,
}

#[derive(Clone, Debug, Default)]
struct Held {
    /// The owner's process that grants at present, and what it granted.
    by: Option<(NodeName, u64)>,
    granted: u64,
    returned: u64,
    /// Processes that granted before, and what: their late answers are not counted again.
    past: Vec<(NodeName, u64, u64)>,
    /// The last addition.
    chunk: u64,
    /// Use when it was last asked for more, units handed back included.
    used: u64,
    /// Units handed back, which the entry counts as used.
    withdrawn: u64,
    /// Of a bucket: use when it was last settled, and when that was.
    settled: u64,
    settled_at: Timestamp,
    /// Settled after the rest was handed back.
    settled_last: bool,
    /// Use of the slot from no grant: what this node spent while it owned the key, or took over as spent.
    before: u64,
    /// Units that wait, and those that would last for a moment; none: only to hand back.
    waiting: u64,
    need: u64,
    /// When the ask on its way is sent again.
    again: Option<Timestamp>,
    /// No ask before this: the owner had nothing.
    quiet_until: Timestamp,
    /// Last use.
    touched: Timestamp,
    /// When to look whether something goes back.
    look_at: Timestamp,
    more: bool,
    /// The rest of this slot was handed back.
    closing: bool,
}

/// What to publish to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub cell: Cell,
    pub rights: u64,
    /// Use from which on more should be asked for.
    pub low_water: u64,
    /// More may come soon.
    pub pending: bool,
}

impl Requests {
    /// For so many cells at one time; further ones are refused and counted.
    pub fn new(capacity: usize) -> Self {
        Self {
            cells: BTreeMap::new(),
            capacity,
            due: BTreeSet::new(),
            overdue: VecDeque::new(),
            looks: BTreeSet::new(),
            refused: 0,
        }
    }

    /// Takes note of an entry's use: `used` of the slot, what was handed back included, and units `refused` since the
    /// last call.
    pub fn handle_use(&mut self, cell: Cell, used: u64, refused: u64, now: Timestamp) {
        let full = self.cells.len() >= self.capacity;
        let held = match self.cells.entry(cell) {
            Entry::Vacant(_) if full => {
                self.refused += 1;
                return;
            }
            Entry::Vacant(vacant) => {
                self.looks.insert((now, cell));
                vacant.insert(Box::new(Held { before: used, look_at: now, ..Held::default() }))
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        let used = used.saturating_sub(held.before);
        held.touched = now;
        held.waiting = held.waiting.saturating_add(refused);
        let left = held.rights().saturating_sub(used);
        let runs_low = held.more && held.chunk > 1 && left <= held.chunk / 2 && !held.closing;
        let empty = held.waiting > left;
        let asks = (runs_low || empty) && held.again.is_none();
        if !asks || now < held.quiet_until {
            return;
        }
        // Twice what was used since the last time: a node that speeds up gets there in a few asks, and one that slows
        // down holds little.
        let recent = used.saturating_sub(held.used);
        held.need = held.waiting.saturating_add(recent.saturating_mul(2)).max(1);
        held.used = used;
        self.due.insert(cell);
    }

    /// Asks ahead for a slot that begins soon, for a key that was used in the one before.
    pub fn ask_ahead(&mut self, cell: Cell, need: u64, now: Timestamp) {
        if self.cells.contains_key(&cell) || self.cells.len() >= self.capacity {
            return;
        }
        let held = Held { need: need.max(1), touched: now, look_at: now, ..Held::default() };
        self.cells.insert(cell, Box::new(held));
        self.looks.insert((now, cell));
        self.due.insert(cell);
    }

    /// Takes an answer of the process `life` of `from`.
    pub fn handle_grant(&mut self, from: &NodeName, life: u64, grant: Grant, now: Timestamp) -> Option<Published> {
        let held = self.cells.get_mut(&grant.cell)?;
        let before = held.rights();
        match &held.by {
            Some((node, by)) if (node, *by) == (from, life) => {
                held.chunk = if grant.granted > held.granted { grant.granted - held.granted } else { held.chunk };
                held.granted = held.granted.max(grant.granted);
            }
            _ if !held.takes(from, life) => return None,
            _ => {
                if let Some((node, by)) = held.by.replace((from.clone(), life)) {
                    held.past.push((node, by, held.granted));
                }
                (held.granted, held.returned, held.chunk) = (grant.granted, 0, grant.granted);
            }
        }
        held.again = None;
        held.more = grant.more;
        let gained = held.rights() > before;
        if !gained && !grant.more {
            held.quiet_until = now + QUIET;
        }
        if gained && now + LOOK < held.look_at {
            // It may have come late: to a slot that ends, or to a key that nobody asks for any more.
            self.looks.remove(&(held.look_at, grant.cell));
            held.look_at = now + LOOK;
            self.looks.insert((held.look_at, grant.cell));
        }
        // What waited has its answer; whoever is refused anew counts anew.
        (held.waiting, held.need) = (0, 0);
        if grant.returned < held.returned {
            self.due.insert(grant.cell);
        }
        let rights = held.rights().saturating_add(held.before);
        let ahead = if held.chunk > 1 { held.chunk.div_ceil(2) } else { 0 };
        Some(Published { cell: grant.cell, rights, low_water: rights.saturating_sub(ahead), pending: held.more })
    }

    /// The owner of cells has changed: what is on its way will not be answered.
    pub fn handle_owner_change(&mut self, moved: impl Fn(&Cell) -> bool) {
        for (cell, held) in self.cells.iter_mut().filter(|(cell, _)| moved(cell)) {
            held.quiet_until = Timestamp::ZERO;
            if held.again.take().is_some() && held.need > 0 {
                self.due.insert(*cell);
            }
        }
    }

    /// Cells of keys that this node owned, and another one owns from now on: what is `used` of them was spent from this
    /// node's own account, and of what will be granted nothing is.
    pub fn handle_lost(&mut self, lost: impl Fn(&Cell) -> bool, used: impl Fn(&Cell) -> u64) {
        for (cell, held) in self.cells.iter_mut().filter(|(cell, _)| lost(cell)) {
            let used = used(cell);
            held.before = held.before.max(used.saturating_sub(held.rights()));
            held.used = used.saturating_sub(held.before);
            (held.waiting, held.need, held.closing) = (0, 0, false);
        }
    }

    /// Cells of which something should go back: `left` says how long a slot still lasts. The caller takes what is unused
    /// from the entry and reports it by [`handle_withdrawn`](Self::handle_withdrawn).
    pub fn idle(&mut self, now: Timestamp, left: impl Fn(&Cell) -> Option<Duration>) -> Vec<Cell> {
        let mut idle = Vec::new();
        while self.looks.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, cell)) = self.looks.pop_first() else { break };
            let Some(held) = self.cells.get_mut(&cell) else { continue };
            let left = left(&cell).filter(|_| !held.closing);
            let ends = left.is_some_and(|left| left <= HAND_BACK);
            if (ends || now.since(held.touched) >= IDLE) && held.rights() > held.withdrawn {
                idle.push(cell);
            }
            held.look_at = held.next_look(now, left);
            self.looks.insert((held.look_at, cell));
        }
        idle
    }

    /// `units` of a cell were taken from its entry to be handed back.
    pub fn handle_withdrawn(&mut self, cell: Cell, units: u64, now: Timestamp) {
        let Some(held) = self.cells.get_mut(&cell) else { return };
        held.closing = true;
        held.touched = now;
        held.withdrawn += units;
        held.used = held.used.saturating_add(units);
        // What an owner granted that is gone is lost.
        let to_owner = units.min(held.granted - held.returned);
        held.returned += to_owner;
        if to_owner > 0 {
            self.due.insert(cell);
        }
    }

    /// Settles the use of cells whose ask is due: `settle` says what of a cell's use can not be given back any more, if
    /// that matters for its limit. Not oftener than a counter allows.
    pub fn settle_due(&mut self, now: Timestamp, settle: impl Fn(&Cell) -> Option<u64>) {
        for cell in &self.due {
            let Some(held) = self.cells.get_mut(cell) else { continue };
            let last = held.closing && !held.settled_last;
            if now.since(held.settled_at) < SETTLE && !last {
                continue;
            }
            if let Some(used) = settle(cell) {
                (held.settled, held.settled_at, held.settled_last) = (used, now, held.closing);
            }
        }
    }

    /// The next ask to send, of a key whose owner `owner` tells; none of a key that has no other owner.
    pub fn poll_ask(&mut self, now: Timestamp, owner: impl Fn(&Cell) -> Option<NodeName>) -> Option<(NodeName, Ask)> {
        while let Some(cell) = self.due.pop_first() {
            let Some(held) = self.cells.get_mut(&cell) else { continue };
            let Some(owner) = owner(&cell) else { continue };
            held.again = Some(now + ASK_AGAIN);
            self.overdue.push_back((now + ASK_AGAIN, cell));
            let same = held.by.as_ref().filter(|(node, _)| *node == owner);
            let (granted_by, granted, returned) =
                same.map_or((0, 0, 0), |(_, life)| (*life, held.granted, held.returned));
            let spent = if same.is_some() { held.spent() } else { 0 };
            let (waiting, need) = (held.waiting, held.need);
            return Some((owner, Ask { cell, granted_by, granted, returned, spent, waiting, need }));
        }
        None
    }

    /// Sends asks again that were not answered.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some((at, cell)) = self.overdue.pop_front_if(|(at, _)| *at <= now) {
            // It may have been answered, and asked anew since.
            if let Some(held) = self.cells.get_mut(&cell).filter(|held| held.again == Some(at)) {
                held.again = None;
                self.due.insert(cell);
            }
        }
    }

    /// Whether nothing is asked for or held.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Forgets cells that are not `live`.
    pub fn retain(&mut self, live: impl Fn(&Cell) -> bool) {
        self.cells.retain(|cell, _| live(cell));
        self.due.retain(|cell| live(cell));
        self.looks.retain(|(_, cell)| live(cell));
    }

    /// Units of use of a cell that were spent here, when last looked at.
    pub fn spent(&self, cell: &Cell) -> u64 {
        self.cells.get(cell).map_or(0, |held| held.used.saturating_sub(held.withdrawn))
    }
}

impl Held {
    /// When something may go back next, `left` before the slot ends or at the end of a second without use.
    fn next_look(&self, now: Timestamp, left: Option<Duration>) -> Timestamp {
        let idle = if self.touched + IDLE > now { self.touched + IDLE } else { now + IDLE };
        let ends = left.map(|left| now + left.saturating_sub(HAND_BACK).max(LOOK));
        ends.map_or(idle, |ends| idle.min(ends))
    }

    fn rights(&self) -> u64 {
        self.past.iter().fold(self.granted, |sum, (.., granted)| sum.saturating_add(*granted))
    }

    /// What is spent for certain of what the present owner granted: what earlier ones did goes first.
    fn spent(&self) -> u64 {
        let past = self.rights() - self.granted;
        self.settled.saturating_sub(self.before).saturating_sub(past).saturating_sub(self.returned)
    }

    /// Whether another process than the present one may grant: one that never did, in answer to an ask.
    fn takes(&self, from: &NodeName, life: u64) -> bool {
        let known = self.past.iter().any(|(node, by, _)| (node, *by) == (from, life));
        !known && self.again.is_some() && self.past.len() < MAX_PAST
    }
}

/// How long before a slot's end the rest of it goes back: long enough for the owner to grant it to another node or to
/// lend it to another region of the neighbourhood.
pub(crate) const HAND_BACK: Duration = Duration::from_millis(50);

/// How often a cell is looked at while its slot ends: units may still come.
const LOOK: Duration = Duration::from_millis(20);

/// How long a rest is kept that nobody uses: else a node that served one request of a day would hold a chunk of the day.
const IDLE: Duration = Duration::from_secs(1);

/// A counter can be settled 16 times in a slot, and slots of a bucket last a second.
const SETTLE: Duration = Duration::from_millis(80);

/// After which time an ask is sent again: some round trips within a region.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Owner's processes that grant in one slot; beyond it the slot's rest is left to the other nodes.
const MAX_PAST: usize = 16;

/// How long a node asks nothing after the owner had nothing: one round of lending between regions.
const QUIET: Duration = Duration::from_millis(100);
