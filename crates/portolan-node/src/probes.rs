//! When each endpoint is probed. Never connects anywhere: it hands out requests, and the driver brings back outcomes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use portolan_config::EndpointAddress;
use portolan_model::Timestamp;
use portolan_routing::{EndpointId, HealthBoard};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// One probe to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Whom it is about.
    pub endpoint: EndpointId,
    /// Where to connect.
    pub address: EndpointAddress,
    /// Path of a GET that must answer 2xx or 3xx; `None` means that a connection suffices.
    pub path: Option<String>,
    /// Longest wait for all of it.
    pub timeout: Duration,
}

/// The next probe of every endpoint of a board. As long as the board.
#[derive(Debug, Default)]
pub struct ProbeSchedule {
    due: BTreeSet<(Timestamp, EndpointId)>,
    at: BTreeMap<EndpointId, Timestamp>,
    requests: VecDeque<ProbeRequest>,
}

impl ProbeSchedule {
    /// Follows a new board: endpoints that stay keep their turn, others get one within their interval.
    pub fn follow(&mut self, board: &HealthBoard, rng: &mut ChaCha8Rng, now: Timestamp) {
        let before = std::mem::take(&mut self.at);
        for endpoint in board.endpoints(now) {
            let first = || now + endpoint.service.health.interval.mul_f64(rng.random_range(0.0..1.0));
            self.at.insert(endpoint.id, before.get(&endpoint.id).copied().unwrap_or_else(first));
        }
        self.due = self.at.iter().map(|(id, at)| (*at, *id)).collect();
    }

    /// Turns what is due into requests, each a jittered interval before the next of the same endpoint.
    pub fn handle_timeout(&mut self, board: &HealthBoard, rng: &mut ChaCha8Rng, now: Timestamp) {
        while let Some(&(at, id)) = self.due.first() {
            if at > now {
                break;
            }
            self.due.pop_first();
            let Some(endpoint) = board.endpoint(id, now) else {
                self.at.remove(&id);
                continue;
            };
            let check = &endpoint.service.health;
            let next = now + check.interval.mul_f64(rng.random_range(0.9..1.1)).max(MIN_INTERVAL);
            self.due.insert((next, id));
            self.at.insert(id, next);
            // A driver that takes nothing loses probes, not memory.
            if self.requests.len() < self.at.len() {
                let (address, path) = (endpoint.address.clone(), check.path.clone());
                self.requests.push_back(ProbeRequest { endpoint: id, address, path, timeout: check.timeout });
            }
        }
    }

    /// The next probe to make.
    pub fn poll(&mut self) -> Option<ProbeRequest> {
        self.requests.pop_front()
    }

    /// When the next probe is due.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        self.due.first().map(|&(at, _)| at)
    }
}

/// Shortest time between two probes of one endpoint, whatever the configuration says.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
