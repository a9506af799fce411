//! Messages of other regions: heartbeats, rows, and the repair of what was lost. A region's rows are taken from that
//! region alone; everything a peer sends is bounded before it is looked at.

use std::time::Duration;

use portolan_config::LimitId;
use portolan_model::{NodeName, Now, RegionId};

use super::{Event, Limits, Place, transmit::MESSAGE_COST};
use crate::{
    account::{Field, Loan, MAX_AMOUNT, Row},
    definition::Kind,
    forecast::Demand,
    horizon::CLOCK_TOLERANCE,
    key::Key,
    ledger::Joined,
    message::{DIGEST_BUCKETS, Heartbeat, MAX_DIGESTS, MAX_ROWS, Message, Rejected, Rows, SlotSummary},
    outbox::{Destination, in_messages},
    rights::Rights,
};

impl Limits {
    /// Takes in a message of another node: of another region, or of this one. A refused message changes nothing.
    pub fn handle_message(
        &mut self,
        region: &RegionId,
        from: &NodeName,
        message: Message,
        now: Now,
    ) -> Result<(), Rejected> {
        self.observe_clock(now);
        let result = self.take_message(region, from, message, now);
        match result {
            Ok(()) => self.stats.messages += 1,
            Err(Rejected::DeadSlot) => {
                self.stats.dropped_late += 1;
                self.stats.rejected += 1;
            }
            Err(_) => self.stats.rejected += 1,
        }
        self.run_urgent(now);
        result
    }

    fn take_message(&mut self, region: &RegionId, from: &NodeName, message: Message, now: Now) -> Result<(), Rejected> {
        let region = self.regions.binary_search(region).map_err(|_| Rejected::UnknownSender)?;
        if let Message::Neighbour(message) = message {
            let neighbour = region == self.me && from != self.siblings.me();
            return if neighbour { self.take_neighbour(from, message, now) } else { Err(Rejected::NotANeighbour) };
        }
        if region == self.me {
            return Err(Rejected::UnknownSender);
        }
        let from = Destination { region, node: Some(from.clone()) };
        match message {
            Message::Heartbeat(heartbeat) => self.take_heartbeat(&from, &heartbeat, now),
            Message::Rows(rows) => self.take_rows(&from, &rows, now),
            Message::Digests(digests) => self.compare_digests(from, &digests),
            Message::Ask { limit, slot, buckets } => self.answer(from, limit, slot, buckets),
            Message::Echo(rows) => self.take_echo(&from, &rows),
            Message::Neighbour(_) => Err(Rejected::NotANeighbour),
        }
    }

    fn take_heartbeat(&mut self, from: &Destination, heartbeat: &Heartbeat, now: Now) -> Result<(), Rejected> {
        let (node, from) = (from, from.region);
        if heartbeat.scope != self.scope || heartbeat.heard.len() != self.regions.len() {
            return Err(Rejected::ForeignScope);
        }
        // Of our own reading, not of the time adopted so far: else each stamp could push on from where the last one
        // stopped, and slots would turn faster than time.
        let ahead = heartbeat.sent.since(self.shared.reading(now));
        let sound = ahead <= CLOCK_TOLERANCE;
        if sound {
            self.shared.raise_clock(heartbeat.sent);
        } else if !self.clock_ahead[from] {
            self.stats.clocks_ahead += 1;
            self.events.push(Event::ClockAhead { region: self.regions[from].clone(), by: ahead });
        }
        self.clock_ahead[from] = !sound;
        for to in [node.clone(), Destination { region: from, node: None }] {
            if let Some(sent) = self.unacknowledged.get_mut(&to) {
                sent.acknowledge(&heartbeat.seen, now.mono);
            }
        }
        let heard_us_ago = Duration::from_millis(heartbeat.heard[self.me].into());
        if let Some(change) = self.peers.handle_heartbeat(from, heard_us_ago, now.mono) {
            self.peer_changed(change);
        }
        Ok(())
    }

