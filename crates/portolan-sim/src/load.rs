//! When clients send, and which of their users: arithmetic on integers, so that every machine draws alike.

use std::{rc::Rc, sync::LazyLock};

use portolan_config::{Arrivals, ClientLoad, Distribution};
use portolan_model::{Rate, Ratio};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tokio::time::Duration;

/// What has come due at one client.
pub struct Due {
    /// Load that has passed, in the unit of [`ONE`] a request.
    passed: u128,
    /// What of it the next request takes.
    next: u128,
    arrivals: Arrivals,
}

/// One request, as load that passes.
const ONE: u128 = 1 << 20;

impl Due {
    /// Nothing sent so far.
    pub fn new(load: &ClientLoad, draws: &mut ChaCha8Rng) -> Self {
        let mut due = Self { passed: 0, next: ONE, arrivals: load.arrivals };
        due.next = due.gap(draws);
        due
    }

    /// Requests that come due while `span` passes at `rate` times `factor`.
    pub fn take(&mut self, rate: Rate, factor: Ratio, span: Duration, draws: &mut ChaCha8Rng) -> u32 {
        let whole = rate.per.as_nanos().max(1) * u128::from(Ratio::ONE.parts());
        self.passed += u128::from(rate.count) * u128::from(factor.parts()) * span.as_nanos() * ONE / whole;
        let mut due = 0;
        while self.passed >= self.next {
            self.passed -= self.next;
            self.next = self.gap(draws);
            due += 1;
        }
        due
    }

    fn gap(&self, draws: &mut ChaCha8Rng) -> u128 {
        match self.arrivals {
            Arrivals::Even => ONE,
            Arrivals::Poisson => u128::from(GAPS[draws.random_range(0..GAPS.len())]),
        }
    }
}

/// Gaps between independent arrivals, each as likely as any other: quantiles of the exponential distribution, whose mean
/// is made one request exactly.
static GAPS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let count = 4096;
    let quantile = |at: u32| -(1.0 - (f64::from(at) + 0.5) / f64::from(count)).ln();
    let sum: f64 = (0..count).map(quantile).sum();
    let scale = f64::from(count) / sum * ONE as f64;
    (0..count).map(|at| (quantile(at) * scale).round() as u32).collect()
});

/// Which user sends the next request.
#[derive(Clone)]
pub enum Users {
    /// One after the other.
    InTurn { users: u32, next: u32 },
    /// Each with the same chance.
    Uniform { users: u32 },
    /// By weight; equal loads share the table.
    Weighted(Rc<AliasTable>),
}

impl Users {
    /// The users of a load.
    pub fn new(load: &ClientLoad) -> Self {
        match load.distribution {
            Distribution::InTurn => Self::InTurn { users: load.users, next: 0 },
            Distribution::Uniform | Distribution::Zipf(0) => Self::Uniform { users: load.users },
            Distribution::Zipf(exponent) => Self::Weighted(Rc::new(AliasTable::zipf(load.users, exponent))),
        }
    }

    /// The user of the next request, from 0 up.
    pub fn next(&mut self, draws: &mut ChaCha8Rng) -> u32 {
        match self {
            Self::InTurn { users, next } => {
                let user = *next;
                *next = (user + 1) % *users;
                user
            }
            Self::Uniform { users } => draws.random_range(0..*users),
            Self::Weighted(table) => table.draw(draws),
        }
    }
}

/// Draws by weight in constant time (Walker 1977, Vose 1991).
pub struct AliasTable {
    /// Of 2^32: below it the column's own number, else the alias.
    columns: Vec<(u32, u32)>,
}

