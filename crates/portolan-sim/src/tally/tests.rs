//! What the tally says of verdicts that no gateway gave.

use portolan_config::{Bundle, GatewaySource, RegionSource, Snapshot, SourceFile};
use portolan_model::HashKey;

use super::*;

/// Three regions of three nodes that share one limit.
struct Fleet {
    tally: Tally,
    limit: Arc<Limit>,
    counter: u32,
    /// Slots of the limit when the scenario began.
    first: u64,
}

impl Fleet {
    fn of(limit: &str) -> Self {
        let text = format!(
            "version: 1\ntitle: t\nlength: 60s\nregions: {{ a: {{}}, b: {{}}, c: {{}} }}\nrtt: 80ms\nnodes: 3\n\
             gateway: |\n  version: 1\n  services: {{ s: {{ endpoints: {{ a: ['http://127.0.0.1:1'] }} }} }}\n  \
             limits: {{ it: {{ key: global, {limit} }} }}\n  \
             routes: {{ r: {{ match: {{ path: /** }}, limits: [it], service: s }} }}\n\
             clients: [{{ region: a, rate: 1/s, host: h.test, path: /, lasting: 250ms }}]\n"
        );
        let file = SourceFile { path: "s.yaml".to_owned(), text };
        let scenario = Scenario::parse(&file).unwrap_or_else(|faults| panic!("{}", faults.render()));
        let RegionSource::Inline(map) = &scenario.regions else { panic!("the regions stand in the scenario") };
        let Some(GatewaySource::Inline(document)) = &scenario.config else { panic!("so does the gateway") };
        let bundle = Bundle { document: document.clone(), attachments: BTreeMap::new() };
        let snapshot = Snapshot::parse(&bundle, map).unwrap_or_else(|faults| panic!("{}", faults.render()));
        let limit = Arc::clone(snapshot.limits.values().next().expect("one limit"));
        let mut tally = Tally::new(map, &scenario);
        let id = LimitId(1);
        let key = Key::new(&HashKey::new([7; 16]), id, &[]);
        let counter = tally.counter(&limit, (id, key), "everyone".to_owned());
        let first = Windows::of(&limit.algorithm).slot(crate::clock::BEGIN);
        tally.quotas.take(0, BTreeMap::from([(id, limit.quota())]), 0);
        Self { tally, limit, counter, first }
    }

    /// Admits so much of a slot at a node of a region; returns what is wrong with it.
    fn admit(&mut self, host: usize, at_ms: u64, slot: u64, cost: u64) -> Option<String> {
        let seen =
            Seen { host, place: host / 3, at: Timestamp::from_nanos(at_ms * 1_000_000), moment: Moment::default() };
        let charged = Charged { slot: self.first + slot, cost, quota: self.limit.quota() };
        self.tally.admit(self.counter, charged, seen)
    }
}

#[test]
fn a_calm_fleet_is_held_to_what_plan_states_of_one_that_is_well() {
    let open = "rate: 90/s, on_partition: open";
    let parallel = "concurrency: 60";
    let check = |limit: &str, troubled_at: Option<i64>, cost: u64, holds: bool| {
        let mut fleet = Fleet::of(limit);
        troubled_at.into_iter().for_each(|at_ms| fleet.tally.trouble.note(at_ms));
        let found = [fleet.admit(0, 20_100, 20, cost - 1), fleet.admit(4, 20_200, 20, 1)];
        assert_eq!(found.iter().flatten().count(), usize::from(!holds), "{limit} {troubled_at:?} {cost}: {found:?}");
    };
    check(open, None, 90, true);
    check(open, None, 91, false);
    check(parallel, None, 60, true);
    check(parallel, None, 61, false);
    // What was mended long ago is not felt any more: 500 ms until a region is stale, five seconds, what lasts.
    check(open, Some(14_400), 91, false);
    check(open, Some(14_500), 91, true);
    check(open, Some(20_150), 270, true);
    check(open, Some(20_150), 271, false);
    check(parallel, Some(14_200), 61, false);
    check(parallel, Some(14_250), 120, true);
    check(parallel, Some(14_250), 121, false);
}
