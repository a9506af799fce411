//! Who asks for how much, when: request rates per region as functions of civil time. Never draws chance itself.

/// Requests per second of a region, relative to the quota per second of the limit.
#[derive(Clone, Debug)]
pub enum Demand {
    /// The same all the time.
    Steady(Vec<f64>),
    /// The regions take turns being the busiest: every so many seconds each takes over its neighbour's share.
    Rotating(Vec<f64>, f64),
    /// A whole slot's demand within a tenth of a second, so many seconds after the begin of the slot; what does not fit
    /// into the slot goes on in the next.
    Burst(Vec<f64>, f64),
    /// The shares of everyone, and one region that asks for more during the first seconds of every period.
    Flash { shares: Vec<f64>, region: usize, load: f64, seconds: f64, period: f64 },
    /// One client that stays in a region for so many seconds and goes on to another.
    Roaming { load: f64, regions: usize, stay: f64 },
}

/// A moment: since the start of the run, and since the start of the slot it falls into.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub seconds: f64,
    pub in_slot: f64,
    pub slot: f64,
}

const BURST_SECONDS: f64 = 0.1;

impl Demand {
    /// `load` times the quota, split by `shares`.
    pub fn steady(load: f64, shares: &[f64]) -> Self {
        Self::Steady(shares.iter().map(|share| share * load).collect())
    }

    pub fn regions(&self) -> usize {
        match self {
            Self::Steady(shares) | Self::Rotating(shares, _) | Self::Burst(shares, _) => shares.len(),
            Self::Flash { shares, .. } => shares.len(),
            Self::Roaming { regions, .. } => *regions,
        }
    }

    /// The rate of a region, times the quota per second.
    pub fn rate(&self, region: usize, at: Moment) -> f64 {
        match self {
            Self::Steady(shares) => shares[region],
            Self::Rotating(shares, every) => {
                let turn = (at.seconds / every) as usize;
                shares[(region + turn) % shares.len()]
            }
            Self::Burst(shares, from) if (at.in_slot + at.slot - from) % at.slot < BURST_SECONDS => {
                shares[region] * at.slot / BURST_SECONDS
            }
            Self::Burst(..) => 0.0,
            Self::Flash { region: flashing, load, seconds, period, .. }
                if *flashing == region && at.seconds % period < *seconds =>
            {
                *load
            }
            Self::Flash { shares, .. } => shares[region],
            Self::Roaming { load, regions, stay } => {
                let stop = (at.seconds / stay) as u64;
                // A walk without a pattern that could be learned, the same in every run.
                let place = (stop.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % regions;
                if place == region { *load } else { 0.0 }
            }
        }
    }

    /// The highest rate a region ever has.
    pub fn peak(&self, region: usize, slot: f64) -> f64 {
        match self {
            Self::Steady(shares) => shares[region],
            Self::Rotating(shares, _) => shares.iter().copied().fold(0.0, f64::max),
            Self::Burst(shares, _) => shares[region] * slot / BURST_SECONDS,
            Self::Flash { shares, load, .. } => load.max(shares[region]),
            Self::Roaming { load, .. } => *load,
        }
    }

    /// The share of each region in the long run, as its operator would have measured it.
    pub fn history(&self) -> Vec<f64> {
        let shares = match self {
            Self::Steady(shares) | Self::Burst(shares, _) => shares.clone(),
            Self::Flash { shares, .. } => shares.clone(),
            Self::Rotating(shares, _) => vec![1.0; shares.len()],
            Self::Roaming { regions, .. } => vec![1.0; *regions],
        };
        let sum: f64 = shares.iter().sum();
        shares.into_iter().map(|share| share / sum).collect()
    }
}

/// Shares by Zipf's law with exponent 1.
pub fn zipf(regions: usize) -> Vec<f64> {
    let sum: f64 = (1..=regions).map(|rank| 1.0 / rank as f64).sum();
    (1..=regions).map(|rank| 1.0 / rank as f64 / sum).collect()
}
