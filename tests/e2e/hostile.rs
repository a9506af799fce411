//! Garbage on every port harms nobody, and a damaged log is set aside.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use portolan_tests::{Document, Fleet, Load, Options, until};

use crate::support::{check_bound, converge, everywhere, warm};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_costs_no_request() {
    let fleet = Fleet::start(Options { document: Some(Document::default().yaml()), ..Options::default() });
    let host = fleet.host();
    warm(&fleet, &host).await;
    let load = Load::start(&host, everywhere(&fleet, "free", 150));
    let region = "eu-west";
    let mesh = SocketAddr::new(fleet.admin(region).ip(), 8700);
    let (https, dns, admin) = (fleet.https(region), fleet.dns(region), fleet.admin(region));
    let task = tokio::task::spawn_blocking(move || {
        for round in 0..200_u64 {
            let bytes = garbage(round, 1 + (round as usize * 37) % 1400);
            for port in [https, dns, mesh] {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                socket.send_to(&bytes, port).expect("sent");
            }
            for port in [https, dns, admin] {
                let mut stream = TcpStream::connect(port).expect("the port is open");
                stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
                // The other side may close while we write: that is what it should do.
                let _ = stream.write_all(&bytes);
                let _ = stream.read(&mut [0; 512]);
            }
        }
    });
    task.await.expect("the ports stay open");
    for region in fleet.regions() {
        assert_eq!(fleet.status(region).expect("the node answers")["ready"], true);
    }
    let report = load.stop().await;
    let failed = report.other_than(&[200]);
    assert!(failed.is_empty(), "{}\n{:?}", report.summary(), &failed[..failed.len().min(5)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_named_and_set_aside_and_the_node_comes_back() {
    const DAMAGED: &str = "us-east";
    let document = Document::default().limit("minute", "key: global, rate: 300/min");
    let mut fleet = Fleet::start(Options { document: Some(document.yaml()), ..Options::default() });
    let host = fleet.host();
    warm(&fleet, &host).await;
    let load = Load::start(&host, everywhere(&fleet, "minute", 30));
    tokio::time::sleep(Duration::from_secs(2)).await;
    fleet.kill(DAMAGED);
    let folder = fleet.dir().join("nodes").join(format!("{DAMAGED}-1")).join("data/raft");
    let file = largest(&folder);
    let mut bytes = std::fs::read(&file).expect("the log is readable");
    for byte in bytes.iter_mut().skip(64).step_by(512) {
        *byte ^= 0xa5;
    }
    std::fs::write(&file, bytes).expect("the log is writable");
    fleet.restart(DAMAGED);
    until("the node to be back", Duration::from_secs(20), || async {
        fleet.status(DAMAGED).filter(|status| status["ready"] == true && status["revision"] == 1)
    })
    .await;
    let names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().any(|name| name.contains("damaged")), "nothing was set aside: {names:?}");
    let log = fleet.log(DAMAGED);
    assert!(log.contains("damaged"), "the log says nothing of damage: {log}");
    check_bound(&load.stop().await.admissions(), "minute", 300);
    converge(&fleet, Duration::from_secs(15)).await;
}

/// The same bytes in every run (SplitMix64).
fn garbage(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn largest(folder: &std::path::Path) -> PathBuf {
    let files = std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("an entry").path());
    files.max_by_key(|path| path.metadata().map_or(0, |data| data.len())).expect("the folder holds the log")
}
