//! Which durable marks to ask for, what to release when they are durable, and what to make of those found at the start.

use portolan_model::{Now, WallTime};

use super::Limits;
use crate::{
    counter::{Allowance, Counter},
    definition::{Kind, Terms},
    key::Key,
    marks::{MAX_MARKS, Mark, MarkSequence},
    rights::Rights,
    table::Tenant,
    verdict::WaitReason,
};

/// The mark of a key in a slot as it was asked for last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marked {
    pub spent: u64,
    /// The end of the slot.
    pub ends: WallTime,
    /// What is used of it that nobody spent under this owner: what the one before left, and what was lent since. 0 for a
    /// slot that was this owner's from the beginning.
    begun: u64,
}

impl Marked {
    const fn new(ends: WallTime, begun: u64) -> Self {
        Self { spent: 0, ends, begun }
    }
}

impl Limits {
    /// The write with this number and all before it are on disk.
    pub fn handle_durable(&mut self, sequence: MarkSequence, now: Now) {
        self.observe_clock(now);
        let epoch = self.durability.release(sequence).map(|write| write.epoch).max();
        self.siblings.ownership.handle_durable(epoch.unwrap_or(0));
        self.siblings.copies.handle_durable(sequence);
        self.release();
        if !self.hurry.is_empty() {
            self.send_hurried(now);
        }
    }

    /// A mark is durable: its key may be spent up to it.
    pub(super) fn release_mark(&mut self, rights: &Rights, mark: Mark) {
        if self.shared.gates.of(mark.key).is_foreign() {
            return;
        }
        let most = self.most(rights, mark.key, mark.slot);
        let state = self.shared.table.with(mark.key, |counter| {
            raise_ceiling(counter, mark.slot, mark.spent, most);
            (counter.used(mark.slot), rights.allowance(&self.shared, counter, mark.key, mark.slot))
        });
        if let Some((used, allowance)) = state {
            self.consider_mark(rights, mark.key, mark.slot, used, allowance);
        }
        if self.watched.contains_key(&(rights.id, mark.key)) {
            // Somebody may wait for the loan that this mark is for.
            self.lend(rights, mark.key);
        }
    }

    /// A lower generation allowed keys more without a mark; a restart must not count less as spent.
    pub(super) fn keep_allowance(&mut self, before: &Rights, after: &Rights) {
        let current = after.terms.slot(self.wall());
        // Of the next slot some may be lent or granted already.
        for slot in [current, current + 1] {
            let allowed = before.unmarked(slot).max(before.terms.presumed);
            if after.terms.marked() && allowed > after.terms.presumed {
                self.ask_for_mark(after, Key::EVERY, slot, allowed);
            }
        }
    }

    /// Puts the marks of owners before in place, before the limit can be charged.
    pub(super) fn restore_marks(&mut self, rights: &Rights) {
        let found = self.recovered.remove(&rights.id).unwrap_or_default();
        self.inherit_marks(rights, found);
    }

    /// Counts what owners before may have spent of keys of one limit as spent. Of a cluster that was founded anew over old
    /// marks the number may have been another limit's: its slots mean nothing under this window.
    pub(super) fn inherit_marks(&mut self, rights: &Rights, marks: Vec<Mark>) {
        let known = |mark: &Mark| rights.terms.forgotten(mark.slot) == mark.ends;
        let (of_all, of_keys): (Vec<_>, Vec<_>) =
            marks.into_iter().filter(known).partition(|mark| mark.key == Key::EVERY);
        // First, for no key begins below them.
        for mark in &of_all {
            rights.live.assume(mark.slot, mark.spent);
        }
        for mark in of_keys.iter().chain(&of_all) {
            let marked = self.marked.entry((mark.limit, mark.key, mark.slot)).or_insert(Marked::new(mark.ends, 0));
            marked.spent = marked.spent.max(mark.spent);
            marked.begun = marked.begun.max(mark.spent);
        }
        of_keys.into_iter().for_each(|mark| self.inherit_mark(rights, mark));
    }

