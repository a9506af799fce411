//! Every metric of the data path: name, unit, labels and help in one place, counted per worker without sharing.
//!
//! Never labels by what a client chose: labels are closed sets and names from the configuration. A worker writes its own
//! shard with relaxed atomics; only a scrape adds the shards up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use portolan_limits::{Key, WaitReason};
use portolan_model::{Name, RegionId};
use portolan_node::KeyNames;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    decision::{Decision, LimitCell, MODES, WaitEnd, mode_word, reason_word},
    response::Step,
};

/// Upper bounds of the duration buckets in seconds.
const DURATION_BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0];

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Http3];

    /// What `Via` says of it (RFC 9110 §7.6.3).
    pub const fn via(self) -> &'static str {
        match self {
            Self::Http1 => "1.1 portolan",
            Self::Http2 => "2 portolan",
            Self::Http3 => "3 portolan",
        }
    }

    /// Its name in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
            Self::Http3 => "h3",
        }
    }
}

/// How an upstream attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// A response below 500.
    Success,
    /// A response of 500 or above.
    Status5xx,
    /// No connection.
    ConnectFailed,
    /// The connection broke.
    Reset,
    /// No answer in time.
    Timeout,
    /// The client's own body broke off, was too large or too slow.
    Client,
}

impl AttemptEnd {
    const ALL: [Self; 6] =
        [Self::Success, Self::Status5xx, Self::ConnectFailed, Self::Reset, Self::Timeout, Self::Client];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Status5xx => "status-5xx",
            Self::ConnectFailed => "connect-failed",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Client => "client",
        }
    }
}

/// Events that are counted without labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection was accepted.
    ConnectionOpened,
    /// A connection ended.
    ConnectionClosed,
    /// A connection was dropped because its client address asks too often.
    ConnectionLimited,
    /// A connection was dropped because the node has as many as it takes.
    ConnectionOverflow,
    /// A connection was dropped because its client address has as many as one may have.
    ClientOverflow,
    /// A TLS or QUIC handshake failed or took too long.
    HandshakeFailed,
    /// An attempt reused an upstream connection.
    UpstreamReused,
    /// An attempt opened an upstream connection.
    UpstreamOpened,
    /// A line of the access log was dropped because the writer was behind.
    LogDropped,
}

const EVENTS: usize = 9;
const CLASSES: usize = 6;

/// Counters of one worker.
#[derive(Debug, Default)]
pub struct Shard {
    requests: [[AtomicU64; CLASSES]; 3],
    refused: [AtomicU64; Step::ALL.len()],
    attempts: [AtomicU64; AttemptEnd::ALL.len()],
    events: [AtomicU64; EVENTS],
    durations: [AtomicU64; DURATION_BOUNDS.len() + 1],
    duration_micros: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    waits: [[AtomicU64; WaitEnd::ALL.len()]; WaitReason::ALL.len()],
    routes: Mutex<BTreeMap<Name, Arc<RouteCell>>>,
    limits: Mutex<BTreeMap<Name, Arc<LimitCell>>>,
    keys: Mutex<KeyNames>,
}

/// Requests of one route on one worker, by class of status.
#[derive(Debug, Default)]
pub struct RouteCell([AtomicU64; CLASSES]);

impl RouteCell {
    /// Counts a response.
    pub fn count(&self, status: StatusCode) {
        self.0[class(status)].fetch_add(1, Relaxed);
    }
}

impl Shard {
    /// Counts a finished request.
    pub fn count_request(&self, protocol: Protocol, status: StatusCode, duration: Duration) {
        self.requests[protocol as usize][class(status)].fetch_add(1, Relaxed);
        let seconds = duration.as_secs_f64();
        let bucket = DURATION_BOUNDS.iter().position(|&bound| seconds <= bound).unwrap_or(DURATION_BOUNDS.len());
        self.durations[bucket].fetch_add(1, Relaxed);
        self.duration_micros.fetch_add(duration.as_micros() as u64, Relaxed);
    }

