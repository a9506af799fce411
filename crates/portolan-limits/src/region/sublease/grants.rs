//! The owner's side: what each node of the region was granted. Decides how large a chunk is; the caller takes the units
//! from the key's entry before the answer leaves, so that they count as consumed.

use std::collections::{VecDeque, hash_map::Entry};

use portolan_model::NodeName;

use super::{Ask, Cell, Grant};
use crate::keyed::Keyed;

/// What was granted, by cell and node.
#[derive(Debug)]
pub(crate) struct Grants {
    life: u64,
    /// Nodes that ever asked; below by their position.
    nodes: Vec<NodeName>,
    given: Keyed<Vec<Given>>,
    /// Cells of nodes in `given`.
    held: usize,
    /// Asks that found nothing while more was expected.
    waiting: VecDeque<(NodeName, u64, Ask)>,
    /// Asks there was no room for.
    pub refused: u64,
}

/// What one node was granted of a key in one slot.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    slot: u64,
    /// The node, by its position.
    node: u16,
    /// The asker's process.
    life: u64,
    granted: u64,
    returned: u64,
    /// Of what was granted, what there was plenty for.
    spare: u64,
    /// The last of it.
    chunk: u64,
    /// Of a bucket: what is known to be spent.
    spent: u64,
    /// Of a bucket: of what is out, what was borrowed.
    borrowed: u64,
    /// Granted to earlier processes of the asker, and neither returned nor known to be spent.
    lost: u64,
}

/// What an ask comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Units that came back.
    pub refund: u64,
    /// Units that came back of what was borrowed.
    pub borrowed: u64,
    /// Whether more may be granted now: the asker knows all it was granted.
    pub grants: bool,
}

impl Grants {
    /// Of a process; `life` tells it from every other one of the region.
    pub fn new(life: u64) -> Self {
        Self { life, nodes: Vec::new(), given: Keyed::default(), held: 0, waiting: VecDeque::new(), refused: 0 }
    }

    /// Takes an ask of the process `life` of `from`. `None`: nothing can be granted, for want of room or to a process that
    /// has ended.
    pub fn handle_ask(&mut self, from: &NodeName, life: u64, ask: &Ask) -> Option<Step> {
        let own = self.life;
        let Some(given) = self.given_to(from, ask) else {
            self.refused += 1;
            return None;
        };
        if life < given.life {
            // An ask of a process that has ended came late: the one after it must not start anew for it.
            return None;
        }
        if given.life != life {
            // What an earlier process of the node had is consumed, whether it spent it or not.
            *given = Given { life, lost: given.of_bucket(), ..Given::of(given.slot, given.node) };
        }
        let (granted, returned, spent) =
            if ask.granted_by == own { (ask.granted, ask.returned, ask.spent) } else { (0, 0, 0) };
        let returned = returned.min(given.granted - given.spent);
        let back = returned.saturating_sub(given.returned);
        given.returned += back;
        let before = given.spent;
        given.spent = before.max(spent.min(given.granted - given.returned));
        // What was borrowed lapses with the slot, and its lender waits for that: it goes and comes back first, so that what
        // is missing from the bucket is never told to be less than it is.
        let borrowed = back.min(given.borrowed);
        given.borrowed = (given.borrowed - borrowed).saturating_sub(given.spent - before);
        Some(Step { refund: back - borrowed, borrowed, grants: ask.asks() && granted == given.granted })
    }

    /// Of the units that are granted next for an ask, so many were borrowed for the slot.
    pub fn pass_on(&mut self, from: &NodeName, ask: &Ask, borrowed: u64) {
        if let Some(given) = self.given_to(from, ask) {
            given.borrowed += borrowed;
        }
    }

    /// How many of the `available` units, which may be `plenty`, a node of `nodes` is granted for an ask, where one request
    /// costs at most `most_cost`.
    pub fn chunk(available: u64, nodes: usize, ask: &Ask, plenty: bool, most_cost: u64) -> u64 {
        let need = if plenty { ask.need.max(ask.wish) } else { ask.need };
        chunk(available, nodes, ask.waiting, need, most_cost)
    }

    /// The answer after `taken` units were taken for an ask.
    pub fn settle(&mut self, from: &NodeName, ask: &Ask, taken: u64, more: bool, plenty: bool) -> Grant {
        let Some(given) = self.given_to(from, ask) else { return Self::nothing(ask) };
        given.granted += taken;
        given.chunk = taken;
        given.spare += if plenty { taken } else { 0 };
        Grant { cell: ask.cell, granted: given.granted, returned: given.returned, more, plenty }
    }

