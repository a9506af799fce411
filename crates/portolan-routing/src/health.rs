//! Decides whether an endpoint is fit for requests, from probes and from what requests met.
//!
//! One cell of atomics per endpoint, shared by all workers; a cell outlives the boards that list it, so that a new
//! revision forgets neither health nor requests in flight. Never reads a clock. Passive rule: consecutive faults eject
//! for a growing time, as Envoy's outlier detection; a refused connection ejects at once, but briefly.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use portolan_config::{EndpointAddress, HealthCheck, Service, Snapshot};
use portolan_model::{Name, RegionId, Timestamp};

/// Consecutive 5xx responses or timeouts that eject an endpoint.
const MAX_ERRORS: u32 = 5;
/// Consecutive refused or reset connections that eject an endpoint for the full time.
const MAX_FAULTS: u32 = 3;
/// Ejection after one refused connection: nothing was sent, so to ask elsewhere costs nothing.
const BRIEF_EJECTION: Duration = Duration::from_secs(5);
/// First full ejection; the n-th in a row lasts n times as long.
const BASE_EJECTION: Duration = Duration::from_secs(30);
/// Longest ejection, and how long an endpoint must stay in service to be counted from one again.
const MAX_EJECTION: Duration = Duration::from_secs(300);

/// An endpoint of a [`HealthBoard`]; keeps its number over revisions, and the number is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u32);

/// How an attempt at an endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response below 500.
    Success,
    /// No connection.
    ConnectFailed,
    /// A connection that broke before the response was complete.
    Reset,
    /// No response within the route's timeout.
    Timeout,
    /// A response of 500 or above.
    Status5xx,
}

/// How an active probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// Connected, and where a path is probed it answered 2xx or 3xx.
    Success,
    /// Anything else.
    Failure,
}

/// Fitness of an endpoint at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No probe has ended yet; used like [`Health::Healthy`].
    Unknown,
    /// Probes succeed.
    Healthy,
    /// Probes fail.
    Unhealthy,
    /// Requests failed; taken out of service until the given moment.
    Ejected {
        /// End of the ejection unless a probe ends it sooner.
        until: Timestamp,
    },
}

/// The endpoints of one revision with their shared health.
#[derive(Clone, Debug, Default)]
pub struct HealthBoard {
    /// Sorted by id.
    slots: Vec<Slot>,
    pub(crate) services: BTreeMap<Name, Vec<(RegionId, Vec<usize>)>>,
    next: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) id: EndpointId,
    pub(crate) service: Arc<Service>,
    pub(crate) region: RegionId,
    pub(crate) address: EndpointAddress,
    pub(crate) cell: Arc<Cell>,
}

/// One endpoint as read by `status`, `explain` and probes.
#[derive(Clone, Copy, Debug)]
pub struct EndpointRef<'a> {
    /// Its number.
    pub id: EndpointId,
    /// The service it belongs to.
    pub service: &'a Service,
    /// The region it stands in.
    pub region: &'a RegionId,
    /// Where it listens.
    pub address: &'a EndpointAddress,
    /// Its fitness.
    pub health: Health,
    /// Requests now under way, counted on this node.
    pub in_flight: u32,
}

impl HealthBoard {
    /// Lists the endpoints of a snapshot; those that `previous` lists at the same service, region and address keep
    /// their number and health.
    pub fn build(snapshot: &Snapshot, previous: Option<&HealthBoard>) -> Self {
        let known: BTreeMap<_, &Slot> = previous.iter().flat_map(|board| &board.slots).map(|s| (s.key(), s)).collect();
        let mut board = Self { next: previous.map_or(0, |board| board.next), ..Self::default() };
        for service in snapshot.services.values() {
            for (region, addresses) in &service.endpoints {
                for address in addresses {
                    let kept = known.get(&(&service.name, region, address.host.as_str(), address.port));
                    let (id, cell) = kept.map_or_else(|| board.issue(), |slot| (slot.id, Arc::clone(&slot.cell)));
                    let (service, region, address) = (Arc::clone(service), region.clone(), address.clone());
                    board.slots.push(Slot { id, service, region, address, cell });
                }
            }
        }
        board.slots.sort_by_key(|slot| slot.id);
        for (index, slot) in board.slots.iter().enumerate() {
            let regions = board.services.entry(slot.service.name.clone()).or_default();
            match regions.iter_mut().find(|(region, _)| *region == slot.region) {
                Some((_, members)) => members.push(index),
                None => regions.push((slot.region.clone(), vec![index])),
            }
        }
        board
    }

