//! Numbers that many threads add to, each on a line of the cache of its own: one that all add to is handed from core to core, which takes
//! longer than what is counted.

use std::array;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many lines there are, which take half a kilobyte. Threads beyond share them.
const LINES: usize = 8;

/// No thread's number.
const UNKNOWN: usize = usize::MAX;

/// How many threads have counted.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The number of this thread among those that have counted, once it has.
    static THREAD: Cell<usize> = const { Cell::new(UNKNOWN) };
}

/// `N` numbers that only grow. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Stripes<const N: usize>(Arc<[Line<N>; LINES]>);

#[derive(Debug)]
#[repr(align(64))]
struct Line<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Stripes<N> {
    fn default() -> Self {
        let line = |_| Line([const { AtomicU64::new(0) }; N]);
        Self(Arc::new(array::from_fn(line)))
    }
}

impl<const N: usize> Stripes<N> {
    /// What this thread adds to.
    pub(super) fn here(&self) -> &[AtomicU64; N] {
        &self.0[thread() % LINES].0
    }

    /// What the number at `place` has come to, by all threads.
    pub(super) fn sum(&self, place: usize) -> u64 {
        let lines = self.0.iter();
        lines
            .map(|line| line.0[place].load(Ordering::Relaxed))
            .sum()
    }

    /// Where they are: the same for clones, and never another's.
    pub(super) fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

/// The number of this thread.
fn thread() -> usize {
    let known = THREAD.get();
    if known == UNKNOWN { first() } else { known }
}

/// Gives this thread a number.
#[cold]
fn first() -> usize {
    let number = THREADS.fetch_add(1, Ordering::Relaxed);
    THREAD.set(number);
    number
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    #[test]
    fn nothing_is_lost_whoever_adds() {
        const EACH: u64 = 1000;
        let numbers = Stripes::<2>::default();
        let threads = 3 * LINES as u64;
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        numbers.here()[0].fetch_add(1, Ordering::Relaxed);
                        numbers.clone().here()[1].fetch_add(2, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(
            [numbers.sum(0), numbers.sum(1)],
            [threads * EACH, 2 * threads * EACH]
        );
    }

    #[test]
    fn each_thread_has_a_number_and_each_line_is_one_of_the_cache() {
        let numbers = || [thread(), thread()];
        let of_threads: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..LINES).map(|_| scope.spawn(numbers)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("numbers"))
                .collect()
        });
        let distinct: HashSet<usize> = of_threads.iter().flatten().copied().collect();
        assert_eq!(distinct.len(), LINES, "{of_threads:?}");
        assert_eq!((size_of::<Line<1>>(), align_of::<Line<5>>()), (64, 64));
    }
}
