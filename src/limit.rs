//! A limit, what a key remembers of it, and the decision: pure arithmetic without I/O, clock or lock.
//!
//! Each algorithm has a file of its own with the same parts in the same order, and beside it a `.lua` twin that does the
//! same arithmetic inside Redis. All numbers are integers below 2^53, so that the doubles of Lua compute them exactly.
//!
//! - [`fixed_window`], [`token_bucket`], [`sliding_window`]: one algorithm each
//! - [`ban`]: who is refused too often is refused for a while
//! - [`candidate`]: limits on trial, beside the live ones
//! - [`lease`]: what may be taken in advance
//! - [`period`]: calendar days, weeks, months and years in a time zone
//! - `tag`: the names of limits under a key
//! - [`transaction`]: many limits on many keys, all or nothing

use std::fmt;
use std::str::FromStr;

use crate::time::{Micros, Timestamp};

pub mod ban;
pub mod candidate;
pub mod fixed_window;
pub mod lease;
pub mod period;
pub mod sliding_window;
mod tag;
pub mod token_bucket;
pub mod transaction;

pub use tag::Tag;

/// Every integer up to here is exact in a double, the only number that Lua in Redis has.
pub const MAX_EXACT: u64 = 1 << 53;

/// The longest window, so that its microseconds stay exact: 100 nominal years.
pub const MAX_WINDOW: Micros = Micros::from_secs(100 * 365 * 86_400);

/// The largest `unit_multiplier`.
pub const MAX_MULTIPLIER: u32 = 1_000_000;

/// A number of hits in thousandths, since a cost may have three decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hits(u64);

/// The unit of a window, as in `envoy.type.v3.RateLimitUnit` and the reference's rule files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Aligned to the Unix epoch.
    Second,
    /// Aligned to the Unix epoch.
    Minute,
    /// Aligned to the Unix epoch.
    Hour,
    /// A calendar day in the domain's time zone.
    Day,
    /// A calendar week; starts on Monday.
    Week,
    /// A calendar month.
    Month,
    /// A calendar year.
    Year,
}

/// How a limit counts, as the rule file says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The hits of the current window; all are forgotten at its end.
    FixedWindow,
    /// A bucket that refills continuously and holds `burst` hits.
    TokenBucket {
        /// What the bucket holds when full.
        burst: Hits,
    },
    /// Never more than the limit in any interval of the window's length.
    SlidingWindow,
}

/// At most `requests_per_unit` hits per window.
#[derive(Clone, Debug)]
pub struct Limit {
    requests_per_unit: u32,
    unit: Unit,
    multiplier: u32,
    capacity: Hits,
    tag: Tag,
    shape: Shape,
    lease: Option<lease::Lease>,
    durability: Durability,
}

/// When a charge counts as made, in a store that has replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the master has made it: what has not reached a replica is lost if the master fails just then.
    #[default]
    Usual,
    /// When replicas have it too.
    Replicated,
}

/// An algorithm with its numbers worked out.
#[derive(Clone, Debug)]
pub enum Shape {
    /// See [`fixed_window`].
    FixedWindow(fixed_window::Windows),
    /// See [`token_bucket`].
    TokenBucket(token_bucket::Bucket),
    /// See [`sliding_window`].
    SlidingWindow(sliding_window::Slices),
}

/// Why a limit cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// `unit_multiplier` is 0 or above [`MAX_MULTIPLIER`].
    #[error("`unit_multiplier` must be from 1 to {MAX_MULTIPLIER}")]
    Multiplier,
    /// The window is longer than [`MAX_WINDOW`].
    #[error("the window is longer than 100 years")]
    WindowTooLong,
    /// A bucket that holds nothing, or that never refills.
    #[error("a token bucket needs a limit and a burst above 0")]
    EmptyBucket,
    /// The products of the bucket's arithmetic leave the exact range.
    #[error("this token bucket cannot be computed exactly: its refill is too fine for its length")]
    Inexact,
}

/// What a key remembers of one limit. It does not hold the limit itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// See [`fixed_window`].
    FixedWindow(fixed_window::State),
    /// See [`token_bucket`].
    TokenBucket(token_bucket::State),
    /// See [`sliding_window`]; boxed because it is large.
    SlidingWindow(Box<sliding_window::State>),
    /// See [`ban`].
    Ban(ban::State),
}

/// Whether hits fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They fit now.
    Allowed,
    /// They fit after this time, if nothing else is charged.
    Wait(Micros),
    /// They are more than the limit can ever hold: waiting does not help.
    Never,
    /// Whether they fit does not matter: there is a ban, for this long.
    Banned(Micros),
}

