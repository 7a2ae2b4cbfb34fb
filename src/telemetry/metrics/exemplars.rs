//! Exemplars: of each bucket of the time to answer the last decision that has a trace, so that a chart leads to one.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::kinds::{BUCKETS, bucket};
use crate::telemetry::tracing::Place;

/// One for each bucket. Only decisions that are traced come here.
#[derive(Debug, Default)]
pub(super) struct Exemplars([Mutex<Option<Exemplar>>; BUCKETS]);

#[derive(Clone, Copy, Debug)]
struct Exemplar {
    took: Duration,
    place: Place,
    at: SystemTime,
}

impl Exemplars {
    /// A decision that took `took` until now.
    pub(super) fn put(&self, took: Duration, place: Place) {
        let at = opentelemetry::time::now();
        if let Some(exemplar) = self.0.get(bucket(took)) {
            *exemplar.lock() = Some(Exemplar { took, place, at });
        }
    }

    /// `text`, in OpenMetrics, with exemplars on the buckets of `histogram`, which has one series.
    pub(super) fn add(&self, histogram: &str, text: &str) -> String {
        let mut told = String::with_capacity(text.len());
        let mut exemplars = self.0.iter();
        let is_bucket = |line: &str| {
            let own = line.strip_prefix(histogram);
            own.is_some_and(|own| own.starts_with("_bucket{"))
        };
        for line in text.lines() {
            told.push_str(line);
            let exemplar = is_bucket(line).then(|| exemplars.next()).flatten();
            if let Some(exemplar) = exemplar.and_then(|exemplar| *exemplar.lock()) {
                let Place { trace, span } = exemplar.place;
                let took = exemplar.took.as_secs_f64();
                let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default();
                let at = at.as_secs_f64();
                // Writing to a String cannot fail.
                let _ = write!(
                    told,
                    " # {{trace_id=\"{trace}\",span_id=\"{span}\"}} {took} {at:.3}"
                );
            }
            told.push('\n');
        }
        told
    }
}
