//! What operators want, as every node knows it: a deterministic state machine over [`Command`]s, run by Raft and by the
//! simulator alike. Never reads a clock or gossip; times and facts come with the command.

use std::{collections::BTreeMap, sync::Arc};

use portolan_model::{
    MemberId, NodeName, RegionId, Revision, WallTime,
    codec::{self, CodecError},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    Applied, Bundle, Change, Command, Faults, HistoryEntry, Leases, LimitRegister, Refusal, RegionMap, Roster,
    Snapshot,
    history::{History, digest},
    register::SavedRegister,
    roster::Turns,
};

/// The state that Raft replicates.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The revision in force; 0 before any document.
    pub revision: Revision,
    /// The document in force, ready to serve.
    pub snapshot: Arc<Snapshot>,
    /// The document in force, as it was handed over.
    pub bundle: Option<Arc<Bundle>>,
    /// Regions that are out of service by order.
    pub drains: BTreeMap<RegionId, Drain>,
    /// The member that joined first. No two clusters have the same one, whatever they are called.
    pub founder: Option<MemberId>,
    /// Nodes that are Raft members.
    pub members: BTreeMap<NodeName, MemberRecord>,
    /// Of each region that a node has joined: the nodes that share its limits.
    pub rosters: BTreeMap<RegionId, Roster>,
    turns: BTreeMap<RegionId, Turns>,
    /// Numbers and splits of the limits in force.
    pub limits: LimitRegister,
    /// Which regions hold shares of limits that reclaim, and of which slots.
    pub leases: Leases,
    pub(crate) regions: Arc<RegionMap>,
    history: History,
    drain_generation: u64,
}

/// A region out of service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Why.
    pub reason: String,
    /// Who ordered it.
    pub author: String,
    /// When it was ordered.
    pub at: WallTime,
    /// Grows with every drain of the cluster.
    pub generation: u64,
}

/// A node that is a Raft member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its member id.
    pub member: MemberId,
    /// The region it serves.
    pub region: RegionId,
    /// How often the node came without its past, the first time included: 1 = it had never existed before.
    pub incarnation: u64,
}

/// Why bytes are not an intent.
#[derive(Debug, Error)]
pub enum IntentError {
    /// The bytes do not decode.
    #[error("the saved intent cannot be read")]
    Codec(#[from] CodecError),
    /// The document in it is refused by this node's code or regions.
    #[error("the saved intent holds a document with faults:\n{0}")]
    Invalid(Faults),
    /// It was written in a cluster with other regions.
    #[error("the saved intent is of a cluster with the regions {saved:?}, this node knows {known:?}")]
    OtherRegions {
        /// Regions in the bytes.
        saved: Vec<RegionId>,
        /// Regions of this node's map.
        known: Vec<RegionId>,
    },
}

impl Intent {
    /// The state before any command.
    pub fn new(regions: Arc<RegionMap>) -> Self {
        Self {
            revision: Revision::default(),
            snapshot: Arc::default(),
            bundle: None,
            drains: BTreeMap::new(),
            founder: None,
            members: BTreeMap::new(),
            rosters: BTreeMap::new(),
            turns: BTreeMap::new(),
            limits: LimitRegister::default(),
            leases: Leases::default(),
            regions,
            history: History::default(),
            drain_generation: 0,
        }
    }

    /// The regions of the cluster.
    pub fn regions(&self) -> &Arc<RegionMap> {
        &self.regions
    }

    /// The rosters of a region after `epoch`, oldest first and up to the present one: as far back as they are kept.
    pub fn rosters_since(&self, region: &RegionId, epoch: u64) -> Vec<Roster> {
        let Some(present) = self.rosters.get(region) else { return Vec::new() };
        self.turns.get(region).map_or_else(|| vec![present.clone()], |turns| turns.since(epoch, present))
    }

    /// What was ordered, oldest first; the last 200 orders.
    pub fn history(&self) -> &[HistoryEntry] {
        self.history.entries()
    }

    /// Applies a command. Deterministic: the same commands give the same state on every node with the same regions. A
    /// refused command changes nothing.
    pub fn apply(&mut self, command: &Command) -> Applied {
        let at = command.at;
        let outcome = match &command.change {
            Change::Apply { bundle, author, expected } => self.accept(bundle, author, at, *expected),
            Change::Rollback { to, author } => self.roll_back(*to, author, at),
            Change::Drain { region, reason, author, serving } => self.drain(region, reason, author, at, serving),
            Change::Restore { region, author } => self.restore(region, author, at),
            Change::Join { node, region, member } => self.join(node, region, *member),
            Change::Roster { region, expected, present } => self.change_roster(region, *expected, present),
            Change::Acknowledge { node, change } => self.acknowledge(node, *change),
            Change::TakeOver { node, epoch } => self.take_over(node, *epoch),
            Change::Weigh { limit, demand } => self.weigh(limit, demand, at),
            Change::Settle => Ok(Applied::Settled),
            Change::Renew { regions } => self.renew(regions, at),
            Change::FenceLimits { region, reason, author } => self.fence_limits(region, reason, author, at),
            Change::UnfenceLimits { region, author } => self.unfence_limits(region, author, at),
        };
        if outcome.is_ok() {
            let Self { limits, snapshot, regions, leases, rosters, .. } = self;
            limits.advance(snapshot, regions, leases, rosters, at);
        }
        outcome.unwrap_or_else(Applied::Refused)
    }

