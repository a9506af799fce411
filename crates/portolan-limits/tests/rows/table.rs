//! The rows: every scenario that a figure is promised for, with the band that its errors must stay in.

use std::time::Duration;

use portolan_limits::{Algorithm, Bounds, Fleet, OnPartition, Promise, Window, base_shares};
use portolan_model::{Ratio, WallTime};

use crate::{
    demand::{Demand, zipf},
    network::{Link, RTT},
};

#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub quota: u64,
    pub window: Duration,
    pub demand: Demand,
    pub base: Base,
    pub policy: OnPartition,
    /// Per cent of its base that a region may take beyond its rights.
    pub overdraft: u32,
    pub borrow_wait: Duration,
    pub loss: f64,
    /// How often a message comes twice.
    pub repeats: f64,
    /// Clock of each region minus the run's, in milliseconds; 0 for the regions not named.
    pub skew_ms: Vec<i64>,
    pub faults: Vec<(Duration, Fault)>,
    pub length: Duration,
    /// Errors are measured over the slots that lie within.
    pub measured: (Duration, Duration),
    pub bands: Bands,
}

/// How the quota is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    Equal,
    /// Four fifths by demand in the long run, a fifth equally.
    Weighted,
}

#[derive(Clone, Debug)]
pub enum Fault {
    Link(Link),
    Crash(usize),
    LoseDisk(usize),
    Restart(usize),
    /// The region's clock minus the run's from here on, in milliseconds.
    Clock(usize, i64),
}

/// What a row may err by at most, in per cent of the quota.
#[derive(Clone, Copy, Debug)]
pub struct Bands {
    /// Above the quota, in units and in any slot, measured or not.
    pub over_units: u64,
    pub over_mean: f64,
    pub refused_wrongly: f64,
}

/// How long the rows with windows of a second last; longer windows last longer.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub seconds: u64,
    pub seeds: u64,
}

/// Parts of a share, for weights.
const PARTS: f64 = 10_000.0;

pub const HOT: [f64; 5] = [0.6, 0.2, 0.1, 0.07, 0.03];

impl Row {
    /// The slot of the row that `wall` falls into.
    pub fn slot(&self, wall: WallTime) -> u64 {
        wall.as_unix_millis() / self.window.as_millis() as u64
    }

    /// Weights of the regions for the base shares; none for equal ones.
    pub fn weights(&self) -> Vec<u32> {
        let history = self.demand.history();
        let equal = 1.0 / history.len() as f64;
        let weight = |share: &f64| (PARTS * (0.8 * share + 0.2 * equal)).round() as u32;
        match self.base {
            Base::Equal => Vec::new(),
            Base::Weighted => history.iter().map(weight).collect(),
        }
    }

    /// What is stated of this limit before it is put in force.
    pub fn stated(&self) -> Bounds {
        let algorithm = Algorithm::FixedWindow { quota: self.quota, window: Window::Length(self.window) };
        let promise = Promise {
            on_partition: self.policy,
            weights: self.weights(),
            overdraft: Ratio::from_parts(self.overdraft * 100),
            borrow_wait: self.borrow_wait,
            ..Promise::strict(algorithm)
        };
        Bounds::of(&promise, &Fleet::new(self.demand.regions(), RTT, 1))
    }

    /// The base share of a region.
    pub fn base_of(&self, region: usize) -> u64 {
        base_shares(self.quota, &self.weights(), self.demand.regions())[region]
    }

    pub fn named(mut self, suffix: &str) -> Self {
        self.name = format!("{}, {suffix}", self.name);
        self
    }

    /// The row again with an overdraft of a tenth.
    fn overdrawn(&self, over_mean: f64, refused_wrongly: f64) -> Self {
        let bands = Bands { over_units: self.quota / 10 + self.demand.regions() as u64, over_mean, refused_wrongly };
        Self { overdraft: 10, bands, ..self.clone() }.named("overdraft 10 %")
    }

    /// The row again with requests that wait for a loan.
    fn waiting(&self, refused_wrongly: f64) -> Self {
        let borrow_wait = RTT + Duration::from_millis(30);
        Self { borrow_wait, bands: strict(refused_wrongly), ..self.clone() }.named("borrow_wait 180 ms")
    }
}

/// Nothing above the quota, ever.
pub fn strict(refused_wrongly: f64) -> Bands {
    Bands { over_units: 0, over_mean: 0.0, refused_wrongly }
}

pub fn row(name: &str, scale: Scale, demand: Demand, refused_wrongly: f64) -> Row {
    let length = Duration::from_secs(scale.seconds);
    Row {
        name: name.to_owned(),
        quota: 1000,
        window: Duration::from_secs(1),
        demand,
        base: Base::Weighted,
        policy: OnPartition::Static,
        overdraft: 0,
        borrow_wait: Duration::ZERO,
        loss: 0.0,
        repeats: 0.0,
        skew_ms: Vec::new(),
        faults: Vec::new(),
        length,
        // The first slots have no demand behind them to lend by.
        measured: (Duration::from_secs(3), length),
        bands: strict(refused_wrongly),
    }
}

