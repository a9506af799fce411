//! The side of a node that does not own a key: when it asks, how much it says it needs, and when it hands back.
//!
//! Decides from use and refusals alone. The caller publishes what is granted to the key's entry, and takes what is handed
//! back from there first.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use portolan_model::{NodeName, Timestamp};
use prefetch_index::prefetch_index;
use smallvec::SmallVec;

use super::{
    Ask, Cell, Grant,
    held::{HAND_BACK, Held, LOOK},
    usage::Usage,
};
use crate::{key::Key, keyed::Keyed};

/// What a node was granted by owners.
#[derive(Debug)]
pub(crate) struct Requests {
    keys: Keyed<Asker>,
    cells: Cells,
}

/// The cells of a node's keys, and what is to be done for them. A place in one of the queues may be another cell's by then:
/// each cell knows what it waits for.
#[derive(Debug, Default)]
struct Cells {
    held: Vec<Held>,
    free: Vec<At>,
    capacity: usize,
    /// Cells there was no room for.
    refused: u64,
    /// Cells whose ask is to be sent.
    due: VecDeque<At>,
    /// When asks on their way are sent again: all after the same time, so in the order in which they left.
    overdue: VecDeque<(Timestamp, At)>,
    /// When to look whether something of a cell goes back, in steps of [`LOOK`].
    looks: BTreeMap<Timestamp, Vec<At>>,
}

/// One key: it goes on from slot to slot while it is used.
#[derive(Debug, Default)]
struct Asker {
    usage: Usage,
    /// The slots that are not over.
    slots: SmallVec<[(u64, At); 2]>,
}

/// Where a cell is held.
type At = u32;

/// A cell of which something should go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Idle {
    pub cell: Cell,
    at: At,
    /// For its slot ends.
    pub ends: bool,
    /// And this is told for the first time.
    pub turns: bool,
    /// The owner has plenty.
    pub plenty: bool,
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

/// How a slot ended at this node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// Used of it in all.
    pub used: u64,
    /// How long it lasted.
    pub window: Duration,
    /// Until the next one ends; none where nothing is granted before a slot begins.
    pub left: Option<Duration>,
}

impl Turn {
    /// Of what was spent of a slot, what the first moments of the next need. One request that will ask for itself is none.
    fn need(&self, spent: u64) -> u64 {
        let share = AHEAD.as_secs_f64() / self.window.max(AHEAD).as_secs_f64();
        (spent.saturating_sub(1) as f64 * share).ceil() as u64
    }
}

impl Requests {
    /// For so many cells at one time; further ones are refused and counted.
    pub fn new(capacity: usize) -> Self {
        Self { keys: Keyed::default(), cells: Cells { capacity: capacity.min(At::MAX as usize), ..Cells::default() } }
    }

    /// Cells there was no room for.
    pub fn refused(&self) -> u64 {
        self.cells.refused
    }

    /// Takes note of an entry's use: `used` of the slot, what was handed back included, and units `refused` since the
    /// last call. What was granted and is not used up need not be told of.
    pub fn handle_use(&mut self, cell: Cell, used: u64, refused: u64, now: Timestamp) {
        let asker = self.keys.get(&(cell.limit, cell.key));
        let (wish, known) = asker.map_or((0, None), |asker| (asker.usage.wish(), asker.of(cell.slot)));
        let Some(at) = known.or_else(|| self.begin(cell, used, now)) else { return };
        let held = self.cells.at(at);
        if held.handle_use(used, refused, now) {
            held.wish = wish;
            self.cells.ask(at);
        }
    }

    /// Takes note of what was used of a slot of a key that ends, and asks ahead for the next: for what the key needs within
    /// a round trip at any rate, and where there is plenty for what it is likely to use.
    pub fn turn(&mut self, ended: &Idle, turn: Turn, now: Timestamp) {
        let cell = ended.cell;
        let Some(asker) = self.keys.get_mut(&(cell.limit, cell.key)) else { return };
        let spent = self.cells.at(ended.at).spent_of(turn.used);
        asker.usage.note(spent, turn.window);
        let (need, wish) = (turn.need(spent), asker.usage.wish());
        let next = Cell { slot: cell.slot + 1, ..cell };
        if turn.left.is_none() || need == 0 && wish == 0 || asker.of(next.slot).is_some() {
            return;
        }
        if let Some(at) = self.cells.begin(next, 0, turn.left, now) {
            asker.slots.push((next.slot, at));
            let held = self.cells.at(at);
            (held.need, held.wish) = (need, wish);
            self.cells.ask(at);
        }
    }

