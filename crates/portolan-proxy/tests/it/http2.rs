//! HTTP/2 over TLS.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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

pub type Body = BoxBody<Bytes, std::convert::Infallible>;

/// A client connection; the task resolves when it has ended.
pub async fn connect(gateway: &Gateway) -> (SendRequest<Body>, tokio::task::JoinHandle<()>) {
    let stream = TcpStream::connect(gateway.https).await.expect("the gateway listens");
    let connector = TlsConnector::from(Arc::new(client_tls(gateway, b"h2")));
    let name = ServerName::try_from(HOST).expect("a name");
    let stream = connector.connect(name, stream).await.expect("the certificate is trusted");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("speaks HTTP/2");
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender, task)
}

pub fn get(path: &str) -> Request<Body> {
    let uri = format!("https://{HOST}{path}");
    Request::get(uri).body(BodyExt::boxed(Full::default())).expect("is a request")
}

pub async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.expect("arrives").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

#[tokio::test]
async fn a_get_reaches_its_upstream_without_a_body() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let (mut client, _) = connect(&gateway).await;
    let response = client.send_request(get("/a?b=c")).await.expect("answers");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["alt-svc"], format!("h3=\":{}\"; ma=86400", gateway.https.port()));
    let text = text(response).await;
    assert!(text.starts_with("GET /a?b=c\nhost: api.example.test\nte: trailers\ntraceparent: "), "{text}");
    assert!(text.contains("x-forwarded-proto: https\n"), "{text}");
    assert!(!text.contains("transfer-encoding"), "{text}");
}

#[tokio::test]
async fn bodies_and_trailers_stream_both_ways() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let (mut client, _) = connect(&gateway).await;
    let chunk = || Ok(Frame::data(Bytes::from(vec![b'x'; 30 << 10])));
    let frames = vec![chunk(), chunk(), Ok(Frame::trailers(upstream::trailers()))];
    let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
    let request =
        Request::post(format!("https://{HOST}/a")).header("trailer", "x-sum").body(body).expect("is a request");
    let response = client.send_request(request).await.expect("answers");
    let collected = response.into_body().collect().await.expect("arrives");
    assert_eq!(collected.trailers(), Some(&upstream::trailers()));
    assert!(collected.to_bytes().len() > 60 << 10);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_on_its_stream_alone() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let (mut client, _) = connect(&gateway).await;
    let body = BodyExt::boxed(Full::from(vec![b'x'; 65 << 10]));
    let request = Request::post(format!("https://{HOST}/a")).body(body).expect("is a request");
    let response = client.send_request(request).await.expect("answers");
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let response = client.send_request(get("/a")).await.expect("the connection lives on");
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn problems_come_over_http_2_too() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let (mut client, _) = connect(&gateway).await;
    let uri = "https://other.example.test/";
    let request = Request::get(uri).body(BodyExt::boxed(Full::default())).expect("is a request");
    let response = client.send_request(request).await.expect("answers");
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(text(response).await.contains("/problems/no-route"));
}

#[tokio::test]
async fn a_problem_for_a_head_request_has_no_body() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let (mut client, _) = connect(&gateway).await;
    let request = Request::head("https://other.example.test/").body(BodyExt::boxed(Full::default()));
    let response = client.send_request(request.expect("is a request")).await.expect("answers");
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_ne!(response.headers()["content-length"], "0");
    assert_eq!(text(response).await, "");
}

#[tokio::test]
async fn a_repeated_length_is_refused_and_split_cookies_are_joined() {
    let (address, count) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let (mut client, _) = connect(&gateway).await;
    let mut request = get("/a");
    for _ in 0..2 {
        request.headers_mut().append("content-length", http::HeaderValue::from_static("0"));
    }
    let refused = client.send_request(request).await;
    assert!(refused.is_err() || refused.is_ok_and(|response| response.status() == StatusCode::BAD_REQUEST));
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 0);
    let (mut client, _) = connect(&gateway).await;
    let mut request = get("/a");
    for crumb in ["a=1", "b=2"] {
        request.headers_mut().append("cookie", http::HeaderValue::from_static(crumb));
    }
    let text = text(client.send_request(request).await.expect("answers")).await;
    assert!(text.contains("\ncookie: a=1; b=2\n"), "{text}");
}