    fn inherit_mark(&self, rights: &Rights, mark: Mark) {
        let wall = self.wall();
        let most = self.most(rights, mark.key, mark.slot);
        let carried = rights.terms.kind == Kind::Sliding && mark.slot < rights.terms.slot(wall);
        let raise = |counter: &Counter| {
            if carried {
                counter.raise_carried(mark.slot, mark.spent);
            } else {
                counter.raise_used(mark.slot, mark.spent);
                raise_ceiling(counter, mark.slot, mark.spent, most);
            }
        };
        let tenant = Tenant { key: mark.key, limit: mark.limit };
        let start = || rights.beginning(&self.shared, mark.key, wall);
        let is_dead = |counter: &Counter| self.limiter.is_dead(counter, wall);
        let found = |place| raise(self.shared.table.counter(place));
        // Without room the key will share a counter or come later, and no key may begin below the mark then.
        self.shared.table.enter(tenant, is_dead, start, found, || rights.live.assume(mark.slot, mark.spent));
    }

    /// Asks for a mark before a key comes to its durable ceiling.
    pub(super) fn consider_mark(&mut self, rights: &Rights, key: Key, slot: u64, used: u64, allowance: Allowance) {
        let Some(ahead) = self.ahead(rights, key, slot, used, allowance) else { return };
        if rights.terms.marked() && self.is_live(rights, slot) {
            let cap = self.most(rights, key, slot);
            self.ask_for_mark(rights, key, slot, used.saturating_add(ahead).min(cap));
        }
    }

    /// How far beyond what is used the next mark should be, if it is time for one. What a key loses by a crash, or by
    /// another owner, is as much again as it spent under this one at most, be it little: what it began with is no spend.
    fn ahead(&self, rights: &Rights, key: Key, slot: u64, used: u64, allowance: Allowance) -> Option<u64> {
        let terms = &rights.terms;
        let (begun, spent) = self.spent_since(rights, key, slot, used);
        let chunk = mark_chunk(terms, begun, spent);
        let left = allowance.amount.saturating_sub(used);
        let enough = allowance.pending != Some(WaitReason::Mark) || left > chunk / 2;
        // A key that ran dry spends faster than the disk writes: its marks double, so that a burst waits for a few writes and
        // not for one per chunk.
        (!enough).then(|| if left == 0 { chunk.max(spent) } else { chunk })
    }

    /// What a key began with in a slot, and what requests spent of it since.
    fn spent_since(&self, rights: &Rights, key: Key, slot: u64, used: u64) -> (u64, u64) {
        match self.begun(rights, key, slot) {
            // Nor is what was lent.
            0 => (0, self.consumed(rights, key, slot, used)),
            begun => (begun, used.saturating_sub(begun)),
        }
    }

    /// What of a durable mark is not lent, so that requests need not wait for the next: where they find nothing left, marks
    /// double.
    pub(super) fn kept_for_requests(&self, rights: &Rights, key: Key, slot: u64) -> u64 {
        let used = self.shared.table.with(key, |counter| counter.used(slot)).unwrap_or(0);
        let (begun, spent) = self.spent_since(rights, key, slot, used);
        mark_chunk(&rights.terms, begun, spent)
    }

    /// What is used of a key's slot that nobody asked for under this owner; 0 for a slot that was its own from the beginning.
    pub(super) fn begun(&self, rights: &Rights, key: Key, slot: u64) -> u64 {
        let marked = self.marked.get(&(rights.id, key, slot)).map_or(0, |marked| marked.begun);
        marked.max(rights.start(&self.shared, key, slot))
    }

    /// Takes note that so much of a slot was lent.
    pub(super) fn note_lent(&mut self, rights: &Rights, key: Key, slot: u64, amount: u64) {
        if let Some(marked) = self.marked.get_mut(&(rights.id, key, slot)).filter(|marked| marked.begun > 0) {
            marked.begun = marked.begun.saturating_add(amount);
        }
    }

