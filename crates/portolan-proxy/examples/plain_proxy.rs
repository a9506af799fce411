//! The data path alone, in clear text, in front of one upstream: what `benches/plain` measures.
//!
//! Usage: `plain_proxy LISTEN UPSTREAM [WORKERS]`, for example `plain_proxy 127.0.0.1:8101 127.0.0.1:8100`.
//! Every step of a request runs as in `portolan run`; the route has no authentication and no limit.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use portolan_config::{Applied, Bundle, Command, Intent, RegionMap, SourceFile};
use portolan_limits::Recovery;
use portolan_model::{HashKey, NodeName, Now, RegionId, Timestamp, WallTime};
use portolan_node::{Node, NodeConfig};
use portolan_proxy::{CertificateSource, CertificateStore, LogSink, ProxyConfig, start};

const REGION: &str = "version: 1\nregion: here\ntitle: Here\ncoordinates: { latitude: 1, longitude: 1 }\n\
                      addresses: [127.0.0.1]\n";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, rest @ ..] = &arguments[..] else {
        return Err("usage: plain_proxy LISTEN UPSTREAM [WORKERS]".into());
    };
    let document = format!(
        "version: 1\nlistener: {{ client_limit: 100000000/s }}\n\
         services: {{ plain: {{ endpoints: {{ here: ['http://{upstream}'] }} }} }}\n\
         routes: {{ plain: {{ match: {{ path: /** }}, service: plain }} }}\n"
    );
    let mut node = node(&document)?;
    node.start_limits(Recovery::FirstStart, now());
    while let Some(write) = node.poll_marks() {
        node.handle_durable(write.sequence, now());
    }
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let certificate = CertificateSource {
        origin: "generated".into(),
        chain_pem: key.cert.pem().into_bytes(),
        key_pem: key.signing_key.serialize_pem().into_bytes(),
    };
    let config = ProxyConfig {
        https: None,
        http: Some(listen.parse()?),
        workers: rest.first().map_or(Ok(1), |workers| workers.parse())?,
        node: NodeName::new("here-1")?,
        access_log: LogSink::Off,
        tracer: None,
    };
    let certificates = Arc::new(ArcSwap::from_pointee(CertificateStore::new(&[certificate])?));
    let view = Arc::new(ArcSwap::new(node.view()));
    let proxy = start(config, view, certificates, Arc::new(now))?;
    println!("listening on {:?}", proxy.http_addr());
    loop {
        std::thread::park();
    }
}

fn node(document: &str) -> Result<Node, Box<dyn Error>> {
    let file = |path: &str, text: &str| SourceFile { path: path.into(), text: text.into() };
    let regions = Arc::new(RegionMap::parse(&[file("here.yaml", REGION)])?);
    let mut intent = Intent::new(Arc::clone(&regions));
    let bundle = Bundle { document: file("gateway.yaml", document), attachments: BTreeMap::new() };
    let applied = intent.apply(&Command::Apply { bundle, author: "bench".into(), at: now().wall, expected: None });
    if !matches!(applied, Applied::Accepted { .. }) {
        return Err(format!("the document is refused: {applied:?}").into());
    }
    let config = NodeConfig {
        name: NodeName::new("here-1")?,
        region: RegionId::new("here")?,
        regions,
        peers: BTreeMap::new(),
        hash_key: HashKey::new([1; 16]),
        seed: 1,
    };
    Ok(Node::new(config, Arc::new(intent), now()))
}

fn now() -> Now {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let mono = ORIGIN.get_or_init(Instant::now).elapsed() + Duration::from_secs(1);
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { mono: Timestamp::ZERO + mono, wall: WallTime::from_unix_millis(wall.as_millis() as u64) }
}
