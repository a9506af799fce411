//! Rate on loan of a token bucket while its limit is defined anew: a region is fenced, shares follow demand, and
//! regions hear of it one after another. All of them together admit in no interval more than one bucket,
//! whoever lends and whatever is lost, late or started again.

mod fleet;

use std::time::Duration;

use fleet::{Fleet, Network};
use portolan_config::{ShareChange, SharePlan};
use portolan_limits::{Admission, Algorithm, Definition, LimitId};
use portolan_model::{Name, Rate, WallTime};

const PER_SECOND: u64 = 300;
const BURST: u64 = 60;

/// Three regions, the first of which is asked for all of the rate and has borrowed it.
struct Scene {
    fleet: Fleet,
    /// When, in milliseconds of true time.
    admitted: Vec<u64>,
    by_borrower: usize,
    due: [u64; 3],
}

fn definition(burst: u64, plan: SharePlan) -> Definition {
    let rate = Rate { count: PER_SECOND, per: Duration::from_secs(1) };
    let algorithm = Algorithm::TokenBucket { rate, burst };
    Definition { shares: plan, ..Definition::new(LimitId(1), Name::new("shared").expect("a name"), algorithm) }
}

/// Equal weights, and those that follow from a second on.
fn turning(weights: [u32; 3], from: Option<WallTime>, earliest: WallTime) -> SharePlan {
    SharePlan { weights: Vec::new(), change: Some(ShareChange { weights: weights.to_vec(), from, earliest }) }
}

impl Scene {
    fn new(burst: u64, network: Network, into_slot: u64) -> Self {
        let mut fleet = Fleet::new(3, vec![definition(burst, SharePlan::default())], 7);
        fleet.network = network;
        fleet.settle();
        let mut scene = Self { fleet, admitted: Vec::new(), by_borrower: 0, due: [0; 3] };
        let whole = 1000 - scene.now().as_unix_millis() % 1000;
        scene.ask(3000 + whole + into_slot, [450, 0, 0]);
        scene
    }

    fn now(&self) -> WallTime {
        fleet::START + Duration::from_millis(self.fleet.now_ms)
    }

    /// The first instant of the second that begins so many after this one.
    fn second(&self, ahead: u64) -> WallTime {
        WallTime::from_unix_millis((self.now().as_unix_millis() / 1000 + ahead) * 1000)
    }

    /// So many requests a second in each region, for a while.
    fn ask(&mut self, millis: u64, demand: [u64; 3]) {
        for _ in 0..millis {
            for (at, rate) in demand.into_iter().enumerate() {
                self.due[at] += rate;
                while self.due[at] >= 1000 {
                    self.due[at] -= 1000;
                    if let Some(Admission::Allow(_)) = self.fleet.request(at, &[(1, 7)]) {
                        self.admitted.push(self.fleet.now_ms);
                        self.by_borrower += usize::from(at == 0);
                    }
                }
            }
            self.fleet.run(1);
        }
    }

    /// Lets regions hear of a definition, each so much later than the one before it; meanwhile all are asked.
    fn define(&mut self, definition: &Definition, order: [usize; 3], apart_ms: u64, demand: [u64; 3]) {
        for at in order {
            self.fleet.define_at(at, vec![definition.clone()]);
            self.ask(apart_ms, demand);
        }
    }

    /// Drains every bucket, so that what was there twice shows.
    fn check(mut self, burst: u64, context: &str) {
        assert!(self.by_borrower > 500, "nothing was lent: {} {context}", self.by_borrower);
        self.ask(1500, [400, 400, 400]);
        let mut lowest = i64::MAX;
        for (count, at) in self.admitted.iter().enumerate() {
            let level = count as i64 * 1000 - (at * PER_SECOND) as i64;
            lowest = lowest.min(level);
            let over = level + 1000 - lowest - (burst * 1000) as i64;
            assert!(over <= 0, "{over} thousandths of a token too many at {at} ms: {context}");
        }
    }
}

const ORDERS: [[usize; 3]; 3] = [[0, 1, 2], [2, 1, 0], [1, 2, 0]];

/// Messages in time, lost, and late.
fn networks() -> [Network; 3] {
    let late = Network { delay_ms: 150, jitter_ms: 200, ..Network::default() };
    [Network::default(), Network { loss_percent: 20, repeat_percent: 20, ..Network::default() }, late]
}