    /// Asks for a mark that covers a request which was refused for want of one, however much it costs.
    pub(super) fn mark_refused(&mut self, rights: &Rights, key: Key, slot: u64, refused: u64) {
        let wanted = refused.min(rights.terms.most_cost);
        if wanted == 0 || !rights.terms.marked() || !self.is_live(rights, slot) {
            return;
        }
        let state = |counter: &Counter| (counter.used(slot), rights.allowance(&self.shared, counter, key, slot));
        let Some((used, allowance)) = self.shared.table.with(key, state) else { return };
        let wanted = used.saturating_add(wanted).min(self.most(rights, key, slot));
        if allowance.pending == Some(WaitReason::Mark) && allowance.amount < wanted {
            self.ask_for_mark(rights, key, slot, wanted);
        }
    }

    /// Asks for a mark of every key before the keys without room come to what needs none.
    pub(super) fn mark_overflow(&mut self, rights: &Rights) {
        let overflow = &rights.live.overflow;
        self.count(rights, 0, overflow.take_refused());
        let slot = rights.terms.slot(self.wall());
        let (used, base) = (overflow.used(slot), rights.terms.base(slot));
        let amount = rights.unmarked(slot);
        let pending = (amount < base).then_some(WaitReason::Mark);
        let ahead = self.ahead(rights, Key::EVERY, slot, used, Allowance { amount, pending });
        if let Some(ahead) = ahead.filter(|_| rights.terms.marked()) {
            self.ask_for_mark(rights, Key::EVERY, slot, used.saturating_add(ahead).min(base));
        }
    }

    pub(super) fn ask_for_mark(&mut self, rights: &Rights, key: Key, slot: u64, spent: u64) {
        let crowded = self.marked.len() >= MAX_MARKED && !self.marked.contains_key(&(rights.id, key, slot));
        let key = if crowded { Key::EVERY } else { key };
        if self.marked.len() >= MAX_MARKS && !self.marked.contains_key(&(rights.id, key, slot)) {
            // More limits than there are marks for: this one is held to what needs none.
            self.stats.marks_full += 1;
            return;
        }
        let ends = rights.terms.forgotten(slot);
        let begun = rights.start(&self.shared, key, slot);
        let asked = self.marked.entry((rights.id, key, slot)).or_insert(Marked::new(ends, begun));
        if asked.spent < spent {
            asked.spent = spent;
            self.durability.want(Mark { limit: rights.id, key, slot, spent, ends });
        }
    }
}

/// How far marks are ahead, of a slot in which so much was spent since it began with `begun`.
fn mark_chunk(terms: &Terms, begun: u64, spent: u64) -> u64 {
    if begun == 0 { terms.chunk } else { (spent / 2).clamp(terms.step, terms.chunk) }
}

/// Lets a counter spend up to a durable mark; `most` is what it may come to.
fn raise_ceiling(counter: &Counter, slot: u64, spent: u64, most: u64) {
    if counter.rights(slot).is_none_or(|published| published.amount < spent) {
        let pending = (spent < most).then_some(WaitReason::Mark);
        counter.publish_rights(slot, Allowance { amount: spent, pending });
    }
}