    /// Counts a request that the gateway answered itself.
    pub fn count_refused(&self, step: Step) {
        self.refused[step as usize].fetch_add(1, Relaxed);
    }

    /// Counts an upstream attempt.
    pub fn count_attempt(&self, end: AttemptEnd) {
        self.attempts[end as usize].fetch_add(1, Relaxed);
    }

    /// Counts an event.
    pub fn count(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Relaxed);
    }

    /// Counts the end of a wait for limits.
    pub fn count_wait(&self, reason: WaitReason, end: WaitEnd) {
        self.waits[reason as usize][end as usize].fetch_add(1, Relaxed);
    }

    /// Counts body bytes.
    pub fn count_bytes(&self, received: u64, sent: u64) {
        self.received.fetch_add(received, Relaxed);
        self.sent.fetch_add(sent, Relaxed);
    }

    /// The cell of a route; asked for once per revision, not per request.
    pub fn route(&self, name: &Name) -> Arc<RouteCell> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(routes.entry(name.clone()).or_default())
    }

    /// Remembers the name of a key, unless it is being read: a worker waits for nobody.
    pub fn note_key(&self, key: Key, name: impl FnOnce() -> String) {
        if let Ok(mut keys) = self.keys.try_lock() {
            keys.note(key, name);
        }
    }

    /// The cell of a limit; asked for once per revision, not per request.
    pub fn limit(&self, name: &Name) -> Arc<LimitCell> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(limits.entry(name.clone()).or_default())
    }
}

/// The counters of all workers; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    shards: Arc<Vec<Arc<Shard>>>,
    region: RegionId,
}

impl Metrics {
    /// One shard per worker of a node in `region`.
    pub fn new(workers: usize, region: RegionId) -> Self {
        Self { shards: Arc::new((0..workers).map(|_| Arc::default()).collect()), region }
    }

    /// The shard of a worker.
    pub fn shard(&self, worker: usize) -> &Arc<Shard> {
        &self.shards[worker]
    }

    /// Puts the metrics of the data path into `registry`, without a prefix of its own.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// Connections open now.
    pub fn open_connections(&self) -> u64 {
        let [opened, closed] = [Event::ConnectionOpened, Event::ConnectionClosed].map(|e| self.event(e));
        opened.saturating_sub(closed)
    }

    /// How often an event happened.
    pub fn event(&self, event: Event) -> u64 {
        self.sum(|shard| &shard.events[event as usize])
    }

    /// Names of keys that were close to a limit or over it lately, for people.
    pub fn key_names(&self) -> BTreeMap<Key, String> {
        let mut names = BTreeMap::new();
        for shard in self.shards.iter() {
            let keys = shard.keys.lock().unwrap_or_else(PoisonError::into_inner);
            names.extend(keys.iter().map(|(key, name)| (key, name.to_owned())));
        }
        names
    }

    fn sum(&self, cell: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| cell(shard).load(Relaxed)).sum()
    }

    fn routes(&self) -> BTreeMap<Name, [u64; CLASSES]> {
        let mut total: BTreeMap<Name, [u64; CLASSES]> = BTreeMap::new();
        for shard in self.shards.iter() {
            for (name, cell) in shard.routes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let counts = total.entry(name.clone()).or_default();
                for (count, cell) in counts.iter_mut().zip(&cell.0) {
                    *count += cell.load(Relaxed);
                }
            }
        }
        total
    }

    fn limits(&self) -> BTreeMap<Name, Vec<Arc<LimitCell>>> {
        let mut cells: BTreeMap<Name, Vec<Arc<LimitCell>>> = BTreeMap::new();
        for shard in self.shards.iter() {
            for (name, cell) in shard.limits.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                cells.entry(name.clone()).or_default().push(Arc::clone(cell));
            }
        }
        cells
    }
}

const CLASS_NAMES: [&str; CLASSES] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

