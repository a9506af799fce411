//! What the oracle looks at ten times a second, and how long the fleet takes to agree again after a fault.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use portolan_geodns::{ClientSubnet, Query, qtype};
use portolan_limits::{LimitId, SlotDigest};
use portolan_model::{MemberId, RegionId, Revision, Timestamp};
use portolan_node::View;
use tokio::time::Duration;

use crate::{
    civil::Clocks,
    hearing::Hearing,
    outcome::Invariant,
    world::{Plan, World},
};

/// How often the oracle looks.
const PERIOD: Duration = Duration::from_millis(100);

/// Every how many looks every name is asked of every region.
const DNS_EVERY: u64 = 5;

/// How long the fleet may name a region that is gone or drained.
const DNS_SETTLED: Duration = Duration::from_secs(10);

/// What the oracle remembers between looks.
#[derive(Default)]
pub struct Watch {
    /// When the fleet was ready and the scenario began.
    pub zero: Option<Timestamp>,
    /// How civil time stands to the scenario's.
    pub clocks: Clocks,
    /// Who can hear whom.
    pub hearing: Hearing,
    looks: u64,
    last_fault: Option<Timestamp>,
    agreed_at: Option<Timestamp>,
    quiet_since: Option<Timestamp>,
    counters_agreed_at: Option<Timestamp>,
    /// Acknowledged revisions that are not in force everywhere.
    pending: Vec<(Revision, Timestamp)>,
    /// Time that acknowledged revisions took until they were in force everywhere.
    lags: Vec<Duration>,
    down_since: BTreeMap<RegionId, Timestamp>,
    drained_since: BTreeMap<RegionId, Timestamp>,
}

