//! The rows of `simulations/limits/`, each with one seed; `portolan simulate` runs more.

use crate::loaded::{self, Loaded};

/// Rows that refuse more than their band, which is a goal, in some seeds. None of them admits too much.
const OPEN: [&str; 1] = ["burst"];

/// Runs the rows whose number leaves this rest when divided by four, so that tests run beside each other.
fn check(rest: usize) {
    for file in loaded::rows().into_iter().skip(rest).step_by(4) {
        let row = Loaded::of(file);
        if OPEN.iter().any(|name| row.is(name)) {
            let outcome = row.run(1);
            assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
        } else {
            row.check([1]);
        }
    }
}

#[test]
fn rows_of_limits_hold_their_bands() {
    check(0);
}

#[test]
fn more_rows_of_limits_hold_their_bands() {
    check(1);
}

#[test]
fn still_more_rows_of_limits_hold_their_bands() {
    check(2);
}

#[test]
fn the_last_rows_of_limits_hold_their_bands() {
    check(3);
}