    /// Takes an answer of the process `life` of `from`, `left` before the slot ends.
    pub fn handle_grant(
        &mut self,
        (from, life): (&NodeName, u64),
        grant: Grant,
        left: Duration,
        now: Timestamp,
    ) -> Option<Published> {
        let Cell { limit, key, slot } = grant.cell;
        let at = self.keys.get(&(limit, key))?.of(slot)?;
        let held = self.cells.at(at);
        let gained = held.handle_grant(from, life, &grant, now)?;
        let rights = held.rights().saturating_add(held.before);
        let low_water = rights.saturating_sub(held.ahead());
        let published = Published { cell: grant.cell, rights, low_water, pending: held.more() };
        let asks = held.misses(&grant) || held.waiting > 0;
        // It may have come late: to a slot that ends, or to a key that nobody asks for any more.
        let next = held.next_look(now, Some(left));
        let sooner = next.is_some_and(|next| held.look_at.is_none_or(|planned| next < planned));
        if gained && sooner {
            self.cells.look(at, next);
        }
        if asks {
            self.cells.ask(at);
        }
        Some(published)
    }

    /// The owner of cells has changed: what is on its way will not be answered.
    pub fn handle_owner_change(&mut self) {
        for at in 0..self.cells.held.len() as At {
            let held = self.cells.at(at);
            held.quiet_until = Timestamp::ZERO;
            if held.again.take().is_some() && held.need > 0 {
                self.cells.ask(at);
            }
        }
    }

    /// Cells of keys that this node owned, and another one owns from now on: what is `used` of them was spent from this
    /// node's own account, and of what will be granted nothing is.
    pub fn handle_lost(&mut self, lost: impl Fn(Key) -> bool, used: impl Fn(&Cell) -> u64) {
        for held in &mut self.cells.held {
            if let Some(cell) = held.cell.filter(|cell| lost(cell.key)) {
                held.handle_lost(used(&cell));
            }
        }
    }

    /// Cells of which something should go back: `left` says how long a slot still lasts, `used` what is used of it. The
    /// caller takes what is unused from the entry and reports it by [`handle_withdrawn`](Self::handle_withdrawn).
    pub fn idle(
        &mut self,
        now: Timestamp,
        left: impl Fn(&Cell) -> Option<Duration>,
        used: impl Fn(&Cell) -> u64,
    ) -> Vec<Idle> {
        let mut idle = Vec::new();
        while let Some(looks) = self.cells.looks.first_entry().filter(|looks| *looks.key() <= now) {
            let (planned, places) = looks.remove_entry();
            for (nth, &at) in places.iter().enumerate() {
                if let Some(&soon) = places.get(nth + FETCHED_AHEAD) {
                    prefetch_index(&self.cells.held, soon as usize);
                }
                let held = self.cells.at(at);
                let Some(cell) = held.cell.filter(|_| held.look_at == Some(planned)) else { continue };
                let left = left(&cell);
                let ends = left.is_some_and(|left| left <= HAND_BACK);
                let turns = ends && !held.closing;
                if turns || ends && held.has_rest() || held.is_idle(now) && !held.was_used(used(&cell), now) {
                    idle.push(Idle { cell, at, ends, turns, plenty: held.plenty });
                }
                let next = held.next_look(now, left);
                self.cells.look(at, next);
            }
        }
        idle
    }

    /// `units` of a cell were taken from its entry to be handed back.
    pub fn handle_withdrawn(&mut self, idle: &Idle, units: u64, now: Timestamp) {
        let held = self.cells.at(idle.at);
        held.closing |= idle.ends;
        if held.handle_withdrawn(units, now) {
            self.cells.ask(idle.at);
        }
    }

    /// Settles the use of cells whose ask is due: `settle` says what of a cell's use can not be given back any more, if
    /// that matters for its limit. Not oftener than a counter allows.
    pub fn settle_due(&mut self, now: Timestamp, settle: impl Fn(&Cell) -> Option<u64>) {
        let Cells { held, due, .. } = &mut self.cells;
        for at in due {
            let held = &mut held[*at as usize];
            let Some(cell) = held.cell.filter(|_| held.settles(now)) else { continue };
            if let Some(used) = settle(&cell) {
                held.settle(used, now);
            }
        }
    }

