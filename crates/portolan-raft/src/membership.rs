//! How a cluster is founded and how a node gets a place in it.
//!
//! The first bootstrap node founds the cluster, and only when *every* bootstrap node answers that it never had a log:
//! otherwise a node whose disk was wiped would found a second cluster. All others, and all later nodes, ask the leader
//! for a place: a vote while a seat is free, a learner's place else. The leader gives it to a new id and takes it from
//! the node's earlier id in one change of membership.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use openraft::{AsyncRuntime, ChangeMembers, ServerState};
use portolan_config::{Applied, Change};
use portolan_model::{MemberId, RegionId};
use tokio::time::Instant;

use crate::{
    facts,
    message::{Request, Response},
    raft::Inner,
    runtime::Runtime,
    seats::Seats,
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
    /// Works until this node is a member and the intent names it.
    pub async fn seek_membership(self: Arc<Self>) {
        while !self.advance().await {
            Runtime::sleep(PACE).await;
        }
    }

    /// One attempt of the step that is due; `true` when none is left.
    async fn advance(&self) -> bool {
        let Some(core) = self.core() else { return false };
        if is_member(core, self.store.member()) {
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
        let mut members = vec![(self.store.member().0, self.me())];
        for peer in self.peers() {
            match self.transport.call(&peer, Request::Identify, ASK).await {
                Ok(Response::Identity { id, member, pristine: true, regions }) if member.name == peer => {
                    if let Some(reason) = self.other_regions(&regions) {
                        tracing::error!(%peer, reason, "the cluster cannot be founded");
                        return true;
                    }
                    members.push((id.0, member));
                }
                Ok(Response::Identity { pristine: false, .. }) => return false,
                _ => return true,
            }
        }
        let voters = self.seats().fill(members);
        tracing::info!(voters = voters.len(), "founding the cluster");
        self.founding.store(true, Ordering::Relaxed);
        self.allow_election();
        if let Err(error) = core.initialize(voters).await {
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
                let command = Change::Join { node, region, member }.at(at);
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

    /// Answers [`Request::Join`], and changes the membership in the background: the node asks again until it is a
    /// member. Nodes that ask meanwhile are admitted together by the next change.
    pub async fn admit(self: &Arc<Self>, id: MemberId, member: Member) -> Response {
        let busy = |reason: &str| Response::Unavailable { reason: reason.to_owned() };
        let Some(core) = self.core().cloned() else { return busy("Raft has not started") };
        let leads = core.with_raft_state(|state| state.server_state == ServerState::Leader).await;
        if !leads.is_ok_and(|leads| leads) {
            return Response::NotLeader { leader: self.leader().filter(|name| *name != self.config.me) };
        }
        if is_member(&core, id) {
            return Response::Joined;
        }
        if let Some(reason) = self.store.shortage(0) {
            return Response::DiskFull { reason };
        }
        {
            let mut candidates = self.candidates.lock().unwrap_or_else(PoisonError::into_inner);
            candidates.retain(|_, other| other.name != member.name);
            if candidates.len() >= MAX_CANDIDATES {
                return busy("many nodes are being admitted");
            }
            candidates.insert(id.0, member);
        }
        let Ok(one_at_a_time) = Arc::clone(&self.admission).try_lock_owned() else {
            return busy("a node is being admitted");
        };
        let inner = Arc::clone(self);
        self.spawn(async move {
            let _one_at_a_time = one_at_a_time;
            let joining = std::mem::take(&mut *inner.candidates.lock().unwrap_or_else(PoisonError::into_inner));
            match Runtime::timeout(ADMISSION, inner.admit_all(&core, joining)).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => tracing::warn!(reason, "nodes could not be admitted"),
                Err(_) => tracing::warn!("nodes could not be admitted in time"),
            }
        });
        busy("the node is being admitted")
    }

    pub(crate) fn seats(&self) -> Seats {
        Seats::of(self.config.regions.ids().len())
    }

    /// Makes all of `joining` learners, brings those up to date that get a vote, and forgets every other id of the same
    /// nodes.
    async fn admit_all(&self, core: &Core, joining: BTreeMap<u64, Member>) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        for (id, member) in &joining {
            tracing::info!(node = %member.name, member = %MemberId(*id), "admitting a node");
        }
        let change = ChangeMembers::AddNodes(joining.clone());
        core.change_membership(change, true).await.map_err(|error| text(&error))?;
        let (mut voters, learners) = members(core);
        let returns = |other: &Member| joining.values().any(|member| member.name == other.name);
        voters.retain(|_, voter| !returns(voter));
        let staying: BTreeSet<u64> = voters.keys().copied().collect();
        for (id, member) in &joining {
            if self.seats().is_free(&member.region, voters.values()) {
                core.add_learner(*id, member.clone(), true).await.map_err(|error| text(&error))?;
                voters.insert(*id, member.clone());
            }
        }
        let ids: BTreeSet<u64> = voters.into_keys().collect();
        if ids != staying || ids != voter_ids(core) {
            change_voters(core, ids).await?;
        }
        let earlier: BTreeSet<u64> = learners
            .iter()
            .filter(|(id, member)| !joining.contains_key(id) && returns(member))
            .map(|(id, _)| *id)
            .collect();
        if !earlier.is_empty() {
            // Ids that were lost again before they voted.
            let change = ChangeMembers::RemoveNodes(earlier);
            core.change_membership(change, false).await.map_err(|error| text(&error))?;
        }
        Ok(())
    }

    /// As the leader: moves the vote of a node that its region no longer lists to a neighbour and the vote of an id that
    /// its node has lost to the id it has, and fills free seats. So an admission that stops half way is ended.
    pub async fn keep_seats_filled(self: Arc<Self>) {
        loop {
            Runtime::sleep(FINISHING_PACE).await;
            let Some(core) = self.core() else { continue };
            let Ok(_one_at_a_time) = self.admission.try_lock() else { continue };
            if !core.metrics().borrow().state.is_leader() || unfinished_change(core).is_some() {
                continue;
            }
            let (voters, learners) = members(core);
            let intent = self.state().intent;
            let Some(next) = self.seats().next(&voters, &learners, &intent.members, &intent.rosters) else { continue };
            tracing::info!(voters = ?next, "moving a vote");
            let change = async {
                for id in next.iter().filter(|id| !voters.contains_key(id)) {
                    core.add_learner(*id, learners[id].clone(), true).await.map_err(|error| error.to_string())?;
                }
                change_voters(core, next).await
            };
            match Runtime::timeout(ADMISSION, change).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error, "a vote is not moved yet"),
                Err(_) => tracing::warn!("a vote is not moved in time"),
            }
        }
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
            match Runtime::timeout(ADMISSION, change_voters(core, voters)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(error, "a change of membership is not finished yet"),
                Err(_) => tracing::warn!("a change of membership is not finished in time"),
            }
        }
    }
}

