//! One Portolan node without its sockets: gossip, limits, endpoint and region health, DNS and the election guard, wired
//! together once, and driven by production and by the simulator alike.
//!
//! Start reading at [`Node`]; a driver's loop is in its documentation. What the data path decides from is [`View`].
//! Never reads a clock, opens a socket or a file, or draws a number that its seed does not fix.

mod binding;
mod compiled;
mod key;
mod names;
mod node;
mod subject;
mod view;

mod election;
mod facts;
mod neighbours;
mod presence;
mod probes;
mod rosters;

mod event;
mod message;
mod status;

pub use binding::{Binding, Meant, Tier};
pub use election::{ElectionGuard, LeaderSight, REPORT_LIFETIME, RaftStatus};
pub use event::Event;
pub use facts::{FRESH, NodeFacts, PUBLISH_PERIOD, Sight};
pub use message::{Class, Heartbeat, MAX_DATAGRAM, Message, Transmit};
pub use names::KeyNames;
pub use node::{HEARTBEAT_PERIOD, LIMIT_KEYS, Node, NodeConfig, Refused, STALE_AFTER};
pub use presence::{RECOVERY_HOLD, SILENT_AFTER};
pub use probes::ProbeRequest;
pub use rosters::ROSTER_SILENCE;
pub use status::{
    Counts, EndpointHealth, EndpointStatus, NodeStatus, PeerFacts, PeerNodeStatus, RegionHealth, RegionStatus,
};
pub use subject::{Attributes, Subject};
pub use view::View;

/// Most other nodes a node talks to; further ones in its configuration are ignored.
pub const MAX_PEERS: usize = 2000;
