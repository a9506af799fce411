//! Load: what clients send and where DNS leads them. A request is one decision of the code under test (route, limits,
//! endpoint), not a connection: wire code is tested elsewhere.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    rc::Rc,
};

use ipnet::IpNet;
use portolan_config::{ClientLoad, Scenario};
use portolan_geodns::{ClientSubnet, Query, Rcode, qtype};
use portolan_limits::Charge;
use portolan_model::{Ratio, RegionId, Timestamp};
use portolan_node::{Attributes, Subject};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use smallvec::SmallVec;
use tokio::time::Duration;

use crate::{
    Sources, chance,
    load::{Due, Users, sends},
    outcome::Invariant,
    tally::Seen,
    waiting::{Ask, Batch, Wanted, Way},
    world::{Plan, World},
};

/// How often a client sends what has come due.
pub const TICK: Duration = Duration::from_millis(10);

/// Where clients of a region are that no configured network places (RFC 2544).
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 255, 1));

/// One load of the scenario.
pub struct Client {
    /// What it sends.
    pub load: ClientLoad,
    /// Place of its region in the list of all.
    pub place: usize,
    /// Where its requests and queries come from.
    pub address: IpAddr,
    /// The route that its requests took last.
    pub way: Option<Rc<Way>>,
    /// What each user asks for, as decided last.
    pub wanted: Vec<Option<Rc<Wanted>>>,
    /// Chance of its requests.
    pub draws: ChaCha8Rng,
    due: Due,
    users: Users,
    resolved: Option<Resolved>,
    /// Takes the nodes of a region in turn.
    turn: usize,
}

/// A DNS answer in a client's cache.
struct Resolved {
    region: RegionId,
    until: Timestamp,
}

/// An admitted request that is under way.
pub struct Lasting {
    /// In which life of its host.
    pub life: u64,
    /// When and where it was admitted.
    pub seen: Seen,
    /// What it holds.
    pub charges: SmallVec<[Charge; 4]>,
    /// Where that is counted.
    pub counters: SmallVec<[u32; 2]>,
    /// Which of the charges its end gives back.
    pub refunded: SmallVec<[bool; 4]>,
}

impl Client {
    /// The clients of a scenario.
    pub fn all(scenario: &Scenario, sources: &Sources, seed: u64) -> Vec<Self> {
        let mut tables: Vec<(ClientLoad, Users)> = Vec::new();
        let client = |(index, load): (usize, &ClientLoad)| {
            let mut draws = chance::stream(seed, "client", &index.to_string());
            let same = |(other, _): &&(ClientLoad, Users)| {
                (other.users, other.distribution) == (load.users, load.distribution)
            };
            let users = match tables.iter().find(same) {
                Some((_, users)) => users.clone(),
                None => {
                    let users = Users::new(load);
                    tables.push((load.clone(), users.clone()));
                    users
                }
            };
            Self {
                place: sources.regions.ids().iter().position(|id| *id == load.region).unwrap_or_default(),
                address: address_near(sources, &load.region),
                way: None,
                wanted: Vec::new(),
                due: Due::new(load, &mut draws),
                draws,
                users,
                resolved: None,
                turn: 0,
                load: load.clone(),
            }
        };
        scenario.clients.iter().enumerate().map(client).collect()
    }

    /// Where a user is: the first at the address that DNS sees, the others in networks of their own (RFC 4193) of 48 bits,
    /// so that a limit by client counts each of them apart, whatever its prefix.
    fn address_of(&self, user: u32) -> IpAddr {
        if user == 0 {
            return self.address;
        }
        let place = u8::try_from(self.place).unwrap_or(u8::MAX);
        let network = (0xfd00 | u128::from(place)) << 112 | u128::from(user) << 80;
        IpAddr::V6(Ipv6Addr::from(network | 1))
    }

    /// Whether its next request that is admitted finds no answer. Draws nothing where none fails.
    pub fn next_fails(&mut self) -> bool {
        let failing = self.load.failing.parts();
        failing > 0 && self.draws.random_range(0..Ratio::ONE.parts()) < failing
    }

