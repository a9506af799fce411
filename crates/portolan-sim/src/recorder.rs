//! Takes down what a run looks like over time, point by point. Never asks for more than a point costs once.

use portolan_limits::Mode;
use portolan_model::{RegionId, Timestamp};
use tokio::time::Duration;

use crate::{
    outcome::{RegionUse, RequestCounts},
    series::{
        DnsSeen, LimitRegionSeries, LimitSeries, MAX_LIMITS, MAX_POINTS, MAX_SLOTS, ModeSeen, RegionSeries, Series,
        SlotPoint, Span,
    },
    tally::Tally,
    world::World,
};

/// Limits that are taken down at every point; the report shows the busiest of them.
const MAX_TAKEN: usize = 64;

/// What was seen so far.
pub struct Recorder {
    /// Requests by the place of the region they came to, over the whole run.
    pub requests: Vec<RequestCounts>,
    series: Series,
    step: Duration,
    taken: Vec<RequestCounts>,
    taken_limits: Vec<Vec<RegionUse>>,
    /// Of each limit, the key whose slots and rights are told: the one asked most when the first was asked for.
    keys: Vec<Option<u32>>,
}

impl Recorder {
    /// For a run of this length.
    pub fn new(regions: &[RegionId], length: Duration) -> Self {
        let seconds = length.as_secs().max(1).div_ceil(MAX_POINTS as u64 - 1);
        let region = |id: &RegionId| RegionSeries { region: id.to_string(), ..RegionSeries::default() };
        let series =
            Series { step_ms: seconds * 1000, regions: regions.iter().map(region).collect(), ..Series::default() };
        let counts = vec![RequestCounts::default(); regions.len()];
        let step = Duration::from_secs(seconds);
        Self { requests: counts.clone(), series, step, taken: counts, taken_limits: Vec::new(), keys: Vec::new() }
    }

    /// Something begins that has a place on the time line; returns its number.
    pub fn begin(&mut self, span: Span) -> usize {
        self.series.spans.push(span);
        self.series.spans.len() - 1
    }

    /// It ends.
    pub fn end(&mut self, span: usize, at: Timestamp) {
        self.series.spans[span].until_ms = Some(at.as_nanos() / 1_000_000);
    }

    /// Whether a point has passed.
    pub fn is_due(&self, elapsed: Duration) -> bool {
        self.series.points < MAX_POINTS && elapsed >= self.step * (self.series.points as u32 + 1)
    }

    /// The counts of all regions together.
    pub fn total(&self) -> RequestCounts {
        let add = |sum: RequestCounts, counts: &RequestCounts| RequestCounts {
            sent: sum.sent + counts.sent,
            forwarded: sum.forwarded + counts.forwarded,
            limited: sum.limited + counts.limited,
            rejected: sum.rejected + counts.rejected,
            unavailable: sum.unavailable + counts.unavailable,
            failed: sum.failed + counts.failed,
            unanswered: sum.unanswered + counts.unanswered,
        };
        self.requests.iter().fold(RequestCounts::default(), add)
    }

    fn take_requests(&mut self) {
        for (at, series) in self.series.regions.iter_mut().enumerate() {
            let (counts, before) = (self.requests[at], self.taken[at]);
            series.sent.push(counts.sent - before.sent);
            series.forwarded.push(counts.forwarded - before.forwarded);
            series.limited.push(counts.limited - before.limited);
            series.unavailable.push(counts.unavailable - before.unavailable);
            series.unanswered.push(counts.unanswered - before.unanswered);
        }
        self.taken.clone_from(&self.requests);
    }

    fn take_limits(&mut self, tally: &Tally) {
        let points = self.series.points;
        for (at, limit) in tally.limits().iter().enumerate().take(MAX_TAKEN) {
            if self.series.limits.len() == at {
                let region = |series: &RegionSeries| LimitRegionSeries {
                    region: series.region.clone(),
                    admitted: vec![0; points],
                    limited: vec![0; points],
                    degraded: vec![0; points],
                    ..LimitRegionSeries::default()
                };
                let regions = self.series.regions.iter().map(region).collect();
                self.series.limits.push(LimitSeries {
                    limit: limit.name.to_string(),
                    regions,
                    ..LimitSeries::default()
                });
                self.taken_limits.push(vec![RegionUse::default(); limit.regions.len()]);
                self.keys.push(None);
            }
            self.keys[at] = self.keys[at].or_else(|| tally.busiest(at));
            let series = &mut self.series.limits[at];
            series.quota = limit.limit.quota();
            series.window_ms = u64::try_from(limit.limit.window().as_millis()).unwrap_or(u64::MAX);
            let regions = limit.regions.iter().zip(&mut self.taken_limits[at]).zip(&mut series.regions);
            for ((now, before), series) in regions {
                series.admitted.push(now.admitted - before.admitted);
                series.limited.push(now.refused.limited - before.refused.limited);
                let degraded = |of: &RegionUse| of.refused.degraded + of.refused.undecided;
                series.degraded.push(degraded(now) - degraded(before));
                *before = *now;
            }
        }
    }

