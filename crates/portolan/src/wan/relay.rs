//! Relays datagrams between nodes with the delay, jitter and loss of a wide-area link, in order per link.
//!
//! Each ordered pair of nodes has one socket. What node A sends to the socket of (A, B) leaves for B from the socket of
//! (B, A), which is where B sends to reach A: so both sides see one steady peer address and no mapping is kept.
//! Decides nothing about content. A link holds at most [`MAX_QUEUED`] datagrams; what comes beyond is lost and counted.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use portolan_model::{Ratio, RegionId};
use serde::{Deserialize, Serialize};
use tokio::{net::UdpSocket, task::JoinSet, time::Instant};

/// Datagrams under way on one link: a second of 80 Mbit/s in full-size packets.
const MAX_QUEUED: usize = 8192;

/// Larger than any datagram on the loopback interface.
const BUFFER: usize = 65_536;

/// First port of the relay on its own address.
const BASE_PORT: u16 = 7000;

/// Nodes the port layout has room for.
pub const MAX_SITES: usize = 64;

/// A node the relay connects.
#[derive(Clone, Debug)]
pub struct Site {
    /// The region of the node: faults are named by region.
    pub region: RegionId,
    /// Where it listens for the mesh.
    pub mesh: SocketAddr,
}

/// What every link adds to its delay.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Share of datagrams lost, drawn per datagram.
    pub loss: Ratio,
    /// Upper bound of the random addition to the delay. Datagrams of one link never overtake each other.
    pub jitter: Duration,
    /// Seed of loss and jitter.
    pub seed: u64,
}

/// Which way a cut goes, seen from the region it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Nothing leaves and nothing arrives.
    Both,
    /// Nothing arrives.
    In,
    /// Nothing leaves.
    Out,
}

/// The state and the counts of the links between the nodes of two regions, in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// The sending region.
    pub from: RegionId,
    /// The receiving region.
    pub to: RegionId,
    /// One-way delay without jitter, in microseconds.
    pub delay_us: u64,
    /// Whether a cut is in force.
    pub cut: bool,
    /// Datagrams delivered.
    pub delivered: u64,
    /// Datagrams lost by chance or for want of room.
    pub lost: u64,
    /// Datagrams stopped by a cut.
    pub stopped: u64,
}

impl LinkReport {
    /// Adds the counts of another link between the same regions.
    fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.stopped += other.stopped;
    }
}

/// The relay; it ends when this is dropped.
pub struct Relay {
    links: Vec<Arc<Link>>,
    cuts: Arc<Mutex<BTreeSet<(RegionId, RegionId)>>>,
    _tasks: JoinSet<()>,
}

struct Link {
    from: RegionId,
    to: RegionId,
    delay: Duration,
    delivered: AtomicU64,
    lost: AtomicU64,
    stopped: AtomicU64,
}

/// Where `from` sends to reach `to`; both count from 0. `base` is the address the relay may use.
pub fn entry_address(base: Ipv4Addr, from: usize, to: usize) -> SocketAddr {
    assert!(from < MAX_SITES && to < MAX_SITES, "a local fleet has at most {MAX_SITES} nodes");
    let offset = u16::try_from(from * MAX_SITES + to).expect("64 times 64 fits");
    SocketAddr::new(IpAddr::V4(base), BASE_PORT + offset)
}

impl Relay {
    /// Binds one socket per ordered pair of `sites` of different regions on `base` and relays between them; `delay` is
    /// one way.
    pub async fn start(
        base: Ipv4Addr,
        sites: &[Site],
        shape: Shape,
        delay: impl Fn(&RegionId, &RegionId) -> Duration,
    ) -> Result<Self> {
        if sites.len() > MAX_SITES {
            bail!("a local fleet has at most {MAX_SITES} nodes, this has {}", sites.len());
        }
        let pairs = || (0..sites.len()).flat_map(|a| (0..sites.len()).map(move |b| (a, b)));
        let pairs = || pairs().filter(|(a, b)| sites[*a].region != sites[*b].region);
        let mut sockets = BTreeMap::new();
        for (from, to) in pairs() {
            let address = entry_address(base, from, to);
            let socket = UdpSocket::bind(address).await.with_context(|| format!("cannot listen on udp {address}"))?;
            sockets.insert((from, to), Arc::new(socket));
        }
        let cuts = Arc::new(Mutex::new(BTreeSet::new()));
        let (mut links, mut tasks) = (Vec::new(), JoinSet::new());
        for (index, (from, to)) in pairs().enumerate() {
            let (a, b) = (&sites[from], &sites[to]);
            let link = Arc::new(Link::new(&a.region, &b.region, delay(&a.region, &b.region)));
            let carrier = Carrier {
                link: Arc::clone(&link),
                entry: Arc::clone(&sockets[&(from, to)]),
                exit: Arc::clone(&sockets[&(to, from)]),
                target: b.mesh,
                cuts: Arc::clone(&cuts),
                shape,
                random: Random(shape.seed.wrapping_add(index as u64)),
                queue: VecDeque::new(),
            };
            links.push(link);
            tasks.spawn(carrier.run());
        }
        Ok(Self { links, cuts, _tasks: tasks })
    }

