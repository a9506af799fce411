//! A change is in force everywhere within a second at the round trips of the real regions, and costs no request.

use std::time::{Duration, Instant};

use portolan_tests::{Admin, Document, Fleet, Load, Options};

use crate::support::{apply, everywhere, warm, write};

const APPLIES: usize = 100;
const POLL: Duration = Duration::from_millis(10);
const IN_FORCE_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_in_force_everywhere_within_a_second_and_fails_no_request() {
    let document = Document::default();
    let arguments = vec!["--wan".to_owned()];
    let fleet = Fleet::start(Options { arguments, document: Some(document.yaml()), ..Options::default() });
    let host = fleet.host();
    warm(&fleet, &host).await;
    let mut admins = Vec::new();
    for region in fleet.regions() {
        admins.push(Admin::connect(&fleet.dir(), fleet.admin(region)).await.expect("the node answers"));
    }
    let load = Load::start(&host, everywhere(&fleet, "free", 300));
    let mut delays = Vec::new();
    for round in 0..APPLIES {
        let file = write(&fleet, "next.yaml", &document.clone().comment(&format!("round {round}")));
        let revision = apply(&fleet, &file).await.expect("the change is accepted");
        let returned = Instant::now();
        for admin in &mut admins {
            while admin.get("/v1/status").await.expect("a status")["revision"].as_u64() < Some(revision) {
                assert!(returned.elapsed() < 5 * IN_FORCE_WITHIN, "revision {revision} is not in force everywhere");
                tokio::time::sleep(POLL).await;
            }
        }
        delays.push(returned.elapsed());
    }
    let report = load.stop().await;
    delays.sort();
    println!("in force everywhere: median {:?}, maximum {:?}", delays[APPLIES / 2], delays[APPLIES - 1]);
    assert!(delays[APPLIES - 1] <= IN_FORCE_WITHIN, "{delays:?}");
    let failed = report.other_than(&[200]);
    assert!(failed.is_empty(), "{}\n{:?}", report.summary(), &failed[..failed.len().min(5)]);
}
