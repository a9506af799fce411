//! The data path over real sockets: a listener on loopback, a hand-built view, and real clients and upstreams.

mod auth;
mod drain;
mod framing;
mod gateway;
mod http2;
mod http3;
mod limits;
mod requests;
mod retry;
mod stall;
mod tls;
mod upstream;
