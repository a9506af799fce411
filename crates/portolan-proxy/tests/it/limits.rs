//! Limits as a client meets them: fields on every answer, 429 with a problem, and the limit per client address.

use std::collections::BTreeMap;

use portolan_proxy::LogSink;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{gateway::Gateway, upstream};

const ASK: &str = "GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_quota_is_told_on_every_answer_and_ends_in_429() {
    const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
limits:
  daily: { key: client, rate: 4/d, expose_slot: true }
routes:
  all: { match: { path: /** }, limits: [daily], service: echo }
";
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    // Two regions share the quota of four.
    for left in [1, 0] {
        let answer = gateway.raw(ASK).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("ratelimit-policy: \"daily\";q=4;w=86400\r\n"), "{answer}");
        assert!(answer.contains(&format!("ratelimit: \"daily\";r={left};t=")), "{answer}");
        assert!(answer.contains("portolan-slot: daily;id="), "{answer}");
    }
    let answer = gateway.raw(ASK).await;
    // The other region of this test is never heard, and its share may be unspent: the limit is degraded, not reached.
    assert!(answer.starts_with("HTTP/1.1 429") || answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: ") && answer.contains("\"limit\":\"daily\""), "{answer}");
}

/// Asks `/a` with further fields, and returns the whole answer.
async fn ask(gateway: &Gateway, fields: &str) -> String {
    gateway.raw(format!("GET /a HTTP/1.1\r\nhost: a\r\n{fields}connection: close\r\n\r\n")).await
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

#[tokio::test]
async fn several_limits_stand_in_one_list_and_the_one_that_refuses_is_named() {
    const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
limits:
  daily: { key: global, rate: 1000/d }
  tight: { key: client, rate: 2/d }
routes:
  all: { match: { path: /** }, limits: [daily, tight], service: echo }
";
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let answer = ask(&gateway, "").await;
    assert!(answer.contains("ratelimit-policy: \"daily\";q=1000;w=86400, \"tight\";q=2;w=86400\r\n"), "{answer}");
    let answer = ask(&gateway, "").await;
    assert!(answer.contains("ratelimit-policy: \"tight\";q=2;w=86400\r\n"), "{answer}");
    assert!(answer.contains("\"violated-policies\":[\"tight\"]"), "{answer}");
    // Nothing of the request that was refused was charged to the limit before it.
    let view = gateway.peek("/a");
    assert_eq!(view.first().map(|peek| peek.spent), Some(1));
}

#[tokio::test]
async fn a_refusal_of_our_own_making_is_no_429() {
    const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
limits:
  daily: { key: global, rate: 2/d }
routes:
  all: { match: { path: /** }, limits: [daily], service: echo }
";
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    gateway.until_degraded("/a").await;
    assert_eq!(status(&ask(&gateway, "").await), "200");
    let answer = ask(&gateway, "").await;
    assert_eq!(status(&answer), "503", "{answer}");
    assert!(answer.contains("http-problem-types#temporary-reduced-capacity\""), "{answer}");
    assert!(answer.contains("\r\nretry-after: "), "{answer}");
}

#[tokio::test]
async fn an_outcome_that_is_not_counted_gives_its_cost_back() {
    const DOCUMENT: &str = "
version: 1
services:
  broken: { endpoints: { here: ['http://UPSTREAM'] } }
  gone: { endpoints: { here: ['http://127.0.0.1:9'] } }
limits:
  served: { key: global, rate: 4/d, refund_on: [5xx] }
  reached: { key: route, rate: 4/d, refund_on: [upstream_failure] }
routes:
  all: { match: { path: /** }, limits: [served, reached], service: broken }
  gone: { match: { path: /gone }, limits: [reached], service: gone }
";
    let (address, _) = upstream::canned(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
    let gateway = Gateway::start(DOCUMENT, address);
    assert_eq!(status(&ask(&gateway, "").await), "500");
    let spent: Vec<u64> = gateway.peek("/a").iter().map(|peek| peek.spent).collect();
    assert_eq!(spent, [0, 1], "a status of the service is no failure to reach it");
    for _ in 0..4 {
        let answer = gateway.raw("GET /gone HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert_eq!(status(&answer), "502", "{answer}");
    }
}

#[tokio::test]
async fn a_limit_in_shadow_refuses_nothing_and_tells_nothing() {
    const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
limits:
  trial: { key: global, rate: 2/d, shadow: true }
routes:
  all: { match: { path: /** }, limits: [trial], service: echo }
";
    let (address, _) = upstream::echo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("access.log");
    let document = DOCUMENT.replace("UPSTREAM", &address.to_string());
    let gateway = Gateway::start_with(&document, BTreeMap::new(), LogSink::File(log.clone()));
    for _ in 0..3 {
        let answer = ask(&gateway, "").await;
        assert_eq!(status(&answer), "200");
        assert!(!answer.contains("ratelimit"), "{answer}");
    }
    let metrics = gateway.metrics();
    let counted = |result: &str| {
        let of = |line: &&str| line.contains("limit=\"trial\"") && line.contains(&format!("result=\"{result}\""));
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok());
        metrics.lines().filter(of).filter_map(value).sum::<u64>()
    };
    assert_eq!((counted("admitted"), counted("shadow")), (1, 2), "{metrics}");
    let lines = async {
        loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.lines().count() == 3 {
                return text;
            }
            tokio::task::yield_now().await;
        }
    };
    let text = tokio::time::timeout(std::time::Duration::from_secs(10), lines).await.expect("three lines are written");
    assert_eq!(text.matches("\"shadow\":[\"trial\"]").count(), 2, "{text}");
}

#[tokio::test]
async fn a_request_costs_what_its_header_says_and_at_least_one() {
    const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
limits:
  points: { key: global, rate: 1000/d, cost: { header: x-points, default: 2, most: 20 } }
routes:
  all: { match: { path: /** }, limits: [points], service: echo }
";
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let mut spent = 0;
    for (field, cost) in
        [("x-points: 7\r\n", 7), ("", 2), ("x-points: lots\r\n", 2), ("x-points: 0\r\n", 1), ("x-points: 99\r\n", 20)]
    {
        assert_eq!(status(&ask(&gateway, field).await), "200", "{field}");
        spent += cost;
        assert_eq!(gateway.peek("/a").first().map(|peek| peek.spent), Some(spent), "{field}");
    }
}

#[tokio::test]
async fn leaving_the_header_out_is_no_way_around_a_limit() {
    const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
limits:
  keyed: { key: api_key, rate: 2/d }
routes:
  all: { match: { path: /** }, limits: [keyed], service: echo }
";
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let mut seen = Vec::new();
    for field in ["", "", "x-api-key: a\r\n", "x-api-key: a\r\n", "x-api-key: \r\n"] {
        seen.push(status(&ask(&gateway, field).await) == "200");
    }
    // One of the quota of two is the other region's.
    assert_eq!(seen, [true, false, true, false, true]);
}

#[tokio::test]
async fn a_client_address_is_bounded_before_anything_else() {
    const DOCUMENT: &str = "
version: 1
listener: { client_limit: 3/min }
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
routes:
  all: { match: { path: /** }, service: echo }
";
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    // The connection and two requests; the third request is one too many.
    let keep = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";
    let answer = gateway.raw(format!("{keep}{keep}{ASK}")).await;
    let statuses: Vec<&str> = answer.lines().filter_map(|line| line.split("HTTP/1.1 ").nth(1)).collect();
    assert_eq!(statuses, ["200 OK", "200 OK", "429 Too Many Requests"], "{answer}");
    assert!(answer.contains("\"step\":\"client-limit\""), "{answer}");
    // A further connection is not even read.
    let stream = tokio::net::TcpStream::connect(gateway.http).await.expect("the port is open");
    let mut scratch = [0; 16];
    let read = {
        let mut stream = stream;
        stream.read(&mut scratch).await
    };
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn what_is_refused_for_its_head_counts_against_the_client_too() {
    const DOCUMENT: &str = "
version: 1
listener: { client_limit: 3/min }
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
routes:
  all: { match: { path: /** }, service: echo }
";
    let (address, _) = upstream::echo().await;
    let gateway = Gateway::start(DOCUMENT, address);
    let (mut client, _) = crate::http2::connect(&gateway).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let answer = client.send_request(crate::http2::get("/a%2Fb")).await.expect("answers");
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses, [400, 400, 429]);
}

#[tokio::test]
async fn a_request_under_way_counts_until_its_response_has_ended_or_its_client_has_gone() {
    const DOCUMENT: &str = "
version: 1
services:
  echo: { endpoints: { here: ['http://UPSTREAM'] } }
limits:
  streams: { key: global, concurrency: 4 }
routes:
  all: { match: { path: /** }, limits: [streams], service: echo }
";
    // Heads are answered at once, bodies never end.
    let address = upstream::serve(|mut stream| async move {
        let mut scratch = [0; 4096];
        while matches!(stream.read(&mut scratch).await, Ok(1..)) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        }
    })
    .await;
    let gateway = Gateway::start(DOCUMENT, address);
    let under_way = || gateway.peek("/a").first().map_or(0, |peek| peek.spent);
    let (mut client, _) = crate::http2::connect(&gateway).await;
    let mut open = Vec::new();
    // Half of the four are the other region's.
    for _ in 0..2 {
        let answer = client.send_request(crate::http2::get("/a")).await.expect("answers");
        assert_eq!(answer.status(), 200);
        let policy = answer.headers().get("ratelimit-policy").and_then(|value| value.to_str().ok());
        assert_eq!(policy, Some("\"streams\";q=4;qu=\"concurrent-requests\""));
        open.push(answer);
    }
    let refused = client.send_request(crate::http2::get("/a")).await.expect("answers");
    assert!(matches!(refused.status().as_u16(), 429 | 503), "{refused:?}");
    assert_eq!(under_way(), 2);
    // The client resets one stream; the connection stays.
    open.pop();
    let ended = async |left: u64| {
        while under_way() != left {
            tokio::task::yield_now().await;
        }
    };
    let wait = std::time::Duration::from_secs(10);
    tokio::time::timeout(wait, ended(1)).await.expect("a stream that is reset is over");
    let again = client.send_request(crate::http2::get("/a")).await.expect("answers");
    assert_eq!(again.status(), 200);
    drop((open, again, client));
    tokio::time::timeout(wait, ended(0)).await.expect("a connection that is closed takes its requests with it");
}
