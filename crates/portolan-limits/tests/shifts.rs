//! A limit of concurrency while its split between regions changes: long requests of a region that loses share run on, and
//! all regions together never have more in flight than the limit, counted outside the ledger.

mod fleet;

use std::{collections::BTreeMap, sync::Arc};

use fleet::{Fleet, Seed, node};
use portolan_config::{Applied, Bundle, Change, Command, Intent, RegionMap, SourceFile};
use portolan_limits::{Admission, Charge, Definition};
use portolan_model::{MemberId, RegionId};

const REGIONS: usize = 3;
const LIMIT: usize = 12;

/// Regions with one node each, and the log that they all follow at once.
struct Cluster {
    fleet: Fleet,
    intent: Intent,
    /// When requests end, where they are, and for what.
    running: Vec<(u64, usize, Charge)>,
    seed: Seed,
    lasts_ms: u64,
    most: usize,
}

fn region(at: usize) -> RegionId {
    RegionId::new(&format!("region-{at}")).expect("a name")
}

fn region_map() -> Arc<RegionMap> {
    let file = |at: usize| SourceFile {
        path: format!("region-{at}.yaml"),
        text: format!(
            "{{ version: 1, region: region-{at}, title: t, coordinates: {{ latitude: 0, longitude: {at} }}, addresses: [\"::{at}\"] }}"
        ),
    };
    let between = |a: usize, b: usize| format!("{{ between: [region-{a}, region-{b}], rtt: 9ms }}");
    let text = format!("version: 1\nrtt: [{}, {}, {}]", between(0, 1), between(0, 2), between(1, 2));
    let trips = SourceFile { path: "rtt.yaml".to_owned(), text };
    let files: Vec<SourceFile> = (0..REGIONS).map(file).chain([trips]).collect();
    Arc::new(RegionMap::parse(&files).unwrap_or_else(|faults| panic!("{faults}")))
}

impl Cluster {
    fn new(weights: [u32; REGIONS], seed: u64) -> Self {
        let fleet = Fleet::new(REGIONS, Vec::new(), seed);
        let intent = Intent::new(region_map());
        let mut cluster = Self { fleet, intent, running: Vec::new(), seed: Seed(seed), lasts_ms: 300, most: 0 };
        for at in 0..REGIONS {
            let (node, region, member) = (node(&region(at)), region(at), MemberId(at as u64));
            cluster.order(&Change::Join { node, region, member }.at(cluster.fleet.now(at).wall));
        }
        cluster.order_shares(weights);
        cluster.fleet.settle();
        cluster
    }

    fn order(&mut self, command: &Command) {
        let applied = self.intent.apply(command);
        assert!(!matches!(applied, Applied::Refused(_)), "{command:?}: {applied:?}");
    }

    fn order_shares(&mut self, weights: [u32; REGIONS]) {
        let shares: Vec<String> = (0..REGIONS).map(|at| format!("region-{at}: {}", weights[at])).collect();
        let limit = format!("l: {{ key: global, concurrency: {LIMIT}, shares: {{ {} }} }}", shares.join(", "));
        let document = SourceFile { path: "g.yaml".to_owned(), text: format!("version: 1\nlimits: {{ {limit} }}\n") };
        let bundle = Bundle { document, attachments: BTreeMap::new() };
        let at = self.fleet.now(0).wall;
        self.order(&Change::Apply { bundle, author: "ann".to_owned(), expected: None }.at(at));
        self.follow();
    }

    /// Every node takes over what the log says now.
    fn follow(&mut self) {
        let definitions = self.intent.limits.budgets(&self.intent.snapshot).map(|budget| Definition {
            generation: budget.binding.generation,
            shares: budget.shares.clone(),
            ..Definition::new(budget.binding.id, budget.limit.name.clone(), budget.algorithm())
        });
        self.fleet.define(definitions.collect());
    }

    /// As much begins everywhere as may; nodes say that they know the split, and the log goes on.
    fn pass(&mut self, millis: u64) {
        for step in 0..millis / 20 {
            self.fleet.run(20);
            let now_ms = self.fleet.now(0).wall.as_unix_millis();
            for (_, at, charge) in self.running.extract_if(.., |(ends, ..)| *ends <= now_ms) {
                self.fleet.regions[at].limiter.release(&charge);
            }
            for at in 0..REGIONS {
                while let Some(Admission::Allow(charges)) = self.fleet.request(at, &[(1, 1)]) {
                    let ends = now_ms + 1 + self.seed.below(self.lasts_ms);
                    self.running.push((ends, at, charges[0]));
                }
            }
            self.most = self.most.max(self.running.len());
            if step % 5 == 0 {
                self.go_on();
            }
        }
    }

    fn go_on(&mut self) {
        for at in 0..REGIONS {
            let command = self.intent.acknowledgement(&node(&region(at)), self.fleet.now(at).wall);
            if let Some(command) = command.filter(|_| self.fleet.limits(at).fits_shares()) {
                self.order(&command);
            }
        }
        self.order(&Change::Settle.at(self.fleet.now(0).wall));
        self.follow();
    }

    fn in_flight(&self, at: usize) -> usize {
        self.running.iter().filter(|(_, by, _)| *by == at).count()
    }
}

#[test]
fn a_region_that_loses_share_ends_what_does_not_fit_before_another_gains_it() {
    let mut cluster = Cluster::new([8, 2, 2], 1);
    cluster.lasts_ms = 60_000;
    cluster.pass(2_000);
    assert_eq!(cluster.in_flight(0), 8);
    cluster.order_shares([2, 2, 8]);
    cluster.lasts_ms = 300;
    cluster.pass(10_000);
    let over = |cluster: &Cluster, at: usize| {
        let over = cluster.fleet.limits(at).waits().over;
        over.iter().map(|over| (over.keys, over.in_flight, over.share)).collect::<Vec<_>>()
    };
    // It says what it waits for, and no other does.
    assert!(matches!(over(&cluster, 0)[..], [(1, 3..=8, 2)]), "{:?}", over(&cluster, 0));
    assert_eq!([1, 2].map(|at| over(&cluster, at)), [[], []]);
    cluster.pass(20_000);
    assert_eq!(cluster.most, LIMIT);
    cluster.pass(90_000);
    assert_eq!(cluster.most, LIMIT);
    assert_eq!(over(&cluster, 0), []);
    assert_eq!([0, 1, 2].map(|at| cluster.in_flight(at)), [2, 2, 8]);
}

#[test]
fn no_sequence_of_splits_lets_more_be_in_flight_than_the_limit() {
    for seed in 1..=4 {
        let mut cluster = Cluster::new([1, 1, 1], seed);
        for _ in 0..12 {
            cluster.lasts_ms = [300, 4_000, 40_000][cluster.seed.below(3) as usize];
            let millis = 1000 + cluster.seed.below(20_000);
            cluster.pass(millis);
            let mut weight = || 1 + cluster.seed.below(6) as u32;
            let weights = [weight(), weight(), weight()];
            cluster.order_shares(weights);
        }
        assert_eq!(cluster.most, LIMIT, "seed {seed}");
    }
}
