//! Which regions may take each other for heard, by what the scenario cuts, kills, stops and delays. Looked at whenever
//! something of that changes, so that nobody is held to be unheard who is not. Never asks the gateway whom it hears.

use std::collections::{BTreeMap, VecDeque};

use portolan_limits::Fleet;
use portolan_model::Timestamp;
use tokio::time::Duration;

use crate::{
    closed::Heard,
    host::{Host, Process},
    world::World,
};

/// How long at least a `closed` limit may go on admitting after a region became unheard.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// How long nodes may take to act on what they have heard.
const ACTED_WITHIN: Duration = Duration::from_millis(500);

/// What is known of who can hear whom.
#[derive(Default)]
pub struct Hearing {
    /// Since when nothing that the region at the first place says comes to that at the second.
    unreached_since: BTreeMap<(usize, usize), Timestamp>,
    /// How late packets come, newest last, with what was before as long as that may be felt.
    lateness: VecDeque<Lateness>,
    /// How long a `closed` limit may go on admitting after a region became unheard.
    closed_within: Duration,
}

/// By how much packets come later than by half a round trip at most, until when.
#[derive(Clone, Copy, Debug)]
struct Lateness {
    by: Duration,
    until: Option<Timestamp>,
}

impl Hearing {
    /// Packets come late by `by` from this moment on.
    fn take_lateness(&mut self, by: Duration, fleet: &Fleet, now: Timestamp) {
        if self.lateness.back().is_none_or(|last| last.by != by) {
            if let Some(last) = self.lateness.back_mut() {
                last.until = Some(now);
            }
            self.lateness.push_back(Lateness { by, until: None });
        }
        let is_felt =
            |late: &Lateness| late.until.is_none_or(|until| now.since(until) <= closed_within(late.by, fleet));
        self.lateness.retain(is_felt);
        let within = self.lateness.iter().map(|late| closed_within(late.by, fleet)).max();
        self.closed_within = within.unwrap_or(CLOSED_WITHIN);
    }
}

/// How long a `closed` limit may go on admitting while packets come late by `by`: until the region is stale, and of a cut
/// that lies one way only until the word of that has crossed.
fn closed_within(by: Duration, fleet: &Fleet) -> Duration {
    CLOSED_WITHIN.max(fleet.staleness + fleet.worst_rtt + 2 * by + ACTED_WITHIN)
}

impl World<'_> {
    /// Looks who can hear whom, and how late.
    pub fn note_hearing(&mut self) {
        let now = self.now;
        let slowest = self.hosts.iter().filter_map(|host| host.slow_by).max().unwrap_or_default();
        // A slow node hears late, and is late to act on it.
        let late = self.network.late_by() + 2 * slowest;
        self.watch.hearing.take_lateness(late, &Fleet::of(&self.sources.regions, 1), now);
        for from in 0..self.regions.len() {
            for to in (0..self.regions.len()).filter(|to| *to != from) {
                if self.reaches(from, to) {
                    self.watch.hearing.unreached_since.remove(&(from, to));
                } else {
                    self.watch.hearing.unreached_since.entry((from, to)).or_insert(now);
                }
            }
        }
    }

    /// Whether anything that a node of one region says comes to a node of another.
    fn reaches(&self, from: usize, to: usize) -> bool {
        let speaking =
            |place: usize| self.region_hosts[place].iter().copied().filter(|host| self.hosts[*host].speaks());
        let way = |from: usize| speaking(to).any(|to| !self.network.is_severed(from, to));
        !self.network.is_cut(from, to) && speaking(from).any(way)
    }

    /// Of each region whether a host may take it for heard: unless for long enough it was not, or did not hear. Of a host that
    /// went on, or whose region began, for as long it cannot know; any other process has heard nobody before it does.
    pub fn may_hear(&self, host: usize) -> Heard {
        let (now, place) = (self.now, self.hosts[host].place);
        let Hearing { unreached_since, closed_within, .. } = &self.watch.hearing;
        let long = |since: Timestamp| now.since(since) >= *closed_within;
        let Host { resumed, process, .. } = &self.hosts[host];
        let began = |process: &Process| process.first.unwrap_or(Timestamp::ZERO);
        let listens = process.as_ref().is_some_and(|process| long(began(process).max(*resumed)));
        let unreached = |from, to| unreached_since.get(&(from, to)).is_some_and(|since| long(*since));
        let unheard = |other| listens && (unreached(other, place) || unreached(place, other));
        Heard((0..self.regions.len()).map(|other| !unheard(other)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_late_is_felt_for_as_long_as_a_limit_may_stay_open_by_it_and_adds_to_nothing_else() {
        let fleet = Fleet::new(3, Duration::from_millis(100), 1);
        let mut hearing = Hearing::default();
        let mut check = |at_ms: u64, late_ms: u64, within_ms: u64| {
            let now = Timestamp::ZERO + Duration::from_millis(at_ms);
            hearing.take_lateness(Duration::from_millis(late_ms), &fleet, now);
            assert_eq!(hearing.closed_within, Duration::from_millis(within_ms), "at {at_ms} ms");
        };
        check(0, 0, 2000);
        check(1000, 400, 2000);
        check(2000, 2000, 5100);
        check(3000, 1900, 5100);
        check(4000, 0, 5100);
        check(8100, 0, 5100);
        check(8101, 0, 4900);
        check(8901, 0, 2000);
        check(9000, 2000, 5100);
    }
}
