//! Requests that are being decided: at once, or after a wait for a mark, an owner or a loan.
//!
//! What a request claims follows from client, user and revision; it is worked out once for each, since the key of a limit
//! is a keyed hash and a route is a search.

use std::{rc::Rc, sync::Arc};

use portolan_config::{Algorithm, Budget, KeyPart, Limit, OnPartition, Route};
use portolan_limits::{
    Admission, Charge, Claim, Denial, DenyReason, LimitId, Limiter, Patience, Wait, WaitReason, Waited,
};
use portolan_model::{Now, Revision, Timestamp};
use portolan_node::{Subject, View};
use portolan_routing::{Found, RequestHead};
use rand::RngExt;
use smallvec::SmallVec;

use crate::{
    clients::Lasting,
    closed::Heard,
    outcome::Invariant,
    tally::{Charged, Refusal, Refused, Seen},
    world::{Plan, World},
};

/// What a client gets when the service gave no answer.
const BAD_GATEWAY: u16 = 502;

/// One request that is being decided.
pub struct Ask {
    client: usize,
    user: u32,
    host: usize,
    life: u64,
    asked_at: Timestamp,
    /// Of one that waits: until when, and for what.
    until: Option<Timestamp>,
    waited: Option<Waited>,
    patience: Patience,
}

impl Ask {
    /// A request of a client's user at a host in one of its lives.
    pub fn new(client: usize, user: u32, host: usize, life: u64, now: Timestamp) -> Self {
        Self { client, user, host, life, asked_at: now, until: None, waited: None, patience: Patience::default() }
    }
}

/// What one user of one client asks for under one revision. There are as many as there are users, so small.
pub struct Wanted {
    revision: Revision,
    way: Option<Rc<Way>>,
    /// None of a limit that is not known.
    claims: Option<SmallVec<[Claim; 2]>>,
    counters: SmallVec<[u32; 2]>,
}

/// The route of a client's requests under one revision, and what is true of all that take it.
pub struct Way {
    revision: Revision,
    route: Arc<Route>,
    /// Limits that are closed while some region is unheard.
    closed: Vec<Arc<Limit>>,
    /// Whether one of the limits counts requests that are under way.
    holds: bool,
    /// Which of the limits give back what a request cost that its endpoint gave no answer to.
    refunded: SmallVec<[bool; 4]>,
}

/// Requests of one client that are decided at one moment: what they share is read once.
#[derive(Default)]
pub struct Batch {
    places: SmallVec<[Place; 4]>,
    allowed: u64,
    refused: u64,
    waiting: u64,
}

/// One host of a batch.
struct Place {
    host: usize,
    view: Arc<View>,
    now: Now,
    heard: Heard,
    /// Whether some endpoint was left; all requests of a client go to one service.
    forwards: Option<bool>,
}

