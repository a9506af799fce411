//! Keeps two fleets from one folder: the first holds a lock on a file in it, any other is refused.
//!
//! Decides nothing about what lies in the folder. The kernel ends the lock with the last process that holds it, so none is
//! ever left behind; the children of `up` hold it too, and a fleet whose `up` was killed is safe until they have ended.

use std::{
    fs::{self, File, TryLockError},
    io::Write as _,
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};

/// The file that is locked; `--clean` leaves it alone.
pub const LOCK: &str = "up.lock";

/// The children of an `up` that was killed end within this, as long as no request is under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a taken lock is tried again.
const POLL: Duration = Duration::from_millis(20);

/// The sole right to a fleet's folder, while this value or a child of this process lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "holds the lock until it is closed")] File);

impl Lock {
    /// Takes the lock, making the folder first, readable by its owner alone.
    pub fn take(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("cannot make {}", dir.display()))?;
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.with_context(|| format!("cannot write {}", path.display()))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(POLL),
                Err(TryLockError::WouldBlock) => {
                    let holder = fs::read_to_string(&path).unwrap_or_default();
                    bail!(
                        "a fleet runs in {} already (`up` is process {}); end it first, or name another folder with --dir",
                        dir.display(),
                        holder.trim(),
                    );
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        // A help for messages alone: a full disk must not keep a fleet from starting.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        fcntl_setfd(&file, FdFlags::empty()).context("cannot share the lock with the nodes")?;
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_at_a_time() {
        let scratch = tempfile::tempdir().expect("a folder");
        let dir = scratch.path().join("fleet");
        let first = Lock::take(&dir).expect("the folder is free");
        let error = Lock::take(&dir).expect_err("the folder is taken").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())) && error.contains("--dir"), "{error}");
        drop(first);
        Lock::take(&dir).expect("the folder is free again");
    }
}
