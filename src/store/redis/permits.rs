//! How many calls there may be at once.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of permits, which nobody waits for.
#[derive(Debug)]
pub(super) struct Permits {
    left: AtomicUsize,
}

/// One that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Permit<'p>(&'p Permits);

impl Permits {
    /// As many as `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            left: AtomicUsize::new(most),
        }
    }

    /// One of them; none if all are taken.
    pub(super) fn take(&self) -> Option<Permit<'_>> {
        let one_less = |left: usize| left.checked_sub(1);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        taken.is_ok().then(|| Permit(self))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.left.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_are_said_and_each_is_free_again() {
        let permits = Permits::new(2);
        let (first, second) = (permits.take(), permits.take());
        assert!(first.is_some() && second.is_some());
        assert!(permits.take().is_none());
        assert!(permits.take().is_none(), "who gets none takes none");
        drop(first);
        assert!(permits.take().is_some());
        assert!(Permits::new(0).take().is_none());
    }
}
