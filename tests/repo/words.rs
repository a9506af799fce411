//! Words that have no place in what a reader sees, and marks of unfinished work.

use crate::sources::{files, root, shown, text};

/// In source files.
const BANNED_IN_CODE: &[&str] = &["todo!(", "unimplemented!(", "#[ignore", "#[should_panic", "FIXME", "dbg!("];

/// In type names: they say nothing.
const EMPTY_NAMES: &[&str] = &["Manager", "Helper", "Util", "Utils"];

#[test]
fn no_unfinished_work_reaches_the_tree() {
    let mut broken = Vec::new();
    for path in files("crates", ".rs") {
        for (index, line) in text(&path).lines().enumerate() {
            for word in BANNED_IN_CODE.iter().filter(|word| line.contains(**word)) {
                broken.push(format!("{}:{}: {word}", shown(&path), index + 1));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn types_have_names_that_say_something() {
    let mut broken = Vec::new();
    for path in files("crates", ".rs") {
        for (index, line) in text(&path).lines().enumerate() {
            let mut words = line.split_whitespace().skip_while(|word| !matches!(*word, "struct" | "enum" | "trait"));
            let name = words.nth(1).unwrap_or_default().trim_end_matches(|c: char| !c.is_alphanumeric());
            if EMPTY_NAMES.iter().any(|empty| name.ends_with(empty)) {
                broken.push(format!("{}:{}: {name}", shown(&path), index + 1));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_architecture_stays_readable() {
    let lines = text(&root().join("ARCHITECTURE.md")).lines().count();
    assert!(lines <= 250, "ARCHITECTURE.md has {lines} lines, at most 250");
}
