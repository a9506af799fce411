//! No request waits for Redis: the data path cannot even name it.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::{files, root, shown, text, without_tests};

/// The only files that may name the client of Redis: the task that talks to it.
const TALKS: &[&str] = &["crates/portolan-server/src/lender.rs"];

/// What a request is decided and served by.
const REQUEST_PATH: &str = "portolan-proxy";

#[test]
fn what_serves_requests_is_not_built_with_redis() {
    let lock: toml::Table = text(&root().join("Cargo.lock")).parse().expect("Cargo.lock is TOML");
    let mut uses: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("Cargo.lock lists packages") {
        let name = package["name"].as_str().expect("a package has a name").to_owned();
        let named = package.get("dependencies").and_then(toml::Value::as_array);
        // `name`, or `name version` where several are in use.
        let named = named.into_iter().flatten().filter_map(toml::Value::as_str);
        uses.entry(name).or_default().extend(named.map(|used| used.split(' ').next().unwrap_or(used).to_owned()));
    }
    let (mut reached, mut next) = (BTreeSet::new(), vec![REQUEST_PATH.to_owned()]);
    while let Some(package) = next.pop() {
        if reached.insert(package.clone()) {
            next.extend(uses.get(&package).into_iter().flatten().cloned());
        }
    }
    assert!(reached.contains("tokio"), "the data path was followed: {reached:?}");
    assert!(!reached.contains("redis"), "`{REQUEST_PATH}` reaches `redis`");
}

#[test]
fn only_the_background_task_names_redis() {
    let naming: Vec<String> = files("crates", ".rs")
        .iter()
        .filter(|path| shown(path).contains("/src/"))
        .filter(|path| {
            let text = text(path);
            without_tests(&text)
                .lines()
                .any(|line| line.trim_start().starts_with("use redis") || line.contains("redis::"))
        })
        .map(|path| shown(path))
        .collect();
    assert_eq!(naming, TALKS);
}
