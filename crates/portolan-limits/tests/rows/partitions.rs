//! The rows in which regions cannot hear each other for the middle third of the run.

use std::{slice, time::Duration};

use portolan_limits::OnPartition;

use crate::{
    demand::Demand,
    network::Link,
    table::{Bands, Base, Fault, HOT, Row, Scale, row, strict, with_window},
};

/// What a row refuses wrongly at most, in per cent, under `static` with equal and with weighted base.
struct Static {
    equal: f64,
    weighted: f64,
}

/// Every partition row, under every policy.
pub fn partitions(scale: Scale) -> Vec<Row> {
    let hot = || Demand::steady(1.5, &HOT);
    let second = |name: &str, demand| row(name, scale, demand, 100.0);
    let slots = (scale.seconds as u32 / 2).max(9);
    let long = with_window(second("split 2/3, W10s", hot()), 10_000, Duration::from_secs(10), slots);
    let split = Link::Split(vec![0, 1]);
    let even = Demand::steady(3.0, &[0.2; 5]);
    let mut rows = Vec::new();
    let mut add = |row: Row, links: &[Link], bands| rows.extend(policies(&row, links, bands));
    add(second("split 2/3, 1.5x W1s", hot()), slice::from_ref(&split), Static { equal: 30.7, weighted: 3.0 });
    add(long, slice::from_ref(&split), Static { equal: 30.7, weighted: 3.0 });
    add(second("hot region isolated", hot()), &[Link::Split(vec![0])], Static { equal: 21.6, weighted: 3.0 });
    add(second("flapping every 2 s", hot()), &[split.clone(), Link::Heal], Static { equal: 30.7, weighted: 3.0 });
    add(second("hot region mute one way", hot()), &[Link::Mute(0)], Static { equal: 21.6, weighted: 3.0 });
    add(second("split 2/3, 3x, equal demand", even), &[split], Static { equal: 3.0, weighted: 3.0 });
    rows.extend(killed(second("hot region killed (others need 0.6 L)", hot())));
    rows
}

/// The row under `static` with equal and weighted base, `open` and `closed`, with `links` taking turns every 2 s in the
/// middle third.
fn policies(row: &Row, links: &[Link], bands: Static) -> Vec<Row> {
    let third = row.length / 3;
    let mut faults = Vec::new();
    let mut at = third;
    for link in links.iter().cycle() {
        faults.push((at, Fault::Link(link.clone())));
        at += if links.len() > 1 { Duration::from_secs(2) } else { third };
        if at >= third * 2 {
            break;
        }
    }
    faults.push((third * 2, Fault::Link(Link::Heal)));
    let row = Row { faults, measured: (third, third * 2), ..row.clone() };
    vec![
        Row { base: Base::Equal, bands: strict(bands.equal), ..row.clone() }.named("static, equal base"),
        Row { bands: strict(bands.weighted), ..row.clone() }.named("static, weighted base"),
        Row { policy: OnPartition::Open { cap: None }, bands: open(&row), ..row.clone() }.named("open"),
        Row { policy: OnPartition::Closed, bands: strict(100.0), ..row }.named("closed"),
    ]
}

/// The busiest region dies, and returns with its disk.
fn killed(row: Row) -> Vec<Row> {
    let mut rows = policies(&row, &[Link::Heal], Static { equal: 6.0, weighted: 22.3 });
    for row in &mut rows {
        row.faults = vec![(row.length / 3, Fault::Crash(0)), (row.length / 3 * 2, Fault::Restart(0))];
    }
    rows
}

/// What `open` may admit above the quota is what is stated of it.
fn open(row: &Row) -> Bands {
    let row = Row { policy: OnPartition::Open { cap: None }, ..row.clone() };
    let over_units = row.stated().partition.admitted_per_slot.units - row.quota;
    Bands { over_units, over_mean: 100.0 * over_units as f64 / row.quota as f64, refused_wrongly: 3.0 }
}

/// Crashes, lost disks, clocks that are wrong or step: only the bound is promised.
pub fn faults(scale: Scale) -> Vec<Row> {
    let hot = || row("", scale, Demand::steady(1.5, &HOT), 100.0);
    let at = |percent: u64| Duration::from_millis(scale.seconds * percent * 10);
    let faulty = |name: &str, faults: Vec<(Duration, Fault)>| Row { name: name.to_owned(), faults, ..hot() };
    let long = |row| with_window(row, 10_000, Duration::from_secs(10), (scale.seconds as u32 / 4).max(4));
    let restarts = |lose: bool| {
        let once = |from: u64, region| {
            let lost = lose.then_some((at(from + 2), Fault::LoseDisk(region)));
            [(at(from), Fault::Crash(region))].into_iter().chain(lost).chain([(at(from + 3), Fault::Restart(region))])
        };
        once(20, 0).chain(once(40, 1)).chain(once(60, 0)).chain(once(65, 4)).chain(once(80, 0)).collect::<Vec<_>>()
    };
    let parts = Link::Parts(vec![vec![0], vec![1, 2], vec![3, 4]]);
    let rows = vec![
        faulty("crash and restart with the disk", restarts(false)),
        faulty("crash and restart without the disk", restarts(true)),
        long(faulty("crash and restart with the disk, W10s", restarts(false))),
        long(faulty("crash and restart without the disk, W10s", restarts(true))),
        Row { skew_ms: vec![200, -200, 100, 0, -100], ..faulty("clocks 200 ms apart", Vec::new()) },
        faulty("clock steps 5 s ahead", vec![(at(30), Fault::Clock(0, 5000)), (at(60), Fault::Clock(0, 0))]),
        faulty("clock steps 3 s back", vec![(at(30), Fault::Clock(0, -3000)), (at(60), Fault::Clock(0, 0))]),
        faulty("three parts", vec![(at(30), Fault::Link(parts)), (at(60), Fault::Link(Link::Heal))]),
        faulty("hot region deaf", vec![(at(30), Fault::Link(Link::Deaf(0))), (at(60), Fault::Link(Link::Heal))]),
    ];
    rows
}
