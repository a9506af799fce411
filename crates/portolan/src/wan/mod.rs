//! A wide-area network between the nodes of a local fleet: a relay in user space that delays, loses and cuts datagrams,
//! and the socket it is steered by. Only mesh traffic takes it; clients reach the nodes directly.

mod control;
mod relay;

pub use control::{Order, ask, serve};
pub use relay::{Direction, MAX_SITES, Relay, Shape, Site, entry_address};
