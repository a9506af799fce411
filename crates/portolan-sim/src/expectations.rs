//! Holds what a scenario expects against what was measured.

use portolan_config::{Bound, Comparison, LimitExpectation};
use portolan_model::Ratio;

use crate::{outcome::FailedExpectation, world::World};

/// All expectations that do not hold.
pub fn failed(world: &World<'_>) -> Vec<FailedExpectation> {
    let (expect, figures) = (&world.scenario.expect, &world.figures);
    let mut failed = Failed::default();
    for &step in world.faults.never_begun() {
        failed.note(format!("a step begins: {}", world.scenario.steps[step].words()), "its condition never held");
    }
    for (order, why) in world.faults.orders.failed() {
        failed.note(format!("an order is carried out: {order}"), why);
    }
    if let Some(bound) = expect.availability {
        let parts = figures.requests.answered_well() * 10_000 / figures.requests.sent.max(1);
        failed.hold("availability", bound, Ratio::from_parts(u32::try_from(parts).unwrap_or(u32::MAX)));
    }
    if let Some(bound) = expect.unavailable {
        failed.hold("requests answered 503", bound, figures.requests.unavailable);
    }
    if let Some(bound) = expect.leader_changes {
        failed.hold("leader changes", bound, figures.leader_changes);
    }
    if let Some(most) = expect.config_lag_p99 {
        let most = most.as_millis() as u64;
        match figures.config_lag_p99_ms {
            Some(lag) if lag <= most => {}
            Some(lag) => failed.note(format!("configuration in force within {most} ms"), &format!("{lag} ms")),
            None => failed.note(format!("configuration in force within {most} ms"), "no revision was acknowledged"),
        }
    }
    for served in &expect.served {
        let forwarded = figures.forwarded_by_region.get(served.region.as_str()).copied().unwrap_or_default();
        failed.hold(&format!("requests forwarded by {}", served.region), served.requests, forwarded);
    }
    for (at, expected) in expect.limits.iter().enumerate() {
        failed.limit(world, at, expected);
    }
    failed.0
}

#[derive(Default)]
struct Failed(Vec<FailedExpectation>);

impl Failed {
    fn note(&mut self, expected: String, actual: &str) {
        self.0.push(FailedExpectation { expected, actual: actual.to_owned() });
    }

    fn hold<T: PartialOrd + std::fmt::Display>(&mut self, what: &str, bound: Bound<T>, actual: T) {
        if !bound.holds(&actual) {
            self.note(format!("{what} {bound}"), &actual.to_string());
        }
    }

    /// Shares of a limit are compared in millionths: a hundredth of a percent would hide what a test looks for.
    fn share(&mut self, what: &str, bound: Option<Bound<Ratio>>, ppm: u64) {
        let Some(bound) = bound else { return };
        let wanted = u64::from(bound.value.parts()) * 100;
        let holds = match bound.comparison {
            Comparison::AtLeast => ppm >= wanted,
            Comparison::AtMost => ppm <= wanted,
        };
        if !holds {
            self.note(format!("{what} {bound}"), &format!("{}.{:04}%", ppm / 10_000, ppm % 10_000));
        }
    }

    fn limit(&mut self, world: &World<'_>, at: usize, expected: &LimitExpectation) {
        let name = &expected.limit;
        let Some((limit, sums)) = world.tally.expected(at) else {
            self.note(format!("requests under limit `{name}`"), "none was sent");
            return;
        };
        let span = match (expected.from.is_zero(), expected.until) {
            (true, None) => String::new(),
            (_, until) => {
                let until = until.unwrap_or(world.scenario.length);
                format!(" from {} s to {} s", expected.from.as_secs_f64(), until.as_secs_f64())
            }
        };
        let [of_slots, of_means] = [expected.over.is_some() || expected.per_slot.is_some(), expected.asks_for_means()];
        if (of_slots || of_means) && sums.slots == 0 || of_means && sums.whole_slots == 0 {
            self.note(format!("a whole slot of `{name}`{span}"), "none lay within");
            return;
        }
        if let Some(bound) = expected.per_slot {
            self.hold(&format!("`{name}` admits in its fullest slot{span}"), bound, sums.most_admitted);
        }
        self.share(&format!("`{name}` above its quota in the worst slot{span}"), expected.over, sums.over_most_ppm);
        self.share(&format!("`{name}` above its quota on average{span}"), expected.over_mean, sums.over_mean_ppm());
        let refused = format!("`{name}` refused wrongly on average{span}");
        self.share(&refused, expected.false_rejects, sums.false_rejects_ppm());
        if let Some(bound) = expected.unavailable {
            let refused = limit.refused();
            self.hold(&format!("units of `{name}` refused with 503"), bound, refused.degraded + refused.undecided);
        }
        let (waited, decided) = limit.waits();
        let share = waited.saturating_mul(1_000_000) / decided.max(1);
        self.share(&format!("requests that waited under `{name}`"), expected.waited, share);
    }
}
