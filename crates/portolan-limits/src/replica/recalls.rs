//! What a node's siblings hold of the keys that it owns, told to them again: all of it in turn, and at once what is beyond a
//! share that has become less, for them to give it up.
//!
//! Never gives anything, and never changes what counts as held: a sibling that holds less, or nothing, says so. Never waits
//! for an answer, or remembers who was told: a word that is lost is followed by the next one.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
    time::Duration,
};

use portolan_model::{NodeName, Timestamp};

use super::Limits;
use crate::{
    counter::{Allowance, Counter},
    key::Key,
    message::Neighbour,
    region::{
        Allotment, Spot,
        flight::{MAX_ITEMS, given::Given},
    },
    rights::Rights,
};

/// Which keys are told of, and when.
#[derive(Debug, Default)]
pub(super) struct Recalls {
    /// Keys that may be held beyond their shares, and the last of them that was told of.
    over: BTreeSet<Spot>,
    recalled: Option<Spot>,
    /// The last key that was told of in its turn.
    reminded: Option<Spot>,
    remind_at: Timestamp,
}

impl Recalls {
    /// What this region may have of keys may have become less.
    pub fn follow_shares(&mut self, given: &Given) {
        self.over = given.spots_after(None).collect();
    }

    /// A key is held beyond its share.
    pub fn insert(&mut self, spot: Spot) {
        self.over.insert(spot);
    }

    /// The keys to tell of, at most [`MAX_TOLD`] of either kind.
    fn due(&mut self, given: &Given, now: Timestamp) -> Vec<Spot> {
        let after = self.recalled.map_or(Unbounded, Excluded);
        let mut due: Vec<Spot> = self.over.range((after, Unbounded)).take(MAX_TOLD).copied().collect();
        self.recalled = due.last().copied().filter(|_| due.len() == MAX_TOLD);
        if now >= self.remind_at {
            self.remind_at = now + REMIND;
            let turn: Vec<Spot> = given.spots_after(self.reminded).take(MAX_TOLD).collect();
            self.reminded = turn.last().copied().filter(|_| turn.len() == MAX_TOLD);
            due.extend(turn.into_iter().filter(|spot| !self.over.contains(spot)));
        }
        due
    }
}

impl Limits {
    /// Tells nodes what they hold, and what of it they may keep: as often as it takes, since a word may be lost.
    pub(super) fn send_recalls(&mut self) {
        let limiter = self.limiter();
        let flight = &mut self.siblings.flight;
        let due = flight.recalls.due(&flight.given, self.last.mono);
        let mut by_node = BTreeMap::<NodeName, Vec<Allotment>>::new();
        for spot in due {
            let share = limiter.rights(spot.limit).and_then(|rights| self.exceeded(rights, spot.key));
            if share.is_none() {
                self.siblings.flight.recalls.over.remove(&spot);
            }
            let (used, most) = share.unwrap_or_default();
            for (node, allotment) in self.siblings.flight.given.reminders(spot, used, most) {
                by_node.entry(node).or_default().push(allotment);
            }
        }
        let by = self.siblings.life;
        for (node, allotments) in by_node {
            let Some(to) = self.siblings.flight.given.life(&node) else { continue };
            for allotments in allotments.chunks(MAX_ITEMS) {
                self.tell_neighbour(&node, Neighbour::Allotments { to, by, allotments: allotments.to_vec() });
            }
        }
    }

    /// What is in flight of a key of this node, and the most that may be, if that is less.
    pub(super) fn exceeded(&self, rights: &Rights, key: Key) -> Option<(u64, u64)> {
        let most = self.most(rights, key, 0);
        let used = self.shared.table.with(key, |counter| counter.used(0)).filter(|_| self.shared.owns(key))?;
        (used > most).then_some((used, most))
    }

    /// Lets nothing begin of a key beyond what its owner lets this node keep. What is in flight beyond that is held till it
    /// ends.
    pub(super) fn give_up(&mut self, spot: Spot, kept: u64) {
        let give_up = |counter: &Counter| {
            let held = counter.lower_rights(0, kept, None);
            counter.publish_rights(0, Allowance { amount: kept.min(held), pending: None });
            held
        };
        let held = self.shared.table.with(spot.key, give_up).unwrap_or(0);
        self.siblings.flight.held.handle_recalled(spot, held);
    }
}

/// Keys that are told of at one time: those beyond their shares in every tick, of the others so many in a second.
const MAX_TOLD: usize = 1000;
const REMIND: Duration = Duration::from_secs(1);
