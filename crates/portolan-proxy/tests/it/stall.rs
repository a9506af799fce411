//! Clients that leave, fall silent or do not read: nothing is held for them beyond the timeouts of the listener.

use std::{sync::Arc, time::Duration};

use http::{Request, StatusCode};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    gateway::{Gateway, HOST, client_tls},
    http2, http3, upstream,
};

const DOCUMENT: &str = "
version: 1
listener: { header_timeout: 1s, idle_timeout: 1s }
services:
  all: { endpoints: { here: ['http://UPSTREAM'] } }
routes:
  all: { match: { path: /** }, service: all, timeout: 60s }
";

/// Longest wait of a test for what takes a second or two.
const PATIENCE: Duration = Duration::from_secs(20);

/// An upstream that starts with `head` and then sends body without end. The semaphore gets a permit for each of its
/// connections that has ended.
async fn endless(head: &'static [u8]) -> (std::net::SocketAddr, Arc<Semaphore>) {
    let ended = Arc::new(Semaphore::new(0));
    let counted = Arc::clone(&ended);
    let address = upstream::serve(move |mut stream| {
        let ended = Arc::clone(&counted);
        async move {
            let mut scratch = [0; 4096];
            let _ = stream.read(&mut scratch).await;
            if head.is_empty() {
                // Never answers, and waits for the gateway to give up.
                while stream.read(&mut scratch).await.is_ok_and(|count| count > 0) {}
            } else {
                let mut sent = stream.write_all(head).await;
                while sent.is_ok() {
                    sent = stream.write_all(&[b'x'; 4096]).await;
                }
            }
            ended.add_permits(1);
        }
    })
    .await;
    (address, ended)
}

const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";

async fn wait(ended: &Semaphore, what: &str) {
    timeout(PATIENCE, ended.acquire()).await.expect(what).expect("stays open").forget();
}

#[tokio::test]
async fn an_http_2_response_that_is_not_read_is_not_kept() {
    let (address, ended) = endless(ENDLESS).await;
    let gateway = Gateway::start(DOCUMENT, address);
    let (mut client, connection) = http2::connect(&gateway).await;
    let unread = client.send_request(http2::get("/a")).await.expect("answers");
    assert_eq!(unread.status(), StatusCode::OK);
    wait(&ended, "the upstream is let go").await;
    timeout(PATIENCE, connection).await.expect("the connection is closed").expect("no panic");
}

#[tokio::test]
async fn an_http_3_response_that_is_not_read_is_not_kept() {
    let (address, ended) = endless(ENDLESS).await;
    let gateway = Gateway::start(DOCUMENT, address);
    let mut client = http3::connect(&gateway).await;
    let request = Request::get(format!("https://{HOST}/a")).body(()).expect("is a request");
    let mut stream = client.sender.send_request(request).await.expect("is taken");
    stream.finish().await.expect("is taken");
    assert_eq!(stream.recv_response().await.expect("answers").status(), StatusCode::OK);
    wait(&ended, "the upstream is let go").await;
}

#[tokio::test]
async fn an_http_3_client_that_leaves_takes_its_requests_with_it() {
    let (address, ended) = endless(b"").await;
    let gateway = Gateway::start(DOCUMENT, address);
    let mut client = http3::connect(&gateway).await;
    let request = Request::get(format!("https://{HOST}/a")).body(()).expect("is a request");
    let mut stream = client.sender.send_request(request).await.expect("is taken");
    stream.finish().await.expect("is taken");
    gateway.counts(portolan_proxy::Event::UpstreamOpened, 1).await;
    client.leave();
    wait(&ended, "the upstream is let go").await;
}

#[tokio::test]
async fn an_idle_http_3_connection_is_closed() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let mut client = http3::connect(&gateway).await;
    assert_eq!(http3::get(&mut client, "/a").await.0.status(), StatusCode::OK);
    timeout(PATIENCE, client.ended).await.expect("the connection is closed").expect("no panic");
}

async fn silent(gateway: &Gateway) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(gateway.https).await.expect("the gateway listens");
    let name = ServerName::try_from(HOST).expect("a name");
    let connector = TlsConnector::from(Arc::new(client_tls(gateway, b"h2")));
    connector.connect(name, stream).await.expect("the certificate is trusted")
}

#[tokio::test]
async fn an_http_2_connection_without_a_whole_request_is_closed() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // A HEADERS frame without END_HEADERS.
    const PARTIAL: &[u8] = b"\0\0\x01\x01\x01\0\0\0\x01\x82";
    for sent in [&b""[..], PREFACE, &[PREFACE, PARTIAL].concat()] {
        let mut stream = silent(&gateway).await;
        stream.write_all(sent).await.expect("is sent");
        let mut answer = Vec::new();
        let closed = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{} bytes", sent.len());
    }
}
