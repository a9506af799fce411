//! Every metric outside the data path: name, unit, labels and help in one place. Labels are names from the
//! configuration or fixed words, never what a peer or a client chose.

mod limits;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use portolan_node::{NodeStatus, RegionHealth};
use portolan_raft::{Role, Status};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeMetric, MetricEncoder,
        text::{encode_eof, encode_registry},
    },
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{dns::DnsCounters, lenders::LenderStats, mesh::MeshStats};

/// Renders `/metrics`.
pub struct Metrics {
    proxy: Registry,
    dns: Arc<DnsCounters>,
    probes_skipped: Arc<AtomicU64>,
    spans_lost: Arc<AtomicU64>,
    lenders: LenderStats,
}

impl Metrics {
    /// Metrics over the counters of the data path, of DNS, of probes and of spans; the rest is passed in at each scrape.
    pub fn new(
        proxy: &portolan_proxy::Proxy,
        dns: Arc<DnsCounters>,
        probes_skipped: Arc<AtomicU64>,
        spans_lost: Arc<AtomicU64>,
        lenders: LenderStats,
    ) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(proxy.metrics().clone()));
        Self { proxy: registry, dns, probes_skipped, spans_lost, lenders }
    }

    /// The page, in OpenMetrics text format.
    pub fn render(&self, node: &NodeStatus, raft: &Status, mesh: &MeshStats) -> String {
        let mut readings = Readings::default();
        read_node(&mut readings, node);
        read_raft(&mut readings, raft);
        read_mesh(&mut readings, mesh);
        limits::read(&mut readings, node, &self.lenders.all());
        let answers = self.dns.snapshot().map(|(code, count)| (vec![("code", code.to_owned())], count));
        readings.counters("portolan_dns_answers", "DNS answers by response code", answers);
        let skipped = self.probes_skipped.load(Relaxed);
        readings.counter("portolan_probes_skipped", "Probes not made, since too many were under way", skipped);
        let lost = self.spans_lost.load(Relaxed);
        readings.counter("portolan_spans_lost", "Spans that the collector did not take", lost);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(readings));
        let mut page = String::new();
        encode_registry(&mut page, &self.proxy)
            .and_then(|()| encode_registry(&mut page, &registry))
            .and_then(|()| encode_eof(&mut page))
            .expect("writing to a string does not fail");
        page
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn read_node(readings: &mut Readings, node: &NodeStatus) {
    readings.gauge("portolan_node_revision", "Revision this node runs", node.revision.0 as f64);
    readings.gauge("portolan_node_ready", "Whether this node can serve", flag(node.ready));
    readings.gauge("portolan_node_draining", "Whether this region is being drained", flag(node.draining));
    let regions = node.regions.iter().map(|(region, status)| {
        let serving = status.state == RegionHealth::Serving;
        (vec![("region", region.to_string())], flag(serving))
    });
    readings.gauges("portolan_region_serving", "Whether DNS names the region, as seen from here", regions);
    let heard = node
        .peers
        .iter()
        .filter_map(|(name, peer)| Some((vec![("peer", name.to_string())], peer.heard?.as_secs_f64())));
    readings.gauges("portolan_peer_heard_age_seconds", "Time since a node was heard", heard);
    let counts = node.counts;
    readings.counter("portolan_node_messages", "Messages of other nodes taken", counts.messages);
    readings.counter("portolan_node_messages_refused", "Messages of other nodes refused", counts.refused);
    readings.counter(
        "portolan_node_messages_unsent",
        "Messages dropped since they were not sent in time",
        counts.dropped,
    );
}

