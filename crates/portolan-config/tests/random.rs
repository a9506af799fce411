//! Whatever bytes arrive, the parsers answer with faults inside the file, and never panic.

mod common;

use std::sync::LazyLock;

use common::{bundle, file, regions};
use portolan_config::{Faults, NodeFile, OperatorVerb, RegionMap, Scenario, Snapshot, SourceFile, attachments};
use proptest::prelude::*;

static REGIONS: LazyLock<RegionMap> = LazyLock::new(regions);

/// Documents that decoders know much about, to start from.
static SEEDS: LazyLock<Vec<String>> = LazyLock::new(seeds);

fn check(text: &str, regions: &RegionMap) {
    let source = SourceFile { path: "x.yaml".to_owned(), text: text.to_owned() };
    let results = [
        Snapshot::parse(&bundle(text), regions).map(|_| ()),
        RegionMap::parse(std::slice::from_ref(&source)).map(|_| ()),
        NodeFile::parse(&source).map(|_| ()),
        Scenario::parse(&source).and_then(|scenario| scenario.check(regions)),
    ];
    let _ = attachments(&source);
    let _ = OperatorVerb::parse(text);
    for faults in results.into_iter().filter_map(Result::err) {
        check_positions(&faults, text);
    }
}

fn check_positions(faults: &Faults, text: &str) {
    assert!(!faults.0.is_empty(), "refused without a reason: {text:?}");
    let _ = faults.render();
    for fault in &faults.0 {
        let lines = text.split('\n').count();
        assert!(fault.line >= 1 && fault.line <= lines + 1, "{fault} is not in {text:?}");
        assert!(fault.column >= 1, "{fault}");
        assert!(fault.indent + fault.width <= 200 || fault.width == 1, "{fault:?}");
    }
}

fn seeds() -> Vec<String> {
    let paths = ["../../gateway.yaml", "../../regions/networks.yaml", "../../regions/rtt.yaml"];
    let faulty = ["gateway", "references", "node", "scenario"].map(|name| format!("tests/faults/{name}.yaml"));
    let named = paths.iter().map(|path| file(path).text);
    named.chain(faulty.iter().map(|path| file(path).text)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text_never_panics(text in "\\PC{0,200}") {
        check(&text, &REGIONS);
    }

    #[test]
    fn random_yaml_indicators_never_panic(
        text in "(version: 1\n|routes:\n|  |- |\\? |: |, |\\[|\\]|\\{|\\}|&a |\\*a|!x |'|\"|\\| |> |#|%|@|`|~|a|1/s|\n|\t|\r|é){0,60}",
    ) {
        check(&text, &REGIONS);
    }

    #[test]
    fn mutated_documents_never_panic(
        seed in 0..7usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, "[ -~\n\té]{0,6}"), 1..8),
    ) {
        let mut text: Vec<char> = SEEDS[seed].chars().collect();
        for (index, kind, insert) in edits {
            let at = index.index(text.len().max(1));
            match kind {
                0 => { text.splice(at..at, insert.chars()); }
                1 => { text.drain(at..(at + insert.chars().count()).min(text.len())); }
                2 => text.truncate(at),
                _ => { let copied: Vec<char> = text[at..(at + 40).min(text.len())].to_vec(); text.splice(at..at, copied); }
            }
        }
        check(&text.into_iter().collect::<String>(), &REGIONS);
    }
}
