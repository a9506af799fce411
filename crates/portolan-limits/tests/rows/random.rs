//! Rows drawn from a seed: any shape of fleet, demand and faults, under which nothing is promised but the bound.

use std::time::Duration;

use portolan_limits::OnPartition;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use crate::{
    demand::Demand,
    network::{Link, unit},
    table::{Bands, Base, Fault, Row},
};

const SECONDS: u64 = 12;

/// A row that goes wrong in the way that `seed` says.
pub fn row(seed: u64) -> Row {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut below = |bound: u64| rng.next_u64() % bound;
    let regions = 2 + below(4) as usize;
    let quota = [1, 3, 7, 20, 100, 300][below(6) as usize];
    let window = Duration::from_secs([1, 1, 2, 12][below(4) as usize]);
    let overdraft = if below(4) == 0 { 10 } else { 0 };
    let demand = Demand::Steady((0..regions).map(|_| below(100) as f64 / 40.0).collect());
    let base = if below(2) == 0 { Base::Equal } else { Base::Weighted };
    let borrow_wait = Duration::from_millis([0, 0, 180][below(3) as usize]);
    let (loss, repeats) = (below(40) as f64 / 100.0, below(30) as f64 / 100.0);
    let over_units = if overdraft > 0 { quota / 10 + regions as u64 } else { 0 };
    let length = (window * 2).max(Duration::from_secs(SECONDS));
    Row {
        name: format!("seed {seed}"),
        quota,
        window,
        demand,
        base,
        policy: OnPartition::Static,
        overdraft,
        borrow_wait,
        loss,
        repeats,
        skew_ms: (0..regions).map(|_| below(400) as i64 - 200).collect(),
        faults: faults(&mut rng, regions, length),
        length,
        measured: (Duration::ZERO, length),
        bands: Bands { over_units, over_mean: 100.0, refused_wrongly: 100.0 },
    }
}

/// Crashes that keep the disk go with clocks that step; those that lose it with clocks that do not: of a lost horizon
/// only the clock is left.
fn faults(rng: &mut ChaCha8Rng, regions: usize, length: Duration) -> Vec<(Duration, Fault)> {
    let disks_last = rng.next_u64().is_multiple_of(2);
    let mut at = Duration::ZERO;
    let mut faults = Vec::new();
    loop {
        at += Duration::from_millis((unit(rng) * 900.0) as u64);
        if at >= length {
            return faults;
        }
        let region = (rng.next_u64() % regions as u64) as usize;
        let fault = match rng.next_u64() % 9 {
            0 => Fault::Link(Link::Split((0..=region).collect())),
            1 => Fault::Link(Link::Mute(region)),
            2 => Fault::Link(Link::Deaf(region)),
            3 | 4 => Fault::Link(Link::Heal),
            5 if disks_last => Fault::Clock(region, (rng.next_u64() % 8000) as i64 - 4000),
            5 | 6 => {
                faults.push((at, Fault::Crash(region)));
                if !disks_last && rng.next_u64().is_multiple_of(2) {
                    faults.push((at, Fault::LoseDisk(region)));
                }
                at += Duration::from_millis((unit(rng) * 400.0) as u64);
                Fault::Restart(region)
            }
            _ => Fault::Restart(region),
        };
        faults.push((at, fault));
    }
}
