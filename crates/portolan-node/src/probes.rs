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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portolan_config::{HealthCheck, Service, Snapshot};
    use portolan_model::{Name, RegionId};
    use rand::SeedableRng;

    use super::*;

    fn board(ports: &[u16], previous: Option<&HealthBoard>) -> HealthBoard {
        let name = Name::new("s").expect("a name");
        let address = |port: &u16| EndpointAddress { host: "127.0.0.1".into(), port: *port };
        let region = RegionId::new("r").expect("a name");
        let service = Service {
            name: name.clone(),
            endpoints: BTreeMap::from([(region, ports.iter().map(address).collect())]),
            connect_timeout: Duration::from_secs(1),
            health: HealthCheck::default(),
        };
        let services = BTreeMap::from([(name, Arc::new(service))]);
        HealthBoard::build(&Snapshot { services, ..Snapshot::default() }, previous)
    }

    /// Runs a schedule for so many seconds and counts probes by port.
    fn run(schedule: &mut ProbeSchedule, board: &HealthBoard, rng: &mut ChaCha8Rng, from: u64, to: u64) -> Vec<usize> {
        let mut counts = BTreeMap::new();
        for millis in from * 1000..to * 1000 {
            schedule.handle_timeout(board, rng, Timestamp::from_nanos(millis * 1_000_000));
            while let Some(request) = schedule.poll() {
                *counts.entry(request.address.port).or_insert(0) += 1;
            }
        }
        counts.into_values().collect()
    }

    #[test]
    fn every_endpoint_is_probed_about_once_in_its_interval() {
        let (mut schedule, mut rng) = (ProbeSchedule::default(), ChaCha8Rng::seed_from_u64(1));
        let board = board(&[1, 2, 3], None);
        schedule.follow(&board, &mut rng, Timestamp::ZERO);
        // 200 s at 2 s, each interval a tenth more or less.
        for count in run(&mut schedule, &board, &mut rng, 0, 200) {
            assert!(count.abs_diff(100) <= 3, "{count} probes");
        }
    }

    #[test]
    fn a_schedule_follows_the_board_and_endpoints_that_stay_keep_their_turn() {
        let (mut schedule, mut rng) = (ProbeSchedule::default(), ChaCha8Rng::seed_from_u64(1));
        let before = board(&[1, 2], None);
        schedule.follow(&before, &mut rng, Timestamp::ZERO);
        let turn = schedule.at[&EndpointId(1)];
        let after = board(&[2, 3], Some(&before));
        schedule.follow(&after, &mut rng, Timestamp::ZERO);
        assert_eq!(schedule.at[&EndpointId(1)], turn);
        assert_eq!(run(&mut schedule, &after, &mut rng, 0, 10).len(), 2);
        assert!(!schedule.at.contains_key(&EndpointId(0)));
    }

    #[test]
    fn a_driver_that_takes_no_probes_does_not_let_them_pile_up() {
        let (mut schedule, mut rng) = (ProbeSchedule::default(), ChaCha8Rng::seed_from_u64(1));
        let board = board(&[1, 2], None);
        schedule.follow(&board, &mut rng, Timestamp::ZERO);
        for seconds in 0..100 {
            schedule.handle_timeout(&board, &mut rng, Timestamp::ZERO + Duration::from_secs(seconds));
        }
        assert_eq!(std::iter::from_fn(|| schedule.poll()).count(), 2);
    }
}
