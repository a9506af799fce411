//! What this region may spend of a slot: its base share, what it borrowed, what a lender outside granted, and what an
//! overdraft adds. Publishes that to the request path, cut by what is durable. Never lowers it within a slot: what is
//! lent is taken out of the counter instead.

use std::time::Duration;

use portolan_config::LimitId;

use super::Limits;
use crate::{
    account::{Account, Balance},
    counter::{Allowance, Counter},
    definition::Kind,
    forecast::with_margin,
    key::Key,
    outbox::Destination,
    peers::{GOSSIP_INTERVAL, Mode, PeerState},
    rights::Rights,
    verdict::WaitReason,
};

impl Limits {
    /// Base, loans and grants: what may be used or lent, strictly.
    pub(super) fn entitled(&self, rights: &Rights, key: Key, slot: u64) -> u64 {
        let base = match rights.terms.kind {
            // Its only slot has begun before any change.
            Kind::Concurrency => rights.terms.base(slot),
            _ => rights.terms.base(slot).max(self.base(rights, slot, self.me)),
        };
        let account = self.ledger.account(rights.id, key).filter(|_| !self.forgot(rights, key, slot));
        let borrowed = account.map_or(0, |account| self.borrowed(rights, account, slot));
        let granted = self.loans.held(rights.id, key, slot);
        // What was lent on is used, and may be borrowed back.
        let lends_on = account.filter(|_| rights.terms.kind == Kind::Fixed);
        let lent = lends_on.map_or(0, |account| account.lent_out(slot, self.me));
        let most = rights.terms.quota.saturating_add(lent);
        base.saturating_add(borrowed).saturating_add(granted).min(most)
    }

    /// What others lent this region of a slot. Not what a region lent that has no share of it: it was fenced and has not
    /// heard of that, so what it lends is the share of others. Of those each node has acknowledged that split, and knows.
    pub(super) fn borrowed(&self, rights: &Rights, account: &Account, slot: u64) -> u64 {
        account.borrowed(slot, self.me, |lender| self.has_share(rights, slot, lender))
    }

    /// Whether a region has a part in a slot by the split that is known here.
    pub(super) fn has_share(&self, rights: &Rights, slot: u64, region: usize) -> bool {
        let (begin, regions) = (rights.terms.begin(slot), self.regions.len());
        self.books.get(&rights.id).is_some_and(|book| book.has_share(begin, region, regions))
    }

    /// Whether it is not known what was spent of the slot before, which counts here: then that is taken to be the base, and
    /// loans of the two slots, which come in pairs, may have been spent there already.
    fn forgot(&self, rights: &Rights, key: Key, slot: u64) -> bool {
        let slides = rights.terms.kind == Kind::Sliding && !rights.terms.marked();
        slides && rights.was_touched(&self.shared, key, slot.wrapping_sub(1))
    }

    /// A region's base share of a slot.
    pub(super) fn base(&self, rights: &Rights, slot: u64, region: usize) -> u64 {
        self.books.get(&rights.id).and_then(|book| book.bases(slot).get(region).copied()).unwrap_or(0)
    }

    /// The most that the path may be allowed once all of it is durable.
    pub(super) fn most(&self, rights: &Rights, key: Key, slot: u64) -> u64 {
        let overdraft = match self.watched.get(&(rights.id, key)) {
            Some(watch) if watch.slot == slot => watch.overdraft,
            _ => 0,
        };
        let opened = rights.cap(self.mode, slot, 0);
        self.entitled(rights, key, slot).saturating_add(overdraft).max(opened)
    }

