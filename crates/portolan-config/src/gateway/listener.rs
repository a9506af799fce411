//! `listener`: bounds on what anybody may send before a route is known.

use std::time::Duration;

use portolan_model::ByteSize;

use super::limit::bounded_rate;
use crate::{
    Listener,
    decode::{Fields, Shape, duration, size, whole},
    fault::Report,
    tree::Node,
};

/// The listener's keys.
pub(crate) const LISTENER: Shape = Shape {
    what: "a listener",
    keys: &[
        "client_limit",
        "max_header_bytes",
        "max_headers",
        "max_body",
        "header_timeout",
        "handshake_timeout",
        "idle_timeout",
    ],
};

/// Bounds of a request body that is streamed through.
pub(super) const BODY_BOUNDS: std::ops::RangeInclusive<ByteSize> = ByteSize(0)..=ByteSize(1 << 40);

pub(super) fn decode(node: &Node, report: &mut Report<'_>) -> Option<Listener> {
    let fields = Fields::open(node, &LISTENER, report)?;
    let default = Listener::default();
    let wait = Duration::from_millis(100)..=Duration::from_secs(600);
    let headers = ByteSize(1 << 10)..=ByteSize(1 << 20);
    Some(Listener {
        client_limit: fields.optional("client_limit", default.client_limit, report, bounded_rate),
        max_header_bytes: fields
            .optional("max_header_bytes", default.max_header_bytes, report, |n, r| size(n, headers, r)),
        max_headers: fields.optional("max_headers", default.max_headers, report, |n, r| {
            whole(n, 1..=1000, r).and_then(|count| count.try_into().ok())
        }),
        max_body: fields.optional("max_body", default.max_body, report, |n, r| size(n, BODY_BOUNDS, r)),
        header_timeout: fields
            .optional("header_timeout", default.header_timeout, report, |n, r| duration(n, wait.clone(), r)),
        handshake_timeout: fields
            .optional("handshake_timeout", default.handshake_timeout, report, |n, r| duration(n, wait.clone(), r)),
        idle_timeout: fields
            .optional("idle_timeout", default.idle_timeout, report, |n, r| duration(n, wait.clone(), r)),
    })
}
