//! What openraft takes from its surroundings: tasks and time from Tokio, random numbers from a generator of this thread
//! that can be seeded. Never opens a second source of either, so that a paused clock and a seed fix every run.
//!
//! openraft asks for randomness by a static function, hence the thread-local; it uses the numbers for election timeouts.

use std::{cell::RefCell, future::Future, time::Duration};

use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use rand_08::{RngCore, SeedableRng, rngs::SmallRng};

/// Tokio with a seedable generator.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Runtime;

thread_local! {
    static GENERATOR: RefCell<SmallRng> = RefCell::new(SmallRng::from_entropy());
}

/// Makes every random number that Raft draws on this thread follow from `seed`.
pub fn seed_thread(seed: u64) {
    GENERATOR.with(|generator| *generator.borrow_mut() = SmallRng::seed_from_u64(seed));
}

/// The generator of this thread.
#[derive(Debug)]
pub struct ThreadGenerator;

impl RngCore for ThreadGenerator {
    fn next_u32(&mut self) -> u32 {
        GENERATOR.with(|generator| generator.borrow_mut().next_u32())
    }

    fn next_u64(&mut self) -> u64 {
        GENERATOR.with(|generator| generator.borrow_mut().next_u64())
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        GENERATOR.with(|generator| generator.borrow_mut().fill_bytes(dest));
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_08::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

type Stock = TokioRuntime;

impl AsyncRuntime for Runtime {
    type JoinError = <Stock as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Stock as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Stock as AsyncRuntime>::Sleep;
    type Instant = <Stock as AsyncRuntime>::Instant;
    type TimeoutError = <Stock as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Stock as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = ThreadGenerator;
    type OneshotSender<T: OptionalSend> = <Stock as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiverError = <Stock as AsyncRuntime>::OneshotReceiverError;
    type OneshotReceiver<T: OptionalSend> = <Stock as AsyncRuntime>::OneshotReceiver<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Stock::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Stock::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Stock::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Stock::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Stock::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Stock::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        ThreadGenerator
    }

    fn oneshot<T>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>)
    where
        T: OptionalSend,
    {
        Stock::oneshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_what_the_thread_draws() {
        let draw = |seed| {
            seed_thread(seed);
            [Runtime::thread_rng().next_u64(), Runtime::thread_rng().next_u64()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
