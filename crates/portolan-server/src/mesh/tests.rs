//! Two endpoints in one process, over loopback, with certificates made for the test.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use portolan_model::{Name, codec};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::crypto::aws_lc_rs;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use super::*;
use crate::certificates::read_roots;

/// Longer than anything here should take, with room for a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A CA and a directory for its files.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("a file");
        Self { issuer: Issuer::new(params, key), dir }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        read_roots(&self.dir.path().join("ca.pem")).expect("roots")
    }

    fn pair(&self, uri: &str) -> Arc<ReloadingPair> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a URI"))];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let path = |kind: &str| -> std::path::PathBuf {
            Path::new(self.dir.path()).join(format!("{}.{kind}", uri.replace(['/', ':'], "_")))
        };
        std::fs::write(path("crt"), certificate.pem()).expect("a file");
        std::fs::write(path("key"), key.serialize_pem()).expect("a file");
        ReloadingPair::load(path("crt"), path("key"), Arc::new(aws_lc_rs::default_provider())).expect("a pair")
    }
}

struct Running {
    mesh: Mesh,
    inbound: mpsc::Receiver<Inbound>,
    _tasks: JoinSet<()>,
}

fn uri(node: &str) -> String {
    format!("spiffe://edge/region/r-{node}/node/{node}")
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

fn free_address() -> SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    socket.local_addr().expect("bound")
}

/// Starts a node that knows one peer; it answers a request with the sender's name and the request.
fn start(ca: &Authority, pair: Arc<ReloadingPair>, bind: SocketAddr, peer: &str, address: SocketAddr) -> Running {
    let region = RegionId::new(&format!("r-{peer}")).expect("a name");
    let config = MeshConfig {
        cluster: Name::new("edge").expect("a name"),
        bind,
        peers: BTreeMap::from([(node(peer), PeerAddress { region, address })]),
        pair,
        roots: ca.roots(),
        clock: Clock::start(),
    };
    let answer: Answer = Arc::new(|from, request| {
        Box::pin(async move {
            let text: String = codec::decode(&request).ok()?;
            codec::encode(&format!("{text}, {}", from.name)).ok()
        })
    });
    let mut tasks = JoinSet::new();
    let (mesh, inbound) = Mesh::start(config, answer, &mut tasks).expect("starts");
    Running { mesh, inbound, _tasks: tasks }
}

fn envelope(text: &str) -> Bytes {
    codec::encode(&text).expect("encodes").into()
}

