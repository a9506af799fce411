//! `portolan probe --http3`: one request over HTTP/3, for those whose curl cannot.
//!
//! Decides nothing about the gateway. `--resolve` and `--cacert` mean what they mean to curl.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use quinn::crypto::rustls::QuicClientConfig;
use serde_json::{Value, json};

use crate::client::{provider, roots};

/// Longest body that is kept.
const MAX_BODY: usize = 16 << 20;

/// A request and where to send it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// `https://…`.
    pub url: Uri,
    /// The method.
    pub method: Method,
    /// Extra headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, if any.
    pub body: Option<Bytes>,
    /// `(host, port)` and the address that stands for them.
    pub resolve: Vec<Resolve>,
    /// The authority to trust.
    pub ca: PathBuf,
    /// Longest wait for all of it.
    pub timeout: Duration,
}

/// `HOST:PORT:ADDRESS`, as curl takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    host: String,
    port: u16,
    address: std::net::IpAddr,
}

impl std::str::FromStr for Resolve {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.splitn(3, ':');
        let (Some(host), Some(port), Some(address)) = (parts.next(), parts.next(), parts.next()) else {
            bail!("write HOST:PORT:ADDRESS");
        };
        let address = address.trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port: port.parse().context("the port is a number")?,
            address: address.parse().context("the last part is an address")?,
        })
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status, version and headers.
    pub head: http::response::Parts,
    /// The body.
    pub body: Bytes,
    /// The trailers, if any.
    pub trailers: Option<HeaderMap>,
}

impl Reply {
    /// As curl's `-i` shows it.
    pub fn to_text(&self) -> String {
        let mut text = format!("HTTP/3 {}\n", self.head.status.as_u16());
        let mut lines = |headers: &HeaderMap| {
            for (name, value) in headers {
                let _ = writeln!(text, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
            }
        };
        lines(&self.head.headers);
        if let Some(trailers) = &self.trailers {
            lines(trailers);
        }
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(&self.body));
        text
    }

    /// Status, headers and body as JSON.
    pub fn to_json(&self) -> Value {
        let headers = |headers: &HeaderMap| -> Value {
            headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .map(|(name, value)| (name, Value::from(value)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        json!({
            "status": self.head.status.as_u16(),
            "headers": headers(&self.head.headers),
            "body": String::from_utf8_lossy(&self.body),
            "trailers": self.trailers.as_ref().map(headers),
        })
    }
}

impl Probe {
    /// Sends the request and reads the whole answer.
    pub async fn run(&self) -> Result<Reply> {
        tokio::time::timeout(self.timeout, self.exchange())
            .await
            .map_err(|_| anyhow!("no answer within {} ms", self.timeout.as_millis()))?
    }

    async fn exchange(&self) -> Result<Reply> {
        let host = self.url.host().context("the URL has no host")?;
        let address = self.address(host).await?;
        let endpoint = self.endpoint(address)?;
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let connecting = endpoint.connect(address, name).with_context(|| format!("cannot dial {address}"))?;
        let connection = connecting.await.with_context(|| format!("{address} does not speak QUIC here"))?;
        let quic = h3_quinn::Connection::new(connection);
        let (mut driver, mut sender) = h3::client::new(quic).await.context("no HTTP/3 session")?;
        let driving = tokio::spawn(async move { std::future::poll_fn(|context| driver.poll_close(context)).await });
        let mut request = Request::builder().method(self.method.clone()).uri(self.url.clone()).version(Version::HTTP_3);
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers.iter().cloned());
        }
        let mut stream = sender.send_request(request.body(()).context("a request")?).await.context("not sent")?;
        if let Some(body) = &self.body {
            stream.send_data(body.clone()).await.context("the body was not taken")?;
        }
        stream.finish().await.context("not sent to its end")?;
        let (head, ()) = stream.recv_response().await.context("no response")?.into_parts();
        let mut body = Vec::new();
        while let Some(mut chunk) = stream.recv_data().await.context("the body broke off")? {
            if body.len() + chunk.remaining() > MAX_BODY {
                bail!("the body is longer than {MAX_BODY} bytes");
            }
            body.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
        }
        let trailers = stream.recv_trailers().await.context("the trailers broke off")?;
        drop(sender);
        endpoint.close(quinn::VarInt::from_u32(0x100), b""); // H3_NO_ERROR, RFC 9114 §8.1.
        endpoint.wait_idle().await;
        driving.abort();
        Ok(Reply { head, body: body.into(), trailers })
    }

    async fn address(&self, host: &str) -> Result<SocketAddr> {
        let port = self.url.port_u16().unwrap_or(443);
        let known = self.resolve.iter().find(|r| r.port == port && r.host.eq_ignore_ascii_case(host));
        if let Some(resolve) = known {
            return Ok(SocketAddr::new(resolve.address, port));
        }
        let mut found = tokio::net::lookup_host((host, port))
            .await
            .with_context(|| format!("cannot resolve {host}; name its address with --resolve {host}:{port}:ADDRESS"))?;
        found.next().with_context(|| format!("{host} has no address"))
    }

    fn endpoint(&self, towards: SocketAddr) -> Result<quinn::Endpoint> {
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("TLS versions")?
            .with_root_certificates(roots(&self.ca)?)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let local: std::net::IpAddr =
            if towards.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let mut endpoint = quinn::Endpoint::client(SocketAddr::new(local, 0)).context("no UDP socket")?;
        let quic = QuicClientConfig::try_from(tls).context("QUIC needs TLS 1.3")?;
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(quic)));
        Ok(endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolve_is_read_as_curl_reads_it() {
        let check = |text: &str| text.parse::<Resolve>().ok().map(|r| (r.host, r.port, r.address.to_string()));
        assert_eq!(
            check("API.example.test:8443:127.10.1.1"),
            Some(("api.example.test".into(), 8443, "127.10.1.1".into()))
        );
        assert_eq!(check("a:1:[::1]"), Some(("a".into(), 1, "::1".into())));
        assert_eq!(check("a:1"), None);
        assert_eq!(check("a:x:127.0.0.1"), None);
    }
}
