//! How much one limit lets pass within the windows of another.

use crate::limit::{Hits, Limit, Shape, Unit};
use crate::time::Micros;

/// The most hits that `limit` lets pass within any window of `other`; none if that is not known.
pub(super) fn most(limit: &Limit, other: &Limit) -> Option<Hits> {
    let window = longest(other).get();
    let length = limit.window().get();
    let whole = |windows: u64| {
        let hits = limit.capacity().thousandths().checked_mul(windows)?;
        Some(Hits::from_thousandths(hits))
    };
    let windows = window.div_ceil(length);
    match (limit.shape(), other.shape()) {
        // A bucket has no windows in which hits could be counted.
        (_, Shape::TokenBucket(_)) => None,
        (Shape::FixedWindow(_), Shape::FixedWindow(_)) if is_aligned(limit, other) => {
            whole(windows)
        }
        (Shape::FixedWindow(_) | Shape::SlidingWindow(_), _) => whole(windows + 1),
        (Shape::TokenBucket(_), _) => {
            let rate = u128::from(Hits::whole(limit.requests_per_unit()).thousandths());
            let flows = rate * u128::from(window) / u128::from(length);
            let flows = Hits::from_thousandths(u64::try_from(flows).ok()? + 1);
            Some(limit.capacity().plus(flows))
        }
    }
}

/// Whether of the windows of the two each lies within one of the other: both begin at the epoch, or at the same midnights.
fn is_aligned(limit: &Limit, other: &Limit) -> bool {
    let (short, long) = (limit.window().get(), longest(other).get());
    let even = long % short == 0 || short % long == 0;
    let minutes = matches!(limit.unit(), Unit::Second | Unit::Minute)
        && limit.window() <= Micros::from_secs(900);
    let plain = matches!(other.unit(), Unit::Second | Unit::Minute | Unit::Hour);
    even && (plain || minutes)
}

/// The longest that a window is: months and years differ.
fn longest(limit: &Limit) -> Micros {
    let days = match limit.unit() {
        Unit::Month => 31,
        Unit::Year => 366,
        Unit::Second | Unit::Minute | Unit::Hour | Unit::Day | Unit::Week => return limit.window(),
    };
    Micros::from_secs(days * 86_400 * u64::from(limit.multiplier()))
}