    /// Lets the path use what the region is entitled to.
    pub(super) fn publish(&mut self, rights: &Rights, key: Key, slot: u64) {
        let windowed = matches!(rights.terms.kind, Kind::Fixed | Kind::Sliding);
        if slot > rights.terms.slot(self.wall()) + 1 {
            // A sound clock ahead of ours lends of its next slot, which has the current one's word here. The ledger holds
            // the loan until that is over.
            return;
        }
        if let Kind::Bucket(buckets) = &rights.terms.kind {
            self.publish_paces(rights, buckets, key);
            if !rights.lends_rate(slot) {
                self.publish_borrowed(rights, key, slot);
            }
            return;
        }
        let gate = self.shared.gates.of(key);
        // What is published stays for the slot, so nothing is before the slot may be lent of: till then its split can change.
        let open = gate.horizon().is_some_and(|horizon| rights.terms.begin(slot) < horizon);
        if !windowed || !open || !gate.barrier().opens(&rights.terms, slot, rights.terms.begin(slot)) {
            return;
        }
        let most = self.most(rights, key, slot);
        let awaits = self.awaits_loans(rights, key, slot);
        let others = self.others_spent(rights, slot, key);
        let marked = rights.terms.marked();
        let shared = &self.shared;
        let published = self.shared.table.with(key, |counter| {
            let before = rights.allowance(shared, counter, key, slot);
            let amount = if marked { before.amount } else { before.amount.max(most) };
            let pending = match before.pending {
                _ if marked && amount < most => Some(WaitReason::Mark),
                _ => awaits.then_some(WaitReason::Borrow),
            };
            let now = Allowance { amount, pending };
            let opened = rights.is_open() && rights.live.mode() == Mode::Degraded;
            if now != before && !opened {
                counter.publish_rights(slot, now);
            }
            publish_others(counter, slot, others);
            (counter.used(slot), now, now != before)
        });
        if let Some((used, allowance, moved)) = published {
            self.siblings.relief |= moved;
            self.consider_mark(rights, key, slot, used, allowance);
        }
    }

    /// Publishes anew what was published under other terms. Walks over the whole table, if there are such limits.
    pub(super) fn republish(&mut self, changed: &[LimitId]) {
        if changed.is_empty() {
            return;
        }
        let limiter = self.limiter();
        let wall = self.wall();
        let mut places = Vec::new();
        self.shared.table.for_each(|key, counter| {
            let Some(rights) = limiter.rights(counter.limit()).filter(|rights| changed.contains(&rights.id)) else {
                return;
            };
            let current = rights.terms.slot(wall);
            let published = [current, current + 1].into_iter().filter(|&slot| counter.rights(slot).is_some());
            places.extend(published.map(|slot| (rights.id, key, slot)));
        });
        for (limit, key, slot) in places {
            if let Some(rights) = limiter.rights(limit) {
                self.publish(rights, key, slot);
            }
        }
    }

    /// Tells the path what the others spent.
    pub(super) fn publish_others(&self, rights: &Rights, slot: u64, key: Key) {
        let others = self.others_spent(rights, slot, key);
        if others.is_some() {
            self.shared.table.with(key, |counter| publish_others(counter, slot, others));
        }
    }

    /// What the others spent, where the path has to know it. What they were lent from here counts here already.
    fn others_spent(&self, rights: &Rights, slot: u64, key: Key) -> Option<u64> {
        // Of a bucket the path knows what is out in that place.
        if slot != rights.terms.slot(self.wall()) || matches!(rights.terms.kind, Kind::Bucket(_)) {
            return None;
        }
        let account = self.ledger.account(rights.id, key)?;
        Some(account.consumed(slot, Some(self.me)).saturating_sub(account.lent_out(slot, self.me)))
    }

    /// Whether a request that finds nothing left may wait: some region that is heard can still lend in this slot.
    fn awaits_loans(&self, rights: &Rights, key: Key, slot: u64) -> bool {
        if rights.borrow_wait.is_zero() || !self.books.get(&rights.id).is_some_and(|book| book.lends) {
            return false;
        }
        if self.left(rights, slot) <= self.one_way() && slot <= rights.terms.slot(self.wall()) {
            return false;
        }
        let Some(account) = self.ledger.account(rights.id, key) else { return self.mode != Mode::Degraded };
        let balances = account.balances(slot, self.regions.len());
        let others = balances.iter().enumerate().filter(|&(at, _)| self.reaches(at) && at != self.me);
        others.into_iter().any(|(at, balance)| self.unspent(rights, slot, at, *balance) > 0)
    }

    /// What a region may still spend or lend, as far as it has told.
    pub(super) fn unspent(&self, rights: &Rights, slot: u64, region: usize, balance: Balance) -> u64 {
        balance.unspent(self.base(rights, slot, region))
    }

