//! A draining region: clients are told to go on every protocol, and served while they stay.

use http::StatusCode;

use crate::{gateway::Gateway, http2, http3, upstream};

const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
routes:
  all: { match: { path: /** }, service: echo }
";

#[tokio::test]
async fn http_1_is_told_by_connection_close() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    gateway.drain();
    let ask = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";
    let answer = gateway.raw(format!("{ask}{ask}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "the connection ends after one answer\n{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(gateway.raw(ask).await.starts_with("HTTP/1.1 200"), "who comes back is served");
}

#[tokio::test]
async fn http_2_is_told_by_goaway() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let (mut client, ended) = http2::connect(&gateway).await;
    let first = client.send_request(http2::get("/a")).await.expect("answers");
    assert_eq!(first.status(), StatusCode::OK);
    http2::text(first).await;
    gateway.drain();
    ended.await.expect("the client's connection ends by itself");
    let (mut client, _) = http2::connect(&gateway).await;
    let again = client.send_request(http2::get("/a")).await.expect("who comes back is served");
    assert_eq!(again.headers()["alt-svc"], "clear");
}

#[tokio::test]
async fn http_3_is_told_by_goaway() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let mut client = http3::connect(&gateway).await;
    assert_eq!(http3::get(&mut client, "/a").await.0.status(), StatusCode::OK);
    gateway.drain();
    let end = client.ended.await.expect("the client's connection ends by itself");
    assert!(end.contains("H3_NO_ERROR") || end.to_lowercase().contains("closing"), "{end}");
    let mut client = http3::connect(&gateway).await;
    assert_eq!(http3::get(&mut client, "/a").await.0.status(), StatusCode::OK, "who comes back is served");
}

#[tokio::test]
async fn a_stop_lets_requests_finish() {
    let (release, held) = tokio::sync::watch::channel(false);
    let slow = upstream::serve(move |mut stream| {
        let mut held = held.clone();
        async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut scratch = [0; 1024];
            let _ = stream.read(&mut scratch).await;
            let _ = held.wait_for(|released| *released).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
        }
    })
    .await;
    let gateway = Gateway::start(DOCUMENT, slow);
    let address = gateway.https;
    let (mut client, _) = http2::connect(&gateway).await;
    let answer = tokio::spawn(client.send_request(http2::get("/a")));
    while gateway.proxy.metrics().event(portolan_proxy::Event::UpstreamOpened) == 0 {
        tokio::task::yield_now().await;
    }
    let stopped = tokio::spawn(async move { gateway.proxy.shutdown().await });
    release.send(true).expect("the upstream waits");
    let answer = answer.await.expect("no panic").expect("the request finishes");
    assert_eq!(http2::text(answer).await, "done");
    stopped.await.expect("the proxy stops");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nothing listens any more");
}