fn class(status: StatusCode) -> usize {
    match status.as_u16() / 100 {
        hundred @ 1..=5 => usize::from(hundred) - 1,
        _ => CLASSES - 1,
    }
}

/// Names and help texts of the plain counters.
const PLAIN: [(Event, &str, &str); 8] = [
    (Event::ConnectionOpened, "portolan_proxy_connections_opened", "Client connections accepted"),
    (Event::ConnectionLimited, "portolan_proxy_connections_limited", "Connections dropped by the client-address limit"),
    (Event::ConnectionOverflow, "portolan_proxy_connections_overflow", "Connections dropped at the node's maximum"),
    (Event::ClientOverflow, "portolan_proxy_connections_client_overflow", "Connections dropped at a client's maximum"),
    (Event::HandshakeFailed, "portolan_proxy_handshakes_failed", "TLS and QUIC handshakes that failed"),
    (Event::UpstreamReused, "portolan_proxy_upstream_reused", "Attempts over a pooled upstream connection"),
    (Event::UpstreamOpened, "portolan_proxy_upstream_opened", "Upstream connections opened"),
    (Event::LogDropped, "portolan_proxy_access_log_dropped", "Access log lines dropped because the writer was behind"),
];

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let encoder = &mut encoder;
        for (event, name, help) in PLAIN {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(self.event(event)).encode(metric)?;
        }
        let open = encoder.encode_descriptor(
            "portolan_proxy_connections_open",
            "Client connections open now",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.open_connections() as i64).encode(open)?;
        for (name, help, value) in [
            ("portolan_proxy_received_bytes", "Request body bytes", self.sum(|s| &s.received)),
            ("portolan_proxy_sent_bytes", "Response body bytes", self.sum(|s| &s.sent)),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        self.encode_labelled(encoder)?;
        self.encode_limits(encoder)?;
        self.encode_durations(encoder)
    }
}

impl Metrics {
    fn encode_labelled(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Finished requests by protocol and class of status";
        let mut family = encoder.encode_descriptor("portolan_proxy_requests", help, None, MetricType::Counter)?;
        for protocol in Protocol::ALL {
            for (index, class) in CLASS_NAMES.iter().enumerate() {
                let value = self.sum(|shard| &shard.requests[protocol as usize][index]);
                count(&mut family, &[("protocol", protocol.as_str()), ("class", class)], value)?;
            }
        }
        let help = "Requests answered by the gateway itself, by the step that decided";
        let mut family = encoder.encode_descriptor("portolan_proxy_refused", help, None, MetricType::Counter)?;
        for step in Step::ALL {
            count(&mut family, &[("step", step.as_str())], self.sum(|shard| &shard.refused[step as usize]))?;
        }
        let help = "Upstream attempts by how they ended";
        let mut family = encoder.encode_descriptor("portolan_proxy_attempts", help, None, MetricType::Counter)?;
        for end in AttemptEnd::ALL {
            count(&mut family, &[("end", end.as_str())], self.sum(|shard| &shard.attempts[end as usize]))?;
        }
        let help = "Finished requests by route and class of status";
        let mut family = encoder.encode_descriptor("portolan_proxy_route_requests", help, None, MetricType::Counter)?;
        for (route, counts) in self.routes() {
            for (class, value) in CLASS_NAMES.iter().zip(counts) {
                count(&mut family, &[("route", route.as_str()), ("class", class)], value)?;
            }
        }
        Ok(())
    }