/// Makes these the voters. Whoever gives its vote up stays as a learner: it gets the entries that it missed when it
/// returns. An id that its node has lost never does.
async fn change_voters(core: &Core, voters: BTreeSet<u64>) -> Result<(), String> {
    let some_stay = {
        let metrics = core.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let is_lost = |id: u64| {
            let name = membership.get_node(&id).map(|member| &member.name);
            membership.nodes().any(|(other, member)| *other != id && Some(&member.name) == name)
        };
        membership.voter_ids().any(|id| !voters.contains(&id) && !is_lost(id))
    };
    let change = ChangeMembers::ReplaceAllVoters(voters);
    core.change_membership(change, some_stay).await.map(drop).map_err(|error| error.to_string())
}

/// Whether `id` has a place and will keep it: a vote in every configuration of a membership that is changing, or a
/// learner's place.
fn is_member(core: &Core, id: MemberId) -> bool {
    let metrics = core.metrics();
    let metrics = metrics.borrow();
    let membership = metrics.membership_config.membership();
    let configurations = membership.get_joint_config();
    let votes = configurations.iter().filter(|voters| voters.contains(&id.0)).count();
    membership.get_node(&id.0).is_some() && !configurations.is_empty() && [0, configurations.len()].contains(&votes)
}

/// Voters and learners. Of a change that was never ended the aim counts.
fn members(core: &Core) -> (BTreeMap<u64, Member>, BTreeMap<u64, Member>) {
    let voters = voter_ids(core);
    let metrics = core.metrics();
    let metrics = metrics.borrow();
    let nodes = metrics.membership_config.membership().nodes();
    nodes.map(|(id, member)| (*id, member.clone())).partition(|(id, _)| voters.contains(id))
}

fn voter_ids(core: &Core) -> BTreeSet<u64> {
    let metrics = core.metrics();
    let metrics = metrics.borrow();
    metrics.membership_config.membership().get_joint_config().last().cloned().unwrap_or_default()
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

/// Nodes that wait for their admission.
const MAX_CANDIDATES: usize = 1000;