/// What was charged and when, so that it can be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The store's time of the charge.
    pub at: Timestamp,
    /// What had been used just before it.
    pub used_before: Hits,
    /// What was charged.
    pub hits: Hits,
}

/// Decides whether `hits` more fit into `limit` at `now`, after bringing `state` up to `now`. Charges nothing.
pub fn decide(limit: &Limit, state: &mut State, now: Timestamp, hits: Hits) -> Verdict {
    limit.advance(state, now);
    limit.verdict(state, now, hits)
}

impl Hits {
    /// None.
    pub const ZERO: Hits = Hits(0);
    /// One whole hit.
    pub const ONE: Hits = Hits(1000);
    /// The most that one request may ask of one key.
    pub const MAX: Hits = Hits::whole(u32::MAX);
    /// What a key counts up to; beyond it the count stays where it is.
    pub const MAX_USED: Hits = Hits(1 << 50);

    /// `hits` whole hits.
    pub const fn whole(hits: u32) -> Self {
        Self(hits as u64 * 1000)
    }

    /// `thousandths` of a hit.
    pub const fn from_thousandths(thousandths: u64) -> Self {
        Self(thousandths)
    }

    /// In thousandths of a hit.
    pub const fn thousandths(self) -> u64 {
        self.0
    }

    /// Whole hits, rounded down.
    pub const fn floor(self) -> u64 {
        self.0 / 1000
    }

    /// What is left of `self` after `other`, at least none.
    #[must_use]
    pub const fn saturating_sub(self, other: Hits) -> Hits {
        Hits(self.0.saturating_sub(other.0))
    }

    /// The sum, at most [`Hits::MAX_USED`].
    #[must_use]
    pub fn plus(self, other: Hits) -> Hits {
        Hits(self.0.saturating_add(other.0)).min(Hits::MAX_USED)
    }
}

impl fmt::Display for Hits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, thousandths) = (self.0 / 1000, self.0 % 1000);
        if thousandths == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{thousandths:03}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

impl Unit {
    /// Every unit, shortest first.
    pub const ALL: [Unit; 7] = [
        Unit::Second,
        Unit::Minute,
        Unit::Hour,
        Unit::Day,
        Unit::Week,
        Unit::Month,
        Unit::Year,
    ];

    /// As it stands in a rule file.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Second => "second",
            Unit::Minute => "minute",
            Unit::Hour => "hour",
            Unit::Day => "day",
            Unit::Week => "week",
            Unit::Month => "month",
            Unit::Year => "year",
        }
    }

    /// The length that headers, token buckets and sliding windows use: a month has 30 days, a year 365.
    pub const fn nominal(self) -> Micros {
        Micros::from_secs(match self {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 3600,
            Unit::Day => 86_400,
            Unit::Week => 7 * 86_400,
            Unit::Month => 30 * 86_400,
            Unit::Year => 365 * 86_400,
        })
    }
}

impl FromStr for Unit {
    type Err = ();

    /// Upper and lower case are the same.
    fn from_str(text: &str) -> Result<Self, ()> {
        Unit::ALL
            .into_iter()
            .find(|unit| unit.name().eq_ignore_ascii_case(text))
            .ok_or(())
    }
}

impl Limit {
    /// `requests_per_unit` hits per `multiplier` × `unit`; `zone` places days and longer fixed windows.
    pub fn new(
        requests_per_unit: u32,
        unit: Unit,
        multiplier: u32,
        algorithm: Algorithm,
        zone: &period::Zone,
    ) -> Result<Self, LimitError> {
        if multiplier == 0 || multiplier > MAX_MULTIPLIER {
            return Err(LimitError::Multiplier);
        }
        let length = Micros::new(unit.nominal().get().saturating_mul(u64::from(multiplier)));
        if length > MAX_WINDOW {
            return Err(LimitError::WindowTooLong);
        }
        let hits = Hits::whole(requests_per_unit);
        let (capacity, shape) = match algorithm {
            Algorithm::FixedWindow => (
                hits,
                Shape::FixedWindow(fixed_window::Windows::new(unit, multiplier, zone)),
            ),
            Algorithm::TokenBucket { burst } => (
                burst,
                Shape::TokenBucket(token_bucket::Bucket::new(hits, length, burst)?),
            ),
            Algorithm::SlidingWindow => (
                hits,
                Shape::SlidingWindow(sliding_window::Slices::new(length)),
            ),
        };
        let tag = Tag::new(&shape, unit, multiplier);
        Ok(Self {
            requests_per_unit,
            unit,
            multiplier,
            capacity,
            tag,
            shape,
            lease: None,
            durability: Durability::Usual,
        })
    }

