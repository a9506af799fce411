//! Malformed messages over a real connection: refused with a problem, in order, and never seen by an upstream.

use std::sync::atomic::Ordering::SeqCst;

use crate::{gateway::Gateway, upstream};

const DOCUMENT: &str = "
version: 1
listener: { max_header_bytes: 8KiB, max_headers: 20, header_timeout: 1s }
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
routes:
  all: { match: { path: /** }, service: echo }
";

#[tokio::test]
async fn malformed_and_oversized_heads_are_refused_with_a_problem() {
    let (address, count) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let long = "a".repeat(20 << 10);
    let many = "a: b\r\n".repeat(21);
    let cases = [
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na", 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\nhost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: a\r\n b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\nhost: a\r\n\r\n", 505),
        (&format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), 431),
        (&format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), 431),
        (&format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), 414),
    ];
    for (request, status) in cases {
        let answer = gateway.raw(request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.80}\n{answer}");
        assert!(answer.contains("application/problem+json") && answer.contains("\"step\":\"framing\""), "{answer}");
    }
    assert_eq!(count.load(SeqCst), 0, "the upstream was not touched");
}

#[tokio::test]
async fn a_head_in_pieces_is_read_whole() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let request =
        b"POST /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for piece in [1, 2, 7, 40] {
        let parts: Vec<&[u8]> = request.chunks(piece).collect();
        let answer = gateway.raw_in_parts(&parts).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("abc"), "{piece}\n{answer}");
    }
}

#[tokio::test]
async fn a_refused_request_is_answered_after_those_before_it_and_ends_the_connection() {
    let (address, count) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let sound = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    let smuggling = "POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = gateway.raw(format!("{sound}{sound}{smuggling}{sound}")).await;
    let statuses: Vec<&str> = answer.lines().filter_map(|line| line.split("HTTP/1.1 ").nth(1)).collect();
    assert_eq!(statuses, ["200 OK", "200 OK", "400 Bad Request"], "{answer}");
    assert_eq!(count.load(SeqCst), 2);
}

#[tokio::test]
async fn a_malformed_chunk_ends_the_exchange() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    for body in ["3 \r\nabc\r\n0\r\n\r\n", "3\nabc\r\n0\r\n\r\n", "3\r\nabcX", "zz\r\n"] {
        let head = "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = gateway.raw(format!("{head}{body}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("/problems/body-broken"), "{body:?}\n{answer}");
        assert!(!answer.contains("smuggled"), "{answer}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_arrive_in_time_is_answered_with_408() {
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let answer = gateway.raw("GET / HTTP/1.1\r\nhost: a\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(gateway.raw("").await, "", "a silent connection is closed without a word");
}
