//! The rounds: every 100 ms each key under pressure is looked at, lent of and told about; in between, at 20 ms, those
//! for which a request waits or another region runs dry. Follows the token-flow of demarcation protocols (Barbará and
//! García-Molina, VLDB Journal 1994), with all limits on the receiver's side.

use std::{collections::BTreeSet, ops::Bound, time::Duration};

use portolan_config::LimitId;
use portolan_model::{Now, Timestamp};

use super::Limits;
use crate::{counter::Counter, definition::Kind, key::Key, rights::Rights, table::Moved};

impl Limits {
    /// Looks at every counter that workers moved since the last time, and closer at those under pressure.
    pub(super) fn read_counters(&mut self, now: Now) {
        let limiter = self.limiter();
        let wall = self.wall();
        let (mut pressed, mut foreign, mut unlent) = (Vec::new(), Vec::new(), Vec::new());
        let mut note = |rights, key, counter: &Counter, pressed: &mut Vec<_>| {
            let rights: &Rights = rights;
            let look = self.look_at(rights, key, counter);
            if self.shared.gates.of(key).is_foreign() {
                let low = look.used >= counter.others(rights.terms.slot(wall));
                if low || look.refused > 0 || rights.terms.kind == Kind::Concurrency {
                    foreign.push((rights.id, key, look));
                }
                return;
            }
            if rights.terms.kind == Kind::Concurrency && look.refused > 0 {
                unlent.push((rights, look.refused));
            }
            let marked = rights.terms.marked();
            if marked || self.watched.contains_key(&(rights.id, key)) || self.is_pressed(rights, key, look) {
                pressed.push((rights.id, key, look));
            }
        };
        self.shared.table.drain_moved(|Moved { key, limit, .. }, counter| {
            if let Some(rights) = limiter.rights(limit) {
                note(rights, key, counter, &mut pressed);
            }
        });
        for rights in limiter.all_rights() {
            if rights.live.take_overflow_moved() {
                self.mark_overflow(rights);
            }
        }
        for (limit, key, look) in foreign {
            if let Some(rights) = limiter.rights(limit) {
                self.note_foreign(rights, key, look.used, look.refused, now);
            }
        }
        for (rights, refused) in unlent {
            self.count(rights, 0, refused);
        }
        for (limit, key, look) in pressed {
            let Some(rights) = limiter.rights(limit) else { continue };
            let known = self.watched.contains_key(&(limit, key));
            if known || self.is_pressed(rights, key, look) {
                self.look(rights, key, look, now);
                self.ask_lender(rights, key, look);
                if look.refused > 0 {
                    self.urgent.insert((limit, key));
                }
            }
            self.publish(rights, key, rights.terms.slot(wall));
        }
    }

    /// The round of keys under pressure: of all, or where they are very many of those that cannot wait and of the others in
    /// turn, so that a flood of keys does not hold up what a node owes its peers.
    pub(super) fn run_round(&mut self, now: Now) {
        let limiter = self.limiter();
        for (limit, key) in self.next_in_round() {
            let Some(rights) = limiter.rights(limit) else {
                self.watched.remove(&(limit, key));
                continue;
            };
            let look = self.shared.table.with(key, |counter| self.look_at(rights, key, counter)).unwrap_or_default();
            self.look(rights, key, look, now);
            self.ask_lender(rights, key, look);
            self.attend(rights, key, now);
            self.stop_watching(rights, key, now);
        }
    }

    /// Takes the keys to look at in this round.
    fn next_in_round(&mut self) -> BTreeSet<(LimitId, Key)> {
        let urgent = std::mem::take(&mut self.urgent);
        if self.watched.len() <= MOST_IN_ROUND {
            return self.watched.keys().copied().collect();
        }
        let after = (Bound::Excluded(self.looked_up_to), Bound::Unbounded);
        let in_turn = self.watched.range(after).chain(&self.watched).map(|(&place, _)| place);
        let in_turn: Vec<_> = in_turn.take(MOST_IN_ROUND.saturating_sub(urgent.len()).max(MOST_IN_ROUND / 2)).collect();
        self.looked_up_to = in_turn.last().copied().unwrap_or(self.looked_up_to);
        let urgent = urgent.into_iter().filter(|place| self.watched.contains_key(place));
        urgent.take(MOST_IN_ROUND / 2).chain(in_turn).collect()
    }

