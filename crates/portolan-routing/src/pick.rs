//! Chooses the endpoint of an attempt: own region first, then the nearest with a usable endpoint, and inside a region
//! the less loaded of two drawn at random (Mitzenmacher, "The Power of Two Choices", 2001).
//!
//! Never draws the random number itself and never allocates. When nothing is usable it still names an endpoint, the one
//! whose last failure is longest ago: a health check that lies must not take a service down.

use std::sync::atomic::Ordering::Relaxed;

use portolan_config::EndpointAddress;
use portolan_model::{Name, RegionId, Timestamp};

use crate::health::{EndpointId, HealthBoard};

/// Tries of one request in one region before the next region is asked, so that the loss of a whole region costs a
/// request two refused connections and not all it has.
const TRIES_PER_REGION: usize = 2;

/// The endpoint of an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick<'a> {
    /// Its number, for [`HealthBoard::record`].
    pub endpoint: EndpointId,
    /// The region it stands in.
    pub region: &'a RegionId,
    /// Where to connect.
    pub address: &'a EndpointAddress,
    /// Why this one.
    pub why: PickReason,
}

/// Why an endpoint was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickReason {
    /// It is in the first region asked for.
    OwnRegion,
    /// The regions before it have no usable endpoint left for this request.
    NearestUsable,
    /// No endpoint anywhere is usable; this one failed longest ago.
    Panic,
}

impl HealthBoard {
    /// Picks an endpoint of `service`. `order` names the regions by preference, the own one first; `tried` lists what
    /// this request has tried; `choice` is a random number. `None` when the service has no endpoint left to try.
    pub fn pick(
        &self,
        service: &Name,
        order: &[RegionId],
        tried: &[EndpointId],
        now: Timestamp,
        choice: u64,
    ) -> Option<Pick<'_>> {
        let regions = self.services.get(service)?;
        let mut passed_over = None;
        for (place, wanted) in order.iter().enumerate() {
            let Some((_, members)) = regions.iter().find(|(region, _)| region == wanted) else { continue };
            let why = if place == 0 { PickReason::OwnRegion } else { PickReason::NearestUsable };
            let Some(index) = self.pick_in(members, tried, now, choice) else { continue };
            let tries = members.iter().filter(|&&index| tried.contains(&self.at(index).id)).count();
            if tries >= TRIES_PER_REGION {
                passed_over.get_or_insert((index, why));
            } else {
                return Some(self.chosen(index, why));
            }
        }
        let last_resort = || {
            let all = regions.iter().flat_map(|(_, members)| members.iter().copied());
            let untried = all.filter(|&index| !tried.contains(&self.at(index).id));
            untried.min_by_key(|&index| self.at(index).cell.last_failure()).map(|index| (index, PickReason::Panic))
        };
        passed_over.or_else(last_resort).map(|(index, why)| self.chosen(index, why))
    }

    /// The less loaded of two usable, untried members.
    fn pick_in(&self, members: &[usize], tried: &[EndpointId], now: Timestamp, choice: u64) -> Option<usize> {
        let fit = |&index: &usize| {
            let slot = self.at(index);
            slot.cell.usable(now) && !tried.contains(&slot.id)
        };
        let candidates = || members.iter().copied().filter(fit);
        let count = candidates().count() as u64;
        if count <= 1 {
            return candidates().next();
        }
        let first = choice % count;
        let second = (first + 1 + (choice >> 32) % (count - 1)) % count;
        // Health may change between two walks; then one of the draws falls away.
        let draws = [first, second].into_iter().filter_map(|draw| candidates().nth(draw as usize));
        draws.min_by_key(|&index| self.at(index).cell.in_flight.load(Relaxed))
    }

    fn chosen(&self, index: usize, why: PickReason) -> Pick<'_> {
        let slot = self.at(index);
        Pick { endpoint: slot.id, region: &slot.region, address: &slot.address, why }
    }
}
