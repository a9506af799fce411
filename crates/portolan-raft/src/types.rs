//! The types that openraft is instantiated with. Decides nothing.

use std::{fmt, io::Cursor};

use portolan_config::{Applied, Command};
use portolan_model::{NodeName, RegionId};
use serde::{Deserialize, Serialize};

use crate::runtime::Runtime;

openraft::declare_raft_types!(
    /// Commands go in, what came of them comes out; entries that carry no command have no outcome.
    pub TypeConfig:
        D = Command,
        R = Option<Applied>,
        NodeId = u64,
        Node = Member,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = Runtime,
);

/// What a member of the Raft cluster is besides its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node, as its certificate names it.
    pub name: NodeName,
    /// The region it serves.
    pub region: RegionId,
}

/// openraft asks for a default and uses it in learners that nobody described; this crate describes all.
impl Default for Member {
    fn default() -> Self {
        Self {
            name: NodeName::new("unknown").expect("a literal that is a name"),
            region: RegionId::new("unknown").expect("a literal that is a name"),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.name, self.region)
    }
}

pub(crate) type Core = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, Member>;
pub(crate) type StorageError = openraft::StorageError<u64>;
