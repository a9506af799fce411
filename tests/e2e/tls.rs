//! Certificates are exchanged while clients are served.

use std::time::Duration;

use portolan_tests::{Document, Fleet, Host, Load, Options, until};

use crate::support::{everywhere, warm};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_without_a_restart_and_costs_no_request() {
    let fleet = Fleet::start(Options { document: Some(Document::default().yaml()), ..Options::default() });
    let host = fleet.host();
    warm(&fleet, &host).await;
    let load = Load::start(&host, everywhere(&fleet, "free", 150));

    // Half of a new pair is no pair: the old one stays.
    let renewed = rcgen::generate_simple_self_signed(["api.example.test".to_owned()]).expect("a certificate");
    let (certificate, key) = (fleet.dir().join("server.pem"), fleet.dir().join("server.key"));
    std::fs::write(&key, renewed.signing_key.serialize_pem()).expect("written");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(host.get(fleet.https("eu-west"), "/free/x", None).await.is_ok_and(|answer| answer.status == 200));

    std::fs::write(&certificate, renewed.cert.pem()).expect("written");
    let trusting = Host::new(&certificate).expect("a root");
    for region in fleet.regions() {
        until(&format!("{region} to show the renewed certificate"), Duration::from_secs(5), || async {
            let answer = trusting.get(fleet.https(region), "/free/x", None).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        // A client of its own: one with a ticket resumes its session and sees no certificate at all.
        let old = fleet.host().get(fleet.https(region), "/free/x", None).await;
        assert!(old.is_err(), "the old certificate is still shown");
    }
    let report = load.stop().await;
    let failed = report.other_than(&[200]);
    assert!(failed.is_empty(), "{}\n{:?}", report.summary(), &failed[..failed.len().min(5)]);
}
