//! How a cluster is founded and how a node gets a place in it.
//!
//! The first bootstrap node founds the cluster, and only when *every* bootstrap node answers that it never had a log:
//! otherwise a node whose disk was wiped would found a second cluster. All others, and all later nodes, ask the leader
//! for a place. The leader gives it to a new id and takes it from the node's earlier id in one change of membership.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use openraft::{AsyncRuntime, ChangeMembers, ServerState};
use portolan_config::{Applied, Command};
use portolan_model::{MemberId, NodeName, RegionId};
use tokio::time::Instant;

use crate::{
    facts,
    message::{Request, Response},
    raft::Inner,
    runtime::Runtime,
    types::{Core, Member},
};

/// Pause between two attempts.
const PACE: Duration = Duration::from_millis(250);
/// Deadline of a question.
const ASK: Duration = Duration::from_secs(1);
/// Deadline of an announcement; it may be repeated, since announcing twice changes nothing.
const ANNOUNCE: Duration = Duration::from_secs(2);
/// Deadline of a change of membership, which includes bringing the node up to date.
const ADMISSION: Duration = Duration::from_secs(8);
/// Pause between two looks for a change of membership that nobody ends.
const FINISHING_PACE: Duration = Duration::from_secs(1);

impl Inner {
    /// Works until this node is a voter and the intent names it.
    pub async fn seek_membership(self: Arc<Self>) {
        while !self.advance().await {
            Runtime::sleep(PACE).await;
        }
    }

    /// One attempt of the step that is due; `true` when none is left.
    async fn advance(&self) -> bool {
        let Some(core) = self.core() else { return false };
        if is_voter(core, self.store.member()) {
            return self.announce().await;
        }
        let founder = self.config.bootstrap.first() == Some(&self.config.me);
        if founder && self.store.is_pristine() && self.all_are_pristine(core).await {
            return false;
        }
        self.ask_for_place().await;
        false
    }

    /// Asks all bootstrap nodes, and founds the cluster when all are pristine. `true` when nobody should be asked for a
    /// place yet.
    async fn all_are_pristine(&self, core: &Core) -> bool {
        let mut members = BTreeMap::from([(self.store.member().0, self.me())]);
        for peer in self.peers() {
            match self.transport.call(&peer, Request::Identify, ASK).await {
                Ok(Response::Identity { id, member, pristine: true, regions }) if member.name == peer => {
                    if let Some(reason) = self.other_regions(&regions) {
                        tracing::error!(%peer, reason, "the cluster cannot be founded");
                        return true;
                    }
                    members.insert(id.0, member);
                }
                Ok(Response::Identity { pristine: false, .. }) => return false,
                _ => return true,
            }
        }
        tracing::info!(members = members.len(), "founding the cluster");
        self.founding.store(true, Ordering::Relaxed);
        self.allow_election();
        if let Err(error) = core.initialize(members).await {
            tracing::error!(%error, "the cluster cannot be founded");
            self.founding.store(false, Ordering::Relaxed);
            self.allow_election();
        }
        true
    }

    /// Why a node that knows `theirs` cannot be in a cluster with this one: both would read other states out of the
    /// same entries.
    pub fn other_regions(&self, theirs: &[RegionId]) -> Option<String> {
        let ours = self.config.regions.ids();
        (theirs != ours).then(|| {
            let (theirs, ours) = (facts::listed(theirs), facts::listed(ours));
            format!("its region files name {theirs}, those of `{}` name {ours}", self.config.me)
        })
    }

    async fn ask_for_place(&self) {
        let mut asked = BTreeSet::new();
        let mut next = self.peers();
        next.reverse();
        while let Some(peer) = next.pop() {
            if peer == self.config.me || !asked.insert(peer.clone()) {
                continue;
            }
            let regions = self.config.regions.ids().to_vec();
            let request = Request::Join { id: self.store.member(), member: self.me(), regions };
            match self.transport.call(&peer, request, ASK).await {
                Ok(Response::Joined) => return,
                Ok(Response::NotLeader { leader: Some(leader) }) => next.push(leader),
                Ok(Response::Unavailable { reason }) => tracing::info!(%peer, reason, "no place was given yet"),
                Ok(other) => tracing::debug!(%peer, ?other, "no place was given"),
                Err(error) => tracing::debug!(%peer, %error, "no place was given"),
            }
        }
    }

    /// Makes the intent name this member; `true` when it does.
    async fn announce(&self) -> bool {
        let (me, member) = (&self.config.me, self.store.member());
        let known = self.state().intent.members.get(me).filter(|known| known.member == member).map(|m| m.incarnation);
        let incarnation = match known {
            Some(incarnation) => Some(incarnation),
            None => {
                let (node, region, at) = (me.clone(), self.config.region.clone(), (self.config.clock)());
                let command = Command::Join { node, region, member, at };
                match self.propose(command, Instant::now() + ANNOUNCE).await {
                    Ok(Applied::Joined { incarnation }) => Some(incarnation),
                    Ok(other) => {
                        tracing::error!(?other, "the cluster does not take this node");
                        None
                    }
                    Err(error) => {
                        tracing::debug!(%error, "this node is not announced yet");
                        None
                    }
                }
            }
        };
        if incarnation.is_some() {
            self.joined.send_replace(incarnation);
        }
        incarnation.is_some()
    }

