//! Holds the pages under `docs/reference` to what the code says. `UPDATE_REFERENCE=1 cargo test` writes them anew.

use std::path::Path;

/// Compares a page with the text it must have, or writes it.
pub(crate) fn check(page: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(page);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::create_dir_all(path.parent().expect("has a folder")).expect("is writable");
        std::fs::write(&path, expected).expect("is writable");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "docs/reference/{page} is out of date: run with UPDATE_REFERENCE=1");
}
