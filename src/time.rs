//! Time as an integer, and the one place that reads the clock of the operating system.
//!
//! Everything that decides takes a [`Timestamp`] as a parameter, so that a month is tested in a microsecond.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// A moment: whole microseconds since the Unix epoch, UTC.
///
/// Doubles hold it exactly until the year 2255, which is what the Redis scripts rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A span of time in whole microseconds, never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(u64);

/// Where the present moment comes from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The wall clock of the operating system.
    #[default]
    System,
    /// A clock that moves only when told to, for tests and simulations.
    Manual(ManualClock),
}

/// A hand-moved clock; clones share one moment.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl Timestamp {
    /// After all others.
    pub const MAX: Self = Self(i64::MAX);

    /// `micros` microseconds after the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// `secs` seconds after the epoch.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The time from `earlier` to here; zero when `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Micros {
        Micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The start of the `period`, counted from the epoch, that holds this moment.
    pub fn floor_to(self, period: Micros) -> Timestamp {
        Self(self.0 - self.0.rem_euclid(period.as_i64().max(1)))
    }
}

/// How late a clock may be looked at, or ahead of another.
const LATE: Micros = Micros::from_millis(100);

impl Timestamp {
    /// The whole second at which people are told that something ends, rounded up. What is so little beyond one is that one: windows
    /// end with a second, and clocks are looked at a little late.
    pub fn whole_second(self) -> Self {
        let at = self.0.saturating_sub(LATE.as_i64());
        Self(
            (at.div_euclid(1_000_000) + i64::from(at.rem_euclid(1_000_000) != 0))
                .saturating_mul(1_000_000),
        )
    }
}

impl std::ops::Add<Micros> for Timestamp {
    type Output = Timestamp;

    fn add(self, span: Micros) -> Timestamp {
        Timestamp(self.0.saturating_add(span.as_i64()))
    }
}

impl Micros {
    /// No time at all.
    pub const ZERO: Micros = Micros(0);

    /// A span of `micros` microseconds.
    pub const fn new(micros: u64) -> Self {
        Self(micros)
    }

    /// A span of `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// A span of `secs` seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// The number of microseconds.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole seconds, rounded up: what a client is told to wait.
    pub const fn ceil_secs(self) -> u64 {
        self.0.div_ceil(1_000_000)
    }

    /// The same span as a [`Duration`].
    pub const fn to_duration(self) -> Duration {
        Duration::from_micros(self.0)
    }

    fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_duration())
    }
}

impl Clock {
    /// A manual clock that shows `now`, and the handle that moves it.
    pub fn manual(now: Timestamp) -> (Clock, ManualClock) {
        let handle = ManualClock(Arc::new(AtomicI64::new(now.0)));
        (Clock::Manual(handle.clone()), handle)
    }

    /// The present moment.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one reader of the wall clock"
    )]
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => {
                let since_epoch = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
            }
            Clock::Manual(clock) => Timestamp(clock.0.load(Ordering::SeqCst)),
        }
    }
}

impl ManualClock {
    /// Shows `now` from here on, be it later or earlier.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Micros) {
        self.0.fetch_add(by.as_i64(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_before_the_epoch_round_down() {
        let minute = Micros::from_secs(60);
        assert_eq!(
            Timestamp::from_secs(-1).floor_to(minute),
            Timestamp::from_secs(-60)
        );
        assert_eq!(
            Timestamp::from_secs(61).floor_to(minute),
            Timestamp::from_secs(60)
        );
    }

    #[test]
    fn what_ends_with_a_second_does_so_however_late_the_clock_is_looked_at() {
        for (micros, wanted) in [
            (60_000_000, 60),
            (60_000_300, 60),
            (60_100_000, 60),
            (60_100_001, 61),
            (60_999_999, 61),
            (-500_000, 0),
        ] {
            let whole = Timestamp::from_micros(micros).whole_second();
            assert_eq!(whole, Timestamp::from_secs(wanted), "{micros}");
        }
    }

    #[test]
    fn clones_of_a_manual_clock_move_together() {
        let (clock, handle) = Clock::manual(Timestamp::from_secs(5));
        let other = clock.clone();
        handle.advance(Micros::from_secs(1));
        assert_eq!(other.now(), Timestamp::from_secs(6));
    }
}