impl AliasTable {
    /// Weights `1 / k^s` for `k` from 1, `s` in thousandths.
    fn zipf(users: u32, exponent: u32) -> Self {
        let s = f64::from(exponent) / 1000.0;
        let weights: Vec<f64> = (1..=users).map(|k| f64::from(k).powf(-s)).collect();
        let total: f64 = weights.iter().sum();
        let mut scaled: Vec<f64> = weights.iter().map(|weight| weight * f64::from(users) / total).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) = (0..users).partition(|&at| scaled[at as usize] < 1.0);
        let mut columns: Vec<(u32, u32)> = (0..users).map(|at| (u32::MAX, at)).collect();
        while let (Some(below), Some(above)) = (small.pop(), large.pop()) {
            let own = scaled[below as usize];
            columns[below as usize] = ((own * 4_294_967_296.0) as u32, above);
            scaled[above as usize] -= 1.0 - own;
            if scaled[above as usize] < 1.0 { small.push(above) } else { large.push(above) }
        }
        Self { columns }
    }

    fn draw(&self, draws: &mut ChaCha8Rng) -> u32 {
        let draw: u64 = draws.random();
        let at = ((draw >> 32) * self.columns.len() as u64) >> 32;
        let (own, alias) = self.columns[at as usize];
        if draw as u32 <= own { at as u32 } else { alias }
    }
}

/// Whether a load sends at this time of the scenario.
pub fn sends(load: &ClientLoad, elapsed: Duration) -> bool {
    if elapsed < load.from || load.until.is_some_and(|until| elapsed >= until) {
        return false;
    }
    let within = |bursts: portolan_config::Bursts| {
        (elapsed - load.from).as_nanos() % bursts.every.as_nanos().max(1) < bursts.length.as_nanos()
    };
    load.bursts.is_none_or(within)
}

#[cfg(test)]
mod tests {
    use portolan_config::{Scenario, SourceFile};

    use super::*;
    use crate::chance;

    fn load(rest: &str) -> ClientLoad {
        let client = format!("{{ region: a, rate: 900/s, host: h, path: /, {rest} }}");
        let text = format!("version: 1\ntitle: t\nlength: 1s\nclients: [{client}]\n");
        let scenario = Scenario::parse(&SourceFile { path: "s.yaml".to_owned(), text });
        scenario.unwrap_or_else(|faults| panic!("{}", faults.render())).clients.remove(0)
    }

    #[test]
    fn as_many_requests_come_due_as_the_rate_says() {
        let check = |rest: &str, factor, expected: std::ops::RangeInclusive<u32>| {
            let (load, mut draws) = (load(rest), chance::stream(1, "load", rest));
            let mut due = Due::new(&load, &mut draws);
            let tick = Duration::from_millis(10);
            let sent: u32 = (0..1000).map(|_| due.take(load.rate, factor, tick, &mut draws)).sum();
            assert!(expected.contains(&sent), "{rest}: {sent}");
        };
        check("arrivals: even", Ratio::ONE, 8999..=9000);
        check("arrivals: even", Ratio::from_parts(15_000), 13_499..=13_500);
        check("arrivals: poisson", Ratio::ONE, 8700..=9300);
    }

    #[test]
    fn users_send_as_their_distribution_says() {
        let shares = |rest: &str| {
            let (load, mut draws) = (load(rest), chance::stream(1, "users", rest));
            let mut users = Users::new(&load);
            let mut sent = [0u32; 4];
            (0..25_000).for_each(|_| sent[users.next(&mut draws) as usize] += 1);
            sent.map(|sent| (sent + 125) / 250)
        };
        assert_eq!(shares("user: u, users: 4"), [25, 25, 25, 25]);
        assert!(shares("user: u, users: 4, distribution: uniform").iter().all(|share| (24..=26).contains(share)));
        // 1, 1/2, 1/3, 1/4 of 25/12.
        assert_eq!(shares("user: u, users: 4, distribution: zipf 1.0"), [48, 24, 16, 12]);
    }

    #[test]
    fn bursts_begin_with_the_load() {
        let load = load("from: 500ms, until: 3s, every: 1s, for: 100ms");
        let sending: Vec<u64> =
            (0..40).map(|at| at * 100).filter(|&at| sends(&load, Duration::from_millis(at))).collect();
        assert_eq!(sending, [500, 1500, 2500]);
    }
}
