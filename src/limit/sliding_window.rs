//! Sliding windows: never more than the limit in any interval of the window's length, as a hard bound.
//!
//! The window is cut into [`SLICES`] slices. A hit is remembered by its slice, and a slice counts whole until the newest
//! moment in it is a full window old, so any interval of the window's length lies within the slices that are counted. The
//! price is that a hit may be remembered for up to one slice longer than the window.

use super::{Hits, Receipt};
use crate::time::{Micros, Timestamp};

/// How many slices a window is cut into: a hit is remembered for at most a tenth of a window too long.
pub const SLICES: usize = 10;

/// The slices that can hold a hit of the last window: the current one and all that the window reaches back into.
pub const REMEMBERED: usize = SLICES + 1;

/// How long a slice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    length: Micros,
}

/// The hits of the remembered slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The number of the newest slice, counted from the epoch.
    pub newest: i64,
    /// Hits by age: the newest slice first.
    pub counts: [Hits; REMEMBERED],
}

impl Slices {
    /// The slices of a window of `length`, which is a whole number of seconds.
    pub fn new(length: Micros) -> Self {
        Self {
            length: Micros::new(length.get() / SLICES as u64),
        }
    }

    /// The length of one slice.
    pub fn length(&self) -> Micros {
        self.length
    }

    /// The number of the slice that holds `now`.
    fn number(&self, now: Timestamp) -> i64 {
        now.as_micros().div_euclid(self.micros())
    }

    /// When the slice `number` stops counting.
    fn leaves(&self, number: i64) -> Timestamp {
        Timestamp::from_micros((number + REMEMBERED as i64).saturating_mul(self.micros()))
    }

    fn micros(&self) -> i64 {
        i64::try_from(self.length.get()).unwrap_or(i64::MAX)
    }
}

impl State {
    /// Nothing used.
    pub fn fresh(slices: &Slices, now: Timestamp) -> Self {
        Self {
            newest: slices.number(now),
            counts: [Hits::ZERO; REMEMBERED],
        }
    }

    /// Forgets the slices that have left.
    pub fn advance(&mut self, slices: &Slices, now: Timestamp) {
        let number = slices.number(now);
        let passed = usize::try_from(number.saturating_sub(self.newest)).unwrap_or(0);
        if passed == 0 {
            return;
        }
        self.newest = number;
        let kept = REMEMBERED.saturating_sub(passed);
        self.counts.copy_within(..kept, REMEMBERED - kept);
        self.counts[..REMEMBERED - kept].fill(Hits::ZERO);
    }

    /// What is used: all remembered slices, the oldest whole.
    pub fn used(&self) -> Hits {
        self.counts.iter().fold(Hits::ZERO, |sum, n| sum.plus(*n))
    }

    /// The time until `hits` fit, which they do not now: when enough of the oldest slices have left.
    pub fn wait(&self, slices: &Slices, capacity: Hits, now: Timestamp, hits: Hits) -> Micros {
        let mut excess = self.used().plus(hits).saturating_sub(capacity);
        for (age, count) in self.counts.iter().enumerate().rev() {
            excess = excess.saturating_sub(*count);
            if excess == Hits::ZERO {
                return slices.leaves(self.newest - age as i64).since(now);
            }
        }
        self.fresh_in(slices, now)
    }

    /// Adds `hits` to the newest slice.
    pub fn charge(&mut self, hits: Hits) {
        self.counts[0] = self.counts[0].plus(hits);
    }

    /// Takes `hits` off, oldest first: what is left is remembered longest, so a refund never makes room too early.
    pub fn refund(&mut self, hits: Hits) {
        let mut left = hits;
        for count in self.counts.iter_mut().rev() {
            let taken = left.min(*count);
            *count = count.saturating_sub(taken);
            left = left.saturating_sub(taken);
        }
    }

    /// Undoes a charge if its slice is still remembered.
    pub fn give_back(&mut self, slices: &Slices, receipt: &Receipt) {
        let age = usize::try_from(self.newest - slices.number(receipt.at));
        if let Some(count) = age.ok().and_then(|age| self.counts.get_mut(age)) {
            *count = count.saturating_sub(receipt.hits);
        }
    }

    /// The time until nothing is remembered.
    pub fn fresh_in(&self, slices: &Slices, now: Timestamp) -> Micros {
        match self.counts.iter().position(|count| *count > Hits::ZERO) {
            Some(age) => slices.leaves(self.newest - age as i64).since(now),
            None => Micros::ZERO,
        }
    }
}
