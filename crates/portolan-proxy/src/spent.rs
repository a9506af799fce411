//! What a request was charged, until it is over: gives the cost back for outcomes that a limit does not count, and ends
//! what a concurrency limit counted when the response has ended or the client has gone.
//!
//! Never charges anything. Ends by being dropped, so no way out of a request can forget it: not an error, not a stream
//! that a client resets over HTTP/2 or HTTP/3, not a connection that breaks.

use std::{rc::Rc, sync::Arc};

use http::StatusCode;
use portolan_config::{Algorithm, RefundOn, Route};
use portolan_limits::Charge;
use portolan_model::Now;
use portolan_node::Binding;
use smallvec::SmallVec;

use crate::{
    quota::{Quota, Unit},
    worker::Prepared,
};

/// The charges of a request.
#[derive(Default)]
pub(crate) struct Spent {
    charges: SmallVec<[Charge; 4]>,
    /// What admitted them; none before that.
    by: Option<(Rc<Prepared>, Arc<Route>)>,
}

/// How a request ended, as far as limits care.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// The status that the client gets.
    pub status: StatusCode,
    /// Whether the service gave no answer.
    pub upstream_failed: bool,
}

impl Spent {
    /// Takes charge of what was admitted; one charge per limit of the route, in its order.
    pub fn new(prepared: &Rc<Prepared>, route: &Arc<Route>, charges: SmallVec<[Charge; 4]>) -> Self {
        Self { charges, by: Some((Rc::clone(prepared), Arc::clone(route))) }
    }

    /// What the client is told: every limit that counted the request. A limit in shadow is not told of.
    pub fn quotas(&self) -> impl Iterator<Item = Quota<'_>> {
        let limiter = self.by.as_ref().map(|(prepared, _)| &*prepared.view.limiter);
        let told = self.charged().filter(|(binding, _)| !binding.limit.shadow);
        told.filter_map(move |(binding, charge)| Quota::of_charge(limiter?, charge, unit(&binding.limit.algorithm)))
    }

    /// Gives back the cost of an outcome that a limit does not count. Only in the slot that was charged: later there is
    /// nothing to give it back to.
    pub fn refund(&self, outcome: Outcome, now: Now) {
        let Some((prepared, _)) = &self.by else { return };
        let Outcome { status, upstream_failed } = outcome;
        let is_refunded = |on: &RefundOn| on.takes_in(status.as_u16(), upstream_failed);
        let refunded = self.charged().filter(|(binding, _)| binding.limit.refund_on.iter().any(is_refunded));
        refunded.for_each(|(_, charge)| prepared.view.limiter.refund(charge, charge.cost, now));
    }

    /// What must outlive the head of the response: the charges of concurrency limits. None for most requests.
    pub fn held(mut self) -> Option<Box<Self>> {
        let holds =
            |(binding, _): &(&Arc<Binding>, &Charge)| unit(&binding.limit.algorithm) == Unit::ConcurrentRequests;
        let held: SmallVec<[Charge; 4]> = self.charged().filter(holds).map(|(_, charge)| *charge).collect();
        self.charges.clear();
        if held.is_empty() {
            return None;
        }
        let by = self.by.take();
        Some(Box::new(Self { charges: held, by }))
    }

    /// Every charge with its limit.
    fn charged(&self) -> impl Iterator<Item = (&Arc<Binding>, &Charge)> {
        let limits = self.by.as_ref().map(|(prepared, route)| prepared.view.limits_of(route));
        limits.unwrap_or_default().iter().zip(&self.charges)
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        if let Some((prepared, _)) = &self.by {
            self.charges.iter().for_each(|charge| prepared.view.limiter.release(charge));
        }
    }
}

/// What a limit is counted in, for clients.
pub(crate) fn unit(algorithm: &Algorithm) -> Unit {
    match algorithm {
        Algorithm::Concurrency { .. } => Unit::ConcurrentRequests,
        Algorithm::FixedWindow { .. } | Algorithm::SlidingWindow { .. } | Algorithm::TokenBucket { .. } => {
            Unit::Requests
        }
    }
}
