//! Places: how many of something there may be at once.

use std::sync::Arc;

/// A number of places. One thread takes them, and any gives them back: of several that took the last one at once, none might get it.
#[derive(Debug)]
pub(super) struct Places {
    /// What all places share, so that it has as many holders as are taken, and one.
    shared: Arc<()>,
    most: usize,
}

/// One that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "it is held, and counted")] Arc<()>);

impl Places {
    /// As many as `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            shared: Arc::default(),
            most,
        }
    }

    /// One of them; none if all are taken.
    pub(super) fn take(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.shared));
        let taken = Arc::strong_count(&self.shared) - 1;
        (taken <= self.most).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_are_said_and_each_is_free_again() {
        let places = Places::new(2);
        let (first, second) = (places.take(), places.take());
        assert!(first.is_some() && second.is_some());
        assert!(places.take().is_none());
        assert!(places.take().is_none(), "who gets none takes none");
        drop(first);
        assert!(places.take().is_some());
        assert!(Places::new(0).take().is_none());
    }
}
