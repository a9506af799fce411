//! Chunks of an owner's rights: taken out of its counter when they are granted, published to the counter of the node that
//! asked when they come. A key's use at other nodes is therefore part of its use at the owner, in every account.

use std::{collections::BTreeMap, time::Duration};

use portolan_model::{NodeName, Now, Timestamp};

use super::Limits;
use crate::{
    Cell,
    counter::{Allowance, Counter},
    definition::Kind,
    key::Key,
    leaf::Leaf,
    message::Neighbour,
    region::{
        Ask, Grant, Shard,
        sublease::{
            MAX_ITEMS,
            grants::Grants,
            requests::{Published, Turn},
        },
    },
    rights::Rights,
    verdict::WaitReason,
};

impl Limits {
    /// Takes note of a counter of a key that another node owns.
    pub(super) fn note_foreign(&mut self, rights: &Rights, key: Key, used: u64, refused: u64, now: Now) {
        if rights.terms.kind == Kind::Concurrency {
            self.note_flight(rights, key, used, refused, now);
            return;
        }
        let slot = rights.terms.slot(self.wall());
        self.siblings.requests.handle_use(Cell { limit: rights.id, key, slot }, used, refused, now.mono);
    }

    /// Hands back what is not used, and asks ahead for the slot to come. Not of keys that are this node's by now: what is
    /// not used of them is its own.
    pub(super) fn hand_back(&mut self, now: Now) {
        let limiter = self.limiter();
        let wall = self.wall();
        let left = |cell: &Cell| {
            let rights = limiter.rights(cell.limit)?;
            (rights.terms.slot(wall) <= cell.slot).then(|| rights.terms.end(cell.slot).since(wall))
        };
        let table = &self.shared.table;
        let used = |cell: &Cell| table.with(cell.key, |counter| counter.used(cell.slot)).unwrap_or(0);
        let idle = self.siblings.requests.idle(now.mono, left, used);
        idle.iter().for_each(|idle| table.prefetch(idle.cell.key));
        for idle in idle {
            let cell = idle.cell;
            let foreign = self.shared.gates.of(cell.key).is_foreign();
            let Some(rights) = limiter.rights(cell.limit).filter(|_| foreign) else { continue };
            // Nobody misses what is left of plenty, but who weighs the slot in the one to come.
            let keeps = idle.ends && idle.plenty && rights.terms.kind == Kind::Fixed;
            let take = |counter: &Counter| {
                let published = counter.rights(cell.slot).map_or(0, |published| published.amount);
                let at_most = if keeps { 0 } else { u64::MAX };
                (counter.withdraw(cell.slot, at_most, published, 0), counter.used(cell.slot))
            };
            let (taken, used) = self.shared.table.with(cell.key, take).unwrap_or_default();
            self.siblings.requests.handle_withdrawn(&idle, taken, now.mono);
            if idle.turns {
                let (begin, end) = (rights.terms.begin(cell.slot), rights.terms.end(cell.slot));
                // What may be spent of a sliding window is known when it has begun.
                let ahead = rights.terms.kind != Kind::Sliding;
                let left = ahead.then(|| rights.terms.end(cell.slot + 1).since(wall));
                let turn = Turn { used, window: end.since(begin), left };
                self.siblings.requests.turn(&idle, turn, now.mono);
            }
        }
    }

    /// Queues the asks that are due, by owner.
    pub(super) fn send_asks(&mut self, now: Timestamp) {
        let (limiter, table) = (self.limiter(), &self.shared.table);
        self.siblings.requests.settle_due(now, |cell| {
            let rights = limiter.rights(cell.limit)?;
            let counts = |counter: &Counter| counter.commit(cell.slot);
            if matches!(rights.terms.kind, Kind::Bucket(_)) { table.with(cell.key, counts) } else { None }
        });
        let super::siblings::Siblings { me, requests, ownership, .. } = &mut self.siblings;
        let owner = |cell: &Cell| ownership.ranking().owner(Shard::of(cell.key)).filter(|owner| *owner != me);
        let mut by_owner = BTreeMap::<&NodeName, Vec<Ask>>::new();
        while let Some((owner, ask)) = requests.poll_ask(now, owner) {
            by_owner.entry(owner).or_default().push(ask);
        }
        let by_owner: Vec<_> = by_owner.into_iter().map(|(owner, asks)| (owner.clone(), asks)).collect();
        let life = self.siblings.life;
        for (owner, asks) in by_owner {
            for asks in asks.chunks(MAX_ITEMS) {
                self.stats.asks += asks.len() as u64;
                self.tell_neighbour(&owner, Neighbour::Asks { life, asks: asks.to_vec() });
            }
        }
    }

    /// Answers what a node asks for.
    pub(super) fn take_asks(&mut self, from: &NodeName, life: u64, asks: &[Ask]) {
        asks.iter().for_each(|ask| self.shared.table.prefetch(ask.cell.key));
        let grants: Vec<Grant> = asks.iter().filter_map(|ask| self.grant(from, life, ask)).collect();
        self.send_grants(from, life, grants);
    }

