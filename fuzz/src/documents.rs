//! Documents that people write. A parser answers with a value or with faults inside the file, and never panics.

use std::{collections::BTreeMap, sync::LazyLock};

use portolan_config::{Bundle, Faults, RegionMap, Scenario, Snapshot, SourceFile};

static REGIONS: LazyLock<RegionMap> = LazyLock::new(regions);

/// A scenario for the simulator.
pub fn scenario(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let source = SourceFile { path: "scenario.yaml".to_owned(), text: text.to_owned() };
    if let Err(faults) = Scenario::parse(&source).and_then(|scenario| scenario.check(&REGIONS)) {
        check(&faults, text);
    }
}

/// A gateway document.
pub fn gateway(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let document = SourceFile { path: "gateway.yaml".to_owned(), text: text.to_owned() };
    let jwks = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","kid":"1"}]}"#;
    let attachments = BTreeMap::from([("jwks.json".to_owned(), jwks.to_owned())]);
    if let Err(faults) = Snapshot::parse(&Bundle { document, attachments }, &REGIONS) {
        check(&faults, text);
    }
}

fn check(faults: &Faults, text: &str) {
    assert!(!faults.0.is_empty(), "refused without a reason");
    let _ = faults.render();
    let lines = text.split('\n').count();
    for fault in &faults.0 {
        assert!((1..=lines + 1).contains(&fault.line) && fault.column >= 1, "{fault} is not in the document");
    }
}

fn regions() -> RegionMap {
    let files = [
        ("eu-west.yaml", include_str!("../../regions/eu-west.yaml")),
        ("us-east.yaml", include_str!("../../regions/us-east.yaml")),
        ("ap-southeast.yaml", include_str!("../../regions/ap-southeast.yaml")),
        ("rtt.yaml", include_str!("../../regions/rtt.yaml")),
        ("networks.yaml", include_str!("../../regions/networks.yaml")),
    ];
    let files = files.map(|(path, text)| SourceFile { path: path.to_owned(), text: text.to_owned() });
    RegionMap::parse(&files).unwrap_or_else(|faults| panic!("the shipped regions have faults:\n{}", faults.render()))
}
