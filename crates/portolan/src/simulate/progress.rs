//! How far a long rehearsal is, on standard error: one line that changes on a terminal, a line now and then elsewhere, and
//! nothing for what is over at once.

use std::{
    io::{IsTerminal, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Before this much time nothing is said.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// Between changes of the line on a terminal.
const TERMINAL_PERIOD: Duration = Duration::from_millis(250);

/// Between lines elsewhere.
const LOG_PERIOD: Duration = Duration::from_secs(20);

/// Says how far the runs are until it is dropped.
pub struct Progress {
    shared: Arc<Shared>,
    teller: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    over: Condvar,
}

#[derive(Default)]
struct State {
    done: usize,
    failed: usize,
    /// Virtual time that has passed in all runs.
    passed: Duration,
    over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// Begins to tell of `total` runs, which last `length` of virtual time together.
    pub fn start(total: usize, length: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let teller = std::thread::Builder::new().name("progress".to_owned());
        let teller = teller.spawn(move || tell(&told, total, length));
        // Without a thread there is no progress to read, and that is all.
        Self { shared, teller: teller.ok() }
    }

    /// So much more virtual time has passed in some run.
    pub fn passed(&self, time: Duration) {
        self.shared.state().passed += time;
    }

    /// A run is over.
    pub fn done(&self, passed: bool) {
        let mut state = self.shared.state();
        state.done += 1;
        state.failed += usize::from(!passed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shared.state().over = true;
        self.shared.over.notify_all();
        if let Some(teller) = self.teller.take() {
            // A teller that panicked has nothing to give back.
            let _ = teller.join();
        }
    }
}

fn tell(shared: &Shared, total: usize, length: Duration) {
    let terminal = std::io::stderr().is_terminal();
    let period = if terminal { TERMINAL_PERIOD } else { LOG_PERIOD };
    let begun = Instant::now();
    let mut wait = SILENT_FOR.max(period);
    let mut shown = false;
    let mut state = shared.state();
    while !state.over {
        let (woken, timeout) = shared.over.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
        state = woken;
        if timeout.timed_out() && !state.over {
            let share = state.passed.as_secs_f64() / length.as_secs_f64().max(f64::EPSILON);
            let line = line(state.done, state.failed, total, share, begun.elapsed());
            let mut stderr = std::io::stderr().lock();
            // Nobody reads a progress line that cannot be written.
            let _ = if terminal {
                write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush())
            } else {
                writeln!(stderr, "{line}")
            };
            (shown, wait) = (true, period);
        }
    }
    if shown && terminal {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

fn line(done: usize, failed: usize, total: usize, share: f64, elapsed: Duration) -> String {
    let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    let share = share.clamp(0.0, 1.0);
    // A guess from a hundredth of the work would be read as more than it is.
    let left = (share > 0.01).then(|| elapsed.as_secs_f64() * (1.0 - share) / share);
    let left = left.map_or(String::new(), |left| format!(", about {} s left", left.ceil()));
    format!("{:.0} %, {done} of {total} runs{failures}, {} s{left}", share * 100.0, elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_done_and_what_is_left() {
        let check = |done, failed, share, expected: &str| {
            assert_eq!(line(done, failed, 40, share, Duration::from_secs(20)), expected);
        };
        check(0, 0, 0.0, "0 %, 0 of 40 runs, 20 s");
        check(10, 0, 0.25, "25 %, 10 of 40 runs, 20 s, about 60 s left");
        check(40, 2, 1.5, "100 %, 40 of 40 runs, 2 failed, 20 s, about 0 s left");
    }
}
