//! Clients of a fleet: HTTP/1.1 and HTTP/2 over TLS with its authority, and DNS over UDP with a client subnet.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{
        DNSClass, Name, RData, RecordType,
        rdata::opt::{ClientSubnet, EdnsOption},
    },
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;

/// Longest wait for one answer: a test that meets it fails.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The host of the shipped gateway document.
pub const HOST: &str = "api.example.test";

/// A way to open connections to a fleet.
#[derive(Clone)]
pub struct Host {
    h1: TlsConnector,
    h2: TlsConnector,
}

/// One connection.
pub enum Client {
    /// HTTP/1.1.
    One(http1::SendRequest<Full<Bytes>>),
    /// HTTP/2; clones share the connection.
    Two(http2::SendRequest<Full<Bytes>>),
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }
}

impl Host {
    /// Trusts the authority in `ca`.
    pub fn new(ca: &Path) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).context("the fleet's authority")?)?;
        let connector = |alpn: &[u8]| -> Result<TlsConnector> {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![alpn.to_vec()];
            Ok(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self { h1: connector(b"http/1.1")?, h2: connector(b"h2")? })
    }

    /// Opens an HTTP/1.1 connection.
    pub async fn h1(&self, address: SocketAddr) -> Result<Client> {
        let (sender, connection) = http1::handshake(TokioIo::new(tls(&self.h1, address).await?)).await?;
        tokio::spawn(connection);
        Ok(Client::One(sender))
    }

    /// Opens an HTTP/2 connection.
    pub async fn h2(&self, address: SocketAddr) -> Result<Client> {
        let stream = TokioIo::new(tls(&self.h2, address).await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        Ok(Client::Two(sender))
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, address: SocketAddr, path: &str, token: Option<&str>) -> Result<Answer> {
        self.h2(address).await?.get(path, token).await
    }
}

impl Client {
    /// Sends a GET to the shipped host and reads the whole answer.
    pub async fn get(&mut self, path: &str, token: Option<&str>) -> Result<Answer> {
        let mut request = Request::builder();
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.send(request, path, Bytes::new()).await
    }

    /// Sends a request to the shipped host and reads the whole answer.
    pub async fn send(&mut self, request: http::request::Builder, path: &str, body: Bytes) -> Result<Answer> {
        let exchange = async {
            let response = match self {
                Self::One(sender) => {
                    let request = request.uri(path).header("host", HOST).body(Full::new(body))?;
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Self::Two(sender) => {
                    let request = request.uri(format!("https://{HOST}{path}")).body(Full::new(body))?;
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            read(response).await
        };
        tokio::time::timeout(TIMEOUT, exchange).await.context("no answer in time")?
    }

    /// Another handle of the same connection, where the protocol allows it.
    pub fn share(&self) -> Option<Self> {
        match self {
            Self::One(_) => None,
            Self::Two(sender) => Some(Self::Two(sender.clone())),
        }
    }

    /// Whether the other side has ended the connection.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Two(sender) => sender.is_closed(),
        }
    }
}

async fn tls(connector: &TlsConnector, address: SocketAddr) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        anyhow::Ok(connector.connect(ServerName::try_from(HOST)?, stream).await?)
    };
    tokio::time::timeout(TIMEOUT, connect).await.context("no connection in time")?
}

async fn read(response: Response<Incoming>) -> Result<Answer> {
    let (parts, body) = response.into_parts();
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
}

/// A connection to the admin API of one node, with the operator's certificate.
pub struct Admin(http1::SendRequest<Full<Bytes>>);

impl Admin {
    /// Connects with the operator certificate in the folder of a fleet.
    pub async fn connect(dir: &Path, address: SocketAddr) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(dir.join("ca.pem"))?)?;
        let certificate = vec![CertificateDer::from_pem_file(dir.join("operator.pem"))?];
        let key = PrivateKeyDer::from_pem_file(dir.join("operator.key"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificate, key)?;
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::from(address.ip());
            anyhow::Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
        };
        let stream = tokio::time::timeout(TIMEOUT, connect).await.context("no connection in time")??;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Reads `path`.
    pub async fn get(&mut self, path: &str) -> Result<serde_json::Value> {
        let request = Request::get(path).header("host", "admin").body(Full::default())?;
        let exchange = async {
            self.0.ready().await?;
            read(self.0.send_request(request).await?).await
        };
        let answer = tokio::time::timeout(TIMEOUT, exchange).await.context("no answer in time")??;
        if answer.status.is_success() { Ok(answer.json()) } else { bail!("{}: {:?}", answer.status, answer.body) }
    }
}

/// Asks `server` for the A records of `name` on behalf of a client at `client`; returns the sorted addresses.
pub async fn dns(server: SocketAddr, name: &str, client: IpAddr) -> Result<Vec<IpAddr>> {
    let mut message = Message::query();
    let mut query = Query::query(Name::from_str(&format!("{name}."))?, RecordType::A);
    query.set_query_class(DNSClass::IN);
    message.add_query(query);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    let prefix = if client.is_ipv4() { 32 } else { 128 };
    edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(client, prefix, 0)));
    message.set_edns(edns);
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.send_to(&message.to_vec()?, server).await?;
    let mut buffer = [0; 4096];
    let received = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut buffer));
    let length = received.await.context("no answer in time")??;
    let reply = Message::from_vec(&buffer[..length])?;
    if reply.id != message.id {
        bail!("the answer belongs to another question");
    }
    let mut addresses: Vec<IpAddr> = reply
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        })
        .collect();
    addresses.sort();
    Ok(addresses)
}
