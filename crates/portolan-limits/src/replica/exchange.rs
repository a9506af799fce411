//! Messages between regions: heartbeats, rows, and the repair of what was lost. A region's rows are taken from that
//! region alone; everything a peer sends is bounded before it is looked at.

use std::time::Duration;

use portolan_config::LimitId;
use portolan_model::{Now, RegionId};

use super::{Event, Limits};
use crate::{
    horizon::CLOCK_TOLERANCE,
    key::Key,
    ledger::Joined,
    message::{DIGEST_BUCKETS, Heartbeat, MAX_DIGESTS, MAX_ROWS, Message, Rejected, Rows, SlotSummary},
    outbox::in_messages,
    rights::Rights,
    word::MAX_AMOUNT,
};

impl Limits {
    /// Takes in a message of another region. A refused message changes nothing.
    pub fn handle_message(&mut self, from: &RegionId, message: Message, now: Now) -> Result<(), Rejected> {
        self.observe_clock(now);
        let result = self.take_message(from, message, now);
        match result {
            Ok(()) => self.stats.messages += 1,
            Err(_) => self.stats.rejected += 1,
        }
        result
    }

    fn take_message(&mut self, from: &RegionId, message: Message, now: Now) -> Result<(), Rejected> {
        let from = self.regions.binary_search(from).ok().filter(|&from| from != self.me);
        let from = from.ok_or(Rejected::UnknownSender)?;
        match message {
            Message::Heartbeat(heartbeat) => self.take_heartbeat(from, &heartbeat, now),
            Message::Rows(rows) => self.take_rows(from, &rows),
            Message::Digests(digests) => self.compare_digests(from, &digests),
            Message::Ask { limit, slot, buckets } => self.answer(from, limit, slot, buckets),
            Message::Echo(rows) => self.take_echo(&rows),
        }
    }

    fn take_heartbeat(&mut self, from: usize, heartbeat: &Heartbeat, now: Now) -> Result<(), Rejected> {
        if heartbeat.scope != self.scope || heartbeat.heard.len() != self.regions.len() {
            return Err(Rejected::ForeignScope);
        }
        // Of our own reading, not of the time adopted so far: else each stamp could push on from where the last one
        // stopped, and slots would turn faster than time.
        let ahead = heartbeat.sent.since(now.wall);
        let sound = ahead <= CLOCK_TOLERANCE;
        if sound {
            self.shared.raise_clock(heartbeat.sent);
        } else if !self.clock_ahead[from] {
            self.stats.clocks_ahead += 1;
            self.events.push(Event::ClockAhead { region: self.regions[from].clone(), by: ahead });
        }
        self.clock_ahead[from] = !sound;
        let heard_us_ago = Duration::from_millis(heartbeat.heard[self.me].into());
        if let Some(change) = self.peers.handle_heartbeat(from, heard_us_ago, now.mono) {
            self.peer_changed(change);
        }
        Ok(())
    }

    fn take_rows(&mut self, from: usize, rows: &Rows) -> Result<(), Rejected> {
        let limiter = self.limiter();
        let rights = limiter.rights(rows.limit).ok_or(Rejected::UnknownLimit)?;
        self.check_rows(rights, rows)?;
        let current = rights.terms.slot(self.wall());
        for &(key, spent) in &rows.rows {
            match self.ledger.join(rows.limit, rows.slot, from, key, spent) {
                Joined::Raised => {
                    self.stats.rows_raised += 1;
                    if rows.slot == current {
                        self.publish_others(rights, rows.slot, key);
                    }
                }
                Joined::Known => {}
                Joined::Full => self.stats.rows_full += 1,
            }
        }
        Ok(())
    }

    fn check_rows(&self, rights: &Rights, rows: &Rows) -> Result<(), Rejected> {
        let sound = |&(key, spent): &(Key, u64)| key != Key::EVERY && spent <= MAX_AMOUNT;
        if rows.rows.len() > MAX_ROWS {
            Err(Rejected::TooLong)
        } else if !self.is_live(rights, rows.slot) {
            Err(Rejected::DeadSlot)
        } else if !rows.rows.iter().all(sound) {
            Err(Rejected::ImpossibleRow)
        } else {
            Ok(())
        }
    }