    fn take_rows(&mut self, from: &Destination, rows: &Rows, now: Now) -> Result<(), Rejected> {
        let (node, from) = (from, from.region);
        let limiter = self.limiter();
        let rights = limiter.rights(rows.limit).ok_or(Rejected::UnknownLimit)?;
        self.check_rows(rights, from, rows)?;
        if let Some(number) = rows.number {
            self.seen.entry(node.clone()).or_default().insert(number);
            self.owed.insert(node.clone());
        }
        for (key, row) in &rows.rows {
            let lends = row.lent.iter().any(|&(_, to, _)| usize::from(to) == self.me);
            let counts = lends && self.has_share(rights, rows.slot, from);
            let borrowed = |limits: &Self| if counts { limits.lent_by(rights, *key, rows.slot, from) } else { 0 };
            let before = borrowed(self);
            let told = self.ledger.row(rows.limit, *key, rows.slot, from).demand;
            match self.join(rows.limit, *key, rows.slot, from, row) {
                Joined::Raised => self.stats.rows_raised += 1,
                // A region that has spent all it has, or has nothing, says what it is asked for and no more. It is heeded
                // when it says so first, or something else: else regions would go on watching a key because others do.
                Joined::Known if row.demand.is_news(told) => {}
                Joined::Known | Joined::Full | Joined::Dead => continue,
            }
            let lent = borrowed(self) - before;
            if let Some(book) = self.books.get_mut(&rights.id) {
                book.tally.borrowed += lent;
            }
            self.watch_row(rights, *key, rows.slot, row, lent, now);
            self.take_row(rights, *key, rows.slot, from, lent);
        }
        Ok(())
    }

    /// Watches a key that is asked for elsewhere, or of which a loan is held until its slot can be published. One that is
    /// only lent is not: else regions would go on lending each other what nobody asks for.
    fn watch_row(&mut self, rights: &Rights, key: Key, slot: u64, row: &Row, lent: u64, now: Now) {
        let current = rights.terms.slot(self.wall());
        let held = lent > 0 && (slot > current + 1 || rights.terms.kind == Kind::Sliding);
        if row.net() == 0 && row.demand == Demand::default() && !held {
            return;
        }
        let place = (rights.id, key);
        if !self.watched.contains_key(&place) && self.watched.len() < self.most_watched {
            self.watched.insert(place, super::Watch::new(current, now.mono));
        }
        if let Some(watch) = self.watched.get_mut(&place) {
            watch.pressed = watch.pressed.max(slot.min(current));
            watch.moved_at = now.mono;
        }
    }

    /// Puts to use what a region told of a key.
    fn take_row(&mut self, rights: &Rights, key: Key, slot: u64, from: usize, lent: u64) {
        if lent > 0 {
            self.publish(rights, key, slot);
            self.siblings.relief = true;
            self.answer_waiting();
        } else {
            self.publish_others(rights, slot, key);
        }
        if slot == rights.terms.slot(self.wall()) && self.runs_dry(rights, key, slot, from) {
            self.urgent.insert((rights.id, key));
        }
    }

    /// Whether a region will have spent what it has before a loan of the next round can reach it.
    fn runs_dry(&self, rights: &Rights, key: Key, slot: u64, region: usize) -> bool {
        let Some(account) = self.ledger.account(rights.id, key) else { return false };
        let balance = account.balance(slot, region);
        let demand = self.told_demand(rights, account, slot, region).unwrap_or_default().rate.units();
        if matches!(rights.terms.kind, Kind::Bucket(_)) {
            // It has told because it refuses, or soon will.
            let rate = self.base(rights, slot, region) as f64 * rights.terms.per_slot() / rights.terms.quota as f64;
            return demand > rate + balance.rate_borrowed as f64 - balance.rate_lent as f64;
        }
        let soon = 2.0 * demand * self.worst_rtt.as_secs_f64();
        soon > 0.0 && (self.unspent(rights, slot, region, balance) as f64) < soon
    }

    fn lent_by(&self, rights: &Rights, key: Key, slot: u64, from: usize) -> u64 {
        let Some(account) = self.ledger.account(rights.id, key) else { return 0 };
        let lent = |loan| account.amount(slot, from, Field::Lent(loan, self.me as u8));
        lent(Loan::Units).saturating_add(lent(Loan::Rate))
    }

