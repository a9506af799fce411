//! Every file of `regions/`, `simulations/` and `deploy/`, and the sample configuration, loads.

use std::{collections::BTreeMap, path::Path};

use portolan_config::{Bundle, NodeFile, RegionMap, Scenario, Snapshot, SourceFile, attachments};

use crate::sources::{files, root, shown, text};

#[test]
fn the_shipped_regions_load() {
    let map = regions("regions");
    assert!(map.ids().len() >= 3, "a fleet has at least three regions");
}

#[test]
fn the_shipped_scenarios_load() {
    let scenarios = files("simulations", ".yaml");
    assert!(!scenarios.is_empty(), "no scenario is shipped");
    for path in scenarios {
        Scenario::parse(&source(&path)).unwrap_or_else(|faults| panic!("{}", faults.render()));
    }
}

#[test]
fn the_sample_configuration_is_valid() {
    check_gateway(&root().join("gateway.yaml"), &regions("regions"));
}

#[test]
fn the_example_of_the_guide_is_valid() {
    check_gateway(&root().join("docs/guides/examples/gateway.yaml"), &regions("docs/guides/examples/regions"));
}

#[test]
fn the_deployment_samples_load() {
    let map = regions("deploy/fleet/regions");
    check_gateway(&root().join("deploy/fleet/gateway.yaml"), &map);
    let nodes = files("deploy/fleet/nodes", ".yaml");
    assert!(nodes.len() >= 3, "the sample fleet has a node in each of three regions");
    for path in nodes {
        let node = NodeFile::parse(&source(&path)).unwrap_or_else(|faults| panic!("{}", faults.render()));
        assert!(map.get(&node.region).is_some(), "{}: unknown region `{}`", shown(&path), node.region);
    }
}

#[test]
fn the_container_file_and_the_unit_name_what_exists() {
    let container = text(&root().join("deploy/Containerfile"));
    for line in container.lines().filter(|line| line.starts_with("COPY") && !line.contains("--from")) {
        for source in line.split_whitespace().skip(1).take_while(|word| !word.starts_with('/')) {
            assert!(root().join(source).exists(), "Containerfile copies `{source}`, which does not exist");
        }
    }
    let unit = text(&root().join("deploy/portolan.service"));
    assert!(unit.contains("portolan run --node "), "the unit starts a node the way the binary takes it");
}

fn regions(folder: &str) -> RegionMap {
    let sources: Vec<_> = files(folder, ".yaml").iter().map(|path| source(path)).collect();
    RegionMap::parse(&sources).unwrap_or_else(|faults| panic!("{}", faults.render()))
}

/// Parses a gateway document; the sample's key set stands for one that only a running fleet has.
fn check_gateway(path: &Path, regions: &RegionMap) {
    let document = source(path);
    let folder = path.parent().expect("a file lies in a folder");
    let attachments: BTreeMap<String, String> = attachments(&document)
        .into_iter()
        .map(|name| {
            let own = std::fs::read_to_string(folder.join(&name));
            let text = own.unwrap_or_else(|_| self::text(&root().join("deploy/fleet/jwks.json")));
            (name, text)
        })
        .collect();
    Snapshot::parse(&Bundle { document, attachments }, regions).unwrap_or_else(|faults| panic!("{}", faults.render()));
}

fn source(path: &Path) -> SourceFile {
    SourceFile { path: shown(path), text: text(path) }
}
