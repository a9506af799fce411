//! The data path: listeners for HTTP/1.1, HTTP/2 and HTTP/3, the steps of a request, upstream connections and bodies.
//!
//! Decides nothing that a core crate decides: routes, limits and endpoints come from the [`View`](portolan_node::View)
//! that the server swaps in. Never shares a lock between workers on the request path: each worker is one thread with its
//! own runtime, listeners, upstream connections and counters.
//!
//! Start reading in `request`, which shows the life of a request on one screen.

mod access_log;
mod account;
mod admission;
mod auth;
mod body;
mod carried;
mod client_limit;
mod connection;
mod decision;
mod forward;
mod framing;
mod gather;
mod guard;
mod head;
mod http3;
mod listen;
mod metrics;
mod places;
mod proxy;
mod quota;
#[cfg(test)]
mod reference;
mod request;
mod response;
mod spent;
pub mod target;
mod tls;
mod trace;
mod upstream;
mod worker;

pub use access_log::LogSink;
pub use auth::{Denied, Identity, Verifier};
pub use carried::Carried;
pub use decision::{Decision, LimitCell, WaitEnd};
pub use listen::Transport;
pub use metrics::{Event, Metrics};
pub use proxy::{Clock, Proxy, ProxyConfig, StartError, start};
pub use response::Step;
pub use tls::{CertificateError, CertificateSource, CertificateStore};
pub use trace::SpanTracer;
