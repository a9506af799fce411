//! Asks the limits of a route, and waits a little where more may be admitted within moments.
//!
//! Decides how often a request asks again and when it gives up; the limiter says how long each reason is worth. A request
//! holds nothing while it waits, no body, no upstream connection, no unit of a limit, and is woken by the node's loop:
//! nobody polls. Never waits for anything outside the node.

use std::{cell::Cell, rc::Rc, time::Duration};

use portolan_config::{LimitId, Route};
use portolan_limits::{Admission, Charge, Claim, Denial, Limiter, Patience, Wait, WaitReason};
use portolan_node::Subject;
use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

use crate::{
    decision::WaitEnd,
    worker::{Prepared, Worker},
};

/// Requests of one worker that may wait at one time; further ones get at once the answer they would get after waiting.
const MAX_WAITING: usize = 4096;

/// The charges, or the refusal.
type Verdict = Result<SmallVec<[Charge; 4]>, Box<Denial>>;

/// How the limits answered.
pub(crate) struct Admitted {
    /// What they decided.
    pub verdict: Verdict,
    /// How long the answer was waited for.
    pub waited: Duration,
}

/// Requests of one worker that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Cell<usize>);

/// Asks the limits of `route`, as the view that matched it knows them: another one may bind the route to other limits,
/// or not know it.
pub(crate) async fn admit(worker: &Worker, prepared: &Rc<Prepared>, route: &Route, subject: &Subject<'_>) -> Admitted {
    let view = &prepared.view;
    let Some(claims) = view.claims(route, subject) else {
        // The route is one of this view, so this refuses what cannot happen, closed.
        let unknown = Wait::unknown(LimitId(u32::MAX), route.name.clone());
        return Admitted { verdict: Err(Box::new(unknown.otherwise)), waited: Duration::ZERO };
    };
    // Most requests never wait: the list of those who do has a lock, and is entered only to ask again.
    let first = ask(worker, &view.limiter, || view.limiter.admit(&claims, worker.now()));
    let (verdict, waited) = match first {
        Admission::Allow(charges) => (Ok(charges), Duration::ZERO),
        Admission::Deny(denial) => (Err(Box::new(denial)), Duration::ZERO),
        Admission::Wait(wait) => {
            let mut waiter = Waiter::new(&wait);
            let (verdict, end) = wait_for(worker, &view.limiter, &claims, &mut waiter, wait).await;
            worker.shard.count_wait(waiter.last, end);
            (verdict, waiter.since.elapsed())
        }
    };
    note_names(worker, prepared, route, subject, &claims, &verdict);
    Admitted { verdict, waited }
}

/// Asks, and wakes the node's loop if the answer wants more of it.
fn ask(worker: &Worker, limiter: &Limiter, admit: impl FnOnce() -> Admission) -> Admission {
    let admission = admit();
    if limiter.take_attention() {
        worker.shared.limits_wanted.notify_one();
    }
    admission
}

/// Asks again each time that something moved, for as long as the reason is worth.
async fn wait_for(
    worker: &Worker,
    limiter: &Limiter,
    claims: &[Claim],
    waiter: &mut Waiter,
    first: Wait,
) -> (Verdict, WaitEnd) {
    waiter.until(&first);
    let Some(_place) = worker.waiting.enter() else {
        return (Err(Box::new(first.otherwise)), WaitEnd::Crowded);
    };
    let mut waited = first.waited();
    loop {
        let moved = worker.shared.limits_moved.notified();
        tokio::pin!(moved);
        // Registered before asking again, so that what moves in between is not missed.
        moved.as_mut().enable();
        let wait = match ask(worker, limiter, || limiter.admit_again(claims, waited, worker.now())) {
            Admission::Allow(charges) => return (Ok(charges), WaitEnd::Admitted),
            Admission::Deny(denial) => return (Err(Box::new(denial)), WaitEnd::Refused),
            Admission::Wait(wait) => wait,
        };
        // Woken by every move, so possibly by one that is of no use to this request.
        if timeout_at(waiter.until(&wait), moved).await.is_err() {
            return (Err(Box::new(wait.otherwise)), WaitEnd::InVain);
        }
        waited = wait.waited();
    }
}

/// Remembers who is close to a limit or over it: counters know only hashes, and operators ask who it is.
fn note_names(
    worker: &Worker,
    prepared: &Prepared,
    route: &Route,
    subject: &Subject<'_>,
    claims: &[Claim],
    verdict: &Verdict,
) {
    let view = &prepared.view;
    let pressed = |at: usize, limit: LimitId| match verdict {
        Ok(charges) => charges.get(at).is_some_and(|charge| {
            let quota = view.limiter.policy(charge).map_or(0, |policy| policy.quota);
            charge.remaining.saturating_mul(2) <= quota
        }),
        Err(denial) => denial.limit == limit,
    };
    for (at, (claim, binding)) in claims.iter().zip(view.limits_of(route)).enumerate() {
        if pressed(at, claim.limit) {
            worker.shard.note_key(claim.key, || binding.name_of(route, subject));
        }
    }
}

/// A request that waits.
struct Waiter {
    since: Instant,
    patience: Patience,
    last: WaitReason,
}

impl Waiter {
    fn new(first: &Wait) -> Self {
        Self { since: Instant::now(), patience: Patience::default(), last: first.reason }
    }

    fn until(&mut self, wait: &Wait) -> Instant {
        self.last = wait.reason;
        self.since + self.patience.until(wait, self.since.elapsed())
    }
}

impl Waiting {
    /// Takes a place, given back when it is dropped; `None` when all are taken.
    fn enter(&self) -> Option<Place<'_>> {
        let taken = self.0.get();
        if taken >= MAX_WAITING {
            return None;
        }
        self.0.set(taken + 1);
        Some(Place(self))
    }
}

struct Place<'a>(&'a Waiting);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}
