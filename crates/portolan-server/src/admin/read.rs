//! What can be asked without changing anything.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{State, rejection::BytesRejection},
    response::Response,
};
use http::{HeaderValue, StatusCode, header};

use super::{
    AdminState, Caller,
    explain::explain as explain_request,
    problem::{Failure, json, read_json},
    status::status_answer,
};
use crate::api::{DigestsAnswer, ExplainRequest, HistoryAnswer, SlotDigestAnswer};

/// `GET /healthz`: the process lives. A balancer should look at `/readyz`.
pub(super) async fn healthz() -> Response {
    text(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".to_owned())
}

/// `GET /readyz`: new clients may be sent here. A region being drained is not ready, though it serves those who stay.
pub(super) async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    let view = state.view.load();
    let (status, why) = match (view.ready, view.draining) {
        (true, false) => (StatusCode::OK, "ready\n"),
        (true, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
    };
    text(status, "text/plain; charset=utf-8", why.to_owned())
}

/// `GET /metrics`: Prometheus text format.
pub(super) async fn metrics(State(state): State<Arc<AdminState>>) -> Result<Response, Failure> {
    let status = state.node_status().await?;
    let page = state.metrics.render(&status, &state.raft.status(), &state.mesh.stats());
    Ok(text(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", page))
}

/// `GET /v1/history`.
pub(super) async fn history(State(state): State<Arc<AdminState>>) -> Response {
    let intent = state.raft.intent().borrow().clone();
    let entries = intent.history().to_vec();
    json(&HistoryAnswer { node: state.me.name.clone(), revision: intent.revision, entries })
}

/// `GET /v1/status`.
pub(super) async fn status(State(state): State<Arc<AdminState>>) -> Result<Response, Failure> {
    let node = state.node_status().await?;
    let intent = Arc::clone(&state.view.load().intent);
    Ok(json(&status_answer(&node, &state.raft.status(), &state.mesh.stats(), &intent)))
}

/// `GET /v1/digests`.
pub(super) async fn digests(State(state): State<Arc<AdminState>>) -> Result<Response, Failure> {
    let node = state.node_status().await?;
    let raft = state.raft.status();
    let mut slots: Vec<SlotDigestAnswer> = node.slot_digests.iter().map(digest_answer).collect();
    slots.sort();
    Ok(json(&DigestsAnswer {
        node: node.node.clone(),
        revision: node.revision,
        leader: raft.leader.map(|(_, name)| name),
        term: raft.term,
        slots,
    }))
}

/// `POST /v1/explain`.
pub(super) async fn explain(
    State(state): State<Arc<AdminState>>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let request: ExplainRequest = read_json(body)?;
    let client: IpAddr = request.client.unwrap_or(caller.address.ip());
    let view = state.view.load_full();
    let explained = explain_request(&state.me, &view, &request, client, state.clock.now());
    let usage = state.node.counters(&explained.counters).await;
    let usage = usage.ok_or_else(|| Failure::unavailable("the node is shutting down"))?;
    Ok(json(&explained.with_loans(&state.me, &usage)))
}

fn digest_answer(digest: &portolan_limits::SlotDigest) -> SlotDigestAnswer {
    SlotDigestAnswer { limit: digest.limit.0, slot: digest.slot, digest: format!("{:016x}", digest.digest) }
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
