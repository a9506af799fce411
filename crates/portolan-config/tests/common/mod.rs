//! What several tests read.
#![allow(dead_code, reason = "each test uses a part")]

use std::{collections::BTreeMap, fs, path::Path};

use portolan_config::{Bundle, RegionMap, SourceFile};

/// A file below the crate, by its path there.
pub fn file(path: &str) -> SourceFile {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("the file exists");
    SourceFile { path: path.rsplit('/').next().expect("never empty").to_owned(), text }
}

/// The regions shipped at the repository root.
pub fn regions() -> RegionMap {
    let names = ["ap-southeast", "eu-west", "us-east", "rtt", "networks"];
    let files: Vec<SourceFile> = names.iter().map(|name| file(&format!("../../regions/{name}.yaml"))).collect();
    match RegionMap::parse(&files) {
        Ok(regions) => regions,
        Err(faults) => panic!("the shipped regions have faults:\n{}", faults.render()),
    }
}

/// A document with a key set for every name it could ask for in these tests.
pub fn bundle(text: &str) -> Bundle {
    let jwks = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","kid":"1"}]}"#;
    let attachments = BTreeMap::from([
        ("jwks.json".to_owned(), jwks.to_owned()),
        (".portolan/jwks.json".to_owned(), jwks.to_owned()),
    ]);
    Bundle { document: SourceFile { path: "gateway.yaml".to_owned(), text: text.to_owned() }, attachments }
}
