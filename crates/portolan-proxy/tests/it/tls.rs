//! TLS of the listener: versions, protocols, reload.

use std::sync::Arc;

use portolan_proxy::Event;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    gateway::{Gateway, HOST, client_tls},
    upstream,
};

const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
routes:
  all: { match: { path: /** }, service: echo }
";

async fn connect(gateway: &Gateway, tls: rustls::ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(gateway.https).await?;
    let name = ServerName::try_from(HOST).expect("a name");
    TlsConnector::from(Arc::new(tls)).connect(name, stream).await
}

async fn ask(mut stream: TlsStream<TcpStream>) -> String {
    let request = format!("GET /a HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the gateway reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the gateway closes in order");
    answer
}

#[tokio::test]
async fn http_1_is_spoken_over_both_versions_of_tls() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let tls = builder.expect("is known").with_root_certificates(gateway.roots.clone()).with_no_client_auth();
        let stream = connect(&gateway, tls).await.expect("is trusted");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let answer = ask(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-forwarded-proto: https\n"), "{answer}");
        let alt_svc = format!("alt-svc: h3=\":{}\"; ma=86400\r\n", gateway.https.port());
        assert!(answer.contains(&alt_svc), "{answer}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let (address, _) = upstream::echo().await;
    let mut gateway = Gateway::start(DOCUMENT, address);
    let before = client_tls(&gateway, b"http/1.1");
    let open = connect(&gateway, before.clone()).await.expect("is trusted");
    gateway.renew_certificate();
    assert!(connect(&gateway, before).await.is_err(), "the old certificate is gone");
    let after = client_tls(&gateway, b"http/1.1");
    let renewed = connect(&gateway, after).await.expect("the new one is trusted");
    assert!(ask(renewed).await.starts_with("HTTP/1.1 200"));
    assert!(ask(open).await.starts_with("HTTP/1.1 200"), "an open connection goes on");
}

#[tokio::test]
async fn what_is_no_handshake_is_dropped_and_counted() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let mut stream = TcpStream::connect(gateway.https).await.expect("the gateway listens");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("is sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "nothing is said in clear text");
    // The connection is closed before it is counted.
    gateway.counts(Event::HandshakeFailed, 1).await;
}
