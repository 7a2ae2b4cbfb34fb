//! Tells calls at once that a server does not answer, instead of letting each of them find out by waiting.
//!
//! It opens after [`FAILURES`] calls in a row without an answer in time. Then one call at a time is let through now and then, and the
//! first that is answered closes it. An error is an answer, and so is none from a server without a connection, of which the
//! caller knows at once: neither is waited for.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So many calls in a row without an answer open it.
pub(super) const FAILURES: u32 = 32;

/// Between two that are let through while it is open: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(320));

/// Closed, as long as `retry_at` is 0.
#[derive(Debug)]
pub(super) struct Breaker {
    begun: Instant,
    /// Calls in a row without an answer.
    failures: AtomicU32,
    /// When the next call is let through, in microseconds since `begun`.
    retry_at: AtomicU64,
    /// How many have been let through in vain since it opened.
    retries: AtomicU32,
}

/// What a change means to those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    Closed,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            failures: AtomicU32::new(0),
            retry_at: AtomicU64::new(0),
            retries: AtomicU32::new(0),
        }
    }

    /// Whether calls are kept from the server.
    pub(super) fn is_open(&self) -> bool {
        self.retry_at.load(Ordering::Relaxed) != 0
    }

    /// Whether a call may go.
    pub(super) fn admits(&self) -> bool {
        !self.is_open() || self.admits_at(self.now())
    }

    fn admits_at(&self, now: u64) -> bool {
        let retry_at = self.retry_at.load(Ordering::Relaxed);
        if now < retry_at {
            return false;
        }
        let tries = self.retries.fetch_add(1, Ordering::Relaxed).min(10);
        let (first, longest) = RETRY;
        let pause = (first * 2_u32.pow(tries)).min(longest);
        let next = now + pause.as_micros() as u64;
        // Of those that come at once, one goes.
        self.retry_at
            .compare_exchange(retry_at, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// A call was answered.
    pub(super) fn answered(&self) -> Option<Change> {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.retries.store(0, Ordering::Relaxed);
        let was_open = self.retry_at.swap(0, Ordering::Relaxed) != 0;
        was_open.then_some(Change::Closed)
    }

    /// A call was not answered in time.
    pub(super) fn failed(&self) -> Option<Change> {
        self.failed_at(self.now())
    }

    fn failed_at(&self, now: u64) -> Option<Change> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures < FAILURES {
            return None;
        }
        let (first, _) = RETRY;
        let retry_at = now + first.as_micros() as u64;
        self.retry_at
            .compare_exchange(0, retry_at, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
            .then_some(Change::Opened)
    }

    fn now(&self) -> u64 {
        // Never 0, which means closed.
        self.begun.elapsed().as_micros() as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that has opened at 1.
    fn open() -> Breaker {
        let breaker = Breaker::new();
        for _ in 1..FAILURES {
            assert_eq!(breaker.failed_at(1), None);
            assert!(breaker.admits());
        }
        assert_eq!(breaker.failed_at(1), Some(Change::Opened));
        assert!(breaker.is_open());
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let breaker = Breaker::new();
        for _ in 0..10 {
            for _ in 1..FAILURES {
                assert_eq!(breaker.failed(), None);
            }
            assert_eq!(breaker.answered(), None);
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn while_it_is_open_one_call_is_let_through_now_and_then() {
        let breaker = open();
        let mut now = 1;
        for pause_ms in [20, 20, 40, 80, 160, 320, 320] {
            now += pause_ms * 1000;
            assert!(!breaker.admits_at(now - 1), "within {pause_ms} ms");
            let admitted = (0..10).filter(|_| breaker.admits_at(now)).count();
            assert_eq!(admitted, 1, "after {pause_ms} ms");
            assert_eq!(breaker.failed_at(now), None);
        }
        assert_eq!(breaker.answered(), Some(Change::Closed));
        assert!(breaker.admits());
        for _ in 1..FAILURES {
            assert_eq!(breaker.failed_at(now), None, "it counts anew");
        }
        assert_eq!(breaker.failed_at(now), Some(Change::Opened));
        assert!(breaker.admits_at(now + 20_000));
        assert!(breaker.admits_at(now + 40_000), "the pauses begin anew");
    }
}
