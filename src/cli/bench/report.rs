//! What came out of a run, for people or machines.

use std::io::Write;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, json};

use super::Format;
use super::load::Load;
use super::tally::Tally;

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(200);

const PERCENTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];

/// A progress bar, if anybody sees it.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    mover: JoinHandle<()>,
}

impl Progress {
    /// Shows a bar on a terminal until the run is over.
    pub fn start(load: &Arc<Load>) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let bar = ProgressBar::new(millis(load.length()));
        // Without a terminal it draws nothing.
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {elapsed} {msg}") {
            bar.set_style(style);
        }
        let (load, shown) = (Arc::clone(load), bar.clone());
        let mover = thread::spawn(move || {
            let mut before = 0;
            while !load.is_over() {
                thread::park_timeout(TICK);
                let issued = load.issued();
                let per_second = (issued - before) as f64 / TICK.as_secs_f64();
                before = issued;
                shown.set_position(millis(load.elapsed()));
                shown.set_message(format!("{per_second:.0} requests/s"));
            }
        });
        Self { bar, mover }
    }

    /// Takes the bar away, once the run is over.
    pub fn finish(self) {
        self.mover.thread().unpark();
        // It cannot fail, and would change nothing.
        let _ = self.mover.join();
        self.bar.finish_and_clear();
    }
}

/// Writes the result to standard output.
pub fn print(load: &Load, tally: &Tally) {
    let text = match load.args.format {
        Format::Text => text(load, tally),
        Format::Json => json(load, tally),
    };
    // A reader that has gone away is no reason to fail.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn per_second(load: &Load, tally: &Tally) -> f64 {
    match load.measured().as_secs_f64() {
        0.0 => 0.0,
        seconds => tally.in_time as f64 / seconds,
    }
}

/// Requests that were due and could not even be sent, for all callers were waiting.
fn unsent(load: &Load, tally: &Tally) -> u64 {
    load.due().map_or(0, |due| due.saturating_sub(tally.sent))
}

fn micros(tally: &Tally, quantile: f64) -> f64 {
    tally.latency.value_at_quantile(quantile) as f64 / 1000.0
}

fn text(load: &Load, tally: &Tally) -> String {
    let args = &load.args;
    let loop_kind = match args.rate {
        Some(rate) => format!("open loop, {rate} requests/s"),
        None => "closed loop".to_owned(),
    };
    let mut text = format!(
        "{}: {loop_kind}, {} connections, {} in flight, {} descriptors\n{:.0} requests/s\n",
        args.address,
        args.connections,
        args.concurrency,
        args.descriptors,
        per_second(load, tally)
    );
    for (name, quantile) in PERCENTILES {
        text += &format!("{name:>6} {:>10.0} µs\n", micros(tally, quantile));
    }
    for (answer, count) in &tally.answers {
        text += &format!("{count:>10} {answer}\n");
    }
    if tally.unanswered() > 0 {
        text += &format!("{:>10} without an answer\n", tally.unanswered());
    }
    if unsent(load, tally) > 0 {
        text += &format!(
            "{:>10} due but not sent, and not in the latencies: more --concurrency, or the rate is too high\n",
            unsent(load, tally)
        );
    }
    text
}

fn json(load: &Load, tally: &Tally) -> String {
    let latency: Map<_, _> = PERCENTILES
        .into_iter()
        .map(|(name, quantile)| (name.to_owned(), json!(micros(tally, quantile))))
        .collect();
    let answers: Map<_, _> = tally
        .answers
        .iter()
        .map(|(answer, count)| (answer.to_string(), json!(count)))
        .collect();
    let result = json!({
        "address": load.args.address.to_string(),
        "rate": load.args.rate,
        "connections": load.args.connections,
        "concurrency": load.args.concurrency,
        "descriptors": load.args.descriptors,
        "seconds": load.measured().as_secs_f64(),
        "requests_per_second": per_second(load, tally),
        "latency_us": latency,
        "answers": answers,
        "unanswered": tally.unanswered(),
        "unsent": unsent(load, tally),
    });
    format!("{result}\n")
}
