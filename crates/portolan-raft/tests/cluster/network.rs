//! A seeded network: one-way delays of 20 to 60 ms, loss, nodes cut off. Writes a trace of every packet as a hash.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use portolan_model::{HashKey, NodeName, codec};
use portolan_raft::{Raft, Request, Response, Transport, Unreachable};
use rand_08::{Rng, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

const TRACE: HashKey = HashKey::new(*b"portolan tracing");

/// Packets beyond this take their time on a narrow path.
const LARGE: usize = 16 << 10;

#[derive(Clone)]
pub struct Network {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    random: SmallRng,
    loss_percent: u32,
    cut_off: BTreeSet<NodeName>,
    /// Bytes in a second between two nodes.
    bandwidth: Option<u32>,
    /// When the last large packet from one node to another will have left.
    busy: BTreeMap<(NodeName, NodeName), Instant>,
    nodes: BTreeMap<NodeName, Raft>,
    started: Instant,
    trace: u128,
    packets: u64,
}

impl Network {
    pub fn new(seed: u64, loss_percent: u32) -> Self {
        let shared = Shared {
            random: SmallRng::seed_from_u64(seed),
            loss_percent,
            cut_off: BTreeSet::new(),
            bandwidth: None,
            busy: BTreeMap::new(),
            nodes: BTreeMap::new(),
            started: Instant::now(),
            trace: 0,
            packets: 0,
        };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no test panics while it holds the lock")
    }

    pub fn attach(&self, name: &NodeName, raft: Raft) {
        self.shared().nodes.insert(name.clone(), raft);
    }

    pub fn detach(&self, name: &NodeName) {
        self.shared().nodes.remove(name);
    }

    pub fn cut_off(&self, name: &NodeName) {
        self.shared().cut_off.insert(name.clone());
    }

    /// From now on large packets wait for each other; small ones get between them, as on streams of one connection.
    pub fn narrow(&self, bytes_per_second: u32) {
        self.shared().bandwidth = Some(bytes_per_second);
    }

    pub fn heal(&self) {
        self.shared().cut_off.clear();
    }

    /// Hash of all packets so far, and how many they were.
    pub fn trace(&self) -> (u128, u64) {
        let shared = self.shared();
        (shared.trace, shared.packets)
    }

    pub fn transport(&self, me: &NodeName) -> Link {
        Link { network: self.clone(), me: me.clone() }
    }

    /// Sends one packet: `true` when it arrives.
    pub async fn send(&self, from: &NodeName, to: &NodeName, bytes: &[u8]) -> bool {
        let (delay, lost) = self.shared().roll(from, to, bytes);
        tokio::time::sleep(delay).await;
        !lost && !self.shared().parted(from, to)
    }

    async fn deliver(&self, from: NodeName, to: NodeName, request: Vec<u8>) -> Option<Vec<u8>> {
        if !self.send(&from, &to, &request).await {
            return None;
        }
        let raft = self.shared().nodes.get(&to).cloned()?;
        let request: Request = codec::decode(&request).expect("requests decode");
        let response = codec::encode(&raft.handle(&from, request).await).expect("responses encode");
        self.send(&to, &from, &response).await.then_some(response)
    }
}

impl Shared {
    fn parted(&self, a: &NodeName, b: &NodeName) -> bool {
        self.cut_off.contains(a) || self.cut_off.contains(b)
    }

    fn queue(&mut self, from: &NodeName, to: &NodeName, len: usize) -> Duration {
        let Some(bandwidth) = self.bandwidth.filter(|_| len > LARGE) else { return Duration::ZERO };
        let now = Instant::now();
        let free = self.busy.entry((from.clone(), to.clone())).or_insert(now);
        *free = now.max(*free) + Duration::from_secs_f64(len as f64 / f64::from(bandwidth));
        free.duration_since(now)
    }

    fn roll(&mut self, from: &NodeName, to: &NodeName, bytes: &[u8]) -> (Duration, bool) {
        let delay = Duration::from_millis(self.random.gen_range(20..=60));
        let lost = self.random.gen_range(0..100) < self.loss_percent || self.parted(from, to);
        let at = self.started.elapsed().as_nanos().to_le_bytes();
        let fate = [u8::from(lost), delay.as_millis() as u8];
        let before = self.trace.to_le_bytes();
        let parts: [&[u8]; 6] = [&before, &at, from.as_str().as_bytes(), to.as_str().as_bytes(), bytes, &fate];
        self.trace = TRACE.hash(&parts).0;
        self.packets += 1;
        (delay + self.queue(from, to, bytes.len()), lost)
    }
}

#[derive(Clone)]
pub struct Link {
    network: Network,
    me: NodeName,
}

impl Transport for Link {
    async fn call(&self, target: &NodeName, request: Request, timeout: Duration) -> Result<Response, Unreachable> {
        let request = codec::encode(&request).expect("requests encode");
        // The far side goes on when the caller gives up, as it would in reality.
        let delivery = tokio::spawn({
            let (network, from, to) = (self.network.clone(), self.me.clone(), target.clone());
            async move { network.deliver(from, to, request).await }
        });
        let no_answer = || Unreachable::NoAnswer { reason: "the simulated network".to_owned() };
        match tokio::time::timeout(timeout, delivery).await {
            Ok(Ok(Some(response))) => Ok(codec::decode(&response).expect("responses decode")),
            Ok(Ok(None)) => {
                // A lost packet is silence, not news.
                tokio::time::sleep(timeout).await;
                Err(no_answer())
            }
            _ => Err(no_answer()),
        }
    }
}
