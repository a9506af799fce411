//! Limits as a client meets them: fields on every answer, 429 with a problem, and the limit per client address.

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
        use tokio::io::AsyncReadExt as _;
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
