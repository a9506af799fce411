//! Everything the data path and the DNS server decide from, at one moment: swapped whole, never changed in place.
//!
//! Decides what a limit counts by. Health and counters inside are shared
//! atomics, so a view stays right while they move. Never blocks; a request costs one view load.

use std::{net::IpAddr, sync::Arc};

use portolan_config::{Intent, LimitKeyKind, Route};
use portolan_geodns::{RegionStates, Table};
use portolan_limits::{Admission, Claim, Limiter, Peek};
use portolan_model::{Name, Now, RegionId, Revision, Timestamp};
use portolan_routing::{EndpointId, Found, HealthBoard, Pick, RequestHead, RouteTable};
use smallvec::SmallVec;

use crate::compiled::{Binding, Bindings};

/// One consistent set of decisions.
#[derive(Clone, Debug)]
pub struct View {
    /// Differs between any two views of a node, and grows.
    pub version: u64,
    /// The revision in force.
    pub revision: Revision,
    /// What operators want.
    pub intent: Arc<Intent>,
    /// This node's region.
    pub region: RegionId,
    /// Where to look for an endpoint: the own region, then those that serve, nearest first, then the others.
    pub region_order: Vec<RegionId>,
    /// Matches requests.
    pub routes: Arc<RouteTable>,
    /// Admits requests.
    pub limiter: Arc<Limiter>,
    /// Health of endpoints.
    pub board: Arc<HealthBoard>,
    /// Answers DNS queries.
    pub dns: Arc<Table>,
    /// Regions as DNS must see them.
    pub states: RegionStates,
    /// Whether this region is being drained: tell clients to go, keep serving those who stay.
    pub draining: bool,
    /// Whether this node can serve: a document is in force and the limits are active.
    pub ready: bool,
    pub(crate) bindings: Arc<Bindings>,
}

/// Who asks, as far as limits care.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The authenticated user.
    pub user: Option<&'a str>,
    /// The client's address.
    pub client: IpAddr,
}

impl View {
    /// Finds the route of a request.
    pub fn route(&self, head: &RequestHead<'_>) -> Found {
        self.routes.find(head)
    }

    /// Charges all limits of `route`, or none. Allocates nothing up to four limits.
    pub fn admit(&self, route: &Route, subject: &Subject<'_>, now: Now) -> Admission {
        self.limiter.admit(&self.claims(route, subject), now)
    }

    /// The values [`View::admit`] would decide with; charges nothing.
    pub fn peek(&self, route: &Route, subject: &Subject<'_>, now: Now) -> Vec<Peek> {
        self.limiter.peek(&self.claims(route, subject), now)
    }

    /// Chooses an endpoint that is not in `tried`. `choice` is a random number of the caller.
    pub fn pick(&self, service: &Name, tried: &[EndpointId], now: Timestamp, choice: u64) -> Option<Pick<'_>> {
        self.board.pick(service, &self.region_order, tried, now, choice)
    }

    fn claims(&self, route: &Route, subject: &Subject<'_>) -> SmallVec<[Claim; 4]> {
        let bindings = self.bindings.of_route(route);
        bindings.iter().map(|binding| claim(binding, &self.limiter, route, subject)).collect()
    }
}

/// The claim that `binding` makes on a request.
fn claim(binding: &Binding, limiter: &Limiter, route: &Route, subject: &Subject<'_>) -> Claim {
    let limit = binding.limit;
    let key = match binding.key {
        LimitKeyKind::Global => limiter.key(limit, &[]),
        LimitKeyKind::Service => limiter.key(limit, &[route.service.as_str().as_bytes()]),
        LimitKeyKind::Route => limiter.key(limit, &[route.name.as_str().as_bytes()]),
        // Such a limit stands only on routes with auth; requests without a user would share one counter.
        LimitKeyKind::User => limiter.key(limit, &[subject.user.unwrap_or_default().as_bytes()]),
        LimitKeyKind::ClientAddress => match subject.client.to_canonical() {
            IpAddr::V4(address) => limiter.key(limit, &[&address.octets()]),
            // A customer holds at least a /64 (RFC 6177), so anything finer would let one client be many.
            IpAddr::V6(address) => limiter.key(limit, &[&address.octets()[..8]]),
        },
    };
    Claim { limit, key }
}
