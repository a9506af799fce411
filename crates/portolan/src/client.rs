//! The client of the admin API: mutual TLS with the operator's certificate, the next node when one does not answer.
//!
//! Decides which node is asked and when to give up. Never repeats a call that may have changed something.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portolan_config::Faults;
use portolan_model::RegionId;
use portolan_server::api::Problem;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::context::{AdminAddress, Context};

/// A node that is alive accepts well within this; one that is not must not hold up the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for an answer: a change waits for a leader and for a disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer: the bounded history with room to spare.
const MAX_ANSWER: usize = 16 << 20;

/// How the complaint begins that no node could be asked; the reasons follow, one line per node.
pub const NO_ANSWER: &str = "no node answers; is the fleet running?";

/// A connection to the admin API of whichever node answers.
pub struct Client {
    connector: TlsConnector,
    nodes: Vec<AdminAddress>,
}

/// What a node said.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Value,
    /// Who said it.
    pub node: AdminAddress,
}

/// The fleet refused: the request was understood, nothing changed.
#[derive(Debug)]
pub struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Client {
    /// Loads the operator's certificate and the cluster's authority.
    pub fn new(context: &Context) -> Result<Self> {
        let certificates = CertificateDer::pem_file_iter(&context.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("cannot read the operator certificate {}", context.certificate.display()))?;
        let key = PrivateKeyDer::from_pem_file(&context.key)
            .with_context(|| format!("cannot read the operator key {}", context.key.display()))?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_root_certificates(roots(&context.ca)?)
            .with_client_auth_cert(certificates, key)
            .context("the operator key does not fit its certificate")?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), nodes: context.nodes.clone() })
    }

    /// Keeps only the nodes of `region`.
    pub fn in_region(mut self, region: &RegionId) -> Result<Self> {
        let known: Vec<String> = self.nodes.iter().map(|node| node.region.to_string()).collect();
        self.nodes.retain(|node| node.region == *region);
        if self.nodes.is_empty() {
            bail!("there is no node in region `{region}`; write one of {}", known.join(", "));
        }
        Ok(self)
    }

    /// The nodes this client may ask.
    pub fn nodes(&self) -> &[AdminAddress] {
        &self.nodes
    }

    /// Keeps only `node`.
    pub fn only(&self, node: &AdminAddress) -> Self {
        Self { connector: self.connector.clone(), nodes: vec![node.clone()] }
    }

    /// Reads `path`.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None).await?.accepted()
    }

    /// Sends `body` to `path`; a refusal is [`Refused`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(Method::POST, path, Some(body)).await?.accepted()
    }

    /// Asks the first node that answers and can act: one that says that nothing was changed because it has no leader
    /// may be on the small side of a cut, so the next is asked.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let (mut faults, mut leaderless) = (Vec::new(), None);
        for node in &self.nodes {
            match self.connect(node).await {
                Ok(stream) => {
                    let answer = exchange(stream, node, method.clone(), path, body);
                    let (status, body) = tokio::time::timeout(ANSWER_TIMEOUT, answer)
                        .await
                        .map_err(|_| anyhow!("it did not answer within {} s", ANSWER_TIMEOUT.as_secs()))
                        .and_then(|answer| answer)
                        .with_context(|| format!("{} ({}) took the call but failed", node.node, node.admin))?;
                    let answer = Answer { status, body, node: node.clone() };
                    if !answer.lacks_leader() {
                        return Ok(answer);
                    }
                    leaderless = Some(answer);
                }
                Err(error) => faults.push(format!("{} ({}): {error:#}", node.node, node.admin)),
            }
        }
        match leaderless {
            Some(answer) => Ok(answer),
            None => bail!("{NO_ANSWER}\n  {}", faults.join("\n  ")),
        }
    }

    async fn connect(&self, node: &AdminAddress) -> Result<TlsStream<TcpStream>> {
        let connect = async {
            let stream = TcpStream::connect(node.admin).await?;
            stream.set_nodelay(true)?;
            let name = server_name(node)?;
            self.connector.connect(name, stream).await.context("TLS failed")
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| anyhow!("timed out"))?
    }
}

/// Kinds of problems after which nothing was changed and another node may do better.
const LEADERLESS: [&str; 2] = ["/problems/no-leader", "/problems/leader-unreachable"];

impl Answer {
    fn lacks_leader(&self) -> bool {
        self.body["type"].as_str().is_some_and(|kind| LEADERLESS.contains(&kind))
    }

    /// The body of a success, or the reason given for a failure, with every fault of a document.
    pub fn accepted(self) -> Result<Value> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let by = format!("(status {} from {})", self.status.as_u16(), self.node.node);
        let reason = match Problem::deserialize(&self.body) {
            Ok(problem) if problem.faults.is_empty() => format!("{} {by}", problem.detail),
            Ok(problem) => format!("{} {by}\n{}", problem.title, Faults(problem.faults).render().trim_end()),
            Err(_) => format!("{} {by}", self.body),
        };
        Err(Refused(reason).into())
    }
}

/// The certificates in `file`, as roots.
pub fn roots(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(file).with_context(|| format!("cannot read the authority {}", file.display()))?;
    for certificate in certificates {
        let certificate = certificate.with_context(|| format!("{} is not PEM", file.display()))?;
        roots.add(certificate).with_context(|| format!("{} holds no authority", file.display()))?;
    }
    Ok(roots)
}

/// The one cryptography provider of this program.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Nodes of `up` have their name and their address in the certificate; the name of one given by `--admin` is unknown.
fn server_name(node: &AdminAddress) -> Result<ServerName<'static>> {
    Ok(ServerName::from(node.admin.ip()))
}

async fn exchange(
    stream: TlsStream<TcpStream>,
    node: &AdminAddress,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Value)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("handshake failed")?;
    let connection = tokio::spawn(connection);
    let bytes = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, node.admin.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(bytes)))
        .context("a request")?;
    let response = sender.send_request(request).await.context("the connection broke")?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| anyhow!("the answer was cut off: {error}"))?
        .to_bytes();
    connection.abort();
    let body = match serde_json::from_slice(&bytes) {
        Ok(value) => value,
        Err(_) => Value::from(String::from_utf8_lossy(&bytes).trim()),
    };
    Ok((status, body))
}