    /// Counts how an attempt ended. Unknown numbers are ignored: the endpoint has left the configuration.
    pub fn record(&self, id: EndpointId, outcome: Outcome, now: Timestamp) {
        if let Some(slot) = self.slot(id) {
            slot.cell.record(outcome, now);
        }
    }

    /// Counts how a probe ended and returns the new health when it changed.
    pub fn handle_probe(&self, id: EndpointId, outcome: ProbeOutcome, now: Timestamp) -> Option<Health> {
        let slot = self.slot(id)?;
        let before = slot.cell.health(now);
        slot.cell.handle_probe(outcome, &slot.service.health);
        let after = slot.cell.health(now);
        (before != after).then_some(after)
    }

    /// Counts a request as under way until the guard is dropped.
    pub fn begin(&self, id: EndpointId) -> InFlight {
        InFlight(self.slot(id).map(|slot| slot.cell.enter()))
    }

    /// All endpoints in order of number.
    pub fn endpoints(&self, now: Timestamp) -> impl Iterator<Item = EndpointRef<'_>> {
        self.slots.iter().map(move |slot| slot.read(now))
    }

    /// One endpoint, unless it has left the configuration.
    pub fn endpoint(&self, id: EndpointId, now: Timestamp) -> Option<EndpointRef<'_>> {
        self.slot(id).map(|slot| slot.read(now))
    }

    pub(crate) fn at(&self, index: usize) -> &Slot {
        &self.slots[index]
    }

    fn slot(&self, id: EndpointId) -> Option<&Slot> {
        self.slots.binary_search_by_key(&id, |slot| slot.id).ok().map(|index| &self.slots[index])
    }

    fn issue(&mut self) -> (EndpointId, Arc<Cell>) {
        let id = EndpointId(self.next);
        self.next = self.next.checked_add(1).expect("fewer than 2^32 endpoints are configured in one process");
        (id, Arc::default())
    }
}

impl Slot {
    fn key(&self) -> (&Name, &RegionId, &str, u16) {
        (&self.service.name, &self.region, &self.address.host, self.address.port)
    }

    fn read(&self, now: Timestamp) -> EndpointRef<'_> {
        let Self { id, service, region, address, cell } = self;
        let (health, in_flight) = (cell.health(now), cell.in_flight.load(Relaxed));
        EndpointRef { id: *id, service, region, address, health, in_flight }
    }
}

/// A request under way at an endpoint; dropping it ends it.
#[derive(Debug)]
pub struct InFlight(Option<Arc<Cell>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(cell) = &self.0 {
            cell.in_flight.fetch_sub(1, Relaxed);
        }
    }
}

/// Health of one endpoint. Each field stands alone: a reader that sees two of them from different moments picks a
/// slightly worse endpoint, nothing else, so relaxed order is enough.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    /// 0 unknown, 1 healthy, 2 unhealthy.
    active: AtomicU8,
    /// Probes in a row that contradict `active`.
    streak: AtomicU32,
    errors: AtomicU32,
    faults: AtomicU32,
    ejections: AtomicU32,
    /// Nanoseconds; 0 when not ejected.
    ejected_until: AtomicU64,
    /// The same after one refused connection.
    refused_until: AtomicU64,
    /// 1 when responses, not connections, caused the ejection.
    ejected_by_errors: AtomicU8,
    last_failure: AtomicU64,
    pub(crate) in_flight: AtomicU32,
}

