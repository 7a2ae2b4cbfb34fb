//! Closed loop: each of so many callers asks again when it has its answer. Open loop: requests are due at a fixed rate, and
//! a late one counts from when it was due, so that a service that stalls cannot hide it (no coordinated omission).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::task::spawn_local;

use super::client::{Answer, Client, Error};
use super::keys::Requests;
use super::{Args, GRACE};

/// The longest latency that is told apart, in nanoseconds: a minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// How near a request's time must be for its caller to stay awake: timers are not more exact than this.
const AWAKE: Duration = Duration::from_micros(1500);

/// A run, shared by all threads.
#[derive(Debug)]
pub struct Load {
    /// What the caller wants.
    pub args: Args,
    begun: Instant,
    /// Requests that have been sent, or are due, since the start.
    issued: AtomicU64,
    stopped: AtomicBool,
}

/// What was counted after the warm-up.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Latencies in nanoseconds.
    pub latency: Histogram<u64>,
    /// Answers by code.
    pub answers: BTreeMap<Answer, u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            latency: Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are good"),
            answers: BTreeMap::new(),
        }
    }
}

impl Tally {
    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Tally) {
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
        for (answer, count) in &other.answers {
            *self.answers.entry(*answer).or_default() += count;
        }
    }

    fn record(&mut self, answer: Answer, latency: Duration) {
        *self.answers.entry(answer).or_default() += 1;
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanos);
    }
}

impl Load {
    /// A run that begins now.
    pub fn new(args: Args) -> Self {
        Self {
            args,
            begun: Instant::now(),
            issued: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// The whole time of the run.
    pub fn length(&self) -> Duration {
        self.args.warmup.0 + self.args.duration.0
    }

    /// The time since it began.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How many requests have been sent.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// Ends the run early.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.elapsed() >= self.length()
    }

    /// When the next request is due, once that is now.
    async fn next(&self) -> Instant {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let Some(rate) = self.args.rate else {
            return Instant::now();
        };
        let due = self.begun + Duration::from_secs_f64(number as f64 / rate as f64);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_over() {
                return due;
            }
            if left > AWAKE {
                tokio::time::sleep(left - AWAKE).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// The share of one thread: its connections and callers.
pub async fn run(load: Arc<Load>, number: u32) -> Result<Tally, Error> {
    let (threads, args) = (load.args.threads, &load.args);
    let share = |whole: u32| whole / threads + u32::from(number < whole % threads);
    let connections = share(args.connections.max(threads));
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Client::connect(&args.address).await?);
    }
    let callers: Vec<_> = (0..share(args.concurrency.max(threads)))
        .zip(clients.iter().cycle())
        .map(|(caller, client)| {
            let seed = u64::from(number) << 32 | u64::from(caller);
            spawn_local(call(Arc::clone(&load), client.clone(), seed))
        })
        .collect();
    let mut total = Tally::default();
    for caller in callers {
        // After the end answers that do not come are not waited for.
        let left = (load.length() + GRACE).saturating_sub(load.elapsed());
        if let Ok(Ok(tally)) = tokio::time::timeout(left.max(GRACE), caller).await {
            total.add(&tally);
        }
    }
    Ok(total)
}

async fn call(load: Arc<Load>, client: Client, seed: u64) -> Tally {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut requests = Requests::new(&load.args);
    let subject_entry = load.args.key.len().saturating_sub(1);
    let mut buffer = BytesMut::new();
    let mut tally = Tally::default();
    while !load.is_over() {
        let message = requests.next(&mut random, subject_entry, &mut buffer);
        let due = load.next().await;
        if load.is_over() {
            break;
        }
        let answer = client.call(message).await;
        if due.saturating_duration_since(load.begun) >= load.args.warmup.0 {
            tally.record(answer, due.elapsed());
        }
        if answer == Answer::Failed(u8::MAX) {
            // A lost connection fails at once: do not spin on it.
            tokio::time::sleep(AWAKE).await;
        }
    }
    tally
}