    /// Raises the rights beyond base and loans while all regions together are below the quota, as far as is known.
    pub(super) fn overdraw(&mut self, rights: &Rights, key: Key) {
        let Some(book) = self.books.get(&rights.id).filter(|book| book.overdraft.parts() > 0) else { return };
        let Some(watch) = self.watched.get(&(rights.id, key)).copied() else { return };
        let slot = rights.terms.slot(self.wall());
        let most = book.most_overdraft(self.base(rights, slot, self.me));
        if most <= watch.overdraft || watch.slot != slot {
            return;
        }
        let used = self.shared.table.with(key, |counter| counter.used(slot)).unwrap_or(0);
        let left = self.most(rights, key, slot).saturating_sub(used);
        let soon = with_margin(self.rate_of(rights, &watch) * (self.one_way() + GOSSIP_INTERVAL.as_secs_f64()));
        if left as f64 > soon {
            return;
        }
        let step = self.unclaimed(rights, key, slot, watch.net).saturating_sub(left).min(most - watch.overdraft);
        if step == 0 {
            return;
        }
        if let Some(watch) = self.watched.get_mut(&(rights.id, key)) {
            watch.overdraft += step;
        }
        if let Some(book) = self.books.get_mut(&rights.id) {
            book.tally.overdraft += step;
        }
        self.publish(rights, key, slot);
    }

    /// What the quota leaves of a slot, after all that is known to be consumed and what the others will yet: a region that
    /// will use up what it has leaves nothing to overdraw.
    fn unclaimed(&self, rights: &Rights, key: Key, slot: u64, net: u64) -> u64 {
        let Some(account) = self.ledger.account(rights.id, key) else { return 0 };
        let balances = account.balances(slot, self.regions.len());
        let mut claimed = net;
        for (at, balance) in balances.iter().enumerate().filter(|&(at, _)| at != self.me) {
            let unspent = self.unspent(rights, slot, at, *balance);
            let ahead = self.view_age() + self.left(rights, slot);
            let rate = self.told_demand(rights, account, slot, at).unwrap_or_default().rate.units();
            let unseen = match self.peers.state(at) {
                PeerState::Stale => unspent,
                // In a long window every unit that is left will be lent to where it is asked for.
                _ if rights.terms.marked() => unspent,
                _ if !balance.told => unspent / 2,
                _ => (with_margin(rate * ahead).ceil() as u64).min(unspent),
            };
            claimed = claimed.saturating_add(balance.consumed).saturating_add(unseen);
        }
        rights.terms.quota.saturating_sub(claimed)
    }

    /// Seconds that what a region last told of a key under pressure is old, on average.
    pub(super) fn view_age(&self) -> f64 {
        self.one_way() + GOSSIP_INTERVAL.as_secs_f64() / 2.0
    }

    /// Seconds from here to the furthest region.
    pub(super) fn one_way(&self) -> f64 {
        self.worst_rtt.as_secs_f64() / 2.0
    }

    /// Whether a loan would reach a region.
    pub(super) fn reaches(&self, region: usize) -> bool {
        let heard = self.peers.ages(region, self.last.mono).0 <= SUSPECT_AFTER;
        region == self.me || (heard && self.peers.state(region) != PeerState::Stale)
    }

    /// Whether a loan of a key would reach a region's owner of it: another node of that region may hear us, and that one not.
    pub(super) fn reaches_owner(&self, region: usize, key: Key) -> bool {
        let owner = || self.siblings.rankings.get(&region).and_then(|ranking| ranking.owner_of(key));
        let hears = |to: &Destination| to.region != region || to.node.as_ref() != owner();
        self.reaches(region) && self.unheard.iter().all(hears)
    }
}

fn publish_others(counter: &Counter, slot: u64, others: Option<u64>) {
    if let Some(others) = others.filter(|others| counter.others(slot) != *others) {
        counter.publish_others(slot, others);
    }
}

/// A region that was silent for so long is lent nothing: what goes to one that is gone is lost for the slot.
const SUSPECT_AFTER: Duration = Duration::from_millis(300);
