//! Several nodes of one region that share its limits exactly.
//!
//! Every key has one owner in the region, which holds the region's account of it, and a standby that knows what the
//! owner may have spent. The other nodes admit from chunks that the owner grants. Who is owner follows from the roster's
//! epoch ([`Ranking`]); that no two nodes spend the same share follows from [`standby`] and [`takeover`].

mod ranking;
mod shards;

pub(crate) mod flight;
pub(crate) mod gates;
pub(crate) mod ownership;
pub(crate) mod standby;
pub(crate) mod sublease;
pub(crate) mod takeover;

pub use flight::{Allotment, Hold, Lease, Spot, Survey, Told};
pub use ownership::{Answer, Legacy, Question};
pub use ranking::Ranking;
pub use shards::{SHARDS, Shard, ShardSet};
pub use standby::{Acknowledgement, Update};
pub use sublease::{Ask, Cell, Grant};
