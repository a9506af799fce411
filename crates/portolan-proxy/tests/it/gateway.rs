//! A gateway for one test: a node core drives the view, the proxy listens on free ports of loopback.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use portolan_config::{Applied, Bundle, Change, Intent, RegionMap, SourceFile};
use portolan_limits::{Mode, Peek, Recovery, Start};
use portolan_model::{HashKey, MemberId, NodeName, Now, RegionId, Timestamp, WallTime};
use portolan_node::{Node, NodeConfig, Subject, View};
use portolan_proxy::{CertificateSource, CertificateStore, Event, LogSink, Proxy, ProxyConfig, start};
use portolan_routing::{Found, Health, RequestHead};
use rcgen::{Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const REGION: &str = "version: 1\nregion: here\ntitle: Here\ncoordinates: { latitude: 1, longitude: 1 }\n\
                      addresses: [127.0.0.1]\n";

const OTHER: &str = "version: 1\nregion: there\ntitle: There\ncoordinates: { latitude: 2, longitude: 2 }\n\
                     addresses: [127.0.0.2]\n";

const RTT: &str = "version: 1\nrtt:\n  - { between: [here, there], rtt: 1ms }\n";

/// Host name of the certificate.
pub const HOST: &str = "api.example.test";

/// A running gateway.
pub struct Gateway {
    pub proxy: Arc<Proxy>,
    pub https: SocketAddr,
    pub http: SocketAddr,
    pub roots: rustls::RootCertStore,
    store: Arc<ArcSwap<CertificateStore>>,
    view: Arc<ArcSwap<View>>,
    node: Arc<Mutex<(Node, Intent)>>,
}

impl Gateway {
    /// Serves `document`, in which `UPSTREAM` stands for the address of an upstream.
    pub fn start(document: &str, upstream: SocketAddr) -> Self {
        Self::start_with(&document.replace("UPSTREAM", &upstream.to_string()), BTreeMap::new(), LogSink::Off)
    }

    /// Serves `document` with the files it names.
    pub fn start_with(document: &str, attachments: BTreeMap<String, String>, access_log: LogSink) -> Self {
        let regions = Arc::new(region_map());
        let mut intent = Intent::new(Arc::clone(&regions));
        // A node that is no member shares no limits.
        let (name, region) = (NodeName::new("here-1").expect("a name"), RegionId::new("here").expect("a name"));
        let joined = Change::Join { node: name, region, member: MemberId(1) }.at(WallTime::default());
        assert!(matches!(intent.apply(&joined), Applied::Joined { .. }));
        let bundle = Bundle { document: file("gateway.yaml", document), attachments };
        let applied =
            intent.apply(&Change::Apply { bundle, author: "t".into(), expected: None }.at(WallTime::default()));
        assert!(matches!(applied, Applied::Accepted { .. }), "{applied:?}");
        let config = NodeConfig {
            name: NodeName::new("here-1").expect("a name"),
            region: RegionId::new("here").expect("a name"),
            regions,
            peers: BTreeMap::new(),
            hash_key: HashKey::new([1; 16]),
            seed: 1,
        };
        let mut node = Node::new(config, Arc::new(intent.clone()), now());
        node.set_member(MemberId(1), now());
        node.start_limits(Start { recovery: Recovery::FirstStart, life: 1 }, now());
        settle(&mut node);
        let view = Arc::new(ArcSwap::new(node.view()));
        let (store, roots) = certificates();
        let loopback = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let config = ProxyConfig {
            https: loopback,
            http: loopback,
            workers: 1,
            node: NodeName::new("here-1").expect("a name"),
            region: RegionId::new("here").expect("a name"),
            access_log,
            tracer: None,
        };
        let store = Arc::new(ArcSwap::from_pointee(store));
        let proxy = start(config, Arc::clone(&view), Arc::clone(&store), Arc::new(now)).expect("ports are free");
        let (https, http) = (proxy.https_addr().expect("was asked for"), proxy.http_addr().expect("was asked for"));
        let (proxy, node) = (Arc::new(proxy), Arc::new(Mutex::new((node, intent))));
        tokio::spawn(drive(Arc::clone(&node), Arc::downgrade(&proxy)));
        Self { proxy, https, http, roots, store, view, node }
    }

    /// Exchanges the certificate, as a reload from disk does; clients then have to trust another authority.
    pub fn renew_certificate(&mut self) {
        let (store, roots) = certificates();
        self.store.store(Arc::new(store));
        self.roots = roots;
    }

    /// Drains the region, as its operators would.
    pub fn drain(&self) {
        let mut guard = self.node.lock().expect("no test panics with the lock held");
        let (node, intent) = &mut *guard;
        let region = RegionId::new("here").expect("a name");
        let serving = vec![region.clone(), RegionId::new("there").expect("a name")];
        let (reason, author, at) = ("test".into(), "t".into(), WallTime::default());
        let applied = intent.apply(&Change::Drain { region, reason, author, serving }.at(at));
        assert_eq!(applied, Applied::Drained);
        node.handle_intent(Arc::new(intent.clone()), now());
        settle(node);
        self.view.store(node.view());
        assert!(self.view.load().draining);
    }

    /// What the limits of a path would be decided with, for a client of this machine.
    pub fn peek(&self, path: &str) -> Vec<Peek> {
        let view = self.view.load();
        let found = view.route(&RequestHead { host: "a", path, method: "GET" });
        let Found::Route(route) = found else { panic!("{path}: {found:?}") };
        let subject = Subject { user: None, client: [127, 0, 0, 1].into(), attributes: &() };
        view.peek(&route, &subject, now())
    }

    /// Waits until the limits of a path have noticed that the other region is not there.
    pub async fn until_degraded(&self, path: &str) {
        let degraded = async {
            while self.peek(path).iter().any(|peek| peek.mode != Mode::Degraded) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), degraded).await.expect("silence is noticed");
    }

    /// The page of the data path's metrics.
    pub fn metrics(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.proxy.metrics().register(&mut registry);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).expect("writing to a string does not fail");
        page
    }

    /// Whether no endpoint was taken out of service.
    pub fn no_endpoint_is_ejected(&self) -> bool {
        let view = self.view.load();
        view.board.endpoints(now().mono).all(|endpoint| !matches!(endpoint.health, Health::Ejected { .. }))
    }

    /// Waits until an event has happened so often.
    pub async fn counts(&self, event: Event, times: u64) {
        let counted = async {
            while self.proxy.metrics().event(event) < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), counted).await.expect("it happens");
        assert_eq!(self.proxy.metrics().event(event), times, "{event:?}");
    }

    /// Sends bytes in clear text, and returns all that comes back until the gateway closes.
    pub async fn raw(&self, sent: impl AsRef<[u8]>) -> String {
        self.raw_in_parts(&[sent.as_ref()]).await
    }

    /// As [`Gateway::raw`], in several writes that arrive apart.
    pub async fn raw_in_parts(&self, parts: &[&[u8]]) -> String {
        let mut stream = TcpStream::connect(self.http).await.expect("the gateway listens");
        stream.set_nodelay(true).expect("is supported");
        for part in parts {
            stream.write_all(part).await.expect("the gateway reads");
            // Lets the bytes travel alone; the outcome is the same if they do not.
            tokio::task::yield_now().await;
        }
        let mut answer = Vec::new();
        let all = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        all.expect("the gateway closes").expect("the gateway does not reset");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Stands in for the server: keeps the limits' marks durable while the gateway lives.
async fn drive(node: Arc<Mutex<(Node, Intent)>>, proxy: Weak<Proxy>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    while let Some(proxy) = proxy.upgrade() {
        settle(&mut node.lock().expect("no test panics with the lock held").0);
        proxy.notify_limits();
        drop(proxy);
        ticks.tick().await;
    }
}

/// Carries out what the node wants until nothing is left.
fn settle(node: &mut Node) {
    node.handle_timeout(now());
    while let Some(write) = node.poll_marks() {
        node.handle_durable(write.sequence, now());
    }
}

fn region_map() -> RegionMap {
    let files = [file("here.yaml", REGION), file("there.yaml", OTHER), file("rtt.yaml", RTT)];
    RegionMap::parse(&files).unwrap_or_else(|faults| panic!("{}", faults.render()))
}

fn file(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.into(), text: text.into() }
}

fn now() -> Now {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let mono = ORIGIN.get_or_init(Instant::now).elapsed() + Duration::from_secs(1);
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970");
    Now { mono: Timestamp::ZERO + mono, wall: WallTime::from_unix_millis(wall.as_millis() as u64) }
}

fn certificates() -> (CertificateStore, rustls::RootCertStore) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("is valid");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("generates");
    let authority_certificate = authority.self_signed(&authority_key).expect("signs");
    let key = KeyPair::generate().expect("generates");
    let leaf = rcgen::CertificateParams::new(vec![HOST.to_owned()]).expect("is valid");
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&authority, &authority_key)).expect("signs");
    let source = CertificateSource {
        origin: "test".into(),
        chain_pem: leaf.pem().into_bytes(),
        key_pem: key.serialize_pem().into_bytes(),
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority_certificate.der().clone()).expect("is a certificate");
    (CertificateStore::new(&[source]).expect("is sound"), roots)
}

/// The TLS configuration of a client that trusts the gateway.
pub fn client_tls(gateway: &Gateway, protocol: &[u8]) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows them")
        .with_root_certificates(gateway.roots.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}
