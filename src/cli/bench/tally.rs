//! What is counted after the warm-up.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::client::Answer;

/// The longest latency that is told apart, in nanoseconds: a minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// The digits of a latency that are kept.
const DIGITS: u8 = 3;

/// Latencies and answers of one thread, or of all.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Latencies in nanoseconds.
    pub latency: Histogram<u64>,
    /// Answers by code.
    pub answers: BTreeMap<Answer, u64>,
    /// Requests that were sent; some may have no answer.
    pub sent: u64,
    /// Answers that came before the end.
    pub in_time: u64,
}

impl Default for Tally {
    #[expect(clippy::expect_used, reason = "the bounds are constants")]
    fn default() -> Self {
        Self {
            latency: Histogram::new_with_bounds(1, LONGEST_NS, DIGITS)
                .expect("the bounds are constants, and good"),
            answers: BTreeMap::new(),
            sent: 0,
            in_time: 0,
        }
    }
}

impl Tally {
    /// Counts an answer.
    pub fn record(&mut self, answer: Answer, latency: Duration, in_time: bool) {
        *self.answers.entry(answer).or_default() += 1;
        self.in_time += u64::from(in_time);
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanos);
    }

    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Tally) {
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
        for (answer, count) in &other.answers {
            *self.answers.entry(*answer).or_default() += count;
        }
        self.sent += other.sent;
        self.in_time += other.in_time;
    }

    /// Requests whose answer did not come.
    pub fn unanswered(&self) -> u64 {
        self.sent - self.answers.values().sum::<u64>()
    }
}