    fn accept(
        &mut self,
        bundle: &Bundle,
        author: &str,
        at: WallTime,
        expected: Option<Revision>,
    ) -> Result<Applied, Refusal> {
        bounded("the author's name", author.len(), MAX_TEXT)?;
        bounded("the document with its files", bundle.bytes(), MAX_BUNDLE_BYTES)?;
        bounded("the list of files", bundle.attachments.len(), MAX_ATTACHMENTS)?;
        if let Some(expected) = expected.filter(|expected| *expected != self.revision) {
            return Err(Refusal::StaleRevision { expected, current: self.revision });
        }
        if self.bundle.as_deref().is_some_and(|current| current.same_content(bundle)) {
            return Ok(Applied::Unchanged { revision: self.revision });
        }
        self.put_in_force(Arc::new(bundle.clone()), "apply".to_owned(), author, at)
    }

    fn roll_back(&mut self, to: Revision, author: &str, at: WallTime) -> Result<Applied, Refusal> {
        bounded("the author's name", author.len(), MAX_TEXT)?;
        let bundle = self.history.bundle(to).ok_or(Refusal::UnknownRevision { revision: to })?;
        if self.bundle.as_deref().is_some_and(|current| current.same_content(&bundle)) {
            return Ok(Applied::Unchanged { revision: self.revision });
        }
        self.put_in_force(bundle, format!("rollback to {to}"), author, at)
    }

    fn put_in_force(
        &mut self,
        bundle: Arc<Bundle>,
        what: String,
        author: &str,
        at: WallTime,
    ) -> Result<Applied, Refusal> {
        let snapshot =
            Snapshot::parse(&bundle, &self.regions).map_err(|faults| Refusal::Invalid(faults.to_string()))?;
        self.limits.rebind(&self.snapshot, &snapshot, &self.regions, &mut self.leases, at);
        self.snapshot = Arc::new(snapshot);
        self.revision = self.revision.next();
        self.bundle = Some(Arc::clone(&bundle));
        self.history.keep(self.revision, bundle);
        self.record(what, author, at);
        Ok(Applied::Accepted { revision: self.revision })
    }

    fn drain(
        &mut self,
        region: &RegionId,
        reason: &str,
        author: &str,
        at: WallTime,
        serving: &[RegionId],
    ) -> Result<Applied, Refusal> {
        bounded("the author's name", author.len(), MAX_TEXT)?;
        bounded("the reason", reason.len(), MAX_TEXT)?;
        self.known(region)?;
        if let Some(Drain { author, reason, .. }) = self.drains.get(region) {
            let (author, reason) = (author.clone(), reason.clone());
            return Err(Refusal::AlreadyDrained { region: region.clone(), author, reason });
        }
        let serves = |other: &RegionId| other != region && serving.contains(other) && !self.drains.contains_key(other);
        if !self.regions.ids().iter().any(serves) {
            return Err(Refusal::LastServingRegion { region: region.clone() });
        }
        self.drain_generation += 1;
        let drain =
            Drain { reason: reason.to_owned(), author: author.to_owned(), at, generation: self.drain_generation };
        self.drains.insert(region.clone(), drain);
        let what = if reason.is_empty() { format!("drain {region}") } else { format!("drain {region}: {reason}") };
        self.record(what, author, at);
        Ok(Applied::Drained)
    }

    fn restore(&mut self, region: &RegionId, author: &str, at: WallTime) -> Result<Applied, Refusal> {
        bounded("the author's name", author.len(), MAX_TEXT)?;
        self.known(region)?;
        if self.drains.remove(region).is_none() {
            return Err(Refusal::NotDrained { region: region.clone() });
        }
        self.record(format!("restore {region}"), author, at);
        Ok(Applied::Restored)
    }

    fn fence_limits(
        &mut self,
        region: &RegionId,
        reason: &str,
        author: &str,
        at: WallTime,
    ) -> Result<Applied, Refusal> {
        bounded("the reason", reason.len(), MAX_TEXT)?;
        bounded("the author's name", author.len(), MAX_TEXT)?;
        self.known(region)?;
        self.fence(region, reason, author, at)?;
        self.record(format!("fence limits of {region}: {reason}"), author, at);
        Ok(Applied::Fenced)
    }

    fn unfence_limits(&mut self, region: &RegionId, author: &str, at: WallTime) -> Result<Applied, Refusal> {
        bounded("the author's name", author.len(), MAX_TEXT)?;
        self.known(region)?;
        self.unfence(region)?;
        self.record(format!("unfence limits of {region}"), author, at);
        Ok(Applied::Unfenced)
    }

