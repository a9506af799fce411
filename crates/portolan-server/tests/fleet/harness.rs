//! Three nodes with certificates and ports made for one test, and an operator to talk to them.

use std::{
    collections::BTreeMap,
    future::Future,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use portolan_config::{AccessLog, CertificateFiles, IdentityFiles, Listen, NodeFile, Peer};
use portolan_model::{Name, NodeName, RegionId};
use portolan_server::Error;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::oneshot, task::JoinHandle};
use tokio_rustls::TlsConnector;

/// One node per region, both named alike.
pub const NODES: [&str; 3] = ["a", "b", "c"];

/// Longest wait for anything; elections on a busy machine take seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks.
const PACE: Duration = Duration::from_millis(50);

/// Three nodes, some of them running.
pub struct Fleet {
    dir: TempDir,
    listens: BTreeMap<&'static str, Listen>,
    running: BTreeMap<&'static str, Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), Error>>,
}

impl Fleet {
    /// Writes certificates and regions; starts nothing.
    pub fn prepare() -> Self {
        let dir = TempDir::new().expect("a directory");
        write_certificates(dir.path());
        write_regions(dir.path());
        let listens = NODES.map(|node| (node, free_ports()));
        Self { dir, listens: listens.into_iter().collect(), running: BTreeMap::new() }
    }

    /// Starts all nodes.
    pub async fn start() -> Self {
        let mut fleet = Self::prepare();
        for node in NODES {
            fleet.start_node(node).await;
        }
        fleet
    }

    /// Starts one node; returns before it is ready.
    pub async fn start_node(&mut self, node: &'static str) {
        let mesh = self.listens[node].mesh;
        // Of an earlier life in this process: QUIC keeps the socket until its connections have drained.
        self.until("the mesh port is free", || async move { UdpSocket::bind(mesh).ok() }).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let (file, base) = (self.node_file(node), self.dir.path().to_owned());
        let run = async move {
            portolan_server::run(file, &base, async {
                let _ = stopped.await;
            })
            .await
        };
        self.running.insert(node, Running { stop, ended: tokio::spawn(run) });
    }

    /// Runs one node that is expected to end by itself.
    pub async fn run_to_end(&mut self, node: &'static str) -> Result<(), Error> {
        portolan_server::run(self.node_file(node), self.dir.path(), std::future::pending()).await
    }

    /// Stops all nodes.
    pub async fn stop(&mut self) {
        for (node, running) in std::mem::take(&mut self.running) {
            drop(running.stop);
            running.ended.await.expect("no panic").unwrap_or_else(|error| panic!("{node} failed: {error}"));
        }
    }

    /// Where a node's admin API listens.
    pub fn admin(&self, node: &str) -> SocketAddr {
        self.listens[node].admin
    }

