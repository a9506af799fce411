//! Which durable marks to ask for, what to release when they are durable, and what to make of those found at the start.

use portolan_model::Now;

use super::Limits;
use crate::{
    counter::{Allowance, Counter, Start},
    key::Key,
    marks::{MAX_MARKS, Mark, MarkSequence},
    rights::Rights,
    table::Tenant,
    verdict::WaitReason,
};

impl Limits {
    /// The write with this number and all before it are on disk.
    pub fn handle_durable(&mut self, sequence: MarkSequence, now: Now) {
        self.observe_clock(now);
        self.durability.release(sequence).for_each(drop);
        self.siblings.copies.handle_durable(sequence);
        self.release();
    }

    /// A mark is durable: its key may be spent up to it.
    pub(super) fn release_mark(&mut self, rights: &Rights, mark: Mark) {
        if self.shared.gates.of(mark.key).is_foreign() {
            return;
        }
        let most = self.most(rights, mark.key, mark.slot);
        let state = self.with_counter(rights, mark.key, |counter| {
            raise_ceiling(counter, mark.slot, mark.spent, most);
            (counter.used(mark.slot), rights.allowance(&self.shared, counter, mark.key, mark.slot))
        });
        if let Some((used, allowance)) = state {
            self.consider_mark(rights, mark.key, mark.slot, used, allowance);
        }
    }

    /// A lower generation allowed keys more without a mark; a restart must not count less as spent.
    pub(super) fn keep_allowance(&mut self, before: &Rights, after: &Rights) {
        let slot = after.terms.slot(self.wall());
        let allowed = before.unmarked(slot);
        if after.terms.marked() && allowed > after.terms.allowance {
            self.ask_for_mark(after, Key::EVERY, slot, allowed);
        }
    }

    /// Puts the marks of owners before in place, before the limit can be charged.
    pub(super) fn restore_marks(&mut self, rights: &Rights) {
        let found = self.recovered.remove(&rights.id).unwrap_or_default();
        found.into_iter().for_each(|mark| self.restore_mark(rights, mark));
    }

    /// Counts what an owner before may have spent of a key as spent. Of a cluster that was founded anew over old marks
    /// the number may have been another limit's: its slots mean nothing under this window.
    pub(super) fn restore_mark(&mut self, rights: &Rights, mark: Mark) {
        let wall = self.wall();
        if rights.terms.end(mark.slot) == mark.ends {
            self.marked.insert((mark.limit, mark.key, mark.slot), (mark.spent, mark.ends));
            let most = self.most(rights, mark.key, mark.slot);
            let raise = |counter: &Counter| {
                counter.raise_used(mark.slot, mark.spent);
                raise_ceiling(counter, mark.slot, mark.spent, most);
            };
            match mark.key {
                Key::EVERY => rights.live.raise_allowance(mark.slot, mark.spent),
                Key::OVERFLOW => raise(&rights.live.overflow),
                key => {
                    let tenant = Tenant { key, limit: mark.limit };
                    let table = &self.shared.table;
                    let start = || Start {
                        used: [mark.spent, rights.start(&self.shared, mark.key, mark.slot + 1)],
                        ..rights.beginning_in(&self.shared, mark.key, mark.slot, wall)
                    };
                    let is_dead = |counter: &Counter| self.limiter.is_dead(counter, wall);
                    let found = |place| raise(table.counter(place));
                    // Without room the key will share the overflow counter, which then may not start below the mark.
                    table.enter(tenant, is_dead, start, found, || raise(&rights.live.overflow));
                }
            }
        }
    }

    /// Asks for a mark before a key comes to its durable ceiling.
    pub(super) fn consider_mark(&mut self, rights: &Rights, key: Key, slot: u64, used: u64, allowance: Allowance) {
        let cap = self.most(rights, key, slot);
        let left = allowance.amount.saturating_sub(used);
        let enough = allowance.pending != Some(WaitReason::Mark) || left > rights.terms.chunk / 2;
        if !rights.terms.marked() || enough || !self.is_live(rights, slot) {
            return;
        }
        // A key that ran dry spends faster than the disk writes: its marks double, so that a burst waits for a few
        // writes and not for one per chunk. A crash then costs it as much as it had spent, at most.
        let ahead = if left == 0 { rights.terms.chunk.max(used) } else { rights.terms.chunk };
        self.ask_for_mark(rights, key, slot, used.saturating_add(ahead).min(cap));
    }

    pub(super) fn ask_for_mark(&mut self, rights: &Rights, key: Key, slot: u64, spent: u64) {
        let crowded = self.marked.len() >= MAX_MARKED && !self.marked.contains_key(&(rights.id, key, slot));
        let key = if crowded { Key::EVERY } else { key };
        let ends = rights.terms.end(slot);
        let asked = self.marked.entry((rights.id, key, slot)).or_insert((0, ends));
        if asked.0 < spent {
            asked.0 = spent;
            self.durability.want(Mark { limit: rights.id, key, slot, spent, ends });
        }
    }
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
const MAX_MARKED: usize = MAX_MARKS / 2;
