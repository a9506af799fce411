//! Text that people write becomes positioned faults, or a validated immutable value. The only crate that parses files.
//!
//! Reading runs in two steps: a text becomes a tree in which every node knows its line and column, then hand-written
//! decoders turn the tree into runtime types and collect *all* faults on the way. Nothing here opens a file: a caller
//! reads, and passes the text in.
//!
//! Also home to [`Intent`], the replicated state machine that accepts documents, drains and members.

mod bundle;
mod fault;

mod syntax;
mod tree;

mod decode;
mod suggest;

mod diff;
mod gateway;
mod limit;
mod snapshot;

mod region;
mod region_files;

mod node_decode;
mod node_file;

mod scenario;
mod scenario_file;
mod verb;

mod command;
mod intent;
mod roster;

mod history;
mod register;

mod schema;

pub use bundle::{Bundle, SourceFile, attachments, region_names};
pub use command::{Applied, Change, Command, Refusal};
pub use diff::diff;
pub use fault::{Fault, Faults};
pub use history::HistoryEntry;
pub use intent::{Drain, Intent, IntentError, MemberRecord};
pub use limit::{
    Algorithm, Budget, Cost, KeyPart, Lender, Limit, LimitKey, MAX_QUOTA, OnPartition, Period, PlanSource, Plans,
    RefundOn, SLOT_LEAD, ShareChange, SharePlan, Shares, Window,
};
pub use node_file::{AccessLog, CertificateFiles, IdentityFiles, Listen, NodeFile, Peer};
pub use region::{Location, MAX_REGIONS, Region, RegionMap};
pub use register::{Budgeted, Consumers, Fence, Leases, LimitBinding, LimitId, LimitRegister, PendingShares};
pub use roster::Roster;
pub use scenario::{
    Action, Arrivals, Bound, Bursts, ClientLoad, Comparison, Condition, Cut, Direction, Disk, DiskState, Distribution,
    Drift, Expect, Figure, GatewaySource, LenderState, LimitExpectation, LinkEffect, Order, RegionSource, Scenario,
    ScenarioFault, Served, Shift, Start, Step, Target, Within,
};
pub use schema::{json_schema, json_schemas};
pub use snapshot::{
    EndpointAddress, HealthCheck, HostMatch, JwtAuth, Listener, PathMatch, Route, Service, Snapshot, Zone, ZoneRecord,
};
pub use verb::{OperatorVerb, VerbError};
