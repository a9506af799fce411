//! Changes of the cluster's intent: checked here for a good answer, decided by Raft.
//! What a rule needs to know of the moment is frozen into the command: a state machine never reads gossip.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    response::Response,
};
use portolan_config::{Applied, Change, Command, Limit, Shares, Snapshot};
use portolan_model::{Name, NodeName, RegionId};
use portolan_node::{NodeStatus, PeerNodeStatus, RegionHealth};
use tracing::info;

use super::{
    AdminState, Operator,
    problem::{Failure, json, read_json},
};
use crate::api::{
    ApplyRequest, ChangeAnswer, DrainRequest, FenceRequest, RestoreRequest, RollbackRequest, UnfenceRequest,
};

/// A region whose nodes were not heard for this long is not counted as one that could take a drained region's clients, and
/// may be fenced as gone.
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
    propose(&state, Change::Apply { bundle, author, expected }.at(at)).await
}

/// `POST /v1/rollback`.
pub(super) async fn rollback(
    State(state): State<Arc<AdminState>>,
    Operator(author): Operator,
    body: Body,
) -> Result<Response, Failure> {
    let RollbackRequest { to } = read_json(body)?;
    let at = state.clock.now().wall;
    propose(&state, Change::Rollback { to, author }.at(at)).await
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
    propose(&state, Change::Drain { region, reason, author, serving }.at(at)).await
}

/// `POST /v1/restore`.
pub(super) async fn restore(
    State(state): State<Arc<AdminState>>,
    Operator(author): Operator,
    body: Body,
) -> Result<Response, Failure> {
    let RestoreRequest { region } = read_json(body)?;
    let at = state.clock.now().wall;
    propose(&state, Change::Restore { region, author }.at(at)).await
}

/// `POST /v1/limits/fence`.
pub(super) async fn fence(
    State(state): State<Arc<AdminState>>,
    Operator(author): Operator,
    body: Body,
) -> Result<Response, Failure> {
    let FenceRequest { region, reason, alive } = read_json(body)?;
    let reason = one_line(&reason)?;
    let heard = if alive { Vec::new() } else { heard_of(&*state.node_status().await?, &region) };
    if !heard.is_empty() {
        return Err(Failure::alive(&region, &heard));
    }
    let at = state.clock.now().wall;
    let command = Change::FenceLimits { region: region.clone(), reason, author }.at(at);
    let mut answer = order(&state, command).await?;
    let intent = state.raft.intent().borrow().clone();
    answer.stay = staying(&intent.snapshot, |other| *other == region || intent.limits.fences().contains_key(other));
    Ok(json(&answer))
}

/// `POST /v1/limits/unfence`.
pub(super) async fn unfence(
    State(state): State<Arc<AdminState>>,
    Operator(author): Operator,
    body: Body,
) -> Result<Response, Failure> {
    let UnfenceRequest { region } = read_json(body)?;
    let at = state.clock.now().wall;
    propose(&state, Change::UnfenceLimits { region, author }.at(at)).await
}

/// A reason as the history keeps it.
fn one_line(reason: &str) -> Result<String, Failure> {
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
        return Err(Failure::bad_request(format!("`reason` is one line of 1 to {MAX_REASON} bytes")));
    }
    Ok(reason.to_owned())
}

/// Limits whose shares are all with regions that are fenced: there is nobody to give them to.
fn staying(snapshot: &Snapshot, is_fenced: impl Fn(&RegionId) -> bool) -> Vec<Name> {
    let stays = |limit: &Limit| match &limit.shares {
        Shares::Weights(weights) => weights.iter().all(|(region, weight)| *weight == 0 || is_fenced(region)),
        Shares::Equal | Shares::Demand => false,
    };
    snapshot.limits.values().filter(|limit| stays(limit)).map(|limit| limit.name.clone()).collect()
}

async fn propose(state: &AdminState, command: Command) -> Result<Response, Failure> {
    Ok(json(&order(state, command).await?))
}

async fn order(state: &AdminState, command: Command) -> Result<ChangeAnswer, Failure> {
    let (what, author) = describe(&command);
    let applied = state.raft.propose(command).await.map_err(|error| Failure::undecided(&error))?;
    let answer = |result: &str, revision| ChangeAnswer { result: result.to_owned(), revision, stay: Vec::new() };
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
    Ok(answer)
}

fn describe(command: &Command) -> (&'static str, String) {
    match &command.change {
        Change::Apply { author, .. } => ("apply", author.clone()),
        Change::Rollback { author, .. } => ("rollback", author.clone()),
        Change::Drain { author, .. } => ("drain", author.clone()),
        Change::Restore { author, .. } => ("restore", author.clone()),
        Change::Join { .. } => ("join", String::new()),
        Change::Roster { .. } => ("roster", String::new()),
        Change::Acknowledge { .. } => ("acknowledge", String::new()),
        Change::TakeOver { .. } => ("take over", String::new()),
        Change::Weigh { .. } => ("weigh", String::new()),
        Change::Settle => ("settle", String::new()),
        Change::Renew { .. } => ("renew", String::new()),
        Change::FenceLimits { author, .. } => ("fence limits", author.clone()),
        Change::UnfenceLimits { author, .. } => ("unfence limits", author.clone()),
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

/// Nodes of a region that this node heard lately, or is.
fn heard_of(status: &NodeStatus, region: &RegionId) -> Vec<NodeName> {
    let own = (status.region == *region).then(|| status.node.clone());
    let lately =
        |(_, peer): &(&NodeName, &PeerNodeStatus)| peer.region == *region && peer.heard.is_some_and(|age| age <= FRESH);
    own.into_iter().chain(status.peers.iter().filter(lately).map(|(node, _)| node.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use portolan_config::{Bundle, RegionMap, SourceFile};

    use super::*;

    #[test]
    fn limits_that_only_fenced_regions_share_are_told_to_stay_as_they_are() {
        let file = |path: &str, text: &str| SourceFile { path: path.to_owned(), text: text.to_owned() };
        let region = |name: &str, address: &str| {
            let text = format!(
                "version: 1\nregion: {name}\ntitle: {name}\ncoordinates: {{ latitude: 1, longitude: 1 }}\n\
                 addresses: [{address}]\ncapacity: 1/s\n"
            );
            file(&format!("regions/{name}.yaml"), &text)
        };
        let trip = file("regions/rtt.yaml", "version: 1\nrtt:\n- { between: [a, b], rtt: 75ms }\n");
        let files = [region("a", "127.0.0.1"), region("b", "127.0.0.2"), trip];
        let regions = RegionMap::parse(&files).expect("two regions");
        let text = "version: 1\nlimits:\n  all-a: { key: global, rate: 1/s, shares: { a: 1, b: 0 } }\n  \
                    both: { key: global, rate: 9/s, shares: { a: 8, b: 1 } }\n  equal: { key: global, rate: 9/s }\n";
        let bundle = Bundle { document: file("gateway.yaml", text), attachments: BTreeMap::new() };
        let snapshot = Snapshot::parse(&bundle, &regions).expect("a document");
        let stay = |fenced: &str| -> Vec<String> {
            staying(&snapshot, |region| region.as_str() == fenced).iter().map(ToString::to_string).collect()
        };
        assert_eq!((stay("a"), stay("b")), (vec!["all-a".to_owned()], vec![]));
    }
}
