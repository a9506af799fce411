//! Decides whether a failed attempt is made again at another endpoint.
//!
//! A request that may have reached a service is repeated only where that is provably safe: the method is idempotent
//! (RFC 9110 §9.2.2) and its body is still at hand. Never looks at a response: one that began is passed on as it is.

use std::time::Duration;

/// How far a failed attempt got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// No byte of the request left: the connection was refused, timed out or closed before use.
    NotSent,
    /// Some of the request may have been read.
    Sent,
}

/// What is known about a request after an attempt failed.
#[derive(Clone, Copy, Debug)]
pub struct AttemptFacts {
    /// Whether repeating the method has the effect of doing it once.
    pub method_idempotent: bool,
    /// How far the attempt got.
    pub sent: Sent,
    /// Whether the whole body can be sent again: there is none, it was kept, or none of it was taken yet.
    pub body_replayable: bool,
    /// Attempts that got as far as [`Sent::Sent`], this one included.
    pub attempts_so_far: u32,
    /// Attempts that ended [`Sent::NotSent`], this one included.
    pub connect_failures: u32,
    /// What is left of the route's timeout.
    pub deadline_left: Duration,
}

/// The verdict on another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Try another endpoint.
    Retry,
    /// Answer the client with the failure.
    GiveUp(GiveUp),
}

/// Why a request is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// The route's timeout has passed, or so nearly that no attempt can succeed.
    Deadline,
    /// As many attempts were made as are allowed.
    Attempts,
    /// The service may have acted on it, and repeating the method may act twice.
    NotIdempotent,
    /// The body was streamed and is gone.
    BodyGone,
}

/// The bounds on attempts; [`Default`] is what the gateway uses.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Endpoints dialled for one request before giving up. Default 3: two of the own region and one of the next.
    pub max_connects: u32,
    /// Attempts that may be read by a service. Default 2: one retry, for more would multiply load in an outage.
    pub max_sent: u32,
    /// Least time left that is worth an attempt. Default 1 ms.
    pub min_time_left: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_connects: 3, max_sent: 2, min_time_left: Duration::from_millis(1) }
    }
}

impl RetryPolicy {
    /// Says whether a failed attempt is followed by another.
    pub fn decide(&self, facts: &AttemptFacts) -> Retry {
        if facts.deadline_left < self.min_time_left {
            return Retry::GiveUp(GiveUp::Deadline);
        }
        if facts.connect_failures >= self.max_connects || facts.attempts_so_far >= self.max_sent {
            return Retry::GiveUp(GiveUp::Attempts);
        }
        match facts.sent {
            Sent::Sent if !facts.method_idempotent => Retry::GiveUp(GiveUp::NotIdempotent),
            _ if !facts.body_replayable => Retry::GiveUp(GiveUp::BodyGone),
            _ => Retry::Retry,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sent: Sent, idempotent: bool, replayable: bool, sent_count: u32, connects: u32) -> Retry {
        RetryPolicy::default().decide(&AttemptFacts {
            method_idempotent: idempotent,
            sent,
            body_replayable: replayable,
            attempts_so_far: sent_count,
            connect_failures: connects,
            deadline_left: Duration::from_secs(1),
        })
    }

    #[test]
    fn a_request_that_never_left_is_tried_at_three_endpoints_whatever_its_method() {
        assert_eq!(check(Sent::NotSent, false, true, 0, 1), Retry::Retry);
        assert_eq!(check(Sent::NotSent, false, true, 0, 2), Retry::Retry);
        assert_eq!(check(Sent::NotSent, false, true, 0, 3), Retry::GiveUp(GiveUp::Attempts));
    }

    #[test]
    fn a_request_that_may_have_been_read_is_repeated_once_and_only_where_safe() {
        assert_eq!(check(Sent::Sent, true, true, 1, 0), Retry::Retry);
        assert_eq!(check(Sent::Sent, true, true, 2, 0), Retry::GiveUp(GiveUp::Attempts));
        assert_eq!(check(Sent::Sent, false, true, 1, 0), Retry::GiveUp(GiveUp::NotIdempotent));
        assert_eq!(check(Sent::Sent, true, false, 1, 0), Retry::GiveUp(GiveUp::BodyGone));
    }

    #[test]
    fn no_attempt_starts_after_the_deadline() {
        let facts = AttemptFacts {
            method_idempotent: true,
            sent: Sent::NotSent,
            body_replayable: true,
            attempts_so_far: 0,
            connect_failures: 1,
            deadline_left: Duration::ZERO,
        };
        assert_eq!(RetryPolicy::default().decide(&facts), Retry::GiveUp(GiveUp::Deadline));
    }
}
