//! HTTP/3 over QUIC, on the port number of the TLS listener.

use std::{net::SocketAddr, sync::Arc};

use bytes::{Buf as _, Bytes};
use h3::client::{RequestStream, SendRequest};
use http::{HeaderMap, Request, Response, StatusCode};
use quinn::crypto::rustls::QuicClientConfig;

use crate::{
    gateway::{Gateway, HOST, client_tls},
    upstream,
};

const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
routes:
  all: { match: { host: api.example.test, path: /** }, service: echo, max_body: 64KiB }
";

pub struct Client {
    pub sender: SendRequest<h3_quinn::OpenStreams, Bytes>,
    pub ended: tokio::task::JoinHandle<String>,
    endpoint: quinn::Endpoint,
}

impl Client {
    /// Closes the connection with requests under way.
    pub fn leave(&self) {
        self.endpoint.close(0u32.into(), b"");
    }
}

pub async fn connect(gateway: &Gateway) -> Client {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut endpoint = quinn::Endpoint::client(any).expect("a port is free");
    let tls = QuicClientConfig::try_from(client_tls(gateway, b"h3")).expect("TLS 1.3 is there");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let quic = endpoint.connect(gateway.https, HOST).expect("is valid").await.expect("the certificate is trusted");
    let (mut connection, sender) = h3::client::new(h3_quinn::Connection::new(quic)).await.expect("speaks h3");
    let ended = tokio::spawn(async move { connection.wait_idle().await.to_string() });
    Client { sender, ended, endpoint }
}

type Stream = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

async fn receive(stream: &mut Stream) -> (Response<()>, String, Option<HeaderMap>) {
    let response = stream.recv_response().await.expect("answers");
    let mut body = Vec::new();
    while let Some(mut data) = stream.recv_data().await.expect("arrives") {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    let trailers = stream.recv_trailers().await.expect("arrive");
    (response, String::from_utf8_lossy(&body).into_owned(), trailers)
}

pub async fn get(client: &mut Client, path: &str) -> (Response<()>, String) {
    let request = Request::get(format!("https://{HOST}{path}")).body(()).expect("is a request");
    let mut stream = client.sender.send_request(request).await.expect("is taken");
    stream.finish().await.expect("is taken");
    let (response, body, _) = receive(&mut stream).await;
    (response, body)
}

#[tokio::test]
async fn a_get_reaches_its_upstream_without_a_body() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let mut client = connect(&gateway).await;
    let (response, text) = get(&mut client, "/a?b=c").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(text.starts_with("GET /a?b=c\nhost: api.example.test\nte: trailers\n"), "{text}");
    assert!(!text.contains("transfer-encoding"), "{text}");
    let (response, text) = get(&mut client, "/..%2f").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(text.contains("/problems/malformed-request"), "{text}");
}

#[tokio::test]
async fn bodies_and_trailers_stream_both_ways() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let mut client = connect(&gateway).await;
    let request = Request::post(format!("https://{HOST}/a")).header("trailer", "x-sum").body(()).expect("is a request");
    let mut stream = client.sender.send_request(request).await.expect("is taken");
    for _ in 0..2 {
        stream.send_data(Bytes::from(vec![b'x'; 30 << 10])).await.expect("is taken");
    }
    stream.send_trailers(upstream::trailers()).await.expect("is taken");
    stream.finish().await.expect("is taken");
    let (response, body, trailers) = receive(&mut stream).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(body.len() > 60 << 10);
    assert_eq!(trailers, Some(upstream::trailers()));
}

#[tokio::test]
async fn a_body_that_belies_its_length_or_the_limit_is_refused() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let mut client = connect(&gateway).await;
    for (declared, sent, status) in [(3, 5, StatusCode::BAD_REQUEST), (5, 3, StatusCode::BAD_REQUEST)] {
        let request = Request::post(format!("https://{HOST}/a")).header("content-length", declared);
        let mut stream = client.sender.send_request(request.body(()).expect("is a request")).await.expect("is taken");
        let _ = stream.send_data(Bytes::from(vec![b'x'; sent])).await;
        let _ = stream.finish().await;
        let (response, _, _) = receive(&mut stream).await;
        assert_eq!(response.status(), status, "{declared} {sent}");
    }
    let request = Request::post(format!("https://{HOST}/a")).header("content-length", 65 << 10);
    let mut stream = client.sender.send_request(request.body(()).expect("is a request")).await.expect("is taken");
    let (response, _, _) = receive(&mut stream).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(get(&mut client, "/a").await.0.status(), StatusCode::OK, "the connection lives on");
}