    /// Answers anew those that found nothing.
    pub(super) fn answer_waiting(&mut self) {
        for (from, life, ask) in self.siblings.grants.take_waiting() {
            let grants = self.grant(&from, life, &ask).into_iter().collect();
            self.send_grants(&from, life, grants);
        }
    }

    fn send_grants(&mut self, to: &NodeName, life: u64, grants: Vec<Grant>) {
        if !grants.is_empty() {
            let by = self.siblings.life;
            self.tell_neighbour(to, Neighbour::Grants { to: life, by, grants });
        }
    }

    /// The answer to one ask; none of a key that is not this node's, or of a slot that is over.
    fn grant(&mut self, from: &NodeName, life: u64, ask: &Ask) -> Option<Grant> {
        let Cell { limit, key, slot } = ask.cell;
        let limiter = self.limiter();
        let rights = limiter.rights(limit)?;
        let endless = rights.terms.kind == Kind::Concurrency;
        if self.shared.gates.of(key).is_foreign() || !self.is_live(rights, slot) || key == Key::EVERY || endless {
            return None;
        }
        let Some(step) = self.siblings.grants.handle_ask(from, life, ask) else {
            return Some(Grants::nothing(ask));
        };
        if matches!(rights.terms.kind, Kind::Bucket(_)) {
            return self.grant_tokens(rights, (from, life), ask, step);
        }
        if step.refund > 0 {
            self.shared.table.with(key, |counter| counter.restore(slot, step.refund));
        }
        let watched = self.watched.contains_key(&(limit, key));
        if !step.grants {
            return (!ask.silent).then(|| self.siblings.grants.settle(from, ask, 0, true, !watched));
        }
        let nodes = self.siblings.ownership.ranking().nodes().len();
        let begin = rights.terms.begin(slot);
        let gives = self.may_give(rights, key, slot, begin) && !self.stopped(rights, slot);
        let take = |counter: &Counter| {
            let leaf = Leaf::new(&self.shared, rights, key, counter);
            let view = leaf.view(slot)?;
            let left = view.rights.amount.saturating_sub(view.used);
            let plenty = !watched && left >= view.used;
            let chunk = Grants::chunk(left, nodes, ask, plenty, rights.terms.most_cost);
            let taken = if gives { leaf.withdraw(slot, chunk, view.rights.amount) } else { 0 };
            if taken < ask.waiting {
                // Demand of the region, be it asked of another node of it.
                counter.refuse(u32::try_from(ask.waiting - taken).unwrap_or(u32::MAX));
            }
            Some((taken, view.used + taken, view.rights, plenty))
        };
        let Some((taken, used, allowance, plenty)) = self.with_entry(rights, key, take)? else {
            // The slot has to begin first: who asks then is not kept waiting by this ask.
            return Some(self.siblings.grants.settle(from, ask, 0, true, false));
        };
        self.stats.granted += taken;
        if gives {
            self.consider_mark(rights, key, slot, used, allowance);
            self.mark_refused(rights, key, slot, ask.waiting.saturating_sub(taken));
        }
        let pending = matches!(allowance.pending, Some(WaitReason::Mark | WaitReason::Borrow)) || !gives;
        let more = used < allowance.amount || pending;
        if taken < ask.waiting || !watched && !plenty {
            self.press(rights, key);
        }
        if taken < ask.waiting && pending {
            self.siblings.grants.wait(from.clone(), life, *ask);
        }
        let settled = self.siblings.grants.settle(from, ask, taken, more, plenty);
        // Nothing to tell yet: it is told when more has come, or asked again.
        (taken > 0 || !pending || step.refund > 0).then_some(settled)
    }

    /// Publishes what was granted.
    pub(super) fn take_grants(&mut self, from: &NodeName, by: u64, grants: &[Grant], now: Now) {
        let (limiter, wall) = (self.limiter(), self.wall());
        grants.iter().for_each(|grant| self.shared.table.prefetch(grant.cell.key));
        for grant in grants {
            let Some(rights) = limiter.rights(grant.cell.limit) else { continue };
            if !self.shared.gates.of(grant.cell.key).is_foreign() {
                continue;
            }
            let left = rights.terms.end(grant.cell.slot).since(wall);
            let published = self.siblings.requests.handle_grant((from, by), *grant, left, now.mono);
            let Some(published) = published else { continue };
            self.publish_granted(rights, published);
            self.siblings.relief = true;
        }
    }

    fn publish_granted(&self, rights: &Rights, published: Published) {
        let Published { cell, rights: amount, low_water, pending } = published;
        let pending = pending.then_some(WaitReason::Owner);
        self.with_entry(rights, cell.key, |counter| {
            counter.publish_rights(cell.slot, Allowance { amount, pending });
            counter.publish_others(cell.slot, low_water);
        });
    }

    /// A key of which another node of the region wants more than there is cannot wait for the next round. One that is not
    /// watched is looked at as if a request had moved it: its owner may serve none itself.
    pub(super) fn press(&mut self, rights: &Rights, key: Key) {
        if self.watched.contains_key(&(rights.id, key)) {
            self.urgent.insert((rights.id, key));
        } else {
            self.shared.table.note_move_of(key);
        }
    }
}

/// How often a node looks at its counters while it holds chunks.
pub(super) const LOOK: Duration = Duration::from_millis(20);
