//! Which addresses a DNS query gets: those of the region nearest to the client that can serve it.
//!
//! Knows names, types, networks and region states, not packets: sockets and wire format belong to the server. Never
//! reads a clock, and never answers emptily because regions are ill.

mod answer;
mod networks;
mod states;
mod table;

pub use answer::{Answer, ClientSubnet, Query, Rcode, Soa, SoaRole, qtype};
pub use states::{RegionState, RegionStates};
pub use table::Table;