fn read_raft(readings: &mut Readings, raft: &Status) {
    readings.gauge("portolan_raft_term", "Raft term", raft.term as f64);
    readings.gauge("portolan_raft_leader", "Whether this node leads", flag(raft.role == Role::Leader));
    readings.gauge("portolan_raft_leader_live", "Whether the leader is heard", flag(raft.leader_is_live));
    readings.gauge("portolan_raft_voters", "Nodes that vote", raft.voters.len() as f64);
    readings.gauge("portolan_raft_applied", "Index of the last applied entry", raft.last_applied.unwrap_or(0) as f64);
    let full = flag(raft.disk_full.is_some());
    readings.gauge("portolan_raft_disk_full", "Whether new revisions are refused for want of space", full);
    readings.gauge("portolan_raft_stopped", "Whether Raft has stopped for a fault", flag(raft.fault.is_some()));
}

fn read_mesh(readings: &mut Readings, mesh: &MeshStats) {
    let sent = [("datagram", mesh.sent_datagrams), ("stream", mesh.sent_streams)];
    let sent = sent.map(|(way, count)| (vec![("way", way.to_owned())], count));
    readings.counters("portolan_mesh_sent", "Envelopes sent, by the way they went", sent);
    readings.counter("portolan_mesh_received", "Envelopes received", mesh.received);
    let lost = [("unconnected", mesh.dropped_unconnected), ("full", mesh.dropped_full)];
    let lost = lost.map(|(why, count)| (vec![("why", why.to_owned())], count));
    readings.counters("portolan_mesh_dropped", "Envelopes not sent, by reason", lost);
    let refused = mesh.refused.iter().map(|(why, count)| (vec![("why", (*why).to_owned())], *count));
    readings.counters("portolan_mesh_refused", "Connections and envelopes not taken, by reason", refused);
    readings.counter("portolan_mesh_dials", "Connection attempts", mesh.dials);
    readings.counter("portolan_mesh_dials_failed", "Connection attempts that failed", mesh.dials_failed);
    let connected = mesh.peers.iter().map(|(peer, stats)| (vec![("peer", peer.to_string())], flag(stats.connected)));
    readings.gauges("portolan_mesh_connected", "Whether a connection to the peer stands", connected);
    let rtt = mesh.peers.iter().filter_map(|(peer, stats)| {
        Some((vec![("peer", peer.to_string())], stats.rtt.as_ref().map(Duration::as_secs_f64)?))
    });
    readings.gauges("portolan_mesh_rtt_seconds", "Round trip to the peer", rtt);
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

type Labels = Vec<(&'static str, String)>;

/// Values read once, for one page.
#[derive(Debug, Default)]
struct Readings(Vec<Reading>);

#[derive(Debug)]
struct Reading {
    name: &'static str,
    help: &'static str,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Counters(Vec<(Labels, u64)>),
    Gauges(Vec<(Labels, f64)>),
}

impl Readings {
    fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.counters(name, help, [(Vec::new(), value)]);
    }

    fn counters(&mut self, name: &'static str, help: &'static str, values: impl IntoIterator<Item = (Labels, u64)>) {
        self.0.push(Reading { name, help, values: Values::Counters(values.into_iter().collect()) });
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.gauges(name, help, [(Vec::new(), value)]);
    }

    fn gauges(&mut self, name: &'static str, help: &'static str, values: impl IntoIterator<Item = (Labels, f64)>) {
        self.0.push(Reading { name, help, values: Values::Gauges(values.into_iter().collect()) });
    }
}

impl Collector for Readings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for Reading { name, help, values } in &self.0 {
            match values {
                Values::Counters(values) => {
                    let family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                    encode(family, values.iter().map(|(labels, value)| (labels, ConstCounter::new(*value))))?;
                }
                Values::Gauges(values) => {
                    let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                    encode(family, values.iter().map(|(labels, value)| (labels, ConstGauge::new(*value))))?;
                }
            }
        }
        Ok(())
    }
}

fn encode<'a, T: EncodeMetric>(
    mut family: MetricEncoder<'_>,
    values: impl Iterator<Item = (&'a Labels, T)>,
) -> Result<(), fmt::Error> {
    for (labels, value) in values {
        if labels.is_empty() {
            return value.encode(family);
        }
        value.encode(family.encode_family(&labels.as_slice())?)?;
    }
    Ok(())
}
