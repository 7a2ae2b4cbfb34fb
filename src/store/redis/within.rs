//! How long a call may take, and since when: looked up once, and handed on.

use std::time::{Duration, Instant};

/// A span of time from its beginning to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Within {
    /// When it began; nothing is sent before.
    pub(super) begun: Instant,
    /// When it is over.
    pub(super) deadline: Instant,
}

impl Within {
    /// So much time from `begun` on.
    pub(super) fn since(begun: Instant, timeout: Duration) -> Self {
        let deadline = begun + timeout;
        Self { begun, deadline }
    }

    /// So much time from now on.
    pub(super) fn from_now(timeout: Duration) -> Self {
        Self::since(Instant::now(), timeout)
    }

    /// What is left of it by now.
    pub(super) fn rest(self) -> Self {
        let begun = Instant::now();
        Self { begun, ..self }
    }

    /// How long it is.
    pub(super) fn length(self) -> Duration {
        self.deadline.saturating_duration_since(self.begun)
    }
}