    /// Asks `with` what a user's request carries.
    pub fn with_subject<T>(&self, user: u32, with: impl FnOnce(&Subject<'_>) -> T) -> T {
        let name = self.load.user.as_ref().map(|name| match self.load.users {
            0 | 1 => name.clone(),
            _ => format!("{name}-{}", user + 1),
        });
        let carried = Carried { load: &self.load, user };
        with(&Subject { user: name.as_deref(), client: self.address_of(user), attributes: &carried })
    }
}

/// Header fields and claims of one request.
#[derive(Debug)]
struct Carried<'a> {
    load: &'a ClientLoad,
    user: u32,
}

impl Carried<'_> {
    fn filled(&self, value: &str) -> String {
        value.replace("{n}", &(self.user + 1).to_string())
    }
}

impl Attributes for Carried<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.load.headers.get(name).map(|value| Cow::Owned(self.filled(value).into_bytes()))
    }

    fn claim(&self, name: &str) -> Option<Cow<'_, str>> {
        self.load.claims.get(name).map(|value| Cow::Owned(self.filled(value)))
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
        let now = self.now;
        self.agenda.plan(now + TICK, Plan::Load(client));
        if !sends(&self.clients[client].load, elapsed) {
            return;
        }
        let factor = self.faults.surge(&self.clients[client].load.region);
        let Client { load, due, draws, .. } = &mut self.clients[client];
        let due = due.take(load.rate, factor, TICK, draws);
        if due > 0 {
            self.send_requests(client, due);
        }
    }

    fn send_requests(&mut self, client: usize, count: u32) {
        let region = self.resolve(client);
        let place = region.and_then(|region| self.regions.binary_search(&region).ok());
        let counted = place.unwrap_or(self.clients[client].place);
        let mut asks = SmallVec::<[Ask; 16]>::new();
        for _ in 0..count {
            let Client { users, draws, .. } = &mut self.clients[client];
            let user = users.next(draws);
            self.recorder.requests[counted].sent += 1;
            match place.and_then(|place| self.next_host(client, user, place)) {
                Some(host) => asks.push(Ask::new(client, user, host, self.hosts[host].lives, self.now)),
                None => self.recorder.requests[counted].unanswered += 1,
            }
        }
        let mut batch = Batch::default();
        // What one reads has come from memory while those before it are decided.
        asks.iter().for_each(|ask| self.prefetch(ask, &mut batch));
        asks.into_iter().for_each(|ask| self.ask(ask, &mut batch));
        self.close_batch(&batch, client);
    }

    /// The node of a region that a user's next request reaches, of those that take connections: the next in turn, or
    /// always the same.
    fn next_host(&mut self, client: usize, user: u32, place: usize) -> Option<usize> {
        let hosts = &self.region_hosts[place];
        let client = &mut self.clients[client];
        let mut turn = if client.load.sticky { user as usize } else { client.turn };
        let up = (0..hosts.len()).find_map(|_| {
            turn = (turn + 1) % hosts.len();
            self.hosts[hosts[turn]].process.is_some().then_some(hosts[turn])
        });
        client.turn = turn;
        // A process that is stopped takes connections and says nothing.
        up.filter(|host| self.hosts[*host].paused.is_none())
    }

    /// The region a client connects to: its own, unless its host name is in a zone and DNS says otherwise.
    fn resolve(&mut self, client: usize) -> Option<RegionId> {
        let now = self.now;
        let home = self.clients[client].load.region.clone();
        if let Some(resolved) = &self.clients[client].resolved
            && resolved.until > now
        {
            return Some(resolved.region.clone());
        }
        // Resolvers ask the nearest name server that answers.
        let order = self.sources.regions.nearest_first(&home);
        let answering = order.iter().find_map(|region| {
            let place = self.regions.binary_search(region).ok()?;
            let up = |host: &&usize| self.hosts[**host].speaks();
            let host = self.region_hosts[place].iter().find(up)?;
            self.hosts[*host].process.as_ref().map(|process| process.node.view())
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
            let until = now + UNKNOWN_NAME_TTL;
            self.clients[client].resolved = Some(Resolved { region: home.clone(), until });
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
}

/// How long a client goes to its own region that no zone of the gateway leads.
const UNKNOWN_NAME_TTL: Duration = Duration::from_secs(10);