    /// A member that joins again keeps its incarnation and its place; a new member id means that a node came without its
    /// past.
    fn join(&mut self, node: &NodeName, region: &RegionId, member: MemberId) -> Result<Applied, Refusal> {
        self.known(region)?;
        if let Some(record) = self.members.get(node) {
            if record.region != *region {
                let holds = record.region.clone();
                return Err(Refusal::OtherRegion { node: node.clone(), region: region.clone(), holds });
            }
            if record.member == member {
                return Ok(Applied::Joined { incarnation: record.incarnation });
            }
        }
        let others = self.members.len() - usize::from(self.members.contains_key(node));
        bounded("the cluster's members", others + 1, MAX_MEMBERS)?;
        let incarnation = self.members.get(node).map_or(1, |record| record.incarnation + 1);
        self.founder.get_or_insert(member);
        self.members.insert(node.clone(), MemberRecord { member, region: region.clone(), incarnation });
        let roster = self.rosters.entry(region.clone()).or_default();
        let before = roster.clone();
        roster.join(node);
        self.turns.entry(region.clone()).or_default().keep(&before, roster);
        self.limits.follow_roster(region, &[], roster);
        self.limits.forget(node);
        self.limits.ask_anew(&self.snapshot);
        Ok(Applied::Joined { incarnation })
    }

    fn change_roster(&mut self, region: &RegionId, expected: u64, present: &[NodeName]) -> Result<Applied, Refusal> {
        self.known(region)?;
        let members = self.members.iter().map(|(node, record)| (node, &record.region)).collect();
        let roster = self.rosters.entry(region.clone()).or_default();
        let before = roster.clone();
        let epoch = roster.change(region, expected, present, &members)?;
        if *roster != before {
            self.turns.entry(region.clone()).or_default().keep(&before, roster);
            self.limits.follow_roster(region, &before.nodes, roster);
            self.limits.ask_anew(&self.snapshot);
        }
        Ok(Applied::Listed { epoch })
    }

    fn known(&self, region: &RegionId) -> Result<(), Refusal> {
        match self.regions.get(region) {
            Some(_) => Ok(()),
            None => Err(Refusal::UnknownRegion { region: region.clone() }),
        }
    }

    fn record(&mut self, what: String, author: &str, at: WallTime) {
        let digest = self.bundle.as_deref().map(digest).unwrap_or_default();
        self.history.record(HistoryEntry { revision: self.revision, author: author.to_owned(), at, what, digest });
    }

    /// Writes the state for a Raft snapshot. Fits the codec's bound: everything in it is bounded by what was accepted.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(&Saved {
            revision: self.revision,
            drains: self.drains.clone(),
            founder: self.founder,
            members: self.members.clone(),
            rosters: self.rosters.clone(),
            turns: self.turns.clone(),
            limits: self.limits.save(),
            leases: self.leases.clone(),
            regions: self.regions.ids().to_vec(),
            history: self.history.clone(),
            drain_generation: self.drain_generation,
        })
    }

    /// Reads a state back; the document is checked anew with this node's regions.
    pub fn from_bytes(bytes: &[u8], regions: Arc<RegionMap>) -> Result<Self, IntentError> {
        let saved: Saved = codec::decode(bytes)?;
        if saved.regions != regions.ids() {
            return Err(IntentError::OtherRegions { saved: saved.regions, known: regions.ids().to_vec() });
        }
        let bundle = saved.history.bundle(saved.revision);
        let snapshot = match &bundle {
            Some(bundle) => Snapshot::parse(bundle, &regions).map_err(IntentError::Invalid)?,
            None => Snapshot::default(),
        };
        let limits = LimitRegister::restore(saved.limits, &snapshot);
        Ok(Self {
            revision: saved.revision,
            snapshot: Arc::new(snapshot),
            bundle,
            drains: saved.drains,
            founder: saved.founder,
            members: saved.members,
            rosters: saved.rosters,
            turns: saved.turns,
            limits,
            leases: saved.leases,
            regions,
            history: saved.history,
            drain_generation: saved.drain_generation,
        })
    }
}

/// What a Raft snapshot holds. The document in force is the history's newest.
#[derive(Serialize, Deserialize)]
struct Saved {
    revision: Revision,
    drains: BTreeMap<RegionId, Drain>,
    founder: Option<MemberId>,
    members: BTreeMap<NodeName, MemberRecord>,
    rosters: BTreeMap<RegionId, Roster>,
    turns: BTreeMap<RegionId, Turns>,
    limits: SavedRegister,
    leases: Leases,
    regions: Vec<RegionId>,
    history: History,
    drain_generation: u64,
}

fn bounded(what: &str, len: usize, max: usize) -> Result<(), Refusal> {
    if len <= max {
        return Ok(());
    }
    Err(Refusal::TooMuch { what: what.to_owned(), len: len as u64, max: max as u64 })
}

/// Bytes of an author's name or a reason.
const MAX_TEXT: usize = 256;

/// Raft members of a cluster.
const MAX_MEMBERS: usize = 1000;

/// Files that come with a document.
const MAX_ATTACHMENTS: usize = 200;

/// Bytes of a document with its files: a third of what one message between nodes may hold.
const MAX_BUNDLE_BYTES: usize = 1_400_000;
