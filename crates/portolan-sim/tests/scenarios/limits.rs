//! The rows of `simulations/limits/`, each with one seed; `portolan simulate` runs more.

use crate::loaded::{self, Loaded};

/// Runs the rows whose number leaves this rest when divided by four, so that tests run beside each other.
fn check(rest: usize) {
    for file in loaded::rows().into_iter().skip(rest).step_by(4) {
        Loaded::of(file).check([1]);
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
