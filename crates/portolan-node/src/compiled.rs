//! What a document becomes, once per revision, so that views can share it.
//!
//! Decides the numbers and keys of limits, and the order in which regions are asked.

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Budgeted, Intent, Limit, RegionMap, Route};
use portolan_geodns::{RegionState, RegionStates, Table};
use portolan_limits::{Definition, Limiter};
use portolan_model::{Name, RegionId};
use portolan_routing::{HealthBoard, RouteTable};

use crate::{View, binding::Binding};

/// The parts of a view that follow from a document alone.
pub struct Compiled {
    /// Endpoints with their health.
    pub board: Arc<HealthBoard>,
    routes: Arc<RouteTable>,
    dns: Arc<Table>,
    bindings: Arc<Bindings>,
    regions: Arc<RegionMap>,
}

impl Compiled {
    /// Compiles the document of `intent`; endpoints that `previous` lists keep their health.
    pub fn new(intent: &Intent, regions: &Arc<RegionMap>, previous: Option<&HealthBoard>) -> Self {
        let snapshot = &intent.snapshot;
        Self {
            board: Arc::new(HealthBoard::build(snapshot, previous)),
            routes: Arc::new(RouteTable::compile(snapshot)),
            // The cut is the wrap of RFC 1982 serial numbers.
            dns: Arc::new(Table::compile(snapshot, regions).with_serial(intent.revision.0 as u32)),
            bindings: Arc::new(Bindings::compile(intent)),
            regions: Arc::clone(regions),
        }
    }

    /// A view of this document in `region`, not ready.
    pub fn view(
        &self,
        intent: &Arc<Intent>,
        region: &RegionId,
        limiter: Arc<Limiter>,
        states: &RegionStates,
        version: u64,
    ) -> View {
        View {
            version,
            revision: intent.revision,
            intent: Arc::clone(intent),
            region: region.clone(),
            region_order: region_order(self.regions.nearest_first(region), region, states),
            routes: Arc::clone(&self.routes),
            limiter,
            board: Arc::clone(&self.board),
            dns: Arc::clone(&self.dns),
            states: states.clone(),
            draining: intent.drains.contains_key(region),
            ready: false,
            bindings: Arc::clone(&self.bindings),
        }
    }
}

/// The budgets of an intent with their numbers: each limit's own, its plans and its overrides.
pub fn definitions(intent: &Intent) -> Vec<Definition> {
    let define = |budget: Budgeted<'_>| {
        let limit = budget.limit;
        Definition {
            id: budget.binding.id,
            generation: budget.binding.generation,
            name: limit.name.clone(),
            algorithm: budget.algorithm(),
            on_partition: limit.on_partition,
            shares: budget.shares.clone(),
            most_cost: limit.cost.most(),
            overdraft: limit.overdraft,
            borrow_wait: limit.borrow_wait,
            lent: limit.lender.is_some(),
            shadow: limit.shadow,
            expose_slot: limit.expose_slot,
        }
    };
    intent.limits.budgets(&intent.snapshot).map(define).collect()
}

/// The limits of every route with their numbers.
#[derive(Debug, Default)]
pub struct Bindings {
    limits: BTreeMap<Name, Arc<Binding>>,
    routes: BTreeMap<Name, Bound>,
}

/// One route with its limits.
#[derive(Debug)]
struct Bound {
    route: Arc<Route>,
    limits: Box<[Arc<Binding>]>,
}

impl Bindings {
    /// The limits of a route, in the order written; `None` for a route that is not of this document, be it only one
    /// that reads otherwise under the same name: what it is charged for is not known here.
    pub fn of_route(&self, route: &Route) -> Option<&[Arc<Binding>]> {
        let bound = self.routes.get(&route.name)?;
        // A match in the same view gives the very route, so the comparison in full is for others only.
        (std::ptr::eq(&*bound.route, route) || *bound.route == *route).then_some(&*bound.limits)
    }

    /// Every limit of the document, with or without a route.
    pub fn limits(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.limits.values()
    }

    fn compile(intent: &Intent) -> Self {
        let binding = |(name, limit): (&Name, &Arc<Limit>)| (name.clone(), Arc::new(Binding::compile(limit, intent)));
        let limits: BTreeMap<Name, Arc<Binding>> = intent.snapshot.limits.iter().map(binding).collect();
        let of_route = |route: &Arc<Route>| {
            // A snapshot resolves every name; a route with one that is not would be refused, as one of another view is.
            let limits: Option<_> = route.limits.iter().map(|name| limits.get(name).map(Arc::clone)).collect();
            Some((route.name.clone(), Bound { route: Arc::clone(route), limits: limits? }))
        };
        let routes = intent.snapshot.routes.values().filter_map(of_route).collect();
        Self { limits, routes }
    }
}

/// The own region, then those that serve, then drained ones, then those that are gone; nearest first in each group.
fn region_order(nearest_first: Vec<RegionId>, own: &RegionId, states: &RegionStates) -> Vec<RegionId> {
    let mut order = nearest_first;
    order.sort_by_key(|region| match (region == own, states.get(region)) {
        (true, _) => 0,
        (false, RegionState::Serving) => 1,
        (false, RegionState::Draining) => 2,
        (false, RegionState::Down | RegionState::DrainingDown) => 3,
    });
    order
}