#[test]
fn rule_8_a_fence_while_rate_is_on_loan_lets_nobody_fill_twice() {
    // The borrower and a lender.
    for (gone, order) in [0, 1].into_iter().flat_map(|gone| ORDERS.map(|order| (gone, order))) {
        for (network, (into_slot, apart_ms)) in networks().into_iter().zip([(20, 250), (500, 60), (900, 0)]) {
            let mut scene = Scene::new(BURST, network, into_slot);
            let mut weights = [1; 3];
            weights[gone] = 0;
            // Its lease lapses: nobody has to acknowledge what is clear, and nobody hears of it in time.
            let from = scene.second(2);
            scene.ask(800, [450, 100, 0]);
            scene.fleet.crash(gone);
            let fenced = definition(BURST, turning(weights, Some(from), from));
            scene.define(&fenced, order, apart_ms, [450, 100, 100]);
            scene.ask(5000, if gone == 0 { [0, 450, 0] } else { [450, 0, 100] });
            let settled = definition(BURST, SharePlan { weights: weights.to_vec(), change: None });
            scene.define(&settled, order, apart_ms, [450, 450, 100]);
            scene.check(BURST, &format!("{gone} gone, {order:?}, {apart_ms} ms apart, {into_slot} ms into a second"));
        }
    }
}

#[test]
fn rule_8_shares_that_follow_demand_while_rate_is_on_loan_let_nobody_fill_twice() {
    // One of them with too little for rate to be lent, or nothing.
    let weights = [[8, 1, 1], [100, 100, 1], [1, 0, 1], [0, 1, 5], [1, 300, 0]];
    for (weights, starts_again) in weights.into_iter().flat_map(|weights| [(weights, false), (weights, true)]) {
        let instants = [(20, 0), (450, 170), (900, 400)];
        for (at, (network, (into_slot, apart_ms))) in networks().into_iter().zip(instants).enumerate() {
            let mut scene = Scene::new(BURST, network, into_slot);
            let order = ORDERS[at];
            let earliest = scene.second(4);
            let waiting = definition(BURST, turning(weights, None, earliest));
            scene.define(&waiting, order, apart_ms, [450, 50, 50]);
            if starts_again {
                // The borrower, or a lender.
                scene.fleet.crash(order[0]);
                scene.ask(300, [450, 0, 100]);
                scene.fleet.restart(order[0]);
            }
            scene.ask(2500, [450, 0, 0]);
            let from = scene.second(3);
            let set = definition(BURST, turning(weights, Some(from), earliest));
            scene.define(&set, order, apart_ms, [450, 50, 50]);
            scene.ask(5000, [450, 0, 0]);
            let settled = definition(BURST, SharePlan { weights: weights.to_vec(), change: None });
            scene.define(&settled, order, apart_ms, [450, 100, 100]);
            let again = if starts_again { ", one starts again" } else { "" };
            let told = format!("{order:?}, {apart_ms} ms apart, {into_slot} ms into a second{again}");
            scene.check(BURST, &format!("{weights:?}, {told}"));
        }
    }
}

#[test]
fn rule_8_a_lender_whose_clock_leaps_gains_its_share_of_the_burst_and_no_rate() {
    for (into_slot, leap_ms) in [(100, 700), (300, 1200), (400, 3159), (700, 3159), (880, 2500), (950, 20_000)] {
        let mut scene = Scene::new(BURST, Network::default(), into_slot);
        scene.fleet.regions[1].clock_ms += leap_ms;
        scene.ask(1500, [450, 400, 0]);
        // It has what drips into its own bucket in that time, which holds a third of the burst.
        scene.check(BURST + BURST / 3, &format!("{leap_ms} ms, {into_slot} ms into a second"));
    }
}

#[test]
fn a_region_that_borrowed_rate_fills_by_no_more_than_all_of_it_when_that_is_lowered() {
    for (into_slot, rate) in [(900, 30), (960, 30), (900, 100)] {
        let mut scene = Scene::new(BURST, Network::default(), into_slot);
        let mut lowered = Definition { generation: 2, ..definition(BURST, SharePlan::default()) };
        let per = Duration::from_secs(1);
        lowered.algorithm = Algorithm::TokenBucket { rate: Rate { count: rate, per }, burst: BURST };
        scene.define(&lowered, [0, 1, 2], 0, [450, 0, 0]);
        let before = scene.by_borrower;
        scene.ask(1000 - into_slot + 950, [450, 0, 0]);
        // What its own bucket held beside, at most; and what came of the slot before under the rate before.
        let (admitted, most) = (scene.by_borrower - before, rate + BURST / 3 + (1000 - into_slot) * 3 / 10);
        assert!(admitted as u64 <= most, "{admitted} of {most}: {rate}/s from {into_slot} ms into a second");
    }
}
