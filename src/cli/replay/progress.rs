//! How far a replay is: a bar on a terminal, and nothing elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The bar is looked at after so many requests.
const EVERY: u64 = 1 << 12;

/// And moves no more often than this.
const TICK: Duration = Duration::from_millis(200);

/// A bar of the bytes that have been read.
pub(super) struct Progress {
    bar: ProgressBar,
    read: Arc<AtomicU64>,
    begun: Instant,
    shown: Instant,
    requests: u64,
}

impl Progress {
    /// Shows a bar. Of what is not a file nobody knows the end.
    pub(super) fn start(what: &'static str, bytes: Option<u64>, read: Arc<AtomicU64>) -> Self {
        let (bar, template) = match bytes {
            Some(bytes) => (
                ProgressBar::new(bytes),
                "{prefix} {bar:30} {bytes}/{total_bytes}, {msg}, {eta} left",
            ),
            None => (
                ProgressBar::no_length(),
                "{prefix} {bytes}, {msg}, {elapsed}",
            ),
        };
        // Without a terminal it draws nothing.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        let now = Instant::now();
        Self {
            bar,
            read,
            begun: now,
            shown: now,
            requests: 0,
        }
    }

    /// Counts a request.
    pub(super) fn count(&mut self) {
        self.requests += 1;
        if self.requests.is_multiple_of(EVERY) && self.shown.elapsed() >= TICK {
            self.shown = Instant::now();
            let rate = self.requests as f64 / self.begun.elapsed().as_secs_f64();
            self.bar.set_message(format!("{rate:.0} requests/s"));
            self.bar.set_position(self.read.load(Ordering::Relaxed));
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
