//! A node as the membership protocol knows it: its name, and which of its lives is meant.
//!
//! Decides that the later life of a name wins. A node that was declared down while it lived takes its next life, so it
//! returns at once instead of waiting to be forgotten.

use portolan_model::NodeName;
use serde::{Deserialize, Serialize};

/// One life of a node. The first generation of a process is its start in wall-clock milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The name in the node's certificate.
    pub node: NodeName,
    /// Grows with each life; the greatest is the living one.
    pub generation: u64,
}

/// Largest generation taken from a peer, far from overflow so that the node itself can always take a greater one.
pub const MAX_GENERATION: u64 = 1 << 62;

impl foca::Identity for Identity {
    type Addr = NodeName;

    fn renew(&self) -> Option<Self> {
        Some(Self { node: self.node.clone(), generation: self.generation.checked_add(1)? })
    }

    fn addr(&self) -> NodeName {
        self.node.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}