    /// Answers [`Request::Join`], and changes the membership in the background: the node asks again until it votes. A
    /// second node of a region gets no vote: the state machine would not take it, and it would count towards a quorum.
    pub async fn admit(self: &Arc<Self>, id: MemberId, member: Member) -> Response {
        let busy = |reason: &str| Response::Unavailable { reason: reason.to_owned() };
        let Some(core) = self.core().cloned() else { return busy("Raft has not started") };
        let leads = core.with_raft_state(|state| state.server_state == ServerState::Leader).await;
        if !leads.is_ok_and(|leads| leads) {
            return Response::NotLeader { leader: self.leader().filter(|name| *name != self.config.me) };
        }
        if is_voter(&core, id) {
            return Response::Joined;
        }
        if let Some(holder) = self.holder(&member) {
            return busy(&format!("region `{}` is the place of `{holder}`", member.region));
        }
        if let Some(reason) = self.store.shortage(0) {
            return Response::DiskFull { reason };
        }
        let Ok(one_at_a_time) = Arc::clone(&self.admission).try_lock_owned() else {
            return busy("a node is being admitted");
        };
        self.spawn(async move {
            let _one_at_a_time = one_at_a_time;
            match Runtime::timeout(ADMISSION, change_membership(&core, id, member)).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => tracing::warn!(reason, "a node could not be admitted"),
                Err(_) => tracing::warn!("a node could not be admitted in time"),
            }
        });
        busy("the node is being admitted")
    }

    /// The node of another name that has the place of `member` in its region.
    fn holder(&self, member: &Member) -> Option<NodeName> {
        let state = self.state();
        let holder = state.intent.members.iter().find(|(name, of)| of.region == member.region && **name != member.name);
        holder.map(|(name, _)| name.clone())
    }

    /// Finishes changes of membership that somebody began and did not end: openraft makes them in two steps, and a
    /// deadline, a crash or another election between those leaves a lost member its vote.
    pub async fn leave_joint_memberships(self: Arc<Self>) {
        loop {
            Runtime::sleep(FINISHING_PACE).await;
            let Some(core) = self.core() else { continue };
            // Whoever makes the change holds the lock and ends it.
            let Ok(_one_at_a_time) = self.admission.try_lock() else { continue };
            let Some(voters) = unfinished_change(core) else { continue };
            tracing::info!(?voters, "finishing a change of membership");
            let change = core.change_membership(ChangeMembers::ReplaceAllVoters(voters), false);
            match Runtime::timeout(ADMISSION, change).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "a change of membership is not finished yet"),
                Err(_) => tracing::warn!("a change of membership is not finished in time"),
            }
        }
    }
}

/// Whether `id` votes and will go on to: in every configuration of a membership that is changing.
fn is_voter(core: &Core, id: MemberId) -> bool {
    let metrics = core.metrics();
    let metrics = metrics.borrow();
    let configurations = metrics.membership_config.membership().get_joint_config();
    !configurations.is_empty() && configurations.iter().all(|voters| voters.contains(&id.0))
}

/// As the leader of a membership that is changing: what it changes to.
fn unfinished_change(core: &Core) -> Option<BTreeSet<u64>> {
    let metrics = core.metrics();
    let metrics = metrics.borrow();
    match metrics.membership_config.membership().get_joint_config().as_slice() {
        [_, .., last] if metrics.state.is_leader() => Some(last.clone()),
        _ => None,
    }
}

/// Brings `id` up to date, lets it vote in place of every other id of the same node, and forgets those.
async fn change_membership(core: &Core, id: MemberId, member: Member) -> Result<(), String> {
    let name: NodeName = member.name.clone();
    tracing::info!(node = %name, member = %id, "admitting a node");
    core.add_learner(id.0, member, true).await.map_err(|error| error.to_string())?;
    let (mut voters, earlier) = {
        let metrics = core.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let same_node = |other: &u64| membership.get_node(other).is_some_and(|member| member.name == name);
        // Of a change that was never ended the aim counts.
        let present = membership.get_joint_config().last().cloned().unwrap_or_default();
        let voters: BTreeSet<u64> = present.into_iter().filter(|voter| !same_node(voter)).collect();
        let earlier: BTreeSet<u64> =
            membership.learner_ids().filter(|learner| same_node(learner) && *learner != id.0).collect();
        (voters, earlier)
    };
    voters.insert(id.0);
    core.change_membership(ChangeMembers::ReplaceAllVoters(voters), false).await.map_err(|error| error.to_string())?;
    if !earlier.is_empty() {
        // Ids that were lost again before they voted.
        core.change_membership(ChangeMembers::RemoveNodes(earlier), false).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}
