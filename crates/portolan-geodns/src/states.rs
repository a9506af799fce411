//! What DNS must know of each region: whether it lives and whether it was drained. Decided elsewhere, by the node.

use std::collections::BTreeMap;

use portolan_model::RegionId;

/// Whether clients may be sent to a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegionState {
    /// Alive and open; also a region of which nothing is known yet.
    #[default]
    Serving,
    /// Alive, but drained by an operator.
    Draining,
    /// Silent to everyone for too long.
    Down,
    /// Drained, and silent as well.
    DrainingDown,
}

/// The state of every region; one that is not listed is [`RegionState::Serving`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionStates(BTreeMap<RegionId, RegionState>);

impl RegionStates {
    /// The state of one region.
    pub fn get(&self, region: &RegionId) -> RegionState {
        self.0.get(region).copied().unwrap_or_default()
    }

    /// Sets the state of one region and returns the one before.
    pub fn set(&mut self, region: RegionId, state: RegionState) -> RegionState {
        self.0.insert(region, state).unwrap_or_default()
    }

    /// The regions that were set, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&RegionId, RegionState)> {
        self.0.iter().map(|(region, state)| (region, *state))
    }
}

impl FromIterator<(RegionId, RegionState)> for RegionStates {
    fn from_iter<I: IntoIterator<Item = (RegionId, RegionState)>>(states: I) -> Self {
        Self(states.into_iter().collect())
    }
}