    /// The answer to an ask for which there is no room or which this node has no say in.
    pub fn nothing(ask: &Ask) -> Grant {
        Grant { cell: ask.cell, granted: 0, returned: 0, more: false, plenty: false }
    }

    /// Units of a bucket that are granted, not returned, and not known to be spent. Those that were borrowed are missing
    /// from the lender's bucket, not from this one.
    pub fn out(&self, cell: &Cell) -> u64 {
        self.of_cell(cell).fold(0, |sum, given| sum.saturating_add(given.of_bucket()))
    }

    /// Units of a cell that are granted because there was plenty, and not returned: for the whole slot, be they spent or not.
    pub fn spare(&self, cell: &Cell) -> u64 {
        self.of_cell(cell).fold(0, |sum, given| sum.saturating_add(given.spare.saturating_sub(given.returned)))
    }

    /// The largest part of a cell that a node was granted last.
    pub fn chunk_of(&self, cell: &Cell) -> u64 {
        self.of_cell(cell).map(|given| given.chunk).max().unwrap_or(0)
    }

    fn of_cell(&self, cell: &Cell) -> impl Iterator<Item = &Given> {
        let given = self.given.get(&(cell.limit, cell.key)).into_iter().flatten();
        given.filter(|given| given.slot == cell.slot)
    }

    /// What a node was granted of a cell; `None` when there is no room to keep it.
    fn given_to(&mut self, from: &NodeName, ask: &Ask) -> Option<&mut Given> {
        let node = self.number(from)?;
        let Cell { limit, key, slot } = ask.cell;
        let full = self.held >= MAX_GIVEN;
        let of_key = match self.given.entry((limit, key)) {
            Entry::Vacant(_) if full => return None,
            entry => entry.or_default(),
        };
        let at = match of_key.iter().position(|given| (given.slot, given.node) == (slot, node)) {
            Some(at) => at,
            None if full => return None,
            None => {
                self.held += 1;
                of_key.push(Given::of(slot, node));
                of_key.len() - 1
            }
        };
        Some(&mut of_key[at])
    }

    fn number(&mut self, node: &NodeName) -> Option<u16> {
        let known = self.nodes.iter().position(|known| known == node);
        let at = known.unwrap_or_else(|| {
            self.nodes.push(node.clone());
            self.nodes.len() - 1
        });
        u16::try_from(at).ok()
    }

    /// Keeps an ask that found nothing until more has come. The latest of a node and cell counts; of too many the oldest
    /// is dropped: its node asks again.
    pub fn wait(&mut self, from: NodeName, life: u64, ask: Ask) {
        self.waiting.retain(|(node, _, waiting)| waiting.cell != ask.cell || *node != from);
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((from, life, ask));
    }

    /// Takes the asks that waited, to be answered anew.
    pub fn take_waiting(&mut self) -> VecDeque<(NodeName, u64, Ask)> {
        std::mem::take(&mut self.waiting)
    }

    /// Forgets cells that are not `live`.
    pub fn retain(&mut self, live: impl Fn(&Cell) -> bool) {
        self.held = 0;
        self.given.retain(|&(limit, key), of_key| {
            of_key.retain(|given| live(&Cell { limit, key, slot: given.slot }));
            self.held += of_key.len();
            !of_key.is_empty()
        });
        if self.given.is_empty() {
            // Room for a flood of keys is not kept for ever.
            self.given = Keyed::default();
        }
        self.waiting.retain(|(_, _, ask)| live(&ask.cell));
    }
}

/// How many of the `available` units a node of `nodes` is granted: guided self-scheduling (Polychronopoulos and Kuck,
/// 1987), so that chunks shrink with what is left and the last units go one at a time. No more than the node says it
/// needs, so that little is stranded where nobody asks; and what one request waits for whole, since it can use no part.
pub(crate) fn chunk(available: u64, nodes: usize, waiting: u64, need: u64, most_cost: u64) -> u64 {
    let guided = available.div_ceil(2 * nodes.max(1) as u64);
    guided.max(waiting.min(most_cost.max(available / 2))).min(need).min(available)
}

impl Given {
    fn of(slot: u64, node: u16) -> Self {
        Self { slot, node, ..Self::default() }
    }

    fn of_bucket(&self) -> u64 {
        (self.granted - self.returned - self.spent).saturating_sub(self.borrowed).saturating_add(self.lost)
    }
}

/// Cells of nodes that something is granted for at one time; further ones get nothing until a slot is over.
const MAX_GIVEN: usize = 1 << 20;

/// Asks that wait.
const MAX_WAITING: usize = 1024;
