//! Token buckets: refilled continuously, holding at most a burst; a new one is full.
//!
//! A refill of N hits per P µs is rarely a whole number of anything, and rounding it would turn 700,000/s into
//! 1,000,000/s. So the bucket counts in *grains*: `refill` grains flow in each microsecond and a thousandth of a hit costs
//! `cost` grains, both whole after division by their greatest common divisor. The state keeps thousandths and the grains
//! left over, so it does not depend on the limit.

use super::{Hits, LimitError, MAX_EXACT, Receipt};
use crate::time::{Micros, Timestamp};

/// The numbers of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    refill: u64,
    cost: u64,
    /// What can be missing at most: a bucket, and a bucket of debt.
    most: Hits,
}

/// What is missing from a full bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The hits taken and not yet refilled.
    pub used: Hits,
    /// Grains that have flowed in towards the next thousandth of a hit; fewer than it costs.
    pub grains: u64,
    /// When it was last brought up to date.
    pub at: Timestamp,
}

impl Bucket {
    /// A refill of `hits` per `length`, holding `burst`.
    pub fn new(hits: Hits, length: Micros, burst: Hits) -> Result<Self, LimitError> {
        if hits == Hits::ZERO || burst == Hits::ZERO {
            return Err(LimitError::EmptyBucket);
        }
        let divisor = gcd(hits.thousandths(), length.get());
        let bucket = Self {
            refill: hits.thousandths() / divisor,
            cost: length.get() / divisor,
            most: burst.plus(burst),
        };
        // The largest product, in grains.
        match bucket.most.thousandths().checked_mul(bucket.cost) {
            Some(largest) if largest <= MAX_EXACT => Ok(bucket),
            _ => Err(LimitError::Inexact),
        }
    }

    /// The same refill shared by `instances`, each holding `burst`.
    pub fn slower(&self, instances: u32, burst: Hits) -> Result<Self, LimitError> {
        let length = self.cost.saturating_mul(u64::from(instances));
        Self::new(
            Hits::from_thousandths(self.refill),
            Micros::new(length),
            burst,
        )
    }

    /// Grains that flow in each microsecond.
    pub fn refill(&self) -> u64 {
        self.refill
    }

    /// Grains that a thousandth of a hit costs.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// What flows in within `time`, rounded up, and a thousandth more for the grains that were there.
    pub fn refill_in(&self, time: Micros) -> Hits {
        let grains = time.get().saturating_mul(self.refill);
        Hits::from_thousandths(grains.div_ceil(self.cost) + 1)
    }

    /// The time in which `grains` flow in.
    fn time_for(&self, grains: u64) -> Micros {
        Micros::new(grains.div_ceil(self.refill))
    }
}

impl State {
    /// A full bucket.
    pub fn fresh(now: Timestamp) -> Self {
        Self {
            used: Hits::ZERO,
            grains: 0,
            at: now,
        }
    }

    /// Lets in what has flowed since the last time.
    pub fn advance(&mut self, bucket: &Bucket, now: Timestamp) {
        // A lowered limit lowers the debt, and keeps the products exact.
        self.used = self.used.min(bucket.most);
        // A changed limit may have made the thousandth cheaper than the grains at hand.
        self.grains = self.grains.min(bucket.cost - 1);
        let elapsed = now.since(self.at).get();
        self.at = self.at.max(now);
        let missing = self.missing(bucket);
        let inflow = elapsed.saturating_mul(bucket.refill);
        if inflow >= missing {
            (self.used, self.grains) = (Hits::ZERO, 0);
            return;
        }
        let grains = inflow + self.grains;
        let hits = Hits::from_thousandths(grains / bucket.cost);
        (self.used, self.grains) = (self.used.saturating_sub(hits), grains % bucket.cost);
    }

    /// What is taken and not refilled.
    pub fn used(&self) -> Hits {
        self.used
    }

    /// The time until `hits` fit, which they do not now.
    pub fn wait(&self, bucket: &Bucket, capacity: Hits, hits: Hits) -> Micros {
        let excess = self.used.plus(hits).saturating_sub(capacity);
        bucket.time_for((excess.thousandths() * bucket.cost).saturating_sub(self.grains))
    }

    /// Takes `hits`, at most to one bucket of debt.
    pub fn charge(&mut self, capacity: Hits, hits: Hits) {
        self.used = self.used.plus(hits).min(capacity.plus(capacity));
    }

    /// Puts `hits` back in, at most to full.
    pub fn refund(&mut self, hits: Hits) {
        self.used = self.used.saturating_sub(hits);
        if self.used == Hits::ZERO {
            self.grains = 0;
        }
    }

    /// Undoes a charge. What has flowed in since then beyond what was missing before it has already forgiven that much of
    /// the charge, so only the rest goes back: exact to a thousandth when nothing else was charged meanwhile, else a little
    /// strict.
    pub fn give_back(&mut self, bucket: &Bucket, now: Timestamp, receipt: &Receipt) {
        let elapsed = now.since(receipt.at).get();
        let refilled = elapsed.saturating_mul(bucket.refill).div_ceil(bucket.cost);
        let forgiven = Hits::from_thousandths(refilled).saturating_sub(receipt.used_before);
        self.refund(receipt.hits.saturating_sub(forgiven));
    }

    /// The time until it is full.
    pub fn fresh_in(&self, bucket: &Bucket) -> Micros {
        bucket.time_for(self.missing(bucket))
    }

    fn missing(&self, bucket: &Bucket) -> u64 {
        (self.used.thousandths().saturating_mul(bucket.cost)).saturating_sub(self.grains)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
