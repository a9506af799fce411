//! Whole nodes in one process, over loopback: found a cluster, take a document, explain it, drain, serve from disk alone.

mod harness;

use harness::{Fleet, NODES};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

const DOCUMENT: &str = r"
version: 1
services:
  orders:
    endpoints: { a: ['http://127.0.0.1:9'], b: ['http://127.0.0.1:9'] }
limits:
  total: { key: service, rate: 30/s }
routes:
  orders:
    match: { host: api.example.test, path: /orders/** }
    limits: [total]
    service: orders
dns:
  example.test: { api: { regions: all, ttl: 30s } }
";

fn bundle(text: &str) -> Value {
    json!({ "bundle": { "document": { "path": "gateway.yaml", "text": text }, "attachments": {} } })
}

async fn revisions_reach(fleet: &Fleet, revision: u64) {
    for node in NODES {
        fleet
            .until(&format!("{node} runs revision {revision}"), || async move {
                let status = fleet.get(node, "/v1/status").await?;
                (status["revision"] == revision && status["ready"] == true).then_some(())
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_found_a_cluster_and_carry_changes() {
    let mut fleet = Fleet::start().await;
    fleet
        .until("a leader takes a document", || async {
            let (status, answer) = fleet.post("b", "/v1/apply", &bundle(DOCUMENT)).await?;
            (status == 200 && answer["revision"] == 1).then_some(())
        })
        .await;
    revisions_reach(&fleet, 1).await;

    // The same document changes nothing, one with faults says where, a stale expectation is refused.
    let (status, answer) = fleet.post("a", "/v1/apply", &bundle(DOCUMENT)).await.expect("an answer");
    assert_eq!((status, &answer["result"]), (200, &json!("unchanged")));
    let faulty = bundle(&DOCUMENT.replace("service: orders", "service: order"));
    let (status, problem) = fleet.post("a", "/v1/apply", &faulty).await.expect("an answer");
    assert_eq!((status, &problem["faults"][0]["line"]), (422, &json!(12)), "{problem}");
    let mut stale = bundle(&DOCUMENT.replace("30s", "20s"));
    stale["expected"] = json!(7);
    let (status, problem) = fleet.post("c", "/v1/apply", &stale).await.expect("an answer");
    assert_eq!((status, &problem["type"]), (409, &json!("/problems/stale-revision")));

    let history = fleet.get("c", "/v1/history").await.expect("an answer");
    assert_eq!((&history["entries"][0]["author"], &history["entries"][0]["what"]), (&json!("ada"), &json!("apply")));

    explained(&fleet).await;
    crowded(&fleet).await;
    drained(&fleet).await;
    accounted(&fleet).await;
    converged(&fleet).await;
    observed(&fleet).await;
    fleet.stop().await;
}

async fn explained(fleet: &Fleet) {
    let request = json!({ "host": "api.example.test", "path": "/orders/1" });
    let (status, answer) = fleet.post("a", "/v1/explain", &request).await.expect("an answer");
    assert_eq!((status, &answer["route"]), (200, &json!("orders")), "{answer}");
    assert_eq!((&answer["limits"][0]["limit"], &answer["limits"][0]["share"]), (&json!("total"), &json!(10)));
    assert_eq!(answer["verdict"]["outcome"], "forward", "{answer}");
    let again = fleet.post("a", "/v1/explain", &request).await.expect("an answer").1;
    assert_eq!(again["limits"][0]["used"], 0, "explain charges nothing");
    let same = json!({ "host": "API.example.test.:8443", "path": "/other/..//%6frders/1?q=1" });
    let answer = fleet.post("a", "/v1/explain", &same).await.expect("an answer").1;
    assert_eq!(answer["route"], "orders", "read as the data path reads it: {answer}");
    let ambiguous = json!({ "host": "api.example.test", "path": "/orders/%2F" });
    let answer = fleet.post("a", "/v1/explain", &ambiguous).await.expect("an answer").1;
    let verdict = (&answer["verdict"]["status"], &answer["verdict"]["step"]);
    assert_eq!(verdict, (&json!(400), &json!("framing")));
    let elsewhere = json!({ "host": "other.test", "path": "/" });
    let answer = fleet.post("a", "/v1/explain", &elsewhere).await.expect("an answer").1;
    assert_eq!(
        (&answer["verdict"]["status"], answer["candidates"][0]["lost_because"].is_string()),
        (&json!(404), true)
    );
}

/// Connections of another address that say nothing, and more than the port takes.
async fn crowded(fleet: &Fleet) {
    let address = fleet.admin("a");
    let mut idle = Vec::new();
    for _ in 0..300 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 5], 0).into()).expect("loopback can be bound");
        idle.push(socket.connect(address).await.expect("the kernel accepts"));
    }
    assert_eq!(fleet.anonymous("a", "/healthz").await.map(|answer| answer.0), Some(200));
    assert!(fleet.get("a", "/v1/status").await.is_some(), "operators have places of their own");
}

async fn drained(fleet: &Fleet) {
    fleet
        .until("c may be drained", || async {
            let order = json!({ "region": "c", "reason": "upgrade" });
            let (status, _) = fleet.post("b", "/v1/drain", &order).await?;
            (status == 200).then_some(())
        })
        .await;
    fleet
        .until("c knows that it drains", || async {
            let status = fleet.get("c", "/v1/status").await?;
            (status["draining"] == true && status["regions"]["c"]["drain"]["author"] == "ada").then_some(())
        })
        .await;
    assert_eq!(fleet.anonymous("c", "/readyz").await.map(|answer| answer.0), Some(503));
    let restore = json!({ "region": "c" });
    assert_eq!(fleet.post("a", "/v1/restore", &restore).await.expect("an answer").0, 200);
    assert_eq!(fleet.post("a", "/v1/restore", &restore).await.expect("an answer").0, 409);
}

/// Limits as operators see them, and a region that is fenced.
async fn accounted(fleet: &Fleet) {
    let answer = fleet.get("a", "/v1/limits").await.expect("an answer");
    let budget = &answer["budgets"][0];
    assert_eq!(
        (&budget["limit"], &budget["tier"], &budget["key"]),
        (&json!("total"), &json!("limit"), &json!("service"))
    );
    assert_eq!((&budget["quota"], &budget["on_partition"]), (&json!(30), &json!("static")), "{answer}");
    let ask = json!({ "key": "orders" });
    let (status, answer) = fleet.post("a", "/v1/limits/explain", &ask).await.expect("an answer");
    let regions = &answer["counters"][0]["usage"]["regions"];
    assert_eq!((status, &regions["a"]["share"], &regions["b"]["rights"]), (200, &json!(10), &json!(10)), "{answer}");
    let nobody = fleet.post("a", "/v1/limits/explain", &json!({ "key": "nobody" })).await.expect("an answer").1;
    assert_eq!(nobody["counters"], json!([]), "no service has this name");
    let order = json!({ "region": "c", "reason": "flooded" });
    let (status, answer) = fleet.post("b", "/v1/limits/fence", &order).await.expect("an answer");
    assert_eq!((status, &answer["type"]), (409, &json!("/problems/region-alive")), "{answer}");
    let order = json!({ "region": "c", "reason": "flooded", "alive": true });
    let (status, answer) = fleet.post("b", "/v1/limits/fence", &order).await.expect("an answer");
    assert_eq!((status, &answer["result"]), (200, &json!("fenced")), "{answer}");
    fleet
        .until("the others have c's share", || async {
            let answer = fleet.post("a", "/v1/limits/explain", &ask).await?.1;
            let fences = fleet.get("a", "/v1/limits").await?["fences"].clone();
            let regions = &answer["counters"][0]["usage"]["regions"];
            let moved = regions["a"]["share"] == 15 && regions["b"]["share"] == 15 && regions["c"]["share"] == 0;
            (moved && fences["c"]["reason"] == "flooded" && fences["c"]["author"] == "ada").then_some(())
        })
        .await;
    let lift = json!({ "region": "c" });
    assert_eq!(fleet.post("a", "/v1/limits/unfence", &lift).await.expect("an answer").0, 200);
    assert_eq!(fleet.post("a", "/v1/limits/unfence", &lift).await.expect("an answer").0, 409);
}

async fn converged(fleet: &Fleet) {
    fleet
        .until("all nodes agree", || async {
            let mut seen = Vec::new();
            for node in NODES {
                let digests = fleet.get(node, "/v1/digests").await?;
                seen.push((digests["revision"].clone(), digests["leader"].clone(), digests["slots"].clone()));
            }
            seen.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        })
        .await;
}

async fn observed(fleet: &Fleet) {
    assert_eq!(fleet.anonymous("a", "/healthz").await.map(|answer| answer.0), Some(200));
    assert_eq!(fleet.anonymous("a", "/v1/status").await.map(|answer| answer.0), Some(401));
    assert_eq!(fleet.anonymous("a", "/nothing").await.map(|answer| answer.0), Some(404));
    let (status, page) = fleet.anonymous("a", "/metrics").await.expect("an answer");
    assert_eq!(status, 200);
    for metric in ["portolan_proxy_requests_total", "portolan_raft_term", "portolan_mesh_received_total", "# EOF"] {
        assert!(page.contains(metric), "{metric} is missing in {page}");
    }
    check_reference(&page);
}

/// Holds `docs/reference/node-metrics.md` to what a node shows. `UPDATE_REFERENCE=1 cargo test` writes it anew.
fn check_reference(page: &str) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    let (path, elsewhere) = (folder.join("node-metrics.md"), folder.join("proxy-metrics.md"));
    let elsewhere = std::fs::read_to_string(elsewhere).expect("the reference is there");
    let mut text = "# Metrics of a node\n\nThose of the data path stand in [proxy-metrics.md](proxy-metrics.md).\n\n\
                    | metric | meaning |\n|---|---|\n"
        .to_owned();
    let helps = page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    for (name, help) in helps.filter(|(name, _)| !elsewhere.contains(&format!("| `{name}` |"))) {
        text.push_str(&format!("| `{name}` | {} |\n", help.trim_end_matches('.')));
    }
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &text).expect("is writable");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, text, "{} is stale: run this test with UPDATE_REFERENCE=1", path.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_its_last_revision_with_no_peer_reachable() {
    let mut fleet = Fleet::start().await;
    fleet
        .until("a leader takes a document", || async {
            let (status, _) = fleet.post("a", "/v1/apply", &bundle(DOCUMENT)).await?;
            (status == 200).then_some(())
        })
        .await;
    revisions_reach(&fleet, 1).await;
    fleet.stop().await;
    fleet.start_node("b").await;
    fleet
        .until("the lonely node is ready", || async {
            let status = fleet.get("b", "/v1/status").await?;
            (status["revision"] == 1 && status["ready"] == true).then_some(())
        })
        .await;
    let (status, problem) =
        fleet.post("b", "/v1/apply", &bundle(&DOCUMENT.replace("30s", "20s"))).await.expect("an answer");
    assert!(status == 503 || status == 504, "nothing is accepted without a quorum: {problem}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_an_error_that_names_listener_and_address() {
    let mut fleet = Fleet::prepare();
    let address = fleet.admin("a");
    let _taken = std::net::TcpListener::bind(address).expect("free");
    let error = fleet.run_to_end("a").await.expect_err("the port is taken");
    assert_eq!(error.to_string(), format!("cannot listen for the admin API on {address}"));
}
