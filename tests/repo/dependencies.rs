//! Which crate may know which. The table is the one that `ARCHITECTURE.md` draws; a new arrow is a change of both.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::{files, shown, text};

/// Crate, and what it may name of the workspace in `[dependencies]`.
const ALLOWED: &[(&str, &[&str])] = &[
    ("portolan-model", &[]),
    ("portolan-config", &["model"]),
    ("portolan-routing", &["config", "model"]),
    ("portolan-limits", &["config", "model"]),
    ("portolan-gossip", &["model"]),
    ("portolan-geodns", &["config", "model"]),
    ("portolan-node", &["config", "geodns", "gossip", "limits", "model", "routing"]),
    ("portolan-proxy", &["config", "limits", "model", "node", "routing"]),
    ("portolan-raft", &["config", "model"]),
    ("portolan-server", &["config", "geodns", "limits", "model", "node", "proxy", "raft", "routing"]),
    ("portolan-sim", &["config", "geodns", "limits", "model", "node", "raft", "routing"]),
    ("portolan", &["config", "limits", "model", "node", "proxy", "server", "sim"]),
    ("portolan-tests", &["config", "model", "sim"]),
];

/// Cores have no use for these at all, in whatever shape.
const NOT_IN_CORES: &[&str] =
    &["tokio", "hyper", "quinn", "rustls", "reqwest", "axum", "futures-util", "notify", "redb"];

#[test]
fn crates_depend_on_each_other_as_the_table_says() {
    let allowed: BTreeMap<&str, BTreeSet<String>> = ALLOWED
        .iter()
        .map(|(name, uses)| (*name, uses.iter().map(|short| format!("portolan-{short}")).collect()))
        .collect();
    let mut seen = BTreeSet::new();
    for (name, manifest) in manifests() {
        let allowed = allowed.get(name.as_str()).unwrap_or_else(|| panic!("`{name}` is missing in the table"));
        let uses: BTreeSet<String> =
            dependencies(&manifest).into_iter().filter(|used| used.starts_with("portolan-")).collect();
        let extra: Vec<_> = uses.difference(allowed).collect();
        assert!(extra.is_empty(), "`{name}` may not depend on {extra:?}");
        seen.insert(name);
    }
    assert_eq!(seen.len(), ALLOWED.len(), "the table names a crate that does not exist: {seen:?}");
}

#[test]
fn cores_depend_on_no_runtime_and_no_transport() {
    for (name, manifest) in manifests() {
        if !is_core(&name) {
            continue;
        }
        let uses = dependencies(&manifest);
        let forbidden: Vec<_> = uses.iter().filter(|used| NOT_IN_CORES.contains(&used.as_str())).collect();
        assert!(forbidden.is_empty(), "`{name}` is a core and may not depend on {forbidden:?}");
    }
}

#[test]
fn only_one_crate_names_bincode() {
    let naming: Vec<_> = manifests()
        .into_iter()
        .filter(|(_, manifest)| dependencies(manifest).contains("bincode"))
        .map(|(n, _)| n)
        .collect();
    assert_eq!(naming, ["portolan-model"]);
}

/// True for the crates that take every input as an argument.
pub fn is_core(name: &str) -> bool {
    ["model", "config", "routing", "limits", "gossip", "geodns", "node"]
        .iter()
        .any(|core| name == format!("portolan-{core}"))
}

fn manifests() -> Vec<(String, toml::Table)> {
    let mut paths = files("crates", "Cargo.toml");
    paths.extend(files("tests", "Cargo.toml"));
    paths
        .iter()
        .map(|path| {
            let manifest: toml::Table = text(path).parse().unwrap_or_else(|e| panic!("{}: {e}", shown(path)));
            let name = manifest["package"]["name"].as_str().expect("a package has a name").to_owned();
            (name, manifest)
        })
        .collect()
}

fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.map(|t| t.keys().cloned().collect()).unwrap_or_default()
}
