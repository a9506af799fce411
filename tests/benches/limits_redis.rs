//! Compares how long requests take while the lender of their limit is well, killed, and slowed by 2 s, in turns within
//! one run, so that all meet the same machine. The verdict is the median over the rounds of p99 with the fault over p99
//! without. Fails when that is above the bound. `PORTOLAN_BINARY` names the gateway; see `benches/limits-redis/run`.

use std::time::Duration;

use portolan_tests::{Document, Fleet, Host, Load, Options, Redis, Relay, Target, until};

/// A request may take this much longer while its lender is away.
const BOUND: f64 = 1.05;

/// Load over all regions; the quota is below it, and the regions' own part of the quota far below.
const RATE: u32 = 600;
const QUOTA: u32 = 450;

const ROUND: Duration = Duration::from_secs(5);

/// Until a lender is given up, and until it is trusted again.
const GIVEN_UP: Duration = Duration::from_secs(2);
const TRUSTED: Duration = Duration::from_secs(6);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let Some(mut server) = Redis::start().await else { return };
    let address = server.address;
    let relay = Relay::to(address).await;
    let document = Document::default()
        .lender("main", &relay.url())
        .limit("lent", &format!("key: global, rate: {QUOTA}/s, lender: main"));
    let fleet = Fleet::start(Options { document: Some(document.yaml()), ..Options::default() });
    let host = fleet.host();
    for region in fleet.regions() {
        until(&format!("a first answer from {region}"), Duration::from_secs(10), || async {
            let answer = host.get(fleet.https(region), "/free/warm", None).await;
            answer.ok().filter(|answer| answer.status == 200)
        })
        .await;
    }
    measure(&fleet, &host).await;
    let mut ratios = [Vec::new(), Vec::new()];
    for round in 1..=rounds {
        let well = measure(&fleet, &host).await;
        drop(server);
        tokio::time::sleep(GIVEN_UP).await;
        let killed = measure(&fleet, &host).await;
        server = Redis::start_at(address).await.expect("it started before");
        tokio::time::sleep(TRUSTED).await;
        let well_again = measure(&fleet, &host).await;
        relay.slow_down(Duration::from_secs(2));
        tokio::time::sleep(GIVEN_UP).await;
        let slowed = measure(&fleet, &host).await;
        relay.slow_down(Duration::ZERO);
        tokio::time::sleep(TRUSTED).await;
        println!("round {round}: p99 well {well:?}, killed {killed:?}, well {well_again:?}, slowed {slowed:?}");
        ratios[0].push(killed.as_secs_f64() / well.as_secs_f64());
        ratios[1].push(slowed.as_secs_f64() / well_again.as_secs_f64());
    }
    let [killed, slowed] = ratios.map(median);
    println!("p99 over p99 without, median of {rounds} rounds: killed {killed:.3}, slowed {slowed:.3}, bound {BOUND}");
    assert!(killed <= BOUND && slowed <= BOUND, "requests wait for the lender");
}

/// The 99th percentile of all answers of a round.
async fn measure(fleet: &Fleet, host: &Host) -> Duration {
    let regions = fleet.regions();
    let target = |region: &&str| Target {
        name: (*region).to_owned(),
        address: fleet.https(region),
        path: "/lent/x".to_owned(),
        token: None,
        rate: RATE / 3,
    };
    let load = Load::start(host, regions.iter().map(target).collect());
    tokio::time::sleep(ROUND).await;
    let report = load.stop().await;
    assert!(report.other_than(&[200, 429, 503]).is_empty(), "{}", report.summary());
    let mut took: Vec<Duration> = report.samples.iter().map(|sample| sample.took).collect();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
