//! The cluster as one node sees it, put into the words of the API. Decides nothing.

use std::{collections::BTreeMap, time::Duration};

use portolan_config::Intent;
use portolan_limits::{LimitUsage, Mode, Ranking};
use portolan_model::{NodeName, RegionId};
use portolan_node::{EndpointHealth, EndpointStatus, NodeStatus, RegionHealth, RegionStatus};
use portolan_raft::{Role, Status};

use crate::{
    api::{DrainAnswer, EndpointAnswer, LimitAnswer, NodeAnswer, RaftAnswer, RegionAnswer, StatusAnswer},
    mesh::MeshStats,
};

/// Builds the answer to `GET /v1/status`.
pub(super) fn status_answer(node: &NodeStatus, raft: &Status, mesh: &MeshStats, intent: &Intent) -> StatusAnswer {
    let region = |(id, status): (&RegionId, &RegionStatus)| {
        let drain = intent.drains.get(id).map(|drain| DrainAnswer {
            reason: drain.reason.clone(),
            author: drain.author.clone(),
            at: drain.at.to_string(),
        });
        let roster_epoch = intent.rosters.get(id).map_or(0, |roster| roster.epoch);
        (id.clone(), RegionAnswer { state: region_word(status.state).to_owned(), roster_epoch, drain })
    };
    StatusAnswer {
        node: node.node.clone(),
        region: node.region.clone(),
        revision: node.revision,
        ready: node.ready,
        draining: node.draining,
        raft: RaftAnswer {
            role: role_word(raft.role).to_owned(),
            term: raft.term,
            leader: raft.leader.as_ref().map(|(_, name)| name.clone()),
            voters: raft.voters.clone(),
            applied: raft.last_applied,
        },
        disk_full: raft.disk_full.is_some(),
        regions: node.regions.iter().map(region).collect(),
        nodes: nodes(node, raft, mesh, intent),
        limits: node.limits.iter().map(limit_answer).collect(),
        endpoints: node.endpoints.iter().map(endpoint_answer).collect(),
    }
}

/// `healthy`, `degraded` or `healing`.
pub(super) fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Healthy => "healthy",
        Mode::Degraded => "degraded",
        Mode::Healing => "healing",
    }
}

/// `serving`, `draining`, `down` or `draining_down`.
pub(super) fn region_word(state: RegionHealth) -> &'static str {
    match state {
        RegionHealth::Serving => "serving",
        RegionHealth::Draining => "draining",
        RegionHealth::Down => "down",
        RegionHealth::DrainingDown => "draining_down",
    }
}

/// Raft's role in one word.
pub(crate) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Starting => "starting",
        Role::Learner => "learner",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Stopped => "stopped",
    }
}

fn nodes(node: &NodeStatus, raft: &Status, mesh: &MeshStats, intent: &Intent) -> BTreeMap<NodeName, NodeAnswer> {
    let role = |name: &NodeName| {
        let leads = raft.leader.as_ref().is_some_and(|(_, leader)| leader == name);
        let word = match raft.voters.contains(name) {
            true if leads => "leader",
            true => "follower",
            false => "learner",
        };
        intent.members.contains_key(name).then(|| word.to_owned())
    };
    let rankings: BTreeMap<&RegionId, Ranking> =
        intent.rosters.iter().map(|(region, roster)| (region, Ranking::new(roster))).collect();
    let shards = |name: &NodeName, region: &RegionId| {
        let ranking = rankings.get(region).filter(|ranking| ranking.nodes().contains(name))?;
        Some(ranking.owned(name).len())
    };
    let own = NodeAnswer {
        region: node.region.clone(),
        role: Some(role_word(raft.role).to_owned()),
        revision: Some(node.revision),
        ready: Some(node.ready),
        heard_ms: Some(0),
        facts_age_ms: Some(0),
        rtt_ms: None,
        shards: shards(&node.node, &node.region),
    };
    let peers = node.peers.iter().map(|(name, peer)| {
        let facts = peer.facts.as_ref();
        let answer = NodeAnswer {
            region: peer.region.clone(),
            role: if peer.silent { Some(SILENT.to_owned()) } else { role(name) },
            revision: facts.map(|facts| facts.revision),
            ready: facts.map(|facts| facts.ready),
            heard_ms: peer.heard.map(millis),
            facts_age_ms: facts.map(|facts| millis(facts.age)),
            rtt_ms: mesh.peers.get(name).and_then(|peer| peer.rtt).map(millis),
            shards: shards(name, &peer.region),
        };
        (name.clone(), answer)
    });
    peers.chain([(node.node.clone(), own)]).collect()
}

fn limit_answer(usage: &LimitUsage) -> LimitAnswer {
    LimitAnswer {
        limit: usage.name.clone(),
        slot: usage.slot,
        quota: usage.quota,
        share: usage.share,
        mode: mode_word(usage.mode).to_owned(),
        on_partition: usage.on_partition.clone(),
        keys: usage.keys,
        spent: usage.spent.iter().cloned().collect(),
    }
}

fn endpoint_answer(endpoint: &EndpointStatus) -> EndpointAnswer {
    let health = match endpoint.health {
        EndpointHealth::Unknown => "unknown",
        EndpointHealth::Healthy => "healthy",
        EndpointHealth::Unhealthy => "unhealthy",
        EndpointHealth::Ejected { .. } => "ejected",
    };
    EndpointAnswer {
        service: endpoint.service.clone(),
        region: endpoint.region.clone(),
        address: endpoint.address.clone(),
        health: health.to_owned(),
        in_flight: endpoint.in_flight,
    }
}

/// The role of a node that is not heard: whether it leads or follows is not known.
const SILENT: &str = "silent";

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
