//! One run told in full: a line for every packet, verdict and event, in fixed columns, for `grep` and `diff`.

use std::fmt::Write;

use portolan_config::Scenario;
use portolan_model::Timestamp;

use crate::{Options, Outcome, Sources, run_with};

/// Runs a scenario once and hands every line of its trace to `write`, without a line end.
pub fn replay(scenario: &Scenario, sources: &Sources, seed: u64, write: &mut (dyn FnMut(&str) + Send)) -> Outcome {
    write(&format!("{:>12}  {:<8} {:<20} {:<20} what", "seconds", "kind", "from", "to"));
    run_with(scenario, sources, seed, Options { write: Some(write), ..Options::default() })
}

/// One line: time, kind, sender, receiver, the rest.
pub(crate) fn line(at: Timestamp, kind: &str, from: &str, to: &str, what: &str) -> String {
    let micros = at.as_nanos() / 1000;
    let mut line = format!("{:>5}.{:06}  {kind:<8} {from:<20} {to:<20} ", micros / 1_000_000, micros % 1_000_000);
    let mut rest = what.chars();
    let _ = line.write_str(&rest.by_ref().take(MAX_WHAT).collect::<String>());
    if rest.next().is_some() {
        line.push('…');
    }
    line
}

/// Longest text at the end of a line.
const MAX_WHAT: usize = 240;