impl World<'_> {
    /// Looks, and plans the next look.
    pub fn observe(&mut self) {
        let now = self.now;
        self.agenda.plan(now + PERIOD, Plan::Observe);
        self.watch.looks += 1;
        self.note_clocks();
        for host in &self.hosts {
            let Some(process) = &host.process else { continue };
            let (view, at) = (process.node.view(), self.since_zero());
            self.oracle.run_revision(&host.name, view.revision, at);
            if let Some(entry) = view.intent.history().last() {
                self.oracle.hold_document(&host.name, entry.revision, entry.digest, at);
            }
        }
        for (place, region) in self.regions.iter().enumerate() {
            if self.region_hosts[place].iter().any(|host| self.hosts[*host].speaks()) {
                self.watch.down_since.remove(region);
            } else {
                self.watch.down_since.entry(region.clone()).or_insert(now);
            }
        }
        self.note_hearing();
        self.note_trouble();
        self.note_fences();
        self.note_splits();
        if self.watch.zero.is_none() {
            return;
        }
        self.record();
        self.begin_waiting_steps();
        self.report_progress();
        if self.leader().is_none() {
            self.figures.leaderless_ms += PERIOD.as_millis() as u64;
        }
        if self.watch.agreed_at.is_none() && self.agrees() {
            self.watch.agreed_at = Some(now);
        }
        if self.watch.quiet_since.is_some() && self.watch.counters_agreed_at.is_none() && self.counters_agree() {
            self.watch.counters_agreed_at = Some(now);
        }
        if self.watch.looks.is_multiple_of(DNS_EVERY) {
            self.observe_dns();
        }
    }

    /// Takes in how far each clock is off.
    pub fn note_clocks(&mut self) {
        let clocks = self.hosts.iter().map(|host| (host.place, host.clock.ahead_ms(self.now)));
        self.watch.clocks.read(clocks, self.now);
    }

    /// Whether every node is up and has a document in force and active limits.
    pub fn is_ready(&self) -> bool {
        let ready = |host: &crate::host::Host| host.process.as_ref().is_some_and(|process| process.node.view().ready);
        self.hosts.iter().all(ready) && self.agrees()
    }

    /// The scenario begins.
    pub fn begin(&mut self) {
        self.watch.zero = Some(self.now);
        self.watch.clocks.begin(self.now);
        self.watch.last_fault = self.watch.zero;
        self.watch.agreed_at = self.watch.zero;
    }

    /// The clients have stopped.
    pub fn become_quiet(&mut self) {
        self.watch.quiet_since = Some(self.now);
    }

    /// Whether the fleet agrees on everything after the last fault and the last request.
    pub fn has_settled(&self) -> bool {
        self.watch.agreed_at.is_some() && self.watch.counters_agreed_at.is_some()
    }

    /// Figures of agreement, and the invariant that it comes in time.
    pub fn judge_agreement(&mut self, bound: Duration) {
        let watch = &self.watch;
        let span = |from: Option<Timestamp>, to: Option<Timestamp>| Some(to?.since(from?));
        let agreed = span(watch.last_fault, watch.agreed_at);
        let counters = span(watch.quiet_since, watch.counters_agreed_at);
        let millis = |span: Duration| span.as_millis() as u64;
        self.figures.agreed_after_ms = agreed.map(millis);
        self.figures.counters_agreed_after_ms = counters.map(millis);
        let late = |span: Option<Duration>| span.is_none_or(|span| span > bound);
        let parts = [("revision and leader", agreed, self.positions()), ("counters", counters, self.counters_apart())];
        for (what, span, state) in parts.into_iter().filter(|(_, span, _)| late(*span)) {
            let took = span.map_or("never".to_owned(), |span| format!("after {} ms", span.as_millis()));
            let detail = format!("the nodes agreed on {what} {took}, {} ms are allowed: {state}", bound.as_millis());
            self.oracle.violate(self.since_zero(), Invariant::Converges, detail);
        }
    }

    /// Holds every node's history against what was acknowledged: as far as it has come where a fault remains.
    pub fn judge_histories(&mut self) {
        let at = self.since_zero();
        let remain = self.faults_remain();
        for host in &self.hosts {
            let Some(process) = &host.process else { continue };
            let view = process.node.view();
            for entry in view.intent.history() {
                self.oracle.hold_document(&host.name, entry.revision, entry.digest, at);
            }
            let history: BTreeSet<Revision> = view.intent.history().iter().map(|entry| entry.revision).collect();
            let known = if remain { history.last().copied().unwrap_or_default() } else { Revision(u64::MAX) };
            self.oracle.check_history(&host.name, &history, known, at);
        }
    }

    /// Something broke or was mended.
    pub fn note_fault(&mut self) {
        self.watch.last_fault = Some(self.now);
        self.watch.agreed_at = None;
        self.note_clocks();
        self.note_trouble();
        self.note_hearing();
    }

    /// A node says that it leads.
    pub fn note_leader(&mut self, host: usize, term: u64, member: MemberId) {
        let at = self.since_zero();
        if self.oracle.lead(term, member, at) {
            self.trace.event(at, format_args!("`{}` leads term {term}", self.hosts[host].name));
        }
    }

    /// An operator was told that a revision is accepted.
    pub fn note_acknowledged(&mut self, revision: Revision) {
        self.oracle.acknowledge(revision);
        self.figures.acknowledged_revisions += 1;
        self.watch.pending.push((revision, self.now));
        self.note_activation();
    }

    /// An operator was told that a region drains or serves again.
    pub fn note_drain(&mut self, region: &RegionId, drained: bool) {
        if drained {
            self.watch.drained_since.insert(region.clone(), self.now);
        } else {
            self.watch.drained_since.remove(region);
        }
    }

    /// The revision of some node changed: acknowledged ones may be in force everywhere.
    pub fn note_activation(&mut self) {
        let now = self.now;
        let reachable = |(number, host): &(usize, &crate::host::Host)| {
            let mut others = (0..self.hosts.len()).filter(|other| self.hosts[*other].place != host.place).peekable();
            let alone = others.peek().is_none();
            let is_cut = |other| {
                self.network.is_severed(other, *number) || self.network.is_cut(self.hosts[other].place, host.place)
            };
            let cut = !alone && others.all(is_cut);
            !cut && host.speaks()
        };
        let hosts = self.hosts.iter().enumerate().filter(reachable);
        let revisions = hosts.filter_map(|(_, host)| host.process.as_ref());
        let Some(oldest) = revisions.map(|process| process.node.view().revision).min() else { return };
        let (slowest, lags) = (&mut self.figures.slowest_activation_ms, &mut self.watch.lags);
        self.watch.pending.retain(|(revision, since)| {
            let active = *revision <= oldest;
            if active {
                let lag = now.since(*since);
                *slowest = (*slowest).max(Some(lag.as_millis() as u64));
                lags.push(lag);
            }
            !active
        });
    }

    /// The lag of configuration that 99 of 100 revisions kept to; `None` without any.
    pub fn config_lag_p99(&self) -> Option<Duration> {
        let mut lags = self.watch.lags.clone();
        lags.sort_unstable();
        let rank = (lags.len() * 99).div_ceil(100);
        lags.get(rank.checked_sub(1)?).copied()
    }

    /// Tells whoever waits for the run how far it has come.
    fn report_progress(&mut self) {
        let elapsed = self.since_zero().since(Timestamp::ZERO);
        if let Some(progress) = &mut self.options.progress {
            progress(elapsed);
        }
    }

    fn agrees(&self) -> bool {
        let position = |host: &crate::host::Host| {
            let process = host.process.as_ref()?;
            let status = process.raft.status();
            let leader = status.leader.filter(|_| status.leader_is_live)?.0;
            Some((process.node.view().revision, leader))
        };
        let first = self.hosts.first().and_then(position);
        first.is_some() && self.hosts.iter().all(|host| position(host) == first)
    }

    /// Whether all regions hold the same counters of live slots.
    fn counters_agree(&self) -> bool {
        self.counters().is_some_and(|regions| regions.iter().all(|region| *region == regions[0]))
    }

    /// Digests of the slots that are live at every node, by region, those of its nodes taken together; nothing while a node is
    /// down. A clock that was ahead is not set back but waits: meanwhile its node forgets slots that are live elsewhere, and
    /// spends in others that nobody else has begun.
    fn counters(&self) -> Option<Vec<BTreeMap<(LimitId, u64), u64>>> {
        let mut spans = BTreeMap::<LimitId, (u64, u64)>::new();
        for host in &self.hosts {
            for (limit, slot) in host.process.as_ref()?.node.current_slots(host.clock.at(self.now)) {
                let (first, last) = spans.entry(limit).or_insert((slot, slot));
                (*first, *last) = ((*first).min(slot), (*last).max(slot));
            }
        }
        let is_live = |limit: LimitId, slot: u64| {
            spans.get(&limit).is_some_and(|(first, last)| slot <= *first && slot + 1 >= *last)
        };
        let mut regions = vec![BTreeMap::new(); self.regions.len()];
        for host in &self.hosts {
            for SlotDigest { limit, slot, digest } in host.process.as_ref()?.node.slot_digests(host.clock.at(self.now))
            {
                if is_live(limit, slot) {
                    *regions[host.place].entry((limit, slot)).or_default() ^= digest;
                }
            }
        }
        Some(regions)
    }

    /// In which slots regions hold something else, for a violation.
    fn counters_apart(&self) -> String {
        let Some(regions) = self.counters() else { return "a node is down".to_owned() };
        let slots: BTreeSet<(LimitId, u64)> = regions.iter().flat_map(|region| region.keys().copied()).collect();
        let apart =
            slots.into_iter().filter(|slot| regions.iter().any(|region| region.get(slot) != regions[0].get(slot)));
        let words = apart.map(|slot @ (LimitId(limit), number)| {
            let digests = regions.iter().zip(&self.regions);
            let digests = digests.map(|(region, name)| match region.get(&slot) {
                Some(digest) => format!("{name} {digest:016x}"),
                None => format!("{name} nothing"),
            });
            format!("limit {limit}, slot {number}: {}", digests.collect::<Vec<_>>().join(", "))
        });
        words.collect::<Vec<_>>().join("; ")
    }

    /// Where each node stands, for a violation.
    fn positions(&self) -> String {
        let position = |host: &crate::host::Host| match &host.process {
            None => format!("`{}` is down", host.name),
            Some(process) => {
                let status = process.raft.status();
                let leader = status.leader.map_or("nobody".to_owned(), |(_, name)| name.to_string());
                let revision = process.node.view().revision;
                format!("`{}` has revision {revision} and follows {leader} in term {}", host.name, status.term)
            }
        };
        self.hosts.iter().map(position).collect::<Vec<_>>().join(", ")
    }

    /// The node that leads and is followed.
    pub fn leader(&self) -> Option<usize> {
        let leads = |host: &crate::host::Host| {
            host.process.as_ref().is_some_and(|process| {
                let status = process.raft.status();
                status.role == portolan_raft::Role::Leader && status.leader_is_live
            })
        };
        self.hosts.iter().position(leads)
    }

    /// Asks every node for every name from everywhere, and judges the answers by what is true, not by what nodes think.
    fn observe_dns(&mut self) {
        let now = self.now;
        let settled = self.watch.last_fault.is_none_or(|fault| now.since(fault) >= DNS_SETTLED);
        let clients: BTreeSet<IpAddr> = self.clients.iter().map(|client| client.address).collect();
        let mut found = Vec::new();
        let turn = usize::try_from(self.watch.looks / DNS_EVERY).unwrap_or_default();
        // One node of each region at a time: a name is asked of every node within a few looks.
        for hosts in &self.region_hosts {
            let host = &self.hosts[hosts[turn % hosts.len()]];
            let serving = host.process.as_ref().filter(|_| host.paused.is_none());
            let Some(view) = serving.map(|process| process.node.view()).filter(|view| view.ready) else {
                continue;
            };
            for (name, regions) in names(&view) {
                for address in &clients {
                    let client = ClientSubnet { address: *address, prefix: 128, from_ecs: false };
                    let answer = view.dns.answer(&Query { name: &name, qtype: qtype::ANY, client }, &view.states);
                    self.figures.dns_queries += 1;
                    let gone = |region: &RegionId| self.is_gone(region, now);
                    let named_gone = answer.region.as_ref().filter(|region| gone(region));
                    if answer.addresses.is_empty() {
                        found.push(format!("`{}` answered `{name}` without an address", host.name));
                    } else if let (true, Some(region)) = (settled && regions.iter().any(|id| !gone(id)), named_gone) {
                        found.push(format!("`{}` still answers `{name}` with {region}", host.name));
                    }
                }
            }
        }
        let at = self.since_zero();
        found.into_iter().for_each(|detail| self.oracle.violate(at, Invariant::DnsAnswer, detail));
    }

    /// Whether a region has been down or drained for longer than DNS may take to notice.
    fn is_gone(&self, region: &RegionId, now: Timestamp) -> bool {
        let since = [self.watch.down_since.get(region), self.watch.drained_since.get(region)];
        since.into_iter().flatten().any(|since| now.since(*since) >= DNS_SETTLED)
    }
}

/// Every name of a view's zones with its regions.
fn names(view: &View) -> Vec<(String, Vec<RegionId>)> {
    let zones = view.intent.snapshot.zones.values();
    let of_zone = |zone: &portolan_config::Zone| {
        let name = |label: &str| if label == "@" { zone.name.clone() } else { format!("{label}.{}", zone.name) };
        zone.records.iter().map(|(label, record)| (name(label), record.regions.clone())).collect::<Vec<_>>()
    };
    zones.flat_map(of_zone).collect()
}
