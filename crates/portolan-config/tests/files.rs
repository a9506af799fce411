//! Region and node files without faults.

mod common;

use std::time::Duration;

use common::regions;
use portolan_config::{AccessLog, Location, MAX_REGIONS, NodeFile, RegionMap, SourceFile};
use portolan_model::RegionId;

fn region(text: &str) -> RegionId {
    RegionId::new(text).expect("a region")
}

fn source(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.to_owned(), text: text.to_owned() }
}

#[test]
fn the_shipped_regions_are_in_order_of_name_and_know_their_neighbours() {
    let regions = regions();
    let addresses = regions.iter().map(|region| format!("{} {}", region.id, region.addresses[0]));
    let expected = ["ap-southeast 127.10.1.1", "eu-west 127.10.2.1", "us-east 127.10.3.1"];
    assert_eq!(addresses.collect::<Vec<_>>(), expected);
    let nearest = |from: &str| regions.nearest_first(&region(from)).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(nearest("us-east"), ["us-east", "eu-west", "ap-southeast"]);
    assert_eq!(nearest("ap-southeast"), ["ap-southeast", "eu-west", "us-east"]);
    assert_eq!(regions.rtt(&region("us-east"), &region("eu-west")), Duration::from_millis(75));
    assert_eq!(regions.rtt(&region("eu-west"), &region("us-east")), Duration::from_millis(75));
    assert_eq!(regions.worst_rtt(), Duration::from_millis(215));
}

#[test]
fn networks_come_with_the_longest_prefix_first() {
    let regions = regions();
    let lengths: Vec<u8> = regions.networks().iter().map(|(prefix, _)| prefix.prefix_len()).collect();
    assert!(lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
    let loopback = regions.networks().iter().find(|(prefix, _)| prefix.to_string() == "127.10.2.0/24");
    assert_eq!(loopback.map(|(_, location)| location.clone()), Some(Location::In(region("eu-west"))));
}

#[test]
fn a_node_file_is_read_with_its_defaults() {
    let text = "
version: 1
node: eu-west-1
region: eu-west
cluster: local
data: data/eu-west-1
regions: ../regions
listen: { https: 127.10.2.1:8443, dns: 127.10.2.1:8053, admin: 127.10.2.1:8900, mesh: 127.10.2.1:8700 }
server_certificates: [{ certificate: server.pem, key: server.key }]
identity: { ca: ca.pem, certificate: node.pem, key: node.key }
peers:
  us-east-1: { region: us-east, address: 127.10.3.1:8700 }
bootstrap: [eu-west-1, us-east-1]
";
    let parse = |text: &str| NodeFile::parse(&source("node.yaml", text)).unwrap_or_else(|f| panic!("{}", f.render()));
    let node = parse(text);
    assert_eq!((node.workers, node.access_log, node.otlp), (1, AccessLog::Stdout, None));
    assert_eq!(node.listen.mesh.to_string(), "127.10.2.1:8700");
    assert_eq!(node.bootstrap.iter().map(ToString::to_string).collect::<Vec<_>>(), ["eu-west-1", "us-east-1"]);
    let node = parse(&format!("{text}workers: 2\naccess_log: {{ file: a.json }}\notlp: http://127.0.0.1:4317\n"));
    assert_eq!((node.workers, node.access_log), (2, AccessLog::File("a.json".to_owned())));
    assert_eq!(parse(&format!("{text}access_log: off\n")).access_log, AccessLog::Off);
    assert_eq!(parse(&format!("{text}limits_key: limits.key\n")).limits_key.as_deref(), Some("limits.key"));
}

#[test]
fn a_node_file_lists_several_nodes_of_a_region_and_not_the_node_itself() {
    let parse = |peers: &str| {
        let text = format!(
            "version: 1\nnode: eu-west-1\nregion: eu-west\ncluster: local\ndata: data\nregions: regions\n\
             listen: {{ https: 127.10.2.1:8443, dns: 127.10.2.1:8053, admin: 127.10.2.1:8900, mesh: 127.10.2.1:8700 }}\n\
             server_certificates: [{{ certificate: server.pem, key: server.key }}]\n\
             identity: {{ ca: ca.pem, certificate: node.pem, key: node.key }}\nbootstrap: [eu-west-1]\npeers:\n{peers}"
        );
        NodeFile::parse(&source("node.yaml", &text))
    };
    let peer = |name: &str, region: &str| format!("  {name}: {{ region: {region}, address: 192.0.2.1:8700 }}\n");
    let several = [peer("eu-west-2", "eu-west"), peer("us-east-1", "us-east"), peer("us-east-2", "us-east")].concat();
    assert_eq!(parse(&several).expect("no faults").peers.len(), 3);
    let faults = parse(&peer("eu-west-1", "eu-west")).expect_err("this node itself");
    let messages: Vec<&str> = faults.0.iter().map(|fault| fault.message.as_str()).collect();
    assert_eq!(messages, ["`eu-west-1` is this node itself"]);
}

#[test]
fn a_region_beyond_those_that_limits_can_be_shared_by_is_a_fault_of_its_file() {
    let files = |count: usize| {
        let name = |at: usize| format!("r{at:03}");
        let region = |at: usize| {
            let text = format!(
                "version: 1\nregion: {}\ntitle: R\ncoordinates: {{ latitude: 1, longitude: 1 }}\naddresses: [127.10.{at}.1]\n",
                name(at)
            );
            source(&format!("{}.yaml", name(at)), &text)
        };
        let pairs = (0..count).flat_map(|a| (0..a).map(move |b| (b, a)));
        let trips: String =
            pairs.map(|(a, b)| format!("- {{ between: [{}, {}], rtt: 9ms }}\n", name(a), name(b))).collect();
        let trips = source("rtt.yaml", &format!("version: 1\nrtt:\n{trips}"));
        (0..count).map(region).chain([trips]).collect::<Vec<_>>()
    };
    let most = RegionMap::parse(&files(MAX_REGIONS)).unwrap_or_else(|faults| panic!("{}", faults.render()));
    assert_eq!(most.ids().len(), 127);
    let faults = RegionMap::parse(&files(MAX_REGIONS + 1)).expect_err("one too many");
    let told: Vec<_> = faults.0.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
    assert_eq!(told, ["r127.yaml: region `r127` is one too many: limits are shared by 127 at most"]);
}
