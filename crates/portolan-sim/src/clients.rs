//! Load: what clients send, where DNS leads them, and what they get. A request is one decision of the code under test
//! (route, limits, endpoint), not a connection: wire code is tested elsewhere.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::IpNet;
use portolan_config::{ClientLoad, LimitKey, OnPartition, Route, Scenario};
use portolan_geodns::{ClientSubnet, Query, Rcode, qtype};
use portolan_limits::{Admission, Charge, DenyReason};
use portolan_model::{RegionId, Timestamp};
use portolan_node::{Subject, View};
use portolan_routing::{Found, RequestHead};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tokio::time::Duration;

use crate::{
    Sources, chance, oracle,
    outcome::Invariant,
    world::{Plan, World},
};

/// How often a client sends what has come due.
const TICK: Duration = Duration::from_millis(10);

/// Longest wait for a durable mark, and how often a waiting request asks meanwhile.
const MARK_WAIT: Duration = Duration::from_millis(20);
const MARK_RETRY: Duration = Duration::from_millis(4);

/// Where clients of a region are that no configured network places (RFC 2544).
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));

/// One load of the scenario.
pub struct Client {
    load: ClientLoad,
    address: IpAddr,
    sent: u64,
    resolved: Option<Resolved>,
    draws: ChaCha8Rng,
}

/// A DNS answer in a client's cache.
struct Resolved {
    region: RegionId,
    until: Timestamp,
}

/// One request that is being decided.
pub struct Ask {
    client: usize,
    host: usize,
    life: u64,
    user: Option<String>,
    give_up: Timestamp,
}

impl Client {
    /// The clients of a scenario.
    pub fn all(scenario: &Scenario, sources: &Sources, seed: u64) -> Vec<Self> {
        let client = |(index, load): (usize, &ClientLoad)| Self {
            load: load.clone(),
            address: address_near(sources, &load.region),
            sent: 0,
            resolved: None,
            draws: chance::stream(seed, "client", &index.to_string()),
        };
        scenario.clients.iter().enumerate().map(client).collect()
    }

    /// Where its requests and queries come from.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The user of the next request.
    fn next_user(&self) -> Option<String> {
        let user = self.load.user.as_ref()?;
        match u64::from(self.load.users) {
            0 | 1 => Some(user.clone()),
            users => Some(format!("{user}-{}", self.sent % users + 1)),
        }
    }
}

/// An address whose network is nearest to `region`.
fn address_near(sources: &Sources, region: &RegionId) -> IpAddr {
    let near = |(network, location): &&(IpNet, portolan_config::Location)| {
        let nearest = match location {
            portolan_config::Location::In(id) => Some(id),
            portolan_config::Location::At(here) => {
                let regions = sources.regions.iter();
                regions.min_by_key(|region| region.coordinates.distance_km(*here)).map(|region| &region.id)
            }
        };
        nearest == Some(region) && network.prefix_len() < network.max_prefix_len()
    };
    let first_host = |(network, _): &(IpNet, _)| network.hosts().next();
    sources.regions.networks().iter().find(near).and_then(first_host).unwrap_or(ELSEWHERE)
}