    /// Looks until there is something, for as long as patience lasts.
    pub async fn until<T, F: Future<Output = Option<T>>>(&self, what: &str, mut look: impl FnMut() -> F) -> T {
        let looking = async {
            let mut paces = tokio::time::interval(PACE);
            loop {
                paces.tick().await;
                if let Some(found) = look().await {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("not in time: {what}"))
    }

    /// A read as operator `ada`; `None` unless it succeeds.
    pub async fn get(&self, node: &str, path: &str) -> Option<Value> {
        let (status, body) = self.call(node, Method::GET, path, String::new(), true).await?;
        (status == 200).then(|| serde_json::from_str(&body).expect("JSON"))
    }

    /// A change as operator `ada`; `None` when the node does not answer.
    pub async fn post(&self, node: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let (status, body) = self.call(node, Method::POST, path, body.to_string(), true).await?;
        Some((status, serde_json::from_str(&body).expect("JSON")))
    }

    /// A read without a certificate.
    pub async fn anonymous(&self, node: &str, path: &str) -> Option<(u16, String)> {
        self.call(node, Method::GET, path, String::new(), false).await
    }

    async fn call(
        &self,
        node: &str,
        method: Method,
        path: &str,
        body: String,
        operator: bool,
    ) -> Option<(u16, String)> {
        let address = self.admin(node);
        let connector = TlsConnector::from(Arc::new(client_config(self.dir.path(), operator)));
        let stream = TcpStream::connect(address).await.ok()?;
        let stream = connector.connect(ServerName::from(address.ip()), stream).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(header::HOST, address.to_string());
        let response = sender.send_request(request.body(Full::<Bytes>::from(body)).expect("a request")).await.ok()?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.ok()?.to_bytes();
        connection.abort();
        Some((status, String::from_utf8(bytes.to_vec()).expect("text")))
    }

    fn node_file(&self, node: &'static str) -> NodeFile {
        let region = |name: &str| RegionId::new(name).expect("a name");
        let name = |name: &str| NodeName::new(name).expect("a name");
        let others = NODES.iter().filter(|other| **other != node);
        NodeFile {
            node: name(node),
            region: region(node),
            cluster: Name::new("edge").expect("a name"),
            data: format!("data-{node}"),
            regions: "regions".to_owned(),
            listen: self.listens[node],
            server_certificates: vec![CertificateFiles { certificate: "server.crt".into(), key: "server.key".into() }],
            identity: IdentityFiles {
                ca: "ca.crt".into(),
                certificate: format!("{node}.crt"),
                key: format!("{node}.key"),
            },
            peers: others
                .map(|other| (name(other), Peer { region: region(other), address: self.listens[other].mesh }))
                .collect(),
            bootstrap: NODES.map(name).to_vec(),
            workers: 1,
            access_log: AccessLog::Off,
            otlp: None,
            limits_key: None,
        }
    }
}

fn client_config(dir: &Path, operator: bool) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.crt")).expect("a CA")).expect("a CA");
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    if !operator {
        return builder.with_no_client_auth();
    }
    let chain = vec![CertificateDer::from_pem_file(dir.join("ada.crt")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(dir.join("ada.key")).expect("a key");
    builder.with_client_auth_cert(chain, key).expect("a pair")
}

fn write_certificates(dir: &Path) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test authority");
    std::fs::write(dir.join("ca.crt"), params.self_signed(&ca_key).expect("a CA").pem()).expect("a file");
    let issuer = Issuer::new(params, ca_key);
    let issue = |file: &str, names: Vec<SanType>| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        std::fs::write(dir.join(format!("{file}.crt")), certificate.pem()).expect("a file");
        std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).expect("a file");
    };
    let uri = |text: String| SanType::URI(text.try_into().expect("a URI"));
    let loopback = || SanType::IpAddress([127, 0, 0, 1].into());
    for node in NODES {
        issue(node, vec![uri(format!("spiffe://edge/region/{node}/node/{node}")), loopback()]);
    }
    issue("ada", vec![uri("spiffe://edge/operator/ada".to_owned())]);
    issue("server", vec![loopback()]);
}

fn write_regions(dir: &Path) {
    let regions = dir.join("regions");
    std::fs::create_dir(&regions).expect("a directory");
    for (index, region) in NODES.iter().enumerate() {
        let text = format!(
            "version: 1\nregion: {region}\ntitle: Region {region}\ncoordinates: {{ latitude: {index}.5, longitude: \
             {index}.5 }}\naddresses: [192.0.2.{index}]\n"
        );
        std::fs::write(regions.join(format!("{region}.yaml")), text).expect("a file");
    }
    let rtt = "version: 1\nrtt:\n  - { between: [a, b], rtt: 10ms }\n  - { between: [b, c], rtt: 10ms }\n  - { between: \
               [a, c], rtt: 20ms }\n";
    std::fs::write(regions.join("rtt.yaml"), rtt).expect("a file");
}

/// Ports that were free a moment ago.
fn free_ports() -> Listen {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let tcp = || TcpListener::bind(loopback).expect("a port");
    let (https, dns, admin) = (tcp(), tcp(), tcp());
    let mesh = UdpSocket::bind(loopback).expect("a port");
    let address = |listener: &TcpListener| listener.local_addr().expect("bound");
    Listen {
        http: None,
        https: address(&https),
        dns: address(&dns),
        admin: address(&admin),
        mesh: mesh.local_addr().expect("bound"),
    }
}