/// Sends until the other side has it, as the cores do.
async fn deliver(from: &Mesh, to: &mut Running, name: &str, text: &str) -> Inbound {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let arrival = async {
        loop {
            tokio::select! {
                inbound = to.inbound.recv() => {
                    let inbound = inbound.expect("the mesh runs");
                    if codec::decode::<String>(&inbound.envelope).is_ok_and(|got| got == text) {
                        return inbound;
                    }
                }
                _ = ticks.tick() => from.send_datagram(&node(name), envelope(text), Urgency::Ordinary),
            }
        }
    };
    timeout(PATIENCE, arrival).await.expect("the envelope arrives")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let waiting = async {
        while !holds() {
            ticks.tick().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn pair_of_nodes(ca: &Authority) -> (Running, Running) {
    let (a, b) = (free_address(), free_address());
    (start(ca, ca.pair(&uri("a")), a, "b", b), start(ca, ca.pair(&uri("b")), b, "a", a))
}

#[tokio::test]
async fn envelopes_and_requests_carry_the_name_in_the_certificate() {
    let ca = Authority::new();
    let (mut a, mut b) = pair_of_nodes(&ca);
    let inbound = deliver(&a.mesh, &mut b, "b", "small").await;
    assert_eq!((inbound.from.name, inbound.from.region.as_str()), (node("a"), "r-a"));
    deliver(&b.mesh, &mut a, "a", "other way").await;

    // Larger than any datagram: goes on a stream.
    let large = "x".repeat(100_000);
    a.mesh.send_datagram(&node("b"), envelope(&large), Urgency::Ordinary);
    let arrival = async {
        loop {
            let inbound = b.inbound.recv().await.expect("the mesh runs");
            if inbound.envelope.len() > 100_000 {
                return;
            }
        }
    };
    timeout(PATIENCE, arrival).await.expect("the large envelope arrives");

    let answer = a.mesh.request(&node("b"), &envelope("hello"), PATIENCE).await.expect("an answer");
    assert_eq!(codec::decode::<String>(&answer).expect("a text"), "hello, a");
    assert_eq!(a.mesh.request(&node("z"), &[], PATIENCE).await, Err(RequestError::UnknownPeer));
}

#[tokio::test]
async fn an_envelope_of_another_version_is_refused_and_counted() {
    let ca = Authority::new();
    let (a, mut b) = pair_of_nodes(&ca);
    deliver(&a.mesh, &mut b, "b", "warm").await;
    let refused = b.mesh.stats().refused["version"];
    a.mesh.send_datagram(&node("b"), Bytes::from_static(&[codec::VERSION + 1, 0]), Urgency::Ordinary);
    a.mesh.send_stream(&node("b"), Bytes::from_static(&[]));
    until("both are counted", || b.mesh.stats().refused["version"] == refused + 2).await;
    let answer = a.mesh.request(&node("b"), &[codec::VERSION + 1], PATIENCE).await;
    assert_eq!(answer, Err(RequestError::Broken));
}

#[tokio::test]
async fn foreign_certificates_and_unknown_nodes_are_refused_and_counted() {
    let (ca, foreign) = (Authority::new(), Authority::new());
    let (a, b) = (free_address(), free_address());
    let honest = start(&ca, ca.pair(&uri("a")), a, "b", b);
    {
        let _stranger = start(&ca, foreign.pair(&uri("b")), free_address(), "a", a);
        until("another CA is refused", || honest.mesh.stats().refused["certificate"] > 0).await;
    }
    {
        let operator = ca.pair("spiffe://edge/operator/ada");
        let before = honest.mesh.stats().refused["certificate"];
        let _operator = start(&ca, operator, free_address(), "a", a);
        until("an operator is no node", || honest.mesh.stats().refused["certificate"] > before).await;
    }
    {
        let _unknown = start(&ca, ca.pair(&uri("c")), free_address(), "a", a);
        until("an unknown node is refused", || honest.mesh.stats().refused["unknown_peer"] > 0).await;
    }
    {
        let elsewhere = ca.pair("spiffe://edge/region/r-x/node/b");
        let before = honest.mesh.stats().refused["unknown_peer"];
        let _moved = start(&ca, elsewhere, free_address(), "a", a);
        until("a node in another region is refused", || honest.mesh.stats().refused["unknown_peer"] > before).await;
    }
    assert!(!honest.mesh.stats().peers[&node("b")].connected);
}

#[tokio::test]
async fn another_alpn_is_refused_and_counted_as_a_version() {
    let ca = Authority::new();
    let (a, b) = (free_address(), free_address());
    let honest = start(&ca, ca.pair(&uri("a")), a, "b", b);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = crate::verifier::ClusterVerifier::new(
        Name::new("edge").expect("a name"),
        crate::verifier::Admits::Nodes,
        ca.roots(),
        Arc::clone(&provider),
    );
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier.expect("a verifier"))
        .with_client_cert_resolver(ca.pair(&uri("b")));
    tls.alpn_protocols = vec![b"portolan/2".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("a configuration");
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("an endpoint");
    let connecting = endpoint.connect_with(quinn::ClientConfig::new(Arc::new(crypto)), a, "a").expect("dials");
    assert!(connecting.await.is_err());
    until("the version is counted", || honest.mesh.stats().refused["version"] == 1).await;
}

/// Passes packets between `a` and whoever is `current`; stands for an address that a new process takes over.
/// Whoever was current before is dead: it is not heard.
async fn relay(socket: tokio::net::UdpSocket, a: SocketAddr, current: Arc<Mutex<SocketAddr>>) {
    let mut packet = vec![0; 2048];
    while let Ok((len, from)) = socket.recv_from(&mut packet).await {
        let current = *current.lock().expect("not poisoned");
        let to = match from {
            from if from == a => current,
            from if from == current => a,
            _ => continue,
        };
        // A port that is closed for a moment is part of the test.
        let _ = socket.send_to(&packet[..len], to).await;
    }
}

#[tokio::test]
async fn a_peer_that_starts_again_is_reached_within_about_a_second() {
    let ca = Authority::new();
    let (a, b) = (free_address(), free_address());
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let stable = socket.local_addr().expect("bound");
    let current = Arc::new(Mutex::new(b));
    let mut relays = JoinSet::new();
    relays.spawn(relay(socket, a, Arc::clone(&current)));

    let first = start(&ca, ca.pair(&uri("a")), a, "b", stable);
    let mut second = start(&ca, ca.pair(&uri("b")), b, "a", a);
    deliver(&first.mesh, &mut second, "b", "before").await;
    // The process dies without a goodbye, and another one takes its address.
    let next = free_address();
    *current.lock().expect("not poisoned") = next;
    let mut third = start(&ca, ca.pair(&uri("b")), next, "a", a);
    let started = Instant::now();
    deliver(&first.mesh, &mut third, "b", "after").await;
    assert!(started.elapsed() < Duration::from_millis(2500), "took {:?}", started.elapsed());
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let ca = Authority::new();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = taken.local_addr().expect("bound");
    let config = MeshConfig {
        cluster: Name::new("edge").expect("a name"),
        bind: address,
        peers: BTreeMap::new(),
        pair: ca.pair(&uri("a")),
        roots: ca.roots(),
        clock: Clock::start(),
    };
    let error = Mesh::start(config, Arc::new(|_, _| Box::pin(async { None })), &mut JoinSet::new());
    let text = error.err().expect("the port is taken").to_string();
    assert_eq!(text, format!("cannot listen for the mesh on UDP {address}"));
}

/// First packets of as many connections, each of which would take a place of its own.
async fn first_packets(ca: &Authority, count: usize) -> Vec<Vec<u8>> {
    let hole = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let address = hole.local_addr().expect("bound");
    let config = MeshConfig {
        cluster: Name::new("edge").expect("a name"),
        bind: address,
        peers: BTreeMap::new(),
        pair: ca.pair(&uri("x")),
        roots: ca.roots(),
        clock: Clock::start(),
    };
    let client = tls::client_config(&config).expect("a configuration");
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("an endpoint");
    let mut packets = Vec::new();
    let mut packet = vec![0; 2048];
    for _ in 0..count {
        let _connecting = endpoint.connect_with(client.clone(), address, "a").expect("dials");
        let len = hole.recv(&mut packet).await.expect("loopback delivers");
        packets.push(packet[..len].to_vec());
    }
    packets
}

#[tokio::test]
async fn a_flood_of_first_packets_from_forged_addresses_keeps_no_peer_out() {
    let ca = Authority::new();
    let (a, b) = (free_address(), free_address());
    let first = start(&ca, ca.pair(&uri("a")), a, "b", b);
    // Nobody answers for the sender of these, as if its address were forged.
    let forger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("loopback can be bound");
    for packet in first_packets(&ca, 200).await {
        forger.send_to(&packet, a).await.expect("loopback takes it");
    }
    let mut second = start(&ca, ca.pair(&uri("b")), b, "a", a);
    let started = Instant::now();
    deliver(&first.mesh, &mut second, "b", "through").await;
    until("the other direction stands too", || second.mesh.stats().peers[&node("a")].connected).await;
    assert!(started.elapsed() < Duration::from_secs(2), "took {:?}", started.elapsed());
}

#[tokio::test]
async fn a_peer_whose_envelopes_nobody_takes_is_held_to_its_budget() {
    let ca = Authority::new();
    let (a, mut b) = pair_of_nodes(&ca);
    deliver(&a.mesh, &mut b, "b", "warm").await;
    let large = envelope(&"x".repeat(200_000));
    // Nobody reads `b`'s inbox; the streams wait at `a`, whose queue then overflows.
    until("the sender is slowed", || {
        (0..4).for_each(|_| a.mesh.send_stream(&node("b"), large.clone()));
        a.mesh.stats().dropped_full > 0
    })
    .await;
    let mut kept = Vec::new();
    while let Ok(inbound) = b.inbound.try_recv() {
        kept.push(inbound);
    }
    let bytes: usize = kept.iter().map(|inbound| inbound.envelope.len()).sum();
    assert!(bytes > 0 && bytes <= 8 << 20, "{bytes} bytes were taken");
}