impl World<'_> {
    /// Sends what has come due at one client.
    pub fn load(&mut self, client: usize) {
        let elapsed = self.since_zero().since(Timestamp::ZERO);
        if elapsed >= self.scenario.length {
            return;
        }
        let rate = self.clients[client].load.rate;
        let due = elapsed.as_nanos() * u128::from(rate.count) / rate.per.as_nanos().max(1);
        while u128::from(self.clients[client].sent) < due {
            let user = self.clients[client].next_user();
            self.clients[client].sent += 1;
            self.figures.requests.sent += 1;
            self.send_request(client, user);
        }
        let now = self.clock.now();
        self.agenda.plan(now + TICK, Plan::Load(client));
    }

    fn send_request(&mut self, client: usize, user: Option<String>) {
        let region = self.resolve(client);
        let target = region.and_then(|region| self.hosts.iter().position(|host| host.region == region));
        let Some(host) = target.filter(|&host| self.hosts[host].process.is_some()) else {
            self.figures.requests.unanswered += 1;
            return;
        };
        let (life, give_up) = (self.hosts[host].lives, self.clock.now() + MARK_WAIT);
        self.ask(Ask { client, host, life, user, give_up });
    }

    /// The region a client connects to: its own, unless its host name is in a zone and DNS says otherwise.
    fn resolve(&mut self, client: usize) -> Option<RegionId> {
        let now = self.clock.now();
        let home = self.clients[client].load.region.clone();
        if let Some(resolved) = &self.clients[client].resolved
            && resolved.until > now
        {
            return Some(resolved.region.clone());
        }
        // Resolvers ask the nearest name server that answers.
        let order = self.sources.regions.nearest_first(&home);
        let answering = order.iter().find_map(|region| {
            let host = self.hosts.iter().find(|host| host.region == *region)?;
            host.process.as_ref().map(|process| process.node.view())
        });
        let Some(view) = answering else {
            return self.clients[client].resolved.as_ref().map(|resolved| resolved.region.clone());
        };
        let query = Query {
            name: &self.clients[client].load.host,
            qtype: qtype::ANY,
            client: ClientSubnet { address: self.clients[client].address, prefix: 128, from_ecs: false },
        };
        let answer = view.dns.answer(&query, &view.states);
        if answer.rcode == Rcode::Refused {
            return Some(home);
        }
        self.figures.dns_queries += 1;
        if answer.rcode == Rcode::NoError && answer.addresses.is_empty() {
            let detail = format!("`{}` was answered without an address", query.name);
            self.oracle.violate(self.since_zero(), Invariant::DnsAnswer, detail);
        }
        let region = answer.region?;
        self.clients[client].resolved = Some(Resolved { region: region.clone(), until: now + answer.ttl });
        Some(region)
    }

    /// Has a request decided by the node it reached.
    pub fn ask(&mut self, ask: Ask) {
        let now = self.clock.read(self.hosts[ask.host].skew);
        let process = self.hosts[ask.host].process.as_ref().filter(|_| self.hosts[ask.host].lives == ask.life);
        let Some(view) = process.map(|process| process.node.view()) else {
            self.figures.requests.unanswered += 1;
            return;
        };
        let client = &self.clients[ask.client];
        let load = &client.load;
        let head = RequestHead { host: &load.host, path: &load.path, method: &load.method };
        let Found::Route(route) = view.route(&head) else {
            self.figures.requests.rejected += 1;
            return;
        };
        let subject = Subject { user: ask.user.as_deref(), client: client.address, attributes: &() };
        let admission = view.admit(&route, &subject, now);
        let counts = &mut self.figures.requests;
        match admission {
            Admission::Allow(charges) => {
                self.count_charges(&view, &route, &charges, &ask);
                self.forward(&view, &route, &ask);
            }
            Admission::Deny(denial) if denial.reason == DenyReason::Exhausted => counts.limited += 1,
            Admission::Deny(_) => counts.unavailable += 1,
            Admission::Wait if now.mono + MARK_RETRY > ask.give_up => counts.unavailable += 1,
            Admission::Wait => self.agenda.plan(now.mono + MARK_RETRY, Plan::AskAgain(Ask { ..ask })),
        }
        if view.limiter.take_attention() {
            self.attend(ask.host);
        }
    }

    fn count_charges(&mut self, view: &View, route: &Route, charges: &[Charge], ask: &Ask) {
        let at = self.since_zero();
        let address = self.clients[ask.client].address.to_string();
        let must_be_closed = self.must_be_closed(ask.host);
        for charge in charges {
            let limit = view.intent.snapshot.limits.get(&charge.name);
            let (policy, kind) =
                limit.map_or((OnPartition::Static, LimitKey::global()), |l| (l.on_partition, l.key.clone()));
            if policy == OnPartition::Closed && must_be_closed {
                let detail = format!("`{}` is closed while a region is unheard, {} admitted", charge.name, view.region);
                self.oracle.violate(at, Invariant::LimitBound, detail);
            }
            self.oracle.admit(charge, policy, &oracle::subject(&kind, route, ask.user.as_deref(), &address), at);
        }
    }

    fn forward(&mut self, view: &Arc<View>, route: &Route, ask: &Ask) {
        let choice = self.clients[ask.client].draws.random();
        match view.pick(&route.service, &[], self.clock.now(), choice) {
            Some(_) => {
                self.figures.requests.forwarded += 1;
                let region = self.hosts[ask.host].region.to_string();
                *self.figures.forwarded_by_region.entry(region).or_default() += 1;
            }
            None => self.figures.requests.unavailable += 1,
        }
    }
}