    /// When to see to the keys that cannot wait for the round.
    pub(super) fn next_urgent(&self) -> Timestamp {
        let gathered = self.urged_at + GATHERING;
        if gathered > self.last.mono { gathered } else { self.last.mono + SHORTEST_GAP }
    }

    /// The keys that cannot wait for the round. Those of some milliseconds together, so that their rows share messages.
    pub(super) fn run_urgent(&mut self, now: Now) {
        if self.urgent.is_empty() || (self.urged_at > Timestamp::ZERO && now.mono < self.urged_at + GATHERING) {
            return;
        }
        self.urged_at = now.mono;
        let limiter = self.limiter();
        let rested = |at: &super::Watch| now.mono.since(at.lent_at) >= SHORTEST_GAP;
        let due: Vec<_> =
            self.urgent.iter().filter(|place| self.watched.get(place).is_none_or(rested)).copied().collect();
        for (limit, key) in due {
            self.urgent.remove(&(limit, key));
            let Some(rights) = limiter.rights(limit) else { continue };
            let look = self.shared.table.with(key, |counter| self.look_at(rights, key, counter)).unwrap_or_default();
            self.look(rights, key, look, now);
            self.attend(rights, key, now);
            self.hurry.insert((limit, key));
        }
        if !self.hurry.is_empty() {
            self.send_hurried(now);
        }
    }

    /// Lends, overdraws and publishes what is due of one key.
    fn attend(&mut self, rights: &Rights, key: Key, now: Now) {
        let slot = rights.terms.slot(self.wall());
        self.lend(rights, key);
        self.overdraw(rights, key);
        self.publish(rights, key, slot);
        self.publish(rights, key, slot + 1);
        if let Some(watch) = self.watched.get_mut(&(rights.id, key)) {
            watch.lent_at = now.mono;
        }
    }

    /// Forgets a key that has been quiet for two slots, here and everywhere, or that nobody has used for some seconds: of a
    /// month's limit every key was under pressure once, and its account stays in the ledger.
    fn stop_watching(&mut self, rights: &Rights, key: Key, now: Now) {
        let place = (rights.id, key);
        let slot = rights.terms.slot(self.wall());
        let quiet =
            |watch: &super::Watch| watch.pressed + QUIET_SLOTS < slot || now.mono.since(watch.moved_at) >= QUIET;
        if self.watched.get(&place).is_some_and(quiet) {
            self.watched.remove(&place);
        }
    }
}

/// Keys that are looked at in a round: some 20 ms.
const MOST_IN_ROUND: usize = 20_000;

/// Least time between two rounds of one key.
pub(super) const SHORTEST_GAP: Duration = Duration::from_millis(20);

/// Keys that cannot wait are seen to this often at most: under load they are many.
const GATHERING: Duration = Duration::from_millis(10);

/// Slots without pressure after which a key is no longer watched.
const QUIET_SLOTS: u64 = 2;

/// How long a key that nobody uses is watched, at most.
const QUIET: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use portolan_model::WallTime;

    use super::*;
    use crate::{LimitsConfig, Recovery, replica::Watch};

    #[test]
    fn a_flood_of_keys_is_looked_at_in_turn_and_those_that_cannot_wait_first() {
        let now = Now { mono: Timestamp::ZERO, wall: WallTime::from_unix_millis(10_000) };
        let mut limits = Limits::new(LimitsConfig::alone(), Recovery::FirstStart, now);
        let place = |key| (LimitId(1), Key::from_bits(key));
        let all = 5 * MOST_IN_ROUND as u64 / 2;
        limits.watched.extend((1..=all).map(|key| (place(key), Watch::new(0, now.mono))));
        limits.urgent.insert(place(all));
        let rounds: Vec<_> = (0..4).map(|_| limits.next_in_round()).collect();
        assert!(rounds[0].contains(&place(all)));
        assert!(rounds.iter().all(|round| round.len() <= MOST_IN_ROUND));
        let seen: BTreeSet<_> = rounds[..3].iter().flatten().collect();
        assert_eq!(seen.len() as u64, all);
        assert!(rounds[3].contains(&place(all / 2)), "it goes on from where it stopped");
    }
}