    /// Asks for what differs, and after the sender's restart tells it what it had said before.
    fn compare_digests(&mut self, from: usize, digests: &[SlotSummary]) -> Result<(), Rejected> {
        if digests.len() > MAX_DIGESTS {
            return Err(Rejected::TooLong);
        }
        let limiter = self.limiter();
        for summary in digests {
            let (limit, slot) = (summary.limit, summary.slot);
            let Some(rights) = limiter.rights(limit) else { continue };
            let held = self.ledger.digests(limit, slot, from);
            let differs = |bucket: &usize| held[*bucket] != summary.buckets[*bucket];
            let buckets = (0..DIGEST_BUCKETS).filter(differs).fold(0, |bits, bucket| bits | 1 << bucket);
            if buckets == 0 || !self.is_live(rights, slot) {
                continue;
            }
            self.stats.digest_mismatches += 1;
            self.outbox.push(from, Message::Ask { limit, slot, buckets });
            if summary.restarted {
                let held = self.ledger.rows(limit, slot, from, buckets);
                for rows in in_messages(limit, slot, held).take(MAX_REPAIR_MESSAGES) {
                    self.outbox.push(from, Message::Echo(rows));
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, to: usize, limit: LimitId, slot: u64, buckets: u16) -> Result<(), Rejected> {
        let limiter = self.limiter();
        let rights = limiter.rights(limit).ok_or(Rejected::UnknownLimit)?;
        if !self.is_live(rights, slot) {
            return Err(Rejected::DeadSlot);
        }
        // Bucket by bucket from another one each time, so that no bucket is always cut off by the bound.
        self.repair_turn += 1;
        let order = (0..DIGEST_BUCKETS).map(|at| (at + self.repair_turn) % DIGEST_BUCKETS);
        let asked = order.filter(|bucket| buckets >> bucket & 1 == 1);
        let ledger = &self.ledger;
        let rows = asked.flat_map(|bucket| ledger.rows(limit, slot, self.me, 1 << bucket));
        for rows in in_messages(limit, slot, rows).take(MAX_REPAIR_MESSAGES) {
            self.outbox.push(to, Message::Rows(rows));
        }
        Ok(())
    }

    /// Takes back what we published before a restart. Only the published row rises: a wrong echo can starve nobody.
    fn take_echo(&mut self, rows: &Rows) -> Result<(), Rejected> {
        let limiter = self.limiter();
        let rights = limiter.rights(rows.limit).ok_or(Rejected::UnknownLimit)?;
        self.check_rows(rights, rows)?;
        if !self.shared.barrier.touches(&rights.terms, rows.slot) {
            return Err(Rejected::ForeignRow);
        }
        for &(key, spent) in &rows.rows {
            if self.ledger.join(rows.limit, rows.slot, self.me, key, spent) == Joined::Raised {
                self.unsent.insert((rows.limit, rows.slot, key));
            }
        }
        Ok(())
    }

    pub(super) fn send_heartbeats(&mut self, now: Now) {
        let heard = self.peers.heard(self.me, now.mono);
        let heartbeat = Heartbeat { scope: self.scope, sent: self.wall(), heard };
        for region in self.others() {
            self.outbox.push(region, Message::Heartbeat(heartbeat.clone()));
        }
    }

    /// Sends rows that wait, from where the last tick stopped, so that none starves while too many wait.
    pub(super) fn send_rows(&mut self) {
        let from = self.sent_up_to;
        let waiting = std::mem::take(&mut self.unsent);
        let rotated: Vec<_> = waiting.range(from..).chain(waiting.range(..from)).copied().collect();
        let (now, rest) = rotated.split_at(rotated.len().min(MAX_ROWS_PER_TICK));
        self.unsent = rest.iter().copied().collect();
        self.sent_up_to = rest.first().copied().unwrap_or((LimitId(0), 0, Key::EVERY));
        for same_slot in now.chunk_by(|one, other| (one.0, one.1) == (other.0, other.1)) {
            let (limit, slot, _) = same_slot[0];
            let row = |&(_, _, key): &(LimitId, u64, Key)| (key, self.ledger.spent(limit, slot, self.me, key));
            let messages: Vec<Rows> = in_messages(limit, slot, same_slot.iter().map(row)).collect();
            for rows in messages {
                for region in self.others() {
                    self.outbox.push(region, Message::Rows(rows.clone()));
                }
            }
        }
    }

    pub(super) fn send_digests(&mut self) {
        let limiter = self.limiter();
        let live = |rights: &Rights| {
            let current = rights.terms.slot(self.wall());
            [current.saturating_sub(1), current].map(|slot| {
                let buckets = self.ledger.digests(rights.id, slot, self.me);
                let restarted = self.shared.barrier.touches(&rights.terms, slot);
                SlotSummary { limit: rights.id, slot, buckets, restarted }
            })
        };
        let used = |summary: &SlotSummary| summary.restarted || summary.buckets != [0; DIGEST_BUCKETS];
        let summaries: Vec<SlotSummary> = limiter.all_rights().iter().flat_map(live).filter(used).collect();
        for summaries in summaries.chunks(MAX_DIGESTS) {
            for region in self.others() {
                self.outbox.push(region, Message::Digests(summaries.to_vec()));
            }
        }
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.regions.len()).filter(move |&region| region != me)
    }
}

/// Rows sent to each region per tick: 112 000 keys a second at most.
const MAX_ROWS_PER_TICK: usize = 200 * MAX_ROWS;

/// Messages in answer to one question: 14 336 rows.
const MAX_REPAIR_MESSAGES: usize = 256;
