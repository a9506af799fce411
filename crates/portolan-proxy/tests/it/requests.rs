//! What crosses the gateway, what does not, and what it answers itself.

use std::{collections::BTreeMap, sync::atomic::Ordering::SeqCst};

use portolan_proxy::LogSink;

use crate::{gateway::Gateway, upstream};

const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
routes:
  orders: { match: { host: api.example.test, path: /orders/**, methods: [GET, POST] }, service: echo, max_body: 8B }
";

async fn check(gateway: &Gateway, request: &str, status: &str, contains: &[&str]) -> String {
    let answer = gateway.raw(request.replace('\n', "\r\n")).await;
    assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}\n{answer}");
    for part in contains {
        assert!(answer.contains(part), "{part:?} is missing\n{request}\n{answer}");
    }
    answer
}

#[tokio::test]
async fn a_request_reaches_its_upstream_cleaned_and_marked() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let request = "POST /orders/../orders//1?q=%2F HTTP/1.1\nhost: API.example.test:80\nconnection: close, x-hop\n\
                   x-hop: 1\nx-user-id: root\nx-forwarded-for: 10.0.0.1\nauthorization: Bearer x\nx-request-id: r-1\n\
                   accept: a\ncontent-length: 5\n\nhello";
    let answer = check(
        &gateway,
        request,
        "200",
        &[
            "POST /orders/1?q=%2F\naccept: a\ncontent-length: 5\nhost: API.example.test:80\ntraceparent: 00-",
            "\nvia: 1.1 portolan\n",
            "\nx-forwarded-for: 127.0.0.1\nx-forwarded-host: API.example.test:80\nx-forwarded-proto: http\n\
         x-request-id: r-1\n\nhello",
            "x-request-id: r-1\r\n",
            "x-kept: 1\r\n",
            "connection: close\r\n",
        ],
    )
    .await;
    for left_out in ["x-hop", "x-user-id", "10.0.0.1", "authorization"] {
        assert!(!answer.contains(left_out), "{left_out} crossed\n{answer}");
    }
}

#[tokio::test]
async fn what_no_route_takes_is_answered_by_the_gateway() {
    let (address, count) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let ask = |line: &str| format!("{line} HTTP/1.1\nhost: api.example.test\nconnection: close\n\n");
    let problem = "content-type: application/problem+json";
    check(&gateway, &ask("GET /other"), "404", &[problem, "/problems/no-route", "\"step\":\"route\""]).await;
    check(&gateway, &ask("DELETE /orders"), "405", &[problem, "allow: GET, POST\r\n"]).await;
    check(&gateway, &ask("GET /orders%2F1"), "400", &[problem, "\"step\":\"framing\""]).await;
    check(&gateway, &ask("GET /orders/%00"), "400", &[]).await;
    check(&gateway, "GET /orders HTTP/1.1\nconnection: close\n\n", "400", &["names no host"]).await;
    let several = "GET /orders HTTP/1.1\nhost: a.test\nhost: a.test\nconnection: close\n\n";
    check(&gateway, several, "400", &["several hosts"]).await;
    let tunnel = "CONNECT api.example.test:443 HTTP/1.1\nhost: api.example.test:443\nconnection: close\n\n";
    check(&gateway, tunnel, "501", &["/problems/not-supported"]).await;
    let upgrade = "GET /orders HTTP/1.1\nhost: api.example.test\nconnection: upgrade, close\nupgrade: websocket\n\n";
    check(&gateway, upgrade, "501", &[]).await;
    assert_eq!(count.load(SeqCst), 0, "the upstream was not touched");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_however_it_is_framed() {
    let (address, count) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let head = "POST /orders HTTP/1.1\nhost: api.example.test\n";
    check(&gateway, &format!("{head}content-length: 9\n\n123456789"), "413", &["/problems/body-too-large"]).await;
    assert_eq!(count.load(SeqCst), 0, "the upstream was not touched");
    let chunked = format!("{head}transfer-encoding: chunked\n\n5\n12345\n4\n6789\n0\n\n");
    check(&gateway, &chunked, "413", &["\"step\":\"body\""]).await;
    check(&gateway, &format!("{head}connection: close\ncontent-length: 8\n\n12345678"), "200", &["12345678"]).await;
}

#[tokio::test]
async fn a_head_request_has_the_fields_of_a_get_and_no_body() {
    let (address, _) = upstream::canned(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
    let document = DOCUMENT.replace("[GET, POST]", "[HEAD]");
    let gateway = Gateway::start(&document, address);
    let request = "HEAD /orders HTTP/1.1\nhost: api.example.test\nconnection: close\n\n";
    let answer = check(&gateway, request, "200", &["content-length: 5\r\n"]).await;
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn trailers_cross_in_both_directions_over_http_1() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let request = "POST /orders HTTP/1.1\nhost: api.example.test\nte: trailers\nconnection: close, te\n\
                   trailer: x-sum, x-user-id\ntransfer-encoding: chunked\n\n3\nabc\n0\nx-user-id: root\nx-sum: 42\n\n";
    let answer = check(&gateway, request, "200", &["abc\r\n0\r\n"]).await;
    assert!(answer.ends_with("x-sum: 42\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_go_on_only_when_the_request_is_taken() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let ask = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\nhost: api.example.test\nexpect: 100-continue\nconnection: close\ncontent-length: 2\n\nhi"
        )
    };
    let answer = gateway.raw(ask("/orders").replace('\n', "\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"), "{answer}");
    check(&gateway, &ask("/other"), "404", &[]).await;
}

#[tokio::test]
async fn a_finished_request_is_one_line_without_secrets() {
    let (address, _) = upstream::echo().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("access.log");
    let document = DOCUMENT.replace("UPSTREAM", &address.to_string());
    let gateway = Gateway::start_with(&document, BTreeMap::new(), LogSink::File(path.clone()));
    let request = "GET /orders/1?token=secret HTTP/1.1\nhost: api.example.test\nauthorization: Bearer secret\n\
                   x-request-id: r-7\nconnection: close\n\n";
    check(&gateway, request, "200", &[]).await;
    gateway.proxy.shutdown().await;
    let mut text = String::new();
    while !text.ends_with('\n') {
        // The writer runs on its own thread; it always comes to write.
        text = std::fs::read_to_string(&path).expect("exists");
    }
    let line: serde_json::Value = serde_json::from_str(&text).expect("is one JSON object");
    let seen = ["request_id", "method", "path", "route", "status", "attempts", "protocol", "complete", "upstream"];
    let seen: Vec<String> = seen.iter().map(|key| line[key].to_string()).collect();
    let endpoint = format!("\"http://{address}\"");
    let expected = ["\"r-7\"", "\"GET\"", "\"/orders/1\"", "\"orders\"", "200", "1", "\"h1\"", "true", &endpoint];
    assert_eq!(seen, expected, "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_get_with_a_body_of_unknown_length_reaches_its_upstream_with_it() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let request = "GET /orders HTTP/1.1\nhost: api.example.test\nconnection: close\ntransfer-encoding: chunked\n\n\
                   5\nhello\n0\n\n";
    check(&gateway, request, "200", &["\n\nhello\r\n"]).await;
}

#[tokio::test]
async fn an_upstream_cannot_name_the_slot_of_a_limit() {
    let forged = b"HTTP/1.1 200 OK\r\nportolan-slot: forged\r\nx-kept: 1\r\ncontent-length: 0\r\n\r\n";
    let (address, _) = upstream::canned(forged).await;
    let gateway = Gateway::start(DOCUMENT, address);
    let request = "GET /orders HTTP/1.1\nhost: api.example.test\nconnection: close\n\n";
    let answer = check(&gateway, request, "200", &["x-kept: 1"]).await;
    assert!(!answer.contains("forged"), "{answer}");
}

#[tokio::test]
async fn a_request_of_http_1_0_without_a_host_reaches_its_upstream_with_one() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(&DOCUMENT.replace("host: api.example.test, ", ""), address);
    let answer = gateway.raw("GET /orders HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200") && answer.contains(&format!("\nhost: {address}\n")), "{answer}");
}
