//! Kinds of metrics that the library does not have as they are needed here: a counter that is called just what it is
//! called, and a histogram without a lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::stripes::Stripes;

/// The upper ends of the buckets of a [`Latency`]; beyond the last there is one more.
pub const LATENCY_BUCKETS: [Duration; 14] = [
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// How many buckets there are.
pub(super) const BUCKETS: usize = LATENCY_BUCKETS.len() + 1;

/// A number that only grows. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Counter(Stripes<1>);

/// How long things took. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Latency(Arc<Observed>);

#[derive(Debug, Default)]
struct Observed {
    /// One for each of [`LATENCY_BUCKETS`].
    within: [AtomicU64; LATENCY_BUCKETS.len()],
    beyond: AtomicU64,
    /// It lasts for 584 years of waiting.
    sum_ns: AtomicU64,
}

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.here()[0].fetch_add(count, Ordering::Relaxed);
    }

    /// What it has come to.
    pub fn get(&self) -> u64 {
        self.0.sum(0)
    }
}

impl Latency {
    /// One more thing, which took `took`.
    pub fn observe(&self, took: Duration) {
        self.observe_all(1, took);
    }

    /// So many more things, each of which took `took`.
    pub fn observe_all(&self, count: u64, took: Duration) {
        let within = self.0.within.get(bucket(took)).unwrap_or(&self.0.beyond);
        within.fetch_add(count, Ordering::Relaxed);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0
            .sum_ns
            .fetch_add(ns.saturating_mul(count), Ordering::Relaxed);
    }
}

impl Latency {
    /// How many things are in each bucket, the last for those beyond.
    pub(super) fn counts(&self) -> [u64; BUCKETS] {
        let mut all = self.0.within.iter().chain([&self.0.beyond]);
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        std::array::from_fn(|_| all.next().map_or(0, count))
    }
}

/// The place of the bucket that `took` belongs in.
pub(super) fn bucket(took: Duration) -> usize {
    LATENCY_BUCKETS.partition_point(|end| *end < took)
}

impl EncodeMetric for Counter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.encode_gauge(&self.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Counter {
    /// The library would add `_total` to the name of what it knows to be a counter.
    const TYPE: MetricType = MetricType::Unknown;
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let ends = LATENCY_BUCKETS.map(|end| end.as_secs_f64());
        let ends = ends.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = ends.zip(self.counts()).collect();
        let sum = Duration::from_nanos(self.0.sum_ns.load(Ordering::Relaxed)).as_secs_f64();
        // From the buckets, so that the text agrees with itself while others count.
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}