impl Cell {
    pub(crate) fn health(&self, now: Timestamp) -> Health {
        let until = Timestamp::from_nanos(self.ejected_until.load(Relaxed).max(self.refused_until.load(Relaxed)));
        match self.active.load(Relaxed) {
            UNHEALTHY => Health::Unhealthy,
            _ if until > now => Health::Ejected { until },
            HEALTHY => Health::Healthy,
            _ => Health::Unknown,
        }
    }

    pub(crate) fn usable(&self, now: Timestamp) -> bool {
        matches!(self.health(now), Health::Unknown | Health::Healthy)
    }

    pub(crate) fn last_failure(&self) -> Timestamp {
        Timestamp::from_nanos(self.last_failure.load(Relaxed))
    }

    fn enter(self: &Arc<Self>) -> Arc<Self> {
        self.in_flight.fetch_add(1, Relaxed);
        Arc::clone(self)
    }

    fn record(&self, outcome: Outcome, now: Timestamp) {
        if outcome == Outcome::Success {
            // Stores only on change, so that a healthy endpoint's line stays shared between workers.
            for streak in [&self.errors, &self.faults] {
                if streak.load(Relaxed) != 0 {
                    streak.store(0, Relaxed);
                }
            }
            return;
        }
        self.last_failure.store(now.as_nanos().max(1), Relaxed);
        let by_errors = matches!(outcome, Outcome::Status5xx | Outcome::Timeout);
        let (streak, most) = if by_errors { (&self.errors, MAX_ERRORS) } else { (&self.faults, MAX_FAULTS) };
        if streak.fetch_add(1, Relaxed) + 1 >= most {
            streak.store(0, Relaxed);
            self.eject(by_errors, now);
        } else if outcome == Outcome::ConnectFailed {
            self.refused_until.store((now + BRIEF_EJECTION).as_nanos(), Relaxed);
        }
    }

    fn eject(&self, by_errors: bool, now: Timestamp) {
        let last_end = Timestamp::from_nanos(self.ejected_until.load(Relaxed));
        if last_end > now {
            // Requests that were under way when it was ejected tell nothing more.
            return;
        }
        if now.since(last_end) >= MAX_EJECTION {
            self.ejections.store(0, Relaxed);
        }
        let times = self.ejections.fetch_add(1, Relaxed).saturating_add(1);
        let length = BASE_EJECTION.saturating_mul(times).min(MAX_EJECTION);
        self.ejected_by_errors.store(u8::from(by_errors), Relaxed);
        self.ejected_until.fetch_max((now + length).as_nanos(), Relaxed);
    }

    /// A success ends an ejection, except that a bare TCP connect says nothing of an endpoint that answers with errors.
    fn handle_probe(&self, outcome: ProbeOutcome, check: &HealthCheck) {
        let (target, needed) = match outcome {
            ProbeOutcome::Success => (HEALTHY, check.rise),
            ProbeOutcome::Failure => (UNHEALTHY, check.fall),
        };
        let active = self.active.load(Relaxed);
        if outcome == ProbeOutcome::Success && (check.path.is_some() || self.ejected_by_errors.load(Relaxed) == 0) {
            self.ejected_until.store(0, Relaxed);
            self.refused_until.store(0, Relaxed);
            self.faults.store(0, Relaxed);
        }
        if active == target {
            self.streak.store(0, Relaxed);
            return;
        }
        // The first success after start counts at once: nothing speaks against the endpoint.
        let first_success = active == UNKNOWN && outcome == ProbeOutcome::Success;
        if first_success || self.streak.fetch_add(1, Relaxed) + 1 >= needed {
            self.streak.store(0, Relaxed);
            self.active.store(target, Relaxed);
        }
    }
}

const UNKNOWN: u8 = 0;
const HEALTHY: u8 = 1;
const UNHEALTHY: u8 = 2;
