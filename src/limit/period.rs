//! Calendar periods: days, weeks, months and years in a time zone, daylight saving included.
//!
//! Several units in one window are counted from a fixed start, so that 3 months are the quarters of the year: days and
//! weeks from Monday, 5 January 1970, months and years from January of the year 0.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, ToSpan};

use super::Unit;
use crate::time::Timestamp;

/// A time zone of the IANA database, which is compiled in.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

/// Calendar periods of one length in one zone.
#[derive(Clone, Debug)]
pub struct Calendar {
    unit: Unit,
    multiplier: i64,
    zone: Zone,
    /// The last answer: nearly every question is about the current period.
    last: Arc<ArcSwapOption<Period>>,
    /// The last answer about neighbours.
    last_borders: Arc<ArcSwapOption<Borders>>,
}

/// One period: `start` belongs to it, `end` to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its first microsecond.
    pub start: Timestamp,
    /// The first microsecond of the next.
    pub end: Timestamp,
}

/// The start of the period before a moment's own, the start and end of its own, and the ends of the next two.
pub type Borders = [Timestamp; 5];

impl Zone {
    /// Coordinated Universal Time.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The zone of an IANA name such as `Europe/Berlin`; none if there is no such zone.
    pub fn named(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().map(Self)
    }

    /// The IANA name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The first moment of `day`: midnight, or what comes after it where the clocks skip midnight.
    fn start_of(&self, day: Date) -> Timestamp {
        let start = day
            .to_zoned(self.0.clone())
            .map(|day| day.timestamp())
            .unwrap_or_else(|_| clamp(day));
        Timestamp::from_micros(start.as_microsecond())
    }

    fn date_of(&self, now: Timestamp) -> Date {
        let micros = now.as_micros();
        let now = jiff::Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        });
        self.0.to_datetime(now).date()
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::utc()
    }
}

impl Calendar {
    /// Periods of `multiplier` × `unit`, which is a day or longer.
    pub fn new(unit: Unit, multiplier: u32, zone: Zone) -> Self {
        Self {
            unit,
            multiplier: i64::from(multiplier.max(1)),
            zone,
            last: Arc::default(),
            last_borders: Arc::default(),
        }
    }

    /// The period that holds `now`.
    pub fn period(&self, now: Timestamp) -> Period {
        if let Some(last) = self.last.load().as_deref()
            && last.start <= now
            && now < last.end
        {
            return *last;
        }
        let period = self.work_out(now);
        self.last.store(Some(Arc::new(period)));
        period
    }

    /// The borders around `now`, for those who cannot work them out: scripts in Redis know no time zones.
    pub fn borders(&self, now: Timestamp) -> Borders {
        if let Some(last) = self.last_borders.load().as_deref()
            && last[1] <= now
            && now < last[2]
        {
            return *last;
        }
        let present = self.work_out(now);
        let just_before = Timestamp::from_micros(present.start.as_micros().saturating_sub(1));
        let next = self.work_out(present.end);
        let borders = [
            self.work_out(just_before).start,
            present.start,
            present.end,
            next.end,
            self.work_out(next.end).end,
        ];
        self.last_borders.store(Some(Arc::new(borders)));
        borders
    }

    fn work_out(&self, now: Timestamp) -> Period {
        let today = self.zone.date_of(now);
        let (first, length) = match self.unit {
            Unit::Week => self.days(today, 7),
            Unit::Month => self.months(today, 1),
            Unit::Year => self.months(today, 12),
            Unit::Second | Unit::Minute | Unit::Hour | Unit::Day => self.days(today, 1),
        };
        let next = first.checked_add(length).unwrap_or(Date::MAX);
        Period {
            start: self.zone.start_of(first),
            end: self.zone.start_of(next),
        }
    }

    fn days(&self, today: Date, unit_days: i64) -> (Date, Span) {
        let length = unit_days.saturating_mul(self.multiplier);
        let monday = date(1970, 1, 5);
        let since_monday = today.duration_since(monday).as_hours().div_euclid(24);
        let into_period = since_monday.rem_euclid(length);
        let first = today
            .checked_sub(SignedDuration::from_hours(into_period * 24))
            .unwrap_or(Date::MIN);
        (first, length.min(4_000_000).days())
    }

    fn months(&self, today: Date, unit_months: i64) -> (Date, Span) {
        let length = unit_months.saturating_mul(self.multiplier);
        let month = i64::from(today.year()) * 12 + i64::from(today.month()) - 1;
        let first = month - month.rem_euclid(length);
        let year = i16::try_from(first.div_euclid(12)).unwrap_or(i16::MIN);
        let month = i8::try_from(first.rem_euclid(12) + 1).unwrap_or(1);
        let first = Date::new(year, month, 1).unwrap_or(Date::MIN);
        (first, length.min(100_000).months())
    }
}

fn clamp(day: Date) -> jiff::Timestamp {
    if day.year() < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        let moment: jiff::Timestamp = text.parse().expect("a moment");
        Timestamp::from_micros(moment.as_microsecond())
    }

    fn period(unit: Unit, multiplier: u32, zone: &str, now: &str) -> Period {
        let zone = Zone::named(zone).expect("a zone");
        Calendar::new(unit, multiplier, zone).period(at(now))
    }

    #[track_caller]
    fn check(found: Period, start: &str, end: &str) {
        assert_eq!((found.start, found.end), (at(start), at(end)));
    }

    #[test]
    fn weeks_start_on_monday() {
        let week = period(Unit::Week, 1, "UTC", "1970-01-14T23:59:59Z");
        check(week, "1970-01-12T00:00:00Z", "1970-01-19T00:00:00Z");
    }

    #[test]
    fn three_months_are_a_quarter() {
        let quarter = period(Unit::Month, 3, "UTC", "2026-11-21T05:00:00Z");
        check(quarter, "2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z");
    }

    #[test]
    fn a_leap_february_has_29_days() {
        let month = period(Unit::Month, 1, "UTC", "2028-02-29T12:00:00Z");
        check(month, "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z");
    }

    #[test]
    fn daylight_saving_makes_days_of_23_and_25_hours() {
        let short = period(Unit::Day, 1, "Europe/Berlin", "2026-03-29T10:00:00Z");
        check(short, "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z");
        let long = period(Unit::Day, 1, "Europe/Berlin", "2026-10-25T10:00:00Z");
        check(long, "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z");
    }

    #[test]
    fn a_skipped_midnight_starts_the_day_later() {
        // In Santiago the clocks go from 24:00 to 01:00 on the first Sunday after 2 September.
        let day = period(Unit::Day, 1, "America/Santiago", "2026-09-06T12:00:00Z");
        check(day, "2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z");
    }

    #[test]
    fn borders_are_those_of_four_periods_in_a_row() {
        let calendar = Calendar::new(Unit::Month, 1, Zone::utc());
        let months = ["2026-10", "2026-11", "2026-12", "2027-01", "2027-02"];
        let wanted = months.map(|month| at(&format!("{month}-01T00:00:00Z")));
        assert_eq!(calendar.borders(at("2026-11-21T05:00:00Z")), wanted);
    }

    #[test]
    fn moments_outside_the_calendar_have_a_period_too() {
        for micros in [i64::MIN, i64::MAX] {
            let calendar = Calendar::new(Unit::Year, 100, Zone::utc());
            let period = calendar.period(Timestamp::from_micros(micros));
            assert!(period.start <= period.end);
        }
    }
}