impl World<'_> {
    /// Has the processor fetch what a request's decision will read.
    pub fn prefetch(&mut self, ask: &Ask, batch: &mut Batch) {
        let Some(at) = self.place_in(batch, ask) else { return };
        let view = Arc::clone(&batch.places[at].view);
        let wanted = self.wanted(ask.client, ask.user, &view);
        wanted.claims.iter().flatten().for_each(|claim| view.limiter.prefetch(claim.key));
        wanted.counters.iter().for_each(|counter| self.tally.prefetch(*counter));
    }

    /// Has a request decided by the node it reached.
    pub fn ask(&mut self, ask: Ask, batch: &mut Batch) {
        let place = self.hosts[ask.host].place;
        let Some(at) = self.place_in(batch, &ask) else {
            self.recorder.requests[place].unanswered += 1;
            return;
        };
        let view = Arc::clone(&batch.places[at].view);
        let wanted = self.wanted(ask.client, ask.user, &view);
        let Some(way) = &wanted.way else {
            self.recorder.requests[place].rejected += 1;
            return;
        };
        let now = batch.places[at].now;
        let unknown = || Admission::Wait(Wait::unknown(LimitId(u32::MAX), way.route.name.clone()));
        let admit = |limiter: &Limiter, claims: &[Claim], now| match ask.waited {
            Some(waited) => limiter.admit_again(claims, waited, now),
            None => limiter.admit(claims, now),
        };
        let admission = wanted.claims.as_ref().map_or_else(unknown, |claims| admit(&view.limiter, claims, now));
        match admission {
            Admission::Allow(charges) => {
                batch.allowed += 1;
                self.allowed(&ask, &wanted, way, charges, &mut batch.places[at]);
            }
            Admission::Deny(denial) => {
                batch.refused += 1;
                self.denied(&ask, &wanted, &denial, false);
            }
            Admission::Wait(wait) => {
                batch.waiting += 1;
                let mut patience = ask.patience;
                let until = ask.asked_at + patience.until(&wait, self.now.since(ask.asked_at));
                if until <= self.now {
                    self.denied(&ask, &wanted, &wait.otherwise, wait.reason != WaitReason::Borrow);
                    return;
                }
                if ask.until != Some(until) {
                    self.agenda.plan(until, Plan::GiveUp(ask.host));
                }
                let waited = Some(wait.waited());
                self.hosts[ask.host].waiting.push(Ask { until: Some(until), waited, patience, ..ask });
            }
        }
    }

    /// Requests that wait at a node ask again, in the order in which they came: something moved there that they may use.
    pub fn relieve(&mut self, host: usize) {
        let waiting = std::mem::take(&mut self.hosts[host].waiting);
        self.ask_again(waiting);
    }

    /// The time of some that wait at a node is up: they ask for the last time.
    pub fn give_up(&mut self, host: usize) {
        let now = self.now;
        let over = self.hosts[host].waiting.extract_if(.., |ask| ask.until.is_some_and(|until| until <= now));
        let over = over.collect();
        self.ask_again(over);
    }

    fn ask_again(&mut self, asks: Vec<Ask>) {
        let mut asks = asks.into_iter().peekable();
        while let Some(client) = asks.peek().map(|ask| ask.client) {
            let mut batch = Batch::default();
            while let Some(ask) = asks.next_if(|ask| ask.client == client) {
                self.ask(ask, &mut batch);
            }
            self.close_batch(&batch, client);
        }
    }

    /// Takes down what a batch came to, and lets nodes attend to what it left them.
    pub fn close_batch(&mut self, batch: &Batch, client: usize) {
        self.trace.numbers([client as u64, batch.allowed << 40 | batch.refused << 20 | batch.waiting]);
        if self.options.write.is_some() && batch.allowed + batch.refused + batch.waiting > 0 {
            let (at, load) = (self.since_zero(), &self.clients[client].load);
            let what = format!(
                "{} {}: {} allowed, {} refused, {} wait",
                load.host, load.path, batch.allowed, batch.refused, batch.waiting
            );
            let region = load.region.to_string();
            self.write_line(at, "requests", &region, "", &what);
        }
        for place in &batch.places {
            if place.view.limiter.take_attention() {
                self.attend(place.host);
            }
        }
    }

    /// An admitted request has ended at its endpoint.
    pub fn finish(&mut self, lasting: &Lasting) {
        let host = &self.hosts[lasting.seen.host];
        // What was under way in a process that has ended has ended with it.
        let Some(process) = host.process.as_ref().filter(|_| host.lives == lasting.life) else { return };
        let (view, now) = (process.node.view(), host.clock.at(self.now));
        let seen = self.seen(lasting.seen.host);
        let refunded = lasting.refunded.iter().chain(std::iter::repeat(&false));
        for ((charge, counter), refunded) in lasting.charges.iter().zip(&lasting.counters).zip(refunded) {
            let charged = || Charged::of(charge, view.limiter.policy(charge).map_or(0, |policy| policy.quota));
            if *refunded && !charge.shadow_refused {
                view.limiter.refund(charge, charge.cost, now);
                self.tally.refund(*counter, charged(), lasting.seen, seen);
            }
            view.limiter.release(charge);
            self.tally.release(*counter, lasting.seen.host, u64::from(charge.cost));
        }
    }

    fn place_in(&mut self, batch: &mut Batch, ask: &Ask) -> Option<usize> {
        if let Some(at) = batch.places.iter().position(|place| place.host == ask.host) {
            return Some(at);
        }
        let host = &self.hosts[ask.host];
        let process = host.process.as_ref().filter(|_| host.lives == ask.life && host.paused.is_none())?;
        let (view, now) = (process.node.view(), host.clock.at(self.now));
        let heard = self.may_hear(ask.host);
        batch.places.push(Place { host: ask.host, view, now, heard, forwards: None });
        Some(batch.places.len() - 1)
    }

    fn wanted(&mut self, client: usize, user: u32, view: &Arc<View>) -> Rc<Wanted> {
        let place = user as usize;
        if let Some(Some(wanted)) = self.clients[client].wanted.get(place)
            && wanted.revision == view.revision
        {
            return Rc::clone(wanted);
        }
        let wanted = Rc::new(self.work_out(client, user, view));
        let known = &mut self.clients[client].wanted;
        known.resize(known.len().max(place + 1), None);
        known[place] = Some(Rc::clone(&wanted));
        wanted
    }

    fn work_out(&mut self, client: usize, user: u32, view: &Arc<View>) -> Wanted {
        let revision = view.revision;
        let Some(way) = self.way(client, view) else {
            return Wanted { revision, way: None, claims: None, counters: SmallVec::new() };
        };
        let tally = &mut self.tally;
        let (claims, counters) = self.clients[client].with_subject(user, |subject| {
            let claims = view.claims(&way.route, subject);
            let counter = |(claim, limit): (&Claim, &Arc<Limit>)| {
                tally.counter(limit, (claim.limit, claim.key), words(limit, &way.route, subject))
            };
            let counters = claims.iter().flatten().zip(limits_of(&way.route, view)).map(counter).collect();
            (claims.map(SmallVec::from_iter), counters)
        });
        Wanted { revision, way: Some(way), claims, counters }
    }

    /// The way of a client's requests; none where no route takes them.
    fn way(&mut self, client: usize, view: &Arc<View>) -> Option<Rc<Way>> {
        let revision = view.revision;
        let of = &mut self.clients[client];
        if let Some(way) = of.way.as_ref().filter(|way| way.revision == revision) {
            return Some(Rc::clone(way));
        }
        let head = RequestHead { host: &of.load.host, path: &of.load.path, method: &of.load.method };
        let Found::Route(route) = view.route(&head) else { return None };
        let limits: Vec<&Arc<Limit>> = limits_of(&route, view).collect();
        // A shadow refuses nothing.
        let closes = |limit: &&Arc<Limit>| {
            !limit.shadow && matches!(limit.on_partition, OnPartition::Closed | OnPartition::ClosedMinority)
        };
        let closed = limits.iter().copied().filter(closes).cloned().collect();
        let holds = limits.iter().any(|limit| matches!(limit.algorithm, Algorithm::Concurrency { .. }));
        let refunds = |limit: &&Arc<Limit>| limit.refund_on.iter().any(|on| on.takes_in(BAD_GATEWAY, true));
        let refunded = limits.iter().map(refunds).collect();
        let way = Rc::new(Way { revision, route: Arc::clone(&route), closed, holds, refunded });
        of.way = Some(Rc::clone(&way));
        Some(way)
    }

    fn allowed(&mut self, ask: &Ask, wanted: &Wanted, way: &Way, charges: SmallVec<[Charge; 4]>, place: &mut Place) {
        let seen = self.seen(ask.host);
        let Seen { place: region, at, .. } = seen;
        let charged = charges.iter().zip(&wanted.counters).filter(|(charge, _)| !charge.shadow_refused);
        for (charge, counter) in charged {
            let quota = place.view.limiter.policy(charge).map_or(0, |policy| policy.quota);
            if let Some(detail) = self.tally.admit(*counter, Charged::of(charge, quota), seen) {
                self.oracle.violate(at, Invariant::LimitBound, detail);
            }
        }
        let forbids = |limit: &&Arc<Limit>| {
            place.heard.forbids(limit, &self.sources.regions, self.tally.is_split_as_written(&limit.name))
        };
        if let Some(limit) = way.closed.iter().find(forbids) {
            let (name, region) = (&limit.name, &place.view.region);
            let detail = format!("limit `{name}` is closed while a region is unheard, {region} admitted");
            self.oracle.violate(at, Invariant::LimitBound, detail);
        }
        self.note_wait(ask, wanted);
        let fails = self.clients[ask.client].next_fails();
        let refunded = if fails { way.refunded.clone() } else { SmallVec::new() };
        if way.holds || refunded.contains(&true) {
            // One that lasts no time ends after all that is decided at this instant.
            let ends = place.now.mono + self.clients[ask.client].load.lasting;
            let lasting = Lasting { life: ask.life, seen, charges, counters: wanted.counters.clone(), refunded };
            self.agenda.plan(ends, Plan::Finish(Box::new(lasting)));
        }
        let forwards = *place.forwards.get_or_insert_with(|| {
            let choice = self.clients[ask.client].draws.random();
            place.view.pick(&way.route.service, &[], place.now.mono, choice).is_some()
        });
        let counts = &mut self.recorder.requests[region];
        *if forwards { &mut counts.forwarded } else { &mut counts.unavailable } += 1;
        counts.failed += u64::from(forwards && fails);
    }

    /// Counts a refusal; `undecided` when it is only the answer to what did not come in time.
    fn denied(&mut self, ask: &Ask, wanted: &Wanted, denial: &Denial, undecided: bool) {
        let seen = self.seen(ask.host);
        let why = match denial.reason {
            DenyReason::Exhausted => Refusal::Limited,
            DenyReason::Degraded | DenyReason::Closed if undecided => Refusal::Undecided,
            DenyReason::Degraded | DenyReason::Closed => Refusal::Degraded,
        };
        let claims = wanted.claims.as_deref().unwrap_or_default();
        let refused_by = claims.iter().position(|claim| claim.limit == denial.limit);
        if let Some((claim, &counter)) = refused_by.and_then(|at| claims.get(at).zip(wanted.counters.get(at))) {
            let lasting = self.clients[ask.client].load.lasting;
            let refused = Refused { why, cost: u64::from(claim.cost), lasting };
            if let Some(detail) = self.tally.refuse(counter, denial, refused, seen) {
                self.oracle.violate(seen.at, Invariant::RoomIsGiven, detail);
            }
        }
        self.note_wait(ask, wanted);
        let counts = &mut self.recorder.requests[seen.place];
        *if why == Refusal::Limited { &mut counts.limited } else { &mut counts.unavailable } += 1;
    }

    fn seen(&self, host: usize) -> Seen {
        let place = self.hosts[host].place;
        Seen { host, place, at: self.since_zero(), moment: self.watch.clocks.moment_of(place) }
    }

    fn note_wait(&mut self, ask: &Ask, wanted: &Wanted) {
        if ask.until.is_some() {
            let wait = self.now.since(ask.asked_at);
            wanted.counters.iter().for_each(|counter| self.tally.waited(*counter, wait));
        }
    }
}

/// The limits of a route, in the order of its claims.
fn limits_of<'a>(route: &'a Route, view: &'a View) -> impl Iterator<Item = &'a Arc<Limit>> {
    route.limits.iter().filter_map(|name| view.intent.snapshot.limits.get(name))
}

/// What a limit counts apart, as seen from outside.
fn words(limit: &Limit, route: &Route, subject: &Subject<'_>) -> String {
    let mut words: Vec<String> = Vec::new();
    for part in limit.key.parts() {
        words.push(match part {
            KeyPart::Global => "everyone".to_owned(),
            KeyPart::Service => format!("service {}", route.service),
            KeyPart::Route => format!("route {}", route.name),
            KeyPart::User => format!("user {}", subject.user.unwrap_or_default()),
            KeyPart::ClientAddress { .. } => format!("client {}", subject.client),
            KeyPart::Header(name) => {
                let value = subject.attributes.header(name).unwrap_or_default();
                format!("{name} {}", String::from_utf8_lossy(&value))
            }
            KeyPart::Claim(name) => format!("{name} {}", subject.attributes.claim(name).unwrap_or_default()),
        });
    }
    if limit.per == Budget::Route {
        words.push(format!("on route {}", route.name));
    }
    words.join(", ")
}