/// Keys with marks of their own; beyond it all keys of a limit are marked together. Half of what fits, for the marks of
/// the process before may be as many.
pub(crate) const MAX_MARKED: usize = MAX_MARKS / 2;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portolan_model::{HashKey, Timestamp, WallTime};

    use super::*;
    use crate::{Admission, Claim, Definition, LimitId, LimitsConfig, RecoveredMarks, Recovery, ShardSet};

    const NOW: Now = Now { mono: Timestamp::ZERO, wall: WallTime::from_unix_millis(1_795_312_345_678) };

    /// A node alone that starts from marks of 3000 a minute, of which a key may spend 300 without one.
    fn started(marks: &[(Key, u64)]) -> Limits {
        let marks = marks.iter().map(|&(key, spent)| mark(key, spent)).collect();
        let (horizon, floor) = (NOW.wall + Duration::from_secs(2), NOW.wall);
        let past = RecoveredMarks { horizon, floor, epoch: 1, held: ShardSet::ALL, marks, ..RecoveredMarks::default() };
        let mut limits = Limits::new(LimitsConfig::alone(), Recovery::Marks(past), NOW);
        limits.handle_definitions(&[Definition::of_rate(1, "3000/min")], NOW);
        make_durable(&mut limits);
        limits
    }

    /// A second of it.
    const STEP: u64 = 50;

    /// What a key's next owner finds that it may have spent.
    fn known(limits: &Limits, key: Key) -> u64 {
        let marks = limits.legacy().marks.into_iter().filter(|mark| mark.key == key);
        marks.map(|mark| mark.spent).max().unwrap_or(0)
    }

    fn mark(key: Key, spent: u64) -> Mark {
        let slot = NOW.wall.as_unix_millis() / 60_000;
        Mark { limit: LimitId(1), key, slot, spent, ends: WallTime::from_unix_millis((slot + 1) * 60_000) }
    }

    fn make_durable(limits: &mut Limits) {
        while let Some(write) = limits.poll_marks() {
            limits.handle_durable(write.sequence, NOW);
        }
    }

    fn key(name: &str) -> Key {
        Key::new(&HashKey::new([3; 16]), LimitId(1), &[name.as_bytes()])
    }

    fn admitted(limits: &mut Limits, key: Key) -> usize {
        admitted_of(limits, key, 4000)
    }

    fn admitted_of(limits: &mut Limits, key: Key, requests: usize) -> usize {
        let admits = |limits: &mut Limits| {
            let admission = limits.limiter().admit(&[Claim { limit: LimitId(1), key, cost: 1 }], NOW);
            limits.handle_timeout(NOW);
            make_durable(limits);
            matches!(admission, Admission::Allow(_))
        };
        (0..requests).filter(|_| admits(limits)).count()
    }

    #[test]
    fn a_key_begins_at_the_higher_of_its_own_mark_and_that_of_every_key() {
        let mut limits = started(&[(key("k"), 40), (Key::EVERY, 900), (key("m"), 1200)]);
        let left = ["k", "l", "m"].map(|name| admitted(&mut limits, key(name)));
        assert_eq!(left, [2100, 2100, 1800]);
    }

    #[test]
    fn a_lower_mark_that_comes_later_does_not_hide_a_higher_one() {
        let mut limits = started(&[]);
        let limiter = limits.limiter();
        let rights = limiter.rights(LimitId(1)).expect("it is defined");
        for spent in [500, 300] {
            limits.inherit_marks(rights, vec![mark(key("k"), spent)]);
        }
        let known = limits.legacy().marks;
        assert_eq!(known.iter().filter(|mark| mark.key == key("k")).map(|mark| mark.spent).collect::<Vec<_>>(), [500]);
        assert_eq!(admitted(&mut limits, key("k")), 2500);
    }

    #[test]
    fn owners_that_spend_little_leave_little_to_the_next_however_much_they_began_with() {
        for begun in [(key("k"), 400), (Key::EVERY, 400)] {
            let mut limits = started(&[begun]);
            for owner in 1..=5 {
                assert!(admitted_of(&mut limits, key("k"), 3) >= 2);
                let spent = known(&limits, key("k"));
                assert!(spent <= 400 + owner * (STEP + 3), "owner {owner} of {begun:?} leaves {spent}");
                limits = started(&[begun, (key("k"), spent)]);
            }
            assert!(admitted(&mut limits, key("k")) >= 2000);
        }
    }

    #[test]
    fn owners_of_keys_without_a_mark_leave_little_more_than_what_one_may_have_spent_so() {
        let (mut limits, mut spent) = (started(&[]), 0);
        for owner in 1..=5 {
            assert!(admitted_of(&mut limits, key("k"), 3) >= 2);
            spent = known(&limits, key("k"));
            assert!(spent <= 300 + owner * (STEP + 3), "owner {owner} leaves {spent}");
            limits = started(&[(key("k"), spent)]);
        }
        assert!(spent > 300);
    }

    #[test]
    fn an_owner_that_spends_much_leaves_as_much_again_at_most() {
        let mut limits = started(&[(key("k"), 400)]);
        for spent in 1..2000 {
            assert_eq!(admitted_of(&mut limits, key("k"), 1), 1);
            let ahead = known(&limits, key("k")) - 400 - spent;
            assert!(ahead <= spent.max(STEP), "{ahead} ahead of {spent}");
        }
    }
}
