//! What a node was granted of one cell, by which processes of owners, and what it did with that. Decides when more is asked
//! for and how long a rest is kept; never touches the key's entry and sends nothing.

use std::time::Duration;

use portolan_model::{NodeName, Timestamp};
use smallvec::SmallVec;

use super::{Ask, Cell, Grant};

/// Of one cell.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// None where the place is free.
    pub cell: Option<Cell>,
    /// The latest process of each owner that granted something; that which grants at present is the last.
    sources: SmallVec<[Source; 1]>,
    /// What processes granted that have ended.
    ended: u64,
    /// The last addition.
    chunk: u64,
    /// The owner said that there is plenty.
    pub plenty: bool,
    /// Use when it was last asked for more, units handed back included.
    used: u64,
    /// Use when it was last looked at.
    seen: u64,
    /// Units handed back, which the entry counts as used.
    withdrawn: u64,
    /// Of a bucket: use when it was last settled, and when that was.
    settled: u64,
    settled_at: Timestamp,
    /// Settled after the rest was handed back.
    settled_last: bool,
    /// Use of the slot from no grant: what this node spent while it owned the key, or took over as spent.
    pub before: u64,
    /// Units that wait, and those that would last for a moment; none: only to hand back.
    pub waiting: u64,
    pub need: u64,
    /// Units that would last for longer, where there is plenty.
    pub wish: u64,
    /// Those of the units that wait which the last ask told of.
    told: u64,
    /// An ask is to be sent.
    pub due: bool,
    /// When the ask on its way is sent again.
    pub again: Option<Timestamp>,
    /// No ask before this: the owner had nothing.
    pub quiet_until: Timestamp,
    /// Last use.
    pub touched: Timestamp,
    /// When to look whether something goes back.
    pub look_at: Option<Timestamp>,
    more: bool,
    /// Something came since the rest was last handed back.
    rest: bool,
    /// The slot ends: its rest was handed back.
    pub closing: bool,
}

/// A process of an owner, and what went between it and this node.
#[derive(Clone, Debug)]
struct Source {
    node: NodeName,
    life: u64,
    granted: u64,
    returned: u64,
}

impl Held {
    /// Takes note of use, and says whether more should be asked for: `used` of the slot and units `refused` since the last
    /// call.
    pub fn handle_use(&mut self, used: u64, refused: u64, now: Timestamp) -> bool {
        let used = used.saturating_sub(self.before);
        self.touched = now;
        self.waiting = self.waiting.saturating_add(refused);
        let left = self.rights().saturating_sub(used);
        let runs_low = self.more && self.chunk > 1 && left <= self.ahead() && !self.closing;
        let empty = self.waiting > left;
        let asks = (runs_low || empty) && self.again.is_none() && now >= self.quiet_until;
        if asks {
            // Twice what was used since the last time: a node that speeds up gets there in a few asks, and one that slows
            // down holds little. A chunk of plenty was meant to last.
            let recent = used.saturating_sub(self.used);
            let soon = if self.plenty { recent } else { recent.saturating_mul(2) };
            self.need = self.waiting.saturating_add(soon).max(1);
            self.used = used;
        }
        asks
    }

    /// Takes an answer; says whether there is more now, or `None` when it is not to be heeded.
    pub fn handle_grant(&mut self, from: &NodeName, life: u64, grant: &Grant, now: Timestamp) -> Option<bool> {
        let known = self.sources.iter().position(|source| source.node == *from);
        let ended = known.is_some_and(|at| life < self.sources[at].life);
        let present = known.is_some_and(|at| at + 1 == self.sources.len() && self.sources[at].life == life);
        // Another process than the present one may grant in answer to an ask.
        if ended || !present && self.again.is_none() {
            return None;
        }
        if known.is_none() && self.sources.len() >= MAX_SOURCES {
            (self.again, self.quiet_until) = (None, now + QUIET);
            return None;
        }
        let at = known.unwrap_or_else(|| {
            self.sources.push(Source { node: from.clone(), life, granted: 0, returned: 0 });
            self.sources.len() - 1
        });
        // Who grants at present is the last.
        self.sources[at..].rotate_left(1);
        let source = self.sources.last_mut()?;
        if source.life != life {
            // Whoever has the key back goes on from what it granted before; a process that follows another begins anew.
            self.ended = self.ended.saturating_add(source.granted);
            (source.life, source.granted, source.returned) = (life, 0, 0);
        }
        let gained = grant.granted.saturating_sub(source.granted);
        source.granted += gained;
        self.chunk = if present && gained == 0 { self.chunk } else { gained };
        (self.again, self.more, self.plenty) = (None, grant.more, grant.plenty);
        self.rest |= gained > 0;
        if gained == 0 && !grant.more {
            self.quiet_until = now + QUIET;
        }
        // What waits on is asked for anew, if there is any; what waited in vain has its answer, and counts anew. What came
        // after the ask, as one that handed back what it would have used, was not asked for.
        let told = self.told.min(self.waiting);
        let since = self.waiting - told;
        self.waiting = match (grant.more, gained) {
            (false, _) => 0,
            (true, 0) => since,
            (true, gained) => self.waiting.saturating_sub(gained),
        };
        self.told = 0;
        (self.need, self.wish) = (self.waiting, 0);
        Some(gained > 0)
    }

    /// Whether less came back to the owner than was handed back, by its own word.
    pub fn misses(&self, grant: &Grant) -> bool {
        self.present().is_some_and(|source| grant.returned < source.returned)
    }

    /// The key was this node's, and is not from now on; `used` of the slot.
    pub fn handle_lost(&mut self, used: u64) {
        self.before = self.before.max(used.saturating_sub(self.rights()));
        self.used = used.saturating_sub(self.before);
        (self.waiting, self.need, self.wish, self.closing) = (0, 0, 0, false);
    }

