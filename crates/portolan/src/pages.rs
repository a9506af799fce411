//! Large pages for a node's memory: its counters lie in one table of some ten or hundred megabytes that every request
//! reads at another place, so that with pages of 4 KiB each look costs a walk through page tables too. See decision 19.
//!
//! The kernel gives such pages to programs that ask (`madvise`, the usual setting), and the C library asks for them if it
//! is told so when a program starts. Never fails: without them a node is only slower.

use std::{env, os::unix::process::CommandExt, process::Command};

/// Starts this program again under the same process id, with the C library told to ask for large pages, unless whoever
/// started it said what the library is to do.
pub fn ask_for_large_ones() {
    if env::var_os(TUNABLES).is_none()
        && let Ok(program) = env::current_exe()
    {
        // Returns only if it could not.
        let _ = Command::new(program).args(env::args_os().skip(1)).env(TUNABLES, LARGE_PAGES).exec();
    }
}

/// Read by glibc alone, before `main`.
const TUNABLES: &str = "GLIBC_TUNABLES";

const LARGE_PAGES: &str = "glibc.malloc.hugetlb=1";
