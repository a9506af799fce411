//! Failing upstreams: what is tried again, what is not, and what the client is told.

use std::sync::atomic::Ordering::SeqCst;

use crate::{gateway::Gateway, upstream};

fn document(endpoints: &str) -> String {
    format!(
        "
version: 1
services:
  echo: {{ endpoints: {{ here: [{endpoints}] }}, connect_timeout: 200ms }}
routes:
  all: {{ match: {{ path: /** }}, service: echo, timeout: 1s }}
"
    )
}

async fn ask(gateway: &Gateway, method: &str) -> String {
    gateway.raw(format!("{method} /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await
}

/// An address of loopback where nothing listens.
async fn nowhere() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
    listener.local_addr().expect("is bound")
}

#[tokio::test]
async fn a_refused_connection_is_made_elsewhere_whatever_the_method() {
    let (sound, _) = upstream::echo().await;
    let dead = nowhere().await;
    let gateway = Gateway::start(&document(&format!("'http://{dead}', 'http://UPSTREAM'")), sound);
    for _ in 0..8 {
        let answer = ask(&gateway, "POST").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn a_broken_answer_is_asked_for_again_only_where_that_is_safe() {
    let (broken, count) = upstream::canned(b"").await;
    let (sound, _) = upstream::echo().await;
    let gateway = Gateway::start(&document(&format!("'http://{broken}', 'http://UPSTREAM'")), sound);
    // The choice between the two is random; it falls on the broken one sooner or later.
    while count.load(SeqCst) == 0 {
        let answer = ask(&gateway, "GET").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let gateway = Gateway::start(&document("'http://UPSTREAM'"), broken);
    let before = count.load(SeqCst);
    let answer = ask(&gateway, "POST").await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("/problems/upstream-broken"), "{answer}");
    assert_eq!(count.load(SeqCst), before + 1, "a POST that may have been read is not repeated");
}

#[tokio::test]
async fn a_failure_is_told_apart_in_the_answer() {
    let gateway = Gateway::start(&document("'http://UPSTREAM'"), nowhere().await);
    let answer = ask(&gateway, "GET").await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("/problems/connect-failed"), "{answer}");
    let silent = upstream::serve(|stream| async move {
        let _kept_open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let gateway = Gateway::start(&document("'http://UPSTREAM'"), silent);
    let answer = ask(&gateway, "GET").await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("/problems/upstream-timeout"), "{answer}");
    let (garbage, _) = upstream::canned(b"not http at all\r\n\r\n").await;
    let gateway = Gateway::start(&document("'http://UPSTREAM'"), garbage);
    let answer = ask(&gateway, "POST").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[tokio::test]
async fn upstream_connections_are_reused() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(&document("'http://UPSTREAM'"), address);
    let one = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";
    let last = "GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = gateway.raw(format!("{one}{one}{one}{last}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 4, "{answer}");
    let metrics = gateway.proxy.metrics();
    assert_eq!(metrics.event(portolan_proxy::Event::UpstreamOpened), 1);
    assert_eq!(metrics.event(portolan_proxy::Event::UpstreamReused), 3);
}

#[tokio::test]
async fn what_a_client_does_to_its_own_body_is_no_outcome_of_the_endpoint() {
    let document = document("'http://UPSTREAM'").replace("timeout: 1s", "timeout: 300ms, max_body: 8B");
    let check = async |body: &str, status: &str| {
        let (address, _) = upstream::echo().await;
        let gateway = Gateway::start(&document, address);
        for _ in 0..12 {
            let answer = gateway.raw(format!("POST /a HTTP/1.1\r\nhost: a\r\n{body}")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{body}\n{answer}");
        }
        assert!(gateway.no_endpoint_is_ejected(), "{body}");
    };
    check("transfer-encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n", "413").await;
    check("content-length: 8\r\n\r\nabc", "408").await;
}

#[tokio::test]
async fn the_timeout_of_a_route_is_one_deadline_for_all_that_a_request_waits_for() {
    let (broken, _) = upstream::canned(b"").await;
    let silent = upstream::serve(|stream| async move {
        let _kept_open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let gateway = Gateway::start(&document(&format!("'http://{broken}', 'http://UPSTREAM'")), silent);
    let started = std::time::Instant::now();
    assert!(ask(&gateway, "GET").await.starts_with("HTTP/1.1 50"));
    assert!(started.elapsed() < std::time::Duration::from_millis(1900));
}

#[tokio::test]
async fn an_answer_of_ambiguous_length_is_not_passed_on() {
    let check = async |answer: &'static [u8]| {
        let (address, _) = upstream::canned(answer).await;
        let gateway = Gateway::start(&document("'http://UPSTREAM'"), address);
        let answer = ask(&gateway, "POST").await;
        assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("/problems/upstream-broken"), "{answer}");
    };
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n")
        .await;
    check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n").await;
}