    /// Cuts `region` off: from every other region, or from `peer` alone.
    pub fn cut(&self, region: &RegionId, direction: Direction, peer: Option<&RegionId>) -> Result<()> {
        self.check_known(region)?;
        peer.map_or(Ok(()), |peer| self.check_known(peer))?;
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        for link in &self.links {
            let leaves = link.from == *region && peer.is_none_or(|peer| link.to == *peer);
            let arrives = link.to == *region && peer.is_none_or(|peer| link.from == *peer);
            let hit = match direction {
                Direction::Both => leaves || arrives,
                Direction::In => arrives,
                Direction::Out => leaves,
            };
            if hit {
                cuts.insert((link.from.clone(), link.to.clone()));
            }
        }
        Ok(())
    }

    /// Ends the cuts that touch `region`, or all.
    pub fn heal(&self, region: Option<&RegionId>) -> Result<()> {
        region.map_or(Ok(()), |region| self.check_known(region))?;
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.retain(|(from, to)| region.is_some_and(|region| from != region && to != region));
        Ok(())
    }

    /// Every pair of regions with the counts of its links.
    pub fn report(&self) -> Vec<LinkReport> {
        let cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reports = BTreeMap::<(RegionId, RegionId), LinkReport>::new();
        for link in &self.links {
            let pair = (link.from.clone(), link.to.clone());
            let report = link.report(cuts.contains(&pair));
            reports.entry(pair).and_modify(|sum| sum.add(&report)).or_insert(report);
        }
        reports.into_values().collect()
    }

    fn check_known(&self, region: &RegionId) -> Result<()> {
        if self.links.iter().any(|link| link.from == *region) {
            return Ok(());
        }
        let known: BTreeSet<&str> = self.links.iter().map(|link| link.from.as_str()).collect();
        bail!("there is no region `{region}`; write one of {}", known.into_iter().collect::<Vec<_>>().join(", "))
    }
}

impl Link {
    fn new(from: &RegionId, to: &RegionId, delay: Duration) -> Self {
        let zero = || AtomicU64::new(0);
        Self { from: from.clone(), to: to.clone(), delay, delivered: zero(), lost: zero(), stopped: zero() }
    }

    fn report(&self, cut: bool) -> LinkReport {
        LinkReport {
            from: self.from.clone(),
            to: self.to.clone(),
            delay_us: u64::try_from(self.delay.as_micros()).unwrap_or(u64::MAX),
            cut,
            delivered: self.delivered.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            stopped: self.stopped.load(Ordering::Relaxed),
        }
    }
}

/// One direction between two nodes: what came in and is not due yet.
struct Carrier {
    link: Arc<Link>,
    entry: Arc<UdpSocket>,
    exit: Arc<UdpSocket>,
    target: SocketAddr,
    cuts: Arc<Mutex<BTreeSet<(RegionId, RegionId)>>>,
    shape: Shape,
    random: Random,
    /// In order of their due time.
    queue: VecDeque<(Instant, Box<[u8]>)>,
}

