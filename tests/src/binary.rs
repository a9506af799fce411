//! Finds the `portolan` binary of the profile under test, and builds it once if it is not there.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The repository's top folder; commands run there.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// The binary: `PORTOLAN_BINARY` if set, else the one beside the test binary, which `tests/run` builds first.
pub fn binary() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        if let Some(path) = env::var_os("PORTOLAN_BINARY") {
            return root().join(path);
        }
        let test = env::current_exe().expect("a test has a file");
        // target/PROFILE/deps/TEST-HASH
        let folder = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
        let path = folder.join("portolan");
        if !path.exists() {
            build(folder);
        }
        path
    })
}

fn build(folder: &Path) {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "-p", "portolan"]).current_dir(root());
    if folder.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().is_ok_and(|status| status.success()), "the binary does not build");
}
