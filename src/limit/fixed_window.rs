//! Fixed windows: the hits of the current window, all forgotten at its end.
//!
//! Seconds to hours are aligned to the Unix epoch, days and longer are calendar periods. Two neighbouring windows may
//! together admit twice the limit around their border; a sliding window may not.

use super::period::{Calendar, Zone};
use super::{Hits, Receipt, Unit};
use crate::time::{Micros, Timestamp};

/// Where the windows of a limit begin and end.
#[derive(Clone, Debug)]
pub enum Windows {
    /// All of one length, counted from the epoch.
    Even(Micros),
    /// Calendar periods in a time zone.
    Calendar(Calendar),
}

/// What is used of the current window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The end of the window that `used` belongs to; it also names the window.
    pub end: Timestamp,
    /// The hits charged in it.
    pub used: Hits,
}

impl Windows {
    /// Windows of `multiplier` × `unit`.
    pub fn new(unit: Unit, multiplier: u32, zone: &Zone) -> Self {
        match unit {
            Unit::Second | Unit::Minute | Unit::Hour => {
                Windows::Even(Micros::new(unit.nominal().get() * u64::from(multiplier)))
            }
            Unit::Day | Unit::Week | Unit::Month | Unit::Year => {
                Windows::Calendar(Calendar::new(unit, multiplier, zone.clone()))
            }
        }
    }

    /// The end of the window that holds `now`.
    pub fn end(&self, now: Timestamp) -> Timestamp {
        match self {
            Windows::Even(length) => now.floor_to(*length) + *length,
            Windows::Calendar(calendar) => calendar.period(now).end,
        }
    }
}

impl State {
    /// Nothing used of the window that holds `now`.
    pub fn fresh(windows: &Windows, now: Timestamp) -> Self {
        Self {
            end: windows.end(now),
            used: Hits::ZERO,
        }
    }

    /// Rolls to the window that holds `now`. When only the borders of the windows have changed (a new time zone), what
    /// was used stays used.
    pub fn advance(&mut self, windows: &Windows, now: Timestamp) {
        if self.end <= now {
            self.used = Hits::ZERO;
        }
        self.end = windows.end(now);
    }

    /// What is used.
    pub fn used(&self) -> Hits {
        self.used
    }

    /// Adds `hits`.
    pub fn charge(&mut self, hits: Hits) {
        self.used = self.used.plus(hits);
    }

    /// Takes `hits` off.
    pub fn refund(&mut self, hits: Hits) {
        self.used = self.used.saturating_sub(hits);
    }

    /// Undoes a charge if its window is still the current one.
    pub fn give_back(&mut self, windows: &Windows, receipt: &Receipt) {
        if windows.end(receipt.at) == self.end {
            self.refund(receipt.hits);
        }
    }

    /// The time until the window ends.
    pub fn fresh_in(&self, now: Timestamp) -> Micros {
        self.end.since(now)
    }
}