    fn encode_limits(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Decisions of limits by result and by the state the limit was in";
        let mut family = encoder.encode_descriptor("portolan_limit_decisions", help, None, MetricType::Counter)?;
        for (limit, cells) in self.limits() {
            for (decision, mode) in Decision::ALL.into_iter().flat_map(|decision| MODES.map(|mode| (decision, mode))) {
                let value = cells.iter().map(|cell| cell.read(decision, mode)).sum();
                let (limit, region) = (limit.as_str(), self.region.as_str());
                let labels = [("limit", limit), ("region", region), ("result", decision.as_str())];
                count(&mut family, &[&labels[..], &[("mode", mode_word(mode))]].concat(), value)?;
            }
        }
        let help = "Requests that waited for their limits, by what for and how it ended";
        let mut family = encoder.encode_descriptor("portolan_limit_waits", help, None, MetricType::Counter)?;
        for (reason, end) in WaitReason::ALL.into_iter().flat_map(|reason| WaitEnd::ALL.map(|end| (reason, end))) {
            let value = self.sum(|shard| &shard.waits[reason as usize][end as usize]);
            count(&mut family, &[("reason", reason_word(reason)), ("result", end.as_str())], value)?;
        }
        Ok(())
    }

    fn encode_durations(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Time from a request's head to the end of its response";
        let mut metric =
            encoder.encode_descriptor("portolan_proxy_request_duration_seconds", help, None, MetricType::Histogram)?;
        let bounds = DURATION_BOUNDS.iter().copied().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> =
            bounds.enumerate().map(|(index, bound)| (bound, self.sum(|shard| &shard.durations[index]))).collect();
        let total = buckets.iter().map(|&(_, count)| count).sum();
        let seconds = self.sum(|shard| &shard.duration_micros) as f64 / 1e6;
        metric.encode_histogram::<NoLabelSet>(seconds, total, &buckets, None)
    }
}

fn count(family: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: u64) -> Result<(), std::fmt::Error> {
    ConstCounter::new(value).encode(family.encode_family(&labels)?)
}

#[cfg(test)]
mod tests {
    use portolan_limits::Mode;

    use super::*;

    fn region() -> RegionId {
        RegionId::new("here").expect("a name")
    }

    #[test]
    fn the_reference_lists_every_metric() {
        let metrics = Metrics::new(1, region());
        metrics.shard(0).route(&Name::new("orders").expect("a name"));
        metrics.shard(0).limit(&Name::new("per-user").expect("a name"));
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut scraped = String::new();
        prometheus_client::encoding::text::encode(&mut scraped, &registry).expect("encodes");
        let mut text = "# Metrics of the data path\n\n| metric | meaning |\n|---|---|\n".to_owned();
        for line in scraped.lines() {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                text.push_str(&format!("| `{name}` | {} |\n", help.trim_end_matches('.')));
            }
        }
        crate::reference::check("proxy-metrics.md", &text);
    }

    #[test]
    fn a_scrape_adds_up_the_workers() {
        let metrics = Metrics::new(2, region());
        for worker in 0..2 {
            let shard = metrics.shard(worker);
            shard.count_request(Protocol::Http2, StatusCode::OK, Duration::from_millis(3));
            shard.count_refused(Step::Limits);
            shard.count(Event::ConnectionOpened);
            shard.route(&Name::new("orders").expect("a name")).count(StatusCode::OK);
            let limit = shard.limit(&Name::new("per-user").expect("a name"));
            limit.count(Decision::Limited, Mode::Degraded);
            shard.count_wait(WaitReason::Borrow, WaitEnd::InVain);
        }
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        for line in [
            "portolan_proxy_requests_total{protocol=\"h2\",class=\"2xx\"} 2",
            "portolan_proxy_refused_total{step=\"limits\"} 2",
            "portolan_proxy_connections_open 2",
            "portolan_proxy_route_requests_total{route=\"orders\",class=\"2xx\"} 2",
            "portolan_limit_decisions_total{limit=\"per-user\",region=\"here\",result=\"limited\",mode=\"degraded\"} 2",
            "portolan_limit_waits_total{reason=\"borrow\",result=\"in-vain\"} 2",
            "portolan_proxy_request_duration_seconds_bucket{le=\"0.005\"} 2",
            "portolan_proxy_request_duration_seconds_count 2",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line} in\n{text}");
        }
    }
}
