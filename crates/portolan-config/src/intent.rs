//! What operators want, as every node knows it: a deterministic state machine over [`Command`]s, run by Raft and by the
//! simulator alike. Never reads a clock or gossip; times and facts come with the command.

use std::{collections::BTreeMap, sync::Arc};

use portolan_model::{Hash128, MemberId, Name, NodeName, RegionId, Revision, WallTime, codec::CodecError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Applied, Bundle, Command, Faults, RegionMap, Snapshot};

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
    /// Nodes that are Raft members.
    pub members: BTreeMap<NodeName, MemberRecord>,
    /// Identities of the limits in force.
    pub limit_ids: BTreeMap<Name, LimitBinding>,
    regions: Arc<RegionMap>,
    history: Vec<HistoryEntry>,
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
    /// Of the region, when the member joined: 1 = the region had never existed before.
    pub incarnation: u64,
}

/// The number of a limit; never given to another limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LimitId(pub u32);

/// Which counters a limit has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitBinding {
    /// Changes with the window or the key: spend is not comparable then.
    pub id: LimitId,
    /// Grows with every change of the count: spend carries over.
    pub generation: u32,
}

/// One line of the cluster's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The revision in force afterwards.
    pub revision: Revision,
    /// Who ordered it.
    pub author: String,
    /// When it was ordered.
    pub at: WallTime,
    /// What was ordered: `apply`, `rollback to 3`, `drain eu-west: upgrade`, `restore eu-west`.
    pub what: String,
    /// Identifies the document in force afterwards.
    pub digest: Hash128,
}

/// Why bytes are not an intent.
#[derive(Debug, Error)]
pub enum IntentError {
    /// The bytes do not decode.
    #[error("the saved intent cannot be read")]
    Codec(#[from] CodecError),
    /// The document in it is refused by this node's code or regions.
    #[error("the saved intent holds a document with faults:\n{0}")]
    Invalid(#[source] Faults),
}

impl Intent {
    /// The state before any command.
    pub fn new(regions: Arc<RegionMap>) -> Self {
        Self {
            revision: Revision::default(),
            snapshot: Arc::default(),
            bundle: None,
            drains: BTreeMap::new(),
            members: BTreeMap::new(),
            limit_ids: BTreeMap::new(),
            regions,
            history: Vec::new(),
        }
    }

    /// The regions of the cluster.
    pub fn regions(&self) -> &Arc<RegionMap> {
        &self.regions
    }

    /// Applies a command. Deterministic: the same commands give the same state on every node.
    pub fn apply(&mut self, command: &Command) -> Applied {
        let _ = command;
        Applied::Unchanged { revision: self.revision }
    }

    /// What was ordered, oldest first; bounded.
    pub fn history(&self) -> &[HistoryEntry] {
        &self.history
    }

    /// Writes the state for a Raft snapshot.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
        portolan_model::codec::encode(&self.revision)
    }

    /// Reads a state back; the document is checked anew with this node's regions.
    pub fn from_bytes(bytes: &[u8], regions: Arc<RegionMap>) -> Result<Self, IntentError> {
        let revision: Revision = portolan_model::codec::decode(bytes)?;
        Ok(Self { revision, ..Self::new(regions) })
    }
}
