//! Raises the limit of open files, which connections, logs and marks share. A usual shell allows 1024, so that a crowd
//! of clients could take the descriptors that the control plane needs. Decides nothing else.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Files that a busy node may have open: fewer are allowed, with a warning.
const ENOUGH: u64 = 65_536;

/// Raises the soft limit to the hard one, which needs no privilege, and tells what is then in force.
pub(crate) fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        warn!(%error, "the limit of open files cannot be raised");
    }
    let current = getrlimit(Resource::Nofile).current;
    match current {
        Some(files) if files < ENOUGH => warn!(files, "few open files are allowed, which bounds connections"),
        files => info!(?files, "limit of open files"),
    }
    current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        assert_eq!(raise(), getrlimit(Resource::Nofile).maximum);
    }
}