    /// The same limit with another number: a burst grows and shrinks with it.
    pub fn with_requests(&self, requests_per_unit: u32) -> Result<Limit, LimitError> {
        let mut limit = self.clone();
        let hits = Hits::whole(requests_per_unit);
        limit.requests_per_unit = requests_per_unit;
        limit.capacity = hits;
        if let Shape::TokenBucket(_) = &self.shape {
            let before = u128::from(self.requests_per_unit.max(1));
            let burst = u128::from(self.capacity.0) * u128::from(requests_per_unit) / before;
            limit.capacity = Hits(u64::try_from(burst).unwrap_or(u64::MAX));
            let bucket = token_bucket::Bucket::new(hits, self.window(), limit.capacity)?;
            limit.shape = Shape::TokenBucket(bucket);
        }
        Ok(limit)
    }

    /// The same limit with room for `extra` more hits; a bucket refills no faster for it.
    pub fn with_extra(&self, extra: Hits) -> Result<Limit, LimitError> {
        let mut limit = self.clone();
        limit.capacity = self.capacity.plus(extra).min(Hits::MAX);
        let whole = u32::try_from(extra.floor()).unwrap_or(u32::MAX);
        limit.requests_per_unit = self.requests_per_unit.saturating_add(whole);
        if let Shape::TokenBucket(bucket) = &self.shape {
            limit.requests_per_unit = self.requests_per_unit;
            limit.shape = Shape::TokenBucket(bucket.slower(1, limit.capacity)?);
        }
        Ok(limit)
    }

    /// Counts the hits of each `unit`, a day or longer, and refuses none.
    pub fn meter(unit: Unit, zone: &period::Zone) -> Self {
        let windows = fixed_window::Windows::new(unit, 1, zone);
        Self {
            requests_per_unit: u32::MAX,
            unit,
            multiplier: 1,
            capacity: Hits::MAX_USED,
            tag: Tag::of_meter(unit),
            shape: Shape::FixedWindow(windows),
            lease: None,
            durability: Durability::Usual,
        }
    }

    /// The share of one of `instances` that enforce this limit without speaking to each other: at least one hit, if the
    /// limit itself has one.
    #[must_use]
    pub fn share(&self, instances: u32) -> Limit {
        let instances = instances.max(1);
        let part = |n: u32| if n == 0 { 0 } else { (n / instances).max(1) };
        let mut share = self.clone();
        share.requests_per_unit = part(self.requests_per_unit);
        share.capacity = match &self.shape {
            Shape::FixedWindow(_) | Shape::SlidingWindow(_) => Hits::whole(share.requests_per_unit),
            Shape::TokenBucket(_) => {
                let burst = Hits(self.capacity.0 / u64::from(instances)).max(Hits::ONE);
                burst.min(self.capacity)
            }
        };
        if let Shape::TokenBucket(bucket) = &self.shape
            && let Ok(slower) = bucket.slower(instances, share.capacity)
        {
            share.shape = Shape::TokenBucket(slower);
        }
        share
    }

    /// The number in the rule.
    pub fn requests_per_unit(&self) -> u32 {
        self.requests_per_unit
    }

    /// The unit in the rule.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// How many units one window has, at least 1.
    pub fn multiplier(&self) -> u32 {
        self.multiplier
    }

    /// The window's nominal length (a month counts 30 days).
    pub fn window(&self) -> Micros {
        Micros::new(self.unit.nominal().get() * u64::from(self.multiplier))
    }

    /// The most hits that fit at once: the limit, or the burst of a token bucket.
    pub fn capacity(&self) -> Hits {
        self.capacity
    }

    /// This limit's place among those of its key.
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// The algorithm with its numbers.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The share of it that may be taken in advance.
    pub fn lease(&self) -> Option<lease::Lease> {
        self.lease
    }

    /// The same limit, of which `lease` may be taken in advance.
    #[must_use]
    pub fn leased(self, lease: Option<lease::Lease>) -> Self {
        Self { lease, ..self }
    }

