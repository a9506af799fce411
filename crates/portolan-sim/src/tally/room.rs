//! Whether what was refused had room: some time after the last trouble, a key that every region asks for less of than half of
//! its own share is refused nowhere, but for a small part; nor, but for a larger one, what is steadily asked for where all
//! regions together ask for less than half of a limit that they lend each other. Shares are those that the document states,
//! so nothing is said where they follow demand, and nothing while they change. Of a window that began before the last trouble
//! a region may count as spent what it had marked ahead, so there a tenth of the share is what is asked for at most; and
//! nothing is said of windows that a lost disk may have shut. Never says what may be admitted, and never asks the gateway
//! what it holds.

use portolan_config::{Algorithm, Limit, RegionMap, Shares};
use portolan_limits::{Fleet, Promise, base_shares};
use portolan_model::{Name, Rate, RegionId};
use smallvec::SmallVec;

use super::{Seen, Truth, rules::Rules};
use crate::bound;

/// How long a fleet may take to get over the last trouble.
const SETTLED_MS: i64 = 10_000;

/// Windows of which durable marks say how much was spent are as long at least (see `portolan_limits`): a process that starts
/// goes on with them, and leaves others.
const MARKED_MS: i64 = 10_000;

/// One of so many parts of its share a region may ask for and be refused nothing, and of a window that began before the
/// last trouble.
const HALF: u64 = 2;
const TENTH: u64 = 10;

/// Units of a share, for each node of its region and unit that a request costs, below which nothing is said: what is left of
/// it lies in pieces.
const LEAST: u64 = 10;

/// What may be refused of a key in one region, and of all keys: some units, and one in so many of those that were asked for.
const OF_KEY: (u64, u64) = (10, 50);
const OF_ALL: (u64, u64) = (50, 100);

/// The same of a key where regions have to lend, beside what comes at the limit's rate before a loan does.
const OF_LENT: (u64, u64) = (20, 10);

/// What regions have room for by their own shares.
pub struct Room {
    shares: Vec<u64>,
    /// The smallest share of which something is said.
    least: u64,
    /// Of a limit that regions lend each other, and whose quota is large enough: the quota, and units that come at that
    /// rate before a loan does.
    lends: Option<(u64, u64)>,
}

/// Why something had room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// No region asked for more than one of so many parts of its share.
    Shares(u64),
    /// All of them asked for no more than half of the limit.
    Loans,
}

impl Room {
    /// Of a key that counts `quota`, in a fleet whose largest region has so many nodes; `None` where no document states it.
    pub fn of(limit: &Limit, quota: u64, regions: &RegionMap, nodes: u32) -> Option<Self> {
        if limit.shares == Shares::Demand || limit.shadow {
            return None;
        }
        let promise = Promise { algorithm: limit.algorithm.with_quota(quota), ..Promise::of(limit, regions) };
        let fleet = Fleet::of(regions, nodes);
        let mut shares = promise.shares(&fleet);
        if let Algorithm::TokenBucket { rate, burst } = &promise.algorithm {
            // Of what drips in within a second, as much as finds room at once.
            let bursts = base_shares(*burst, &promise.weights, shares.len());
            let at_once = |(count, burst): (&u64, u64)| bound::dripped(Rate { count: *count, ..*rate }).min(burst);
            shares = shares.iter().zip(bursts).map(at_once).collect();
        }
        let least = LEAST * u64::from(nodes) * u64::from(promise.cost);
        let lends = lends(&promise, fleet, least);
        Some(Self { shares, least, lends })
    }

    /// Why what is asked for has room, if it has: of shares one of so many parts is taken.
    fn has(&self, asked: &Asked, parts: u64) -> Option<Why> {
        if self.suffices(asked, parts) {
            return Some(Why::Shares(parts));
        }
        let (quota, _) = self.lends.filter(|_| parts == HALF)?;
        let all = |of: fn(&OfRegion) -> u64| asked.regions.iter().map(of).sum::<u64>().saturating_mul(HALF);
        let is_steady = |region: &OfRegion| region.now <= region.before.saturating_mul(2);
        let small = all(|region| region.now).max(all(|region| region.before)) <= quota;
        (small && asked.regions.iter().all(is_steady)).then_some(Why::Loans)
    }

    /// Whether what each region asks for, in the present part of the run and in the one before, is at most one of so many
    /// parts of its share.
    fn suffices(&self, asked: &Asked, parts: u64) -> bool {
        let suffices = |(region, &share): (&OfRegion, &u64)| {
            let most = region.now.max(region.before);
            most == 0 || share >= self.least && most.saturating_mul(parts) <= share
        };
        asked.regions.iter().zip(&self.shares).all(suffices)
    }
}

/// What a limit counts that regions lend each other in whole, if that is so many units for each region at least; and units
/// that come at that rate before a loan does.
fn lends(promise: &Promise, fleet: Fleet, least: u64) -> Option<(u64, u64)> {
    let (quota, window) = (promise.algorithm.quota(), promise.algorithm.window());
    let quota = match &promise.algorithm {
        // Of a smaller burst they lend rate, and it bounds what comes through.
        Algorithm::TokenBucket { rate, burst } => bound::dripped(*rate).min(burst / 2),
        _ => quota,
    };
    let part = fleet.until_lent().min(window).as_secs_f64() / window.as_secs_f64();
    let lends = fleet.regions > 1 && !promise.lent && promise.can_be_lent();
    (lends && quota >= least * fleet.regions as u64)
        .then_some((quota, (promise.algorithm.quota() as f64 * part) as u64))
}

