//! The name of a limit among those of one key.

use super::{MAX_MULTIPLIER, Shape, Unit};

/// Names a limit among those of one key: its algorithm and window, but not its numbers, so that a changed number keeps
/// what was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u32);

impl Tag {
    pub(super) fn new(shape: &Shape, unit: Unit, multiplier: u32) -> Self {
        let algorithm = match shape {
            Shape::FixedWindow(_) => 1,
            Shape::TokenBucket(_) => 2,
            Shape::SlidingWindow(_) => 3,
        };
        // Injective: an algorithm and a unit need five bits, a multiplier twenty.
        Self(multiplier * 32 + algorithm * 8 + unit as u32)
    }

    /// The tag of a ban whose refusals are counted in windows of `within`.
    pub fn of_ban(within: Unit) -> Self {
        Self(32 + within as u32)
    }

    /// A multiplier that no limit has tells a meter from the limit of the same window.
    pub(super) fn of_meter(unit: Unit) -> Self {
        Self((MAX_MULTIPLIER + 1) * 32 + 8 + unit as u32)
    }

    /// The tag of a candidate for the limit of this one: a bit that no multiplier reaches.
    pub const fn on_trial(self) -> Self {
        Self(self.0 | 1 << 31)
    }

    /// Which algorithm's state it names: 0 a ban's, 1 a fixed window's, 2 a token bucket's, 3 a sliding window's.
    pub const fn algorithm(self) -> u32 {
        self.0 % 32 / 8
    }

    /// The tag that was stored as this number.
    pub const fn from_stored(number: u32) -> Self {
        Self(number)
    }

    /// The tag as it is stored.
    pub const fn get(self) -> u32 {
        self.0
    }
}
