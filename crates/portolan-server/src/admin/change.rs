//! Changes of the cluster's intent: checked here for a good answer, decided by Raft.
//! What a rule needs to know of the moment is frozen into the command: a state machine never reads gossip.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::Response,
};
use portolan_config::{Applied, Command, Snapshot};
use portolan_model::RegionId;
use portolan_node::{NodeStatus, RegionHealth};
use tracing::info;

use super::{
    AdminState, Operator,
    problem::{Failure, json, read_json},
};
use crate::api::{
    ApplyRequest, ChangeAnswer, DrainRequest, FenceRequest, RestoreRequest, RollbackRequest, UnfenceRequest,
};

/// A region whose nodes were not heard for this long is not counted as one that could take a drained region's clients.
const FRESH: Duration = Duration::from_secs(5);

/// Longest reason of a drain or a fence, in bytes.
const MAX_REASON: usize = 256;

type Body = Result<Bytes, BytesRejection>;

/// `POST /v1/apply`.
pub(super) async fn apply(
    State(state): State<Arc<AdminState>>,
    Operator(author): Operator,
    body: Body,
) -> Result<Response, Failure> {
    let ApplyRequest { bundle, expected } = read_json(body)?;
    let regions = Arc::clone(&state.regions);
    // Parsing a large document takes milliseconds: kept off the runtime that carries heartbeats.
    let checked = tokio::task::spawn_blocking(move || Snapshot::parse(&bundle, &regions).map(|_| bundle)).await;
    let bundle = match checked {
        Ok(checked) => checked.map_err(Failure::faults)?,
        Err(_) => return Err(Failure::unavailable("the document could not be checked")),
    };
    let at = state.clock.now().wall;
    propose(&state, Command::Apply { bundle, author, at, expected }).await
}

/// `POST /v1/rollback`.
pub(super) async fn rollback(
    State(state): State<Arc<AdminState>>,
    Operator(author): Operator,
    body: Body,
) -> Result<Response, Failure> {
    let RollbackRequest { to } = read_json(body)?;
    let at = state.clock.now().wall;
    propose(&state, Command::Rollback { to, author, at }).await
}

/// `POST /v1/drain`.
pub(super) async fn drain(
    State(state): State<Arc<AdminState>>,
    Operator(author): Operator,
    body: Body,
) -> Result<Response, Failure> {
    let DrainRequest { region, reason } = read_json(body)?;
    let reason = one_line(&reason)?;
    let status = state.node_status().await?;
    let serving = serving_regions(&status);
    let at = state.clock.now().wall;
    propose(&state, Command::Drain { region, reason, author, at, serving }).await
}

/// `POST /v1/restore`.
pub(super) async fn restore(
    State(state): State<Arc<AdminState>>,
    Operator(author): Operator,
    body: Body,
) -> Result<Response, Failure> {
    let RestoreRequest { region } = read_json(body)?;
    let at = state.clock.now().wall;
    propose(&state, Command::Restore { region, author, at }).await
}

/// `POST /v1/limits/fence`.
pub(super) async fn fence(
    State(state): State<Arc<AdminState>>,
    Operator(author): Operator,
    body: Body,
) -> Result<Response, Failure> {
    let FenceRequest { region, reason } = read_json(body)?;
    let reason = one_line(&reason)?;
    let at = state.clock.now().wall;
    propose(&state, Command::FenceLimits { region, reason, author, at }).await
}

/// `POST /v1/limits/unfence`.
pub(super) async fn unfence(
    State(state): State<Arc<AdminState>>,
    Operator(author): Operator,
    body: Body,
) -> Result<Response, Failure> {
    let UnfenceRequest { region } = read_json(body)?;
    let at = state.clock.now().wall;
    propose(&state, Command::UnfenceLimits { region, author, at }).await
}

/// A reason as the history keeps it.
fn one_line(reason: &str) -> Result<String, Failure> {
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
        return Err(Failure::bad_request(format!("`reason` is one line of 1 to {MAX_REASON} bytes")));
    }
    Ok(reason.to_owned())
}

async fn propose(state: &AdminState, command: Command) -> Result<Response, Failure> {
    let (what, author) = describe(&command);
    let applied = state.raft.propose(command).await.map_err(|error| Failure::undecided(&error))?;
    let answer = |result: &str, revision| ChangeAnswer { result: result.to_owned(), revision };
    let answer = match applied {
        Applied::Accepted { revision } => answer("accepted", Some(revision)),
        Applied::Unchanged { revision } => answer("unchanged", Some(revision)),
        Applied::Drained => answer("drained", None),
        Applied::Restored => answer("restored", None),
        Applied::Refused(refusal) => return Err(Failure::refused(&refusal)),
        Applied::Fenced => answer("fenced", None),
        Applied::Unfenced => answer("unfenced", None),
        Applied::Joined { .. }
        | Applied::Listed { .. }
        | Applied::Acknowledged
        | Applied::TakenOver
        | Applied::Weighed
        | Applied::Settled
        | Applied::Renewed => {
            return Err(Failure::unavailable("the cluster answered another question"));
        }
    };
    info!(what, author, result = answer.result, revision = ?answer.revision, "change of the intent");
    Ok(json(&answer))
}

fn describe(command: &Command) -> (&'static str, String) {
    match command {
        Command::Apply { author, .. } => ("apply", author.clone()),
        Command::Rollback { author, .. } => ("rollback", author.clone()),
        Command::Drain { author, .. } => ("drain", author.clone()),
        Command::Restore { author, .. } => ("restore", author.clone()),
        Command::Join { .. } => ("join", String::new()),
        Command::Roster { .. } => ("roster", String::new()),
        Command::Acknowledge { .. } => ("acknowledge", String::new()),
        Command::TakeOver { .. } => ("take over", String::new()),
        Command::Weigh { .. } => ("weigh", String::new()),
        Command::Settle { .. } => ("settle", String::new()),
        Command::Renew { .. } => ("renew", String::new()),
        Command::FenceLimits { author, .. } => ("fence limits", author.clone()),
        Command::UnfenceLimits { author, .. } => ("unfence limits", author.clone()),
    }
}

/// Regions that serve as this node sees them: not drained, not down, and heard from lately with a node that is ready.
pub(super) fn serving_regions(status: &NodeStatus) -> Vec<RegionId> {
    let answers = |region: &RegionId| {
        let own = *region == status.region && status.ready;
        own || status.peers.values().any(|peer| {
            peer.region == *region
                && peer.heard.is_some_and(|age| age <= FRESH)
                && peer.facts.as_ref().is_some_and(|facts| facts.ready)
        })
    };
    let open = status.regions.iter().filter(|(_, region)| region.state == RegionHealth::Serving);
    open.map(|(region, _)| region.clone()).filter(answers).collect()
}
