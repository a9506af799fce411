//! Runs the corpora of the fuzz targets, and what is shipped, through the functions that libFuzzer feeds.

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::{fs, path::PathBuf};

fn folder(path: &str) -> Vec<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let files = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let files = files.map(|file| file.expect("an entry").path()).filter(|path| path.is_file());
    let texts: Vec<Vec<u8>> = files.map(|path| fs::read(path).expect("it reads")).collect();
    assert!(!texts.is_empty(), "{} holds inputs", path.display());
    texts
}

fn check(target: fn(&[u8]), inputs: Vec<Vec<u8>>) {
    for input in inputs {
        target(&input);
        // An input cut short anywhere is an input too.
        let step = (input.len() / 40).max(1);
        (0..input.len()).step_by(step).for_each(|end| target(&input[..end]));
    }
}

#[test]
fn limits_take_any_messages_without_harm() {
    let conversation = fuzz::limits_conversation();
    let taken = fuzz::limits_messages(&conversation);
    assert!(taken > 50, "{taken} messages of a conversation are taken in");
    let harmless = |input: &[u8]| {
        let _ = fuzz::limits_messages(input);
    };
    check(harmless, vec![conversation]);
}

#[test]
fn gossip_takes_any_messages_without_harm() {
    let conversation = fuzz::gossip_conversation();
    let taken = fuzz::gossip_messages(&conversation);
    assert!(taken > 10, "{taken} messages of a conversation are taken in");
    let harmless = |input: &[u8]| {
        let _ = fuzz::gossip_messages(input);
    };
    check(harmless, vec![conversation]);
}

#[test]
fn any_scenario_is_read_or_refused_with_positions() {
    check(fuzz::scenario, folder("fuzz/corpus/scenario"));
    check(fuzz::scenario, folder("simulations"));
}

#[test]
fn any_gateway_document_is_read_or_refused_with_positions() {
    check(fuzz::gateway, folder("fuzz/corpus/gateway"));
    check(fuzz::gateway, vec![include_bytes!("../../gateway.yaml").to_vec()]);
}