    /// The next ask to send, of a key whose owner `owner` tells; none of a key that has no other owner.
    pub fn poll_ask<'a>(
        &mut self,
        now: Timestamp,
        owner: impl Fn(&Cell) -> Option<&'a NodeName>,
    ) -> Option<(&'a NodeName, Ask)> {
        while let Some(at) = self.cells.due.pop_front() {
            let held = self.cells.at(at);
            let Some(cell) = held.cell.filter(|_| std::mem::take(&mut held.due)) else { continue };
            let Some(owner) = owner(&cell) else { continue };
            let ask = held.ask(cell, owner);
            if !ask.silent {
                held.again = Some(now + ASK_AGAIN);
                self.cells.overdue.push_back((now + ASK_AGAIN, at));
            }
            return Some((owner, ask));
        }
        None
    }

    /// Sends asks again that were not answered.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some((planned, at)) = self.cells.overdue.pop_front_if(|(planned, _)| *planned <= now) {
            // It may have been answered, and asked anew since.
            let held = self.cells.at(at);
            if held.again == Some(planned) {
                held.again = None;
                self.cells.ask(at);
            }
        }
    }

    /// Whether nothing is asked for or held.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Forgets cells that are not `live`.
    pub fn retain(&mut self, live: impl Fn(&Cell) -> bool) {
        let Self { keys, cells } = self;
        keys.retain(|&(limit, key), asker| {
            asker.slots.retain(|(slot, at)| {
                let lives = live(&Cell { limit, key, slot: *slot });
                if !lives {
                    cells.end(*at);
                }
                lives
            });
            !asker.slots.is_empty()
        });
        if keys.is_empty() {
            // Room for a flood of keys is not kept for ever.
            let Cells { capacity, refused, .. } = *cells;
            *cells = Cells { capacity, refused, ..Cells::default() };
        }
    }

    #[cfg(test)]
    pub fn idle_cell(&self, cell: &Cell) -> Option<Idle> {
        let at = self.keys.get(&(cell.limit, cell.key))?.of(cell.slot)?;
        Some(Idle { cell: *cell, at, ends: false, turns: false, plenty: false })
    }

    /// Makes room for a cell that is not held, of which so much is used already.
    fn begin(&mut self, cell: Cell, before: u64, now: Timestamp) -> Option<At> {
        let at = self.cells.begin(cell, before, None, now)?;
        self.keys.entry((cell.limit, cell.key)).or_default().slots.push((cell.slot, at));
        Some(at)
    }
}

impl Cells {
    fn at(&mut self, at: At) -> &mut Held {
        &mut self.held[at as usize]
    }

    /// Holds a cell, with what is `left` of its slot if that is known: else it is looked at soon.
    fn begin(&mut self, cell: Cell, before: u64, left: Option<Duration>, now: Timestamp) -> Option<At> {
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.held.len() < self.capacity => {
                self.held.push(Held::default());
                (self.held.len() - 1) as At
            }
            None => {
                self.refused += 1;
                return None;
            }
        };
        let held = self.at(at);
        (held.cell, held.before, held.touched) = (Some(cell), before, now);
        let first = left.map_or(Some(now), |_| held.next_look(now, left));
        self.look(at, first);
        Some(at)
    }

    fn end(&mut self, at: At) {
        *self.at(at) = Held::default();
        self.free.push(at);
    }

    fn ask(&mut self, at: At) {
        if !std::mem::replace(&mut self.at(at).due, true) {
            self.due.push_back(at);
        }
    }

    /// Plans the next look at a cell, if there is to be one.
    fn look(&mut self, at: At, when: Option<Timestamp>) {
        let when = when.map(|when| Timestamp::from_nanos(when.as_nanos().next_multiple_of(LOOK.as_nanos() as u64)));
        self.at(at).look_at = when;
        if let Some(when) = when {
            self.looks.entry(when).or_default().push(at);
        }
    }
}

impl Asker {
    fn of(&self, slot: u64) -> Option<At> {
        self.slots.iter().find(|(of, _)| *of == slot).map(|(_, at)| *at)
    }
}

/// After which time an ask is sent again: some round trips within a region.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Cells that are fetched from memory while those before them are looked at.
const FETCHED_AHEAD: usize = 8;

/// What is needed of the next slot at any rate lasts this long.
const AHEAD: Duration = Duration::from_millis(100);
