//! Waits for conditions, never for time: each wait has a deadline and says what did not come about.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` yields a value; says `what` was awaited when `deadline` passes first.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// As [`until`], and tells how long it took.
pub async fn within<T, F: Future<Output = Option<T>>>(
    what: &str,
    deadline: Duration,
    condition: impl FnMut() -> F,
) -> (T, Duration) {
    let started = Instant::now();
    let value = until(what, deadline, condition).await;
    (value, started.elapsed())
}