    fn check_rows(&self, rights: &Rights, region: usize, rows: &Rows) -> Result<(), Rejected> {
        let known = |&(_, to, amount): &(Loan, u8, u64)| {
            usize::from(to) < self.regions.len() && usize::from(to) != region && amount <= MAX_AMOUNT
        };
        let sound = |(key, row): &(Key, Row)| {
            *key != Key::EVERY && row.consumed.max(row.refunded) <= MAX_AMOUNT && row.lent.iter().all(known)
        };
        if rows.scope != self.scope {
            Err(Rejected::ForeignScope)
        } else if rows.rows.len() > MAX_ROWS {
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
    fn compare_digests(&mut self, from: Destination, digests: &[SlotSummary]) -> Result<(), Rejected> {
        if digests.len() > MAX_DIGESTS {
            return Err(Rejected::TooLong);
        }
        let limiter = self.limiter();
        for summary in digests {
            let (limit, slot) = (summary.limit, summary.slot);
            let Some(rights) = limiter.rights(limit) else { continue };
            let held = self.ledger.digests(limit, slot, from.region, |shard| self.shares_shard(&from, shard));
            let differs = |bucket: &usize| held[*bucket] != summary.buckets[*bucket];
            let buckets = (0..DIGEST_BUCKETS).filter(differs).fold(0, |bits, bucket| bits | 1 << bucket);
            if buckets == 0 || !self.is_live(rights, slot) {
                continue;
            }
            self.stats.digest_mismatches += 1;
            self.outbox.push(from.clone(), Message::Ask { limit, slot, buckets });
            if summary.restarted {
                self.repair(&from, (limit, slot), from.region, buckets, Message::Echo);
            }
        }
        Ok(())
    }

    fn answer(&mut self, to: Destination, limit: LimitId, slot: u64, buckets: u16) -> Result<(), Rejected> {
        let limiter = self.limiter();
        let rights = limiter.rights(limit).ok_or(Rejected::UnknownLimit)?;
        if !self.is_live(rights, slot) {
            return Err(Rejected::DeadSlot);
        }
        self.repair(&to, (limit, slot), self.me, buckets, Message::Rows);
        Ok(())
    }

    /// Tells a node what is held here of a region's rows, as far as the budget of repairs goes. What does not fit is asked
    /// for again.
    fn repair(
        &mut self,
        to: &Destination,
        (limit, slot): (LimitId, u64),
        region: usize,
        buckets: u16,
        message: fn(Rows) -> Message,
    ) {
        // Bucket by bucket from another one after each digest, so that no bucket is always cut off by the bound.
        let order = (0..DIGEST_BUCKETS).map(|at| (at + self.repair_turn) % DIGEST_BUCKETS);
        let asked = order.filter(|bucket| buckets >> bucket & 1 == 1);
        let of = |shard| self.shares_shard(to, shard);
        let rows = asked.flat_map(|bucket| self.ledger.rows(limit, slot, region, 1 << bucket, of));
        let repairs: Vec<Rows> = in_messages(self.scope, limit, slot, rows).take(MAX_REPAIR_MESSAGES).collect();
        for rows in repairs {
            let bytes: usize = rows.rows.iter().map(|(_, row)| row.encoded_len()).sum();
            if !self.repairs.take(bytes + MESSAGE_COST, self.last.mono) {
                self.stats.rows_deferred += 1;
                break;
            }
            self.send(to.clone(), message(rows));
        }
    }

    /// Takes back what we published before a restart. Only the published row rises: a wrong echo can starve nobody.
    fn take_echo(&mut self, from: &Destination, rows: &Rows) -> Result<(), Rejected> {
        let limiter = self.limiter();
        let rights = limiter.rights(rows.limit).ok_or(Rejected::UnknownLimit)?;
        self.check_rows(rights, self.me, rows)?;
        if !self.was_touched(rights.terms.begin(rows.slot)) {
            return Err(Rejected::ForeignRow);
        }
        for (key, row) in &rows.rows {
            if self.join(rows.limit, *key, rows.slot, self.me, row) == Joined::Raised {
                self.untold.insert(Place { limit: rows.limit, slot: rows.slot, key: *key });
                // There may be more that it has to say.
                self.echo_rounds[from.region] = ECHO_ROUNDS;
            }
        }
        Ok(())
    }

    /// Joins a row into the ledger, counting what comes of it.
    pub(super) fn join(&mut self, limit: LimitId, key: Key, slot: u64, region: usize, row: &Row) -> Joined {
        let joined = self.ledger.join(limit, key, slot, region, row);
        match joined {
            Joined::Full => self.stats.rows_full += 1,
            Joined::Dead => self.stats.dropped_late += 1,
            Joined::Raised | Joined::Known => {}
        }
        joined
    }
}

/// Messages in answer to one question: 14 336 rows.
const MAX_REPAIR_MESSAGES: usize = 256;

/// So long after a shard was taken over rows of slots that its owners before spent have come back from the regions that are
/// heard: they were asked for at once, and once or twice again.
pub(super) const ECHOED_WITHIN: Duration = Duration::from_secs(2);

/// Digests that ask for echoes after a shard was taken over, or after one told something: in so many each bucket was first
/// in turn, even where a digest was lost. Under load digests never agree, so nothing else would end the echoes of a long slot.
pub(super) const ECHO_ROUNDS: usize = 2 * DIGEST_BUCKETS;