/// The row with a slot of another length and a quota that is as high per second, for as many slots.
pub fn with_window(mut row: Row, quota: u64, window: Duration, slots: u32) -> Row {
    (row.quota, row.window, row.length) = (quota, window, window * slots);
    row.measured = (window * 2, row.length);
    row
}

/// Rows with every region in reach.
pub fn healthy(scale: Scale) -> Vec<Row> {
    let long = Scale { seconds: scale.seconds.max(34), ..scale };
    let hot = row("R5 1.5x W1s", scale, Demand::steady(1.5, &HOT), 0.1);
    let three = row("R3 1.5x W1s (70/20/10)", scale, Demand::steady(1.5, &[0.7, 0.2, 0.1]), 0.1);
    let twenty =
        row("R20 Zipf 1.5x", Scale { seconds: scale.seconds / 2, ..scale }, Demand::steady(1.5, &zipf(20)), 0.1);
    let light = row("0.8x load", scale, Demand::steady(0.8, &HOT), 0.1);
    let turning = |load: f64| Demand::Rotating(HOT.map(|share| share * load).to_vec(), 10.0);
    let rotating = row("demand rotates every 10 s, 1.2x", long, turning(1.2), 0.6);
    let rotating_light = row("demand rotates every 10 s, 0.9x", long, turning(0.9), 0.6);
    let burst_at = |from| Demand::Burst(HOT.map(|share| share * 3.0).to_vec(), from);
    let burst = row("3x burst in first 100 ms of slot", scale, burst_at(0.0), 0.7);
    let midway = row("3x burst in the middle of slot", scale, burst_at(0.5), 0.7);
    let late = row("3x burst in last 100 ms of slot", scale, burst_at(0.91), 0.7);
    let before_end = row("3x burst until 10 ms before the end of slot", scale, burst_at(0.89), 0.7);
    let flashing =
        Demand::Flash { shares: vec![0.05, 0.05, 0.05, 0.05, 0.0], region: 4, load: 0.7, seconds: 6.0, period: 10.0 };
    let flash = row("idle region flashes to 0.7 L", long, flashing, 0.8);
    let ten = with_window(
        row("W10s L10000 1.5x", scale, Demand::steady(1.5, &HOT), 0.1),
        10_000,
        Duration::from_secs(10),
        scale.seconds as u32 / 2,
    );
    let lossy = Row { loss: 0.2, ..row("20 % message loss", scale, Demand::steady(1.5, &HOT), 0.1) };
    let equal = |row: &Row| Row { base: Base::Equal, ..row.clone() }.named("equal base");
    vec![
        hot.overdrawn(1.5, 0.1),
        three.overdrawn(1.0, 0.1),
        twenty.overdrawn(3.4, 0.1),
        light.overdrawn(0.5, 0.1),
        rotating.overdrawn(1.5, 0.5),
        rotating_light.overdrawn(0.5, 0.9),
        rotating_light.waiting(0.5),
        burst.overdrawn(10.2, 0.5),
        flash.overdrawn(0.5, 0.7),
        flash.waiting(0.5),
        ten.overdrawn(1.0, 0.1),
        lossy.overdrawn(1.7, 0.1),
        equal(&hot),
        equal(&twenty),
        equal(&burst),
        equal(&late),
        equal(&before_end),
        hot,
        three,
        twenty,
        light,
        rotating,
        rotating_light,
        burst,
        late,
        before_end,
        equal(&midway),
        flash,
        ten,
        lossy,
    ]
}

/// Rows with few units per slot. A region's share is a unit or two, so their bands are what is reached, not a target.
pub fn small(scale: Scale) -> Vec<Row> {
    let few = Row {
        quota: 20,
        // Each request is a twentieth of a slot: a few slots say nothing.
        ..row("L = 20 per s", Scale { seconds: scale.seconds * 10, ..scale }, Demand::steady(1.5, &HOT), 3.4)
    };
    let roaming = Demand::Roaming { load: 1.5, regions: 5, stay: 90.0 };
    let client = row("L = 10 per min, one roaming client", scale, roaming, 5.0);
    let client = with_window(client, 10, Duration::from_secs(60), scale.seconds as u32);
    let equal = |row: &Row| Row { base: Base::Equal, ..row.clone() }.named("equal base");
    let rows = vec![
        few.overdrawn(8.0, 2.0),
        equal(&few.waiting(4.0)),
        few.waiting(4.0),
        equal(&few),
        few,
        client.overdrawn(4.0, 5.0),
        client.waiting(4.0),
        client,
    ];
    rows
}
