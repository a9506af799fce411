//! Whether this process still is the node of its name. A region's share of every limit has one spender; when the
//! cluster has taken another member in under this name, this process must not spend any more.
//!
//! Never undone: what the other process spent meanwhile is not known here. A process that hears nothing of the cluster
//! learns nothing of its successor either, so replacing a node that still runs, cut off, voids the bound.

use portolan_model::{MemberId, Now};

use super::Node;
use crate::Event;

/// Which member this process is, and what the intent made of it.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    member: Option<MemberId>,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// The intent has not named this member: it may still name an earlier process of this node, whose place this one
    /// is about to take.
    #[default]
    Unnamed,
    Named,
    Lost,
}

impl Ownership {
    /// Whether another process took over.
    pub fn is_lost(&self) -> bool {
        self.standing == Standing::Lost
    }
}

impl Node {
    /// Says which Raft member this process is. Without it the node cannot tell when another process takes its place.
    pub fn set_member(&mut self, member: MemberId, now: Now) {
        self.ownership.member = Some(member);
        self.watch_ownership();
        self.settle(now);
    }

    /// Compares the member that the intent names for this node with the one that this process is.
    pub(super) fn watch_ownership(&mut self) {
        let Some(record) = self.intent.members.get(&self.config.name) else { return };
        let of_us = self.ownership.member == Some(record.member);
        match self.ownership.standing {
            Standing::Unnamed if of_us => self.ownership.standing = Standing::Named,
            Standing::Named if !of_us => {
                self.ownership.standing = Standing::Lost;
                self.limits.fence();
                self.emit(Event::Replaced { by: record.member });
            }
            Standing::Unnamed | Standing::Named | Standing::Lost => {}
        }
    }
}