    /// `units` were taken from the entry to be handed back; says whether an owner gets any.
    pub fn handle_withdrawn(&mut self, units: u64, now: Timestamp) -> bool {
        self.touched = now;
        self.withdrawn += units;
        self.used = self.used.saturating_add(units);
        (self.chunk, self.rest) = (0, false);
        // What an owner granted that is gone is lost.
        let Some(source) = self.sources.last_mut() else { return false };
        let to_owner = units.min(source.granted - source.returned);
        source.returned += to_owner;
        to_owner > 0
    }

    /// What of `used` was spent here.
    pub fn spent_of(&self, used: u64) -> u64 {
        used.saturating_sub(self.before).saturating_sub(self.withdrawn)
    }

    /// Whether nobody has used it for so long that the rest, if there is one, goes back.
    pub fn is_idle(&self, now: Timestamp) -> bool {
        self.rest && now.since(self.touched) >= self.kept()
    }

    /// Whether something came since the rest was last handed back.
    pub fn has_rest(&self) -> bool {
        self.rest
    }

    /// Whether something was used since it was last looked at, and takes note of that.
    pub fn was_used(&mut self, used: u64, now: Timestamp) -> bool {
        let was = std::mem::replace(&mut self.seen, used) != used;
        self.touched = if was { now } else { self.touched };
        was
    }

    /// When something may go back next: when nobody has used it for long enough, or, of a slot that ends `left` from now,
    /// shortly before that. Never of one whose rest went back as it ended, unless more comes.
    pub fn next_look(&self, now: Timestamp, left: Option<Duration>) -> Option<Timestamp> {
        let kept = if self.rest { self.kept() } else { KEPT_OF_PLENTY };
        let idle = if self.touched + kept > now { self.touched + kept } else { now + kept };
        match left {
            _ if self.closing => self.rest.then_some(now + LOOK),
            Some(left) => Some(idle.min(now + left.saturating_sub(HAND_BACK).max(LOOK))),
            None => Some(idle),
        }
    }

    /// Whether the next ask should say what is spent: not oftener than a counter allows.
    pub fn settles(&self, now: Timestamp) -> bool {
        let last = self.closing && !self.settled_last;
        now.since(self.settled_at) >= SETTLE || last
    }

    /// Of the slot's use so much can not be given back any more.
    pub fn settle(&mut self, used: u64, now: Timestamp) {
        (self.settled, self.settled_at, self.settled_last) = (used, now, self.closing);
    }

    /// What to tell and ask `owner`, with the totals of its process that is known here.
    pub fn ask(&mut self, cell: Cell, owner: &NodeName) -> Ask {
        self.told = self.waiting;
        let Self { waiting, need, wish, .. } = *self;
        let known = self.sources.iter().enumerate().rev().find(|(_, source)| source.node == *owner);
        let (granted_by, granted, returned) =
            known.map_or((0, 0, 0), |(_, source)| (source.life, source.granted, source.returned));
        let spent = if known.is_some_and(|(at, _)| at + 1 == self.sources.len()) { self.spent() } else { 0 };
        // What is lost on its way back to who has plenty is missed by nobody.
        let silent = need == 0 && wish == 0 && self.plenty;
        Ask { cell, granted_by, granted, returned, spent, waiting, need, wish, silent }
    }

    /// All that was ever granted.
    pub fn rights(&self) -> u64 {
        self.sources.iter().fold(self.ended, |sum, source| sum.saturating_add(source.granted))
    }

    fn present(&self) -> Option<&Source> {
        self.sources.last()
    }

    /// What is left when more is asked for. A chunk of plenty is meant for the whole slot.
    pub fn ahead(&self) -> u64 {
        match (self.plenty, self.chunk) {
            (_, 0 | 1) => 0,
            (true, chunk) => chunk / 4,
            (false, chunk) => chunk.div_ceil(2),
        }
    }

    /// More may come soon.
    pub fn more(&self) -> bool {
        self.more
    }

    /// What is spent for certain of what the present owner granted: what earlier ones did goes first.
    fn spent(&self) -> u64 {
        let (granted, returned) = self.present().map_or((0, 0), |source| (source.granted, source.returned));
        let past = self.rights() - granted;
        self.settled.saturating_sub(self.before).saturating_sub(past).saturating_sub(returned)
    }

    /// How long a rest is kept that nobody uses: else a node that served one request of a day would hold a chunk of the day.
    fn kept(&self) -> Duration {
        if self.plenty { KEPT_OF_PLENTY } else { KEPT }
    }
}

/// How long before a slot's end the rest of it goes back: long enough for the owner to grant it to another node or to
/// lend it to another region of the neighbourhood.
pub(crate) const HAND_BACK: Duration = Duration::from_millis(50);

/// How often a cell is looked at while its slot ends: units may still come.
pub(super) const LOOK: Duration = Duration::from_millis(20);

const KEPT: Duration = Duration::from_secs(1);

const KEPT_OF_PLENTY: Duration = Duration::from_secs(10);

/// A bucket has to know what was spent before it can fill again, so a small one gives as often as a cell is settled. Of the
/// last 16 times charges can be told apart.
const SETTLE: Duration = Duration::from_millis(20);

/// How long a charge can be told from those of other times, by a clock that may stand still for a round.
pub(crate) const TOLD_APART: Duration = Duration::from_millis(150);

/// Nodes that may own a key within one slot; beyond it the slot's rest is left to the others.
const MAX_SOURCES: usize = 128;

/// How long a node asks nothing after the owner had nothing: one round of lending between regions.
const QUIET: Duration = Duration::from_millis(100);