    /// The series, with the slots of the busiest key of each limit; the limits that matter most come first.
    pub fn into_series(self, tally: &Tally) -> Series {
        let mut series = self.series;
        let regions = series.regions.len();
        for (at, limit) in series.limits.iter_mut().enumerate() {
            let Some(key) = self.keys.get(at).copied().flatten() else { continue };
            let (subject, slots) = tally.slots_of(key);
            limit.key = subject.to_owned();
            let point = |slot: &crate::slots::Slot| {
                let mut admitted = slot.by_region.clone();
                admitted.resize(regions, 0);
                SlotPoint {
                    slot: slot.slot,
                    from_ms: slot.from_ms,
                    demand: slot.demand,
                    admitted,
                    bound: slot.bound,
                    quota: slot.quota,
                }
            };
            limit.slots = slots.map(point).collect();
            let surplus = limit.slots.len().saturating_sub(MAX_SLOTS);
            limit.slots.drain(..surplus);
        }
        let weight = |limit: &LimitSeries| {
            let sum = |pick: fn(&LimitRegionSeries) -> &Vec<u64>| -> u64 { limit.regions.iter().flat_map(pick).sum() };
            let refused = sum(|region| &region.limited) + sum(|region| &region.degraded);
            (refused, sum(|region| &region.admitted))
        };
        series.limits.sort_by_key(|limit| std::cmp::Reverse(weight(limit)));
        series.limits.truncate(MAX_LIMITS);
        series
    }
}

impl World<'_> {
    /// Takes a point down when one has passed.
    pub fn record(&mut self) {
        let elapsed = self.since_zero().since(Timestamp::ZERO);
        while self.watch.zero.is_some() && self.recorder.is_due(elapsed) {
            self.recorder.take_requests();
            self.recorder.take_limits(&self.tally);
            for place in 0..self.regions.len() {
                self.record_region(place);
                self.record_rights(place);
            }
            let leader = self.leader().map(|host| self.hosts[host].name.to_string()).unwrap_or_default();
            let revisions = self.hosts.iter().filter_map(|host| host.process.as_ref());
            let revision = revisions.map(|process| process.node.view().revision.0).max().unwrap_or_default();
            let series = &mut self.recorder.series;
            series.leader.push(leader);
            series.revision.push(revision);
            series.points += 1;
        }
    }

    fn record_region(&mut self, place: usize) {
        let hosts = &self.region_hosts[place];
        let processes = || hosts.iter().filter_map(|&host| self.hosts[host].process.as_ref());
        let ready = processes().filter(|process| process.node.view().ready).count();
        let revision = processes().map(|process| process.node.view().revision.0).min().unwrap_or_default();
        let modes = hosts.iter().map(|&host| match &self.hosts[host].process {
            Some(_) => ModeSeen::from(self.hosts[host].mode),
            None => ModeSeen::Healthy,
        });
        let mode = if processes().next().is_none() { ModeSeen::Down } else { modes.max().unwrap_or_default() };
        let ages = self.regions.iter().enumerate().map(|(peer, region)| {
            let age = |process: &crate::host::Process| process.node.silence_of(region, self.now);
            if peer == place { 0 } else { processes().map(age).max().unwrap_or_default().as_millis() as u64 }
        });
        let ages: Vec<u64> = ages.collect();
        let dns = self.dns_view_of(place);
        let series = &mut self.recorder.series.regions[place];
        series.nodes_ready.push(ready as u32);
        series.revision.push(revision);
        series.mode.push(mode);
        series.dns.push(dns);
        series.view_age_ms.push(ages);
    }

    /// What a region may spend in the running slot of each limit's key, and what of it is lent and borrowed: as the node
    /// that holds the region's account has it, which is the one that knows of loans.
    fn record_rights(&mut self, place: usize) {
        let points = self.recorder.series.points;
        for at in 0..self.recorder.keys.len().min(MAX_LIMITS) {
            let key = self.recorder.keys[at].map(|counter| self.tally.key_of(counter));
            let usages = self.region_hosts[place].iter().filter_map(|&host| {
                let (limit, key) = key?;
                let now = self.hosts[host].clock.at(self.now);
                let usage = self.hosts[host].process.as_ref()?.node.key_usage(limit, key, now)?;
                usage.regions.into_iter().find(|usage| usage.region == self.regions[place])
            });
            let own = usages.max_by_key(|usage| usage.lent + usage.borrowed);
            let (rights, lent, borrowed) = own.map_or((0, 0, 0), |own| (own.rights, own.lent, own.borrowed));
            let series = &mut self.recorder.series.limits[at].regions[place];
            for (column, value) in
                [(&mut series.rights, rights), (&mut series.lent, lent), (&mut series.borrowed, borrowed)]
            {
                column.resize(points, 0);
                column.push(value);
            }
        }
    }

    /// A region as most nodes of other regions have it.
    fn dns_view_of(&self, place: usize) -> DnsSeen {
        let mut votes = [0u32; 3];
        for host in self.hosts.iter().filter(|host| host.place != place) {
            let Some(process) = &host.process else { continue };
            let state = process.node.view().states.get(&self.regions[place]);
            votes[match state {
                portolan_geodns::RegionState::Serving => 0,
                portolan_geodns::RegionState::Draining => 1,
                portolan_geodns::RegionState::Down | portolan_geodns::RegionState::DrainingDown => 2,
            }] += 1;
        }
        let most = votes.iter().max().copied().unwrap_or_default();
        match votes.iter().position(|count| *count == most) {
            Some(1) if most > 0 => DnsSeen::Draining,
            Some(2) if most > 0 => DnsSeen::Down,
            _ => DnsSeen::Serving,
        }
    }

    /// Whether the limits of some node of a region are degraded.
    pub fn is_degraded(&self, place: usize) -> bool {
        let degraded =
            |host: &&usize| self.hosts[**host].process.is_some() && self.hosts[**host].mode == Mode::Degraded;
        self.region_hosts[place].iter().any(|host| degraded(&host))
    }
}