/// Of how much of their shares regions may ask a refusal is needless, by one of so many parts; `None` while nothing is said.
fn parts(rules: &Rules, begins_ms: i64, seen: Seen, truth: &Truth) -> Option<u64> {
    if truth.is_short || truth.trouble.is_always() {
        return None;
    }
    let Some(last_ms) = rules.last_unrest_ms(truth) else {
        return (seen.at_ms() >= SETTLED_MS).then_some(HALF);
    };
    let settled_ms = last_ms + SETTLED_MS;
    // What was spent before a sliding window counts in it.
    let from_ms = if rules.slides() { begins_ms.saturating_sub(rules.window_ms()) } else { begins_ms };
    let remembers = || rules.part_ms() >= MARKED_MS && !truth.lost_disk_since(from_ms);
    match () {
        () if seen.at_ms() < settled_ms => None,
        () if from_ms >= settled_ms => Some(HALF),
        () => remembers().then_some(TENTH),
    }
}

/// Units asked for and refused since the last trouble.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub asked: u64,
    pub refused: u64,
}

impl Sum {
    fn exceeds(self, (some, one_in): (u64, u64)) -> bool {
        self.refused > some + self.asked / one_in
    }
}

/// What one region asked for.
#[derive(Clone, Copy, Debug, Default)]
struct OfRegion {
    /// In the present part of the run, and in the one before.
    now: u64,
    before: u64,
    since: Sum,
    /// Refused in that time where regions have to lend.
    unlent: u64,
    /// Whether it was told that too much was refused.
    told: bool,
}

/// What was asked for, of one key or of all, by place of the region.
#[derive(Debug, Default)]
pub struct Asked {
    part: u64,
    /// When the last trouble was after which it is summed up.
    after_ms: Option<i64>,
    regions: SmallVec<[OfRegion; 3]>,
}

impl Asked {
    /// Counts what is asked for in a part of the run, after the last trouble.
    pub fn ask(&mut self, part: u64, after_ms: Option<i64>, place: usize, units: u64) {
        if self.part != part {
            let next = self.part + 1 == part;
            for region in &mut self.regions {
                region.before = if next { region.now } else { 0 };
                region.now = 0;
            }
            self.part = part;
        }
        if self.after_ms != after_ms {
            self.regions.iter_mut().for_each(|region| (region.since, region.unlent) = (Sum::default(), 0));
            self.after_ms = after_ms;
        }
        if self.regions.len() <= place {
            self.regions.resize(place + 1, OfRegion::default());
        }
        let of_region = &mut self.regions[place];
        of_region.now += units;
        of_region.since.asked += units;
    }

    /// Corrects what was asked for last, of a limit of concurrency: so much would be under way.
    pub fn at_one_time(&mut self, place: usize, units: u64, wanted: u64) {
        let of_region = &mut self.regions[place];
        of_region.now = (of_region.now - units).max(wanted);
    }

    /// Counts a refusal of what had room, beside others since the last trouble.
    fn refuse(&mut self, place: usize, units: u64) -> Sum {
        let since = &mut self.regions[place].since;
        since.refused += units;
        *since
    }

    /// The same where regions have to lend.
    fn lack(&mut self, place: usize, units: u64) -> Sum {
        let region = &mut self.regions[place];
        region.unlent += units;
        Sum { refused: region.unlent, ..region.since }
    }

    /// Whether something is told for the first time.
    fn tells(&mut self, place: usize) -> bool {
        !std::mem::replace(&mut self.regions[place].told, true)
    }
}

/// Refusals of what had room, one too many.
#[derive(Debug, PartialEq, Eq)]
pub struct Needless {
    sum: Sum,
    /// Of all keys.
    of_all: bool,
    why: Why,
    /// How long after the last trouble, if there was any.
    after_ms: Option<i64>,
}

impl Needless {
    /// In words, of a limit and a key in a region.
    pub fn words(&self, limit: &Name, subject: &str, region: &RegionId) -> String {
        let Sum { asked, refused } = self.sum;
        let subject = if self.of_all { "all keys" } else { subject };
        let why = match self.why {
            Why::Shares(HALF) => "no region asked for more than half of its share",
            Why::Shares(_) => "no region asked for more than a tenth of its share",
            Why::Loans => "all regions together asked for no more than half of the limit",
        };
        let since =
            self.after_ms.map_or("from the start".to_owned(), |ms| format!("{} s after the last trouble", ms / 1000));
        format!(
            "limit `{limit}` refused {refused} of {asked} units that {region} asked for under {subject}, {since}, though \
             {why}"
        )
    }
}

/// Counts a refusal of `units` of a key that counts `quota`, in a part of the run that began at `begins_ms`; returns what had
/// room of those, if that is too much.
pub fn refuse(
    of_key: &mut Asked,
    rules: &mut Rules,
    (quota, units): (u64, u64),
    begins_ms: i64,
    (seen, truth): (Seen, &Truth),
) -> Option<Needless> {
    let parts = parts(rules, begins_ms, seen, truth)?;
    let room = rules.room(quota, truth)?;
    let (why, before_lent) = (room.has(of_key, parts)?, room.lends.map_or(0, |(_, units)| units));
    let after_ms = rules.last_unrest_ms(truth).map(|last_ms| seen.at_ms() - last_ms);
    let of_lent = (OF_LENT.0 + before_lent, OF_LENT.1);
    let sums = match why {
        Why::Shares(_) => [(of_key.refuse(seen.place, units), OF_KEY), (rules.asked.refuse(seen.place, units), OF_ALL)],
        Why::Loans => [(of_key.lack(seen.place, units), of_lent), (Sum::default(), OF_ALL)],
    };
    let of_all = sums.iter().position(|(sum, most)| sum.exceeds(*most)).filter(|_| rules.asked.tells(seen.place))?;
    Some(Needless { sum: sums[of_all].0, of_all: of_all == 1, why, after_ms })
}