impl Carrier {
    async fn run(mut self) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let due = self.queue.front().map(|(due, _)| *due);
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Delivery first: a flood of arrivals must not hold back what is due.
                biased;
                () = wait => self.deliver().await,
                received = self.entry.recv_from(&mut buffer) => {
                    // An error here is the echo of a datagram to a node that is down.
                    if let Ok((length, _)) = received {
                        self.accept(&buffer[..length]);
                    }
                }
            }
        }
    }

    fn accept(&mut self, datagram: &[u8]) {
        if self.is_cut() {
            self.link.stopped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.queue.len() >= MAX_QUEUED || self.random.below(10_000) < u64::from(self.shape.loss.parts()) {
            self.link.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let jitter = self.random.below(self.shape.jitter.as_micros().max(1).try_into().unwrap_or(u64::MAX));
        let due = Instant::now() + self.link.delay + Duration::from_micros(jitter);
        let due = self.queue.back().map_or(due, |(last, _)| due.max(*last));
        self.queue.push_back((due, datagram.into()));
    }

    /// Sends everything that is due. A cut also stops what was under way.
    async fn deliver(&mut self) {
        let now = Instant::now();
        while self.queue.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, datagram)) = self.queue.pop_front() else { return };
            if self.is_cut() {
                self.link.stopped.fetch_add(1, Ordering::Relaxed);
            } else if self.exit.send_to(&datagram, self.target).await.is_ok() {
                self.link.delivered.fetch_add(1, Ordering::Relaxed);
            } else {
                self.link.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn is_cut(&self) -> bool {
        let cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        !cuts.is_empty() && cuts.contains(&(self.link.from.clone(), self.link.to.clone()))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for loss and jitter, and repeatable from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        u64::try_from((u128::from(mixed) * u128::from(bound)) >> 64).expect("below the bound")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ends {
        relay: Relay,
        nodes: Vec<UdpSocket>,
        base: Ipv4Addr,
    }

    async fn ends(base: Ipv4Addr, loss: u32) -> Ends {
        let (mut nodes, mut sites) = (Vec::new(), Vec::new());
        for name in ["a", "b"] {
            let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            sites
                .push(Site { region: RegionId::new(name).expect("a name"), mesh: socket.local_addr().expect("bound") });
            nodes.push(socket);
        }
        let shape = Shape { loss: Ratio::from_parts(loss), jitter: Duration::ZERO, seed: 7 };
        let relay = Relay::start(base, &sites, shape, |_, _| Duration::from_millis(20)).await.expect("a relay");
        Ends { relay, nodes, base }
    }

    async fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
        let mut buffer = [0; 64];
        let received = tokio::time::timeout(Duration::from_millis(300), socket.recv_from(&mut buffer)).await.ok()?;
        received.ok().map(|(length, from)| (buffer[..length].to_vec(), from))
    }

    #[tokio::test]
    async fn a_datagram_arrives_after_the_delay_from_the_address_that_answers_go_to() {
        let ends = ends(Ipv4Addr::new(127, 253, 0, 1), 0).await;
        let sent = Instant::now();
        ends.nodes[0].send_to(b"hello", entry_address(ends.base, 0, 1)).await.expect("sent");
        let (bytes, from) = receive(&ends.nodes[1]).await.expect("delivered");
        assert_eq!(bytes, b"hello");
        assert!(sent.elapsed() >= Duration::from_millis(20));
        assert_eq!(from, entry_address(ends.base, 1, 0));
        ends.nodes[1].send_to(b"back", from).await.expect("sent");
        let (bytes, from) = receive(&ends.nodes[0]).await.expect("delivered");
        assert_eq!((bytes.as_slice(), from), (b"back".as_slice(), entry_address(ends.base, 0, 1)));
    }

    #[tokio::test]
    async fn a_cut_stops_its_direction_until_it_is_healed() {
        let ends = ends(Ipv4Addr::new(127, 253, 0, 2), 0).await;
        let a = RegionId::new("a").expect("a name");
        ends.relay.cut(&a, Direction::Out, None).expect("a known region");
        ends.nodes[0].send_to(b"out", entry_address(ends.base, 0, 1)).await.expect("sent");
        assert!(receive(&ends.nodes[1]).await.is_none());
        ends.nodes[1].send_to(b"in", entry_address(ends.base, 1, 0)).await.expect("sent");
        assert!(receive(&ends.nodes[0]).await.is_some());
        ends.relay.heal(Some(&a)).expect("a known region");
        ends.nodes[0].send_to(b"again", entry_address(ends.base, 0, 1)).await.expect("sent");
        assert!(receive(&ends.nodes[1]).await.is_some());
        let unknown = RegionId::new("c").expect("a name");
        assert!(ends.relay.cut(&unknown, Direction::Both, None).is_err_and(|e| e.to_string().contains("a, b")));
    }

    #[tokio::test]
    async fn loss_takes_its_share() {
        let ends = ends(Ipv4Addr::new(127, 253, 0, 3), 5000).await;
        for _ in 0..200 {
            ends.nodes[0].send_to(b"x", entry_address(ends.base, 0, 1)).await.expect("sent");
        }
        while receive(&ends.nodes[1]).await.is_some() {}
        let report = &ends.relay.report()[0];
        assert!((60..=140).contains(&report.lost), "{report:?}");
    }
}