    /// When a charge of it counts as made.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// The same limit, of which a charge counts as made when `durability` says.
    #[must_use]
    pub fn durable(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    /// The same limit as a candidate, whose state stands beside that of a live limit of its window and algorithm.
    #[must_use]
    pub fn on_trial(self) -> Self {
        let tag = self.tag.on_trial();
        Self { tag, ..self }
    }

    /// The state of a key that was never seen.
    pub fn fresh(&self, now: Timestamp) -> State {
        match &self.shape {
            Shape::FixedWindow(windows) => {
                State::FixedWindow(fixed_window::State::fresh(windows, now))
            }
            Shape::TokenBucket(_) => State::TokenBucket(token_bucket::State::fresh(now)),
            Shape::SlidingWindow(slices) => {
                State::SlidingWindow(Box::new(sliding_window::State::fresh(slices, now)))
            }
        }
    }

    /// Brings `state` up to `now`: windows roll, buckets refill. A state of another algorithm is replaced by a fresh one.
    pub fn advance(&self, state: &mut State, now: Timestamp) {
        match (&self.shape, &mut *state) {
            (Shape::FixedWindow(windows), State::FixedWindow(state)) => state.advance(windows, now),
            (Shape::TokenBucket(bucket), State::TokenBucket(state)) => state.advance(bucket, now),
            (Shape::SlidingWindow(slices), State::SlidingWindow(state)) => {
                state.advance(slices, now);
            }
            (Shape::FixedWindow(_) | Shape::TokenBucket(_) | Shape::SlidingWindow(_), _) => {
                *state = self.fresh(now);
            }
        }
    }

    /// What is used of the limit in an advanced state.
    pub fn used(&self, state: &State) -> Hits {
        match state {
            State::FixedWindow(state) => state.used(),
            State::TokenBucket(state) => state.used(),
            State::SlidingWindow(state) => state.used(),
            State::Ban(_) => Hits::ZERO,
        }
    }

    /// Whether `hits` more fit into an advanced state.
    pub fn verdict(&self, state: &State, now: Timestamp, hits: Hits) -> Verdict {
        if self.used(state).plus(hits) <= self.capacity {
            return Verdict::Allowed;
        }
        if hits > self.capacity {
            return Verdict::Never;
        }
        Verdict::Wait(match (&self.shape, state) {
            (Shape::TokenBucket(bucket), State::TokenBucket(state)) => {
                state.wait(bucket, self.capacity, hits)
            }
            (Shape::SlidingWindow(slices), State::SlidingWindow(state)) => {
                state.wait(slices, self.capacity, now, hits)
            }
            (Shape::FixedWindow(_) | Shape::TokenBucket(_) | Shape::SlidingWindow(_), _) => {
                self.fresh_in(state, now)
            }
        })
    }

    /// Adds `hits` to an advanced state, whether they fit or not; a bucket's debt ends at one bucket.
    pub fn charge(&self, state: &mut State, hits: Hits) {
        match state {
            State::FixedWindow(state) => state.charge(hits),
            State::TokenBucket(state) => state.charge(self.capacity, hits),
            State::SlidingWindow(state) => state.charge(hits),
            State::Ban(_) => {}
        }
    }

    /// Takes `hits` off an advanced state, never below none.
    pub fn refund(&self, state: &mut State, hits: Hits) {
        match state {
            State::FixedWindow(state) => state.refund(hits),
            State::TokenBucket(state) => state.refund(hits),
            State::SlidingWindow(state) => state.refund(hits),
            State::Ban(_) => {}
        }
    }

    /// Undoes the charge of `receipt` in an advanced state, as far as it is still felt: never makes the limit looser than
    /// it would be had the charge not been made.
    pub fn give_back(&self, state: &mut State, now: Timestamp, receipt: &Receipt) {
        match (&self.shape, state) {
            (Shape::FixedWindow(windows), State::FixedWindow(state)) => {
                state.give_back(windows, receipt);
            }
            (Shape::TokenBucket(bucket), State::TokenBucket(state)) => {
                state.give_back(bucket, now, receipt);
            }
            (Shape::SlidingWindow(slices), State::SlidingWindow(state)) => {
                state.give_back(slices, receipt);
            }
            (Shape::FixedWindow(_) | Shape::TokenBucket(_) | Shape::SlidingWindow(_), _) => {}
        }
    }

    /// The time until an advanced state is as good as a fresh one. This is when its key expires, and what an admitted
    /// request is told as the reset. A fixed window takes until its end, used or not.
    pub fn fresh_in(&self, state: &State, now: Timestamp) -> Micros {
        match (&self.shape, state) {
            (Shape::TokenBucket(bucket), State::TokenBucket(state)) => state.fresh_in(bucket),
            (Shape::SlidingWindow(slices), State::SlidingWindow(state)) => {
                state.fresh_in(slices, now)
            }
            (_, State::FixedWindow(state)) => state.fresh_in(now),
            (Shape::FixedWindow(_) | Shape::TokenBucket(_) | Shape::SlidingWindow(_), _) => {
                Micros::ZERO
            }
        }
    }
}

impl fmt::Display for Limit {
    /// Such as `100/minute` or `100/5 minutes`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, unit) = (self.requests_per_unit, self.unit.name());
        match self.multiplier {
            1 => write!(f, "{requests}/{unit}"),
            multiplier => write!(f, "{requests}/{multiplier} {unit}s"),
        }
    }
}
