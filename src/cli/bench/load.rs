//! Closed loop: each of so many callers asks again when it has its answer. Open loop: requests are due at a fixed rate, and
//! a late one counts from when it was due, so that a service that stalls cannot hide it (no coordinated omission).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::task::{JoinHandle, spawn_local};

use super::Args;
use super::client::{Answer, Connection, Error};
use super::keys::Requests;
use super::tally::Tally;

/// How near a request's time must be for its caller to stay awake: timers are not more exact than this.
const AWAKE: Duration = Duration::from_micros(1500);

/// How long after the end requests that were due are still sent, and answers are waited for.
const GRACE: Duration = Duration::from_secs(2);

/// How long connecting may take, all connections of a thread together.
const CONNECT: Duration = Duration::from_secs(10);

/// What `ended` is while nobody has ended the run.
const NOT_ENDED: u64 = u64::MAX;

/// A run, shared by all threads.
#[derive(Debug)]
pub struct Load {
    /// What the caller wants.
    pub args: Args,
    /// When all connections were there.
    begun: OnceLock<Instant>,
    connected: Barrier,
    /// Requests that have been sent, or are due, since the start.
    issued: AtomicU64,
    /// When the run was ended early, in nanoseconds since the start.
    ended: AtomicU64,
}

impl Load {
    /// A run that begins when all threads have connected.
    pub fn new(args: Args) -> Self {
        Self {
            connected: Barrier::new(args.threads as usize),
            args,
            begun: OnceLock::new(),
            issued: AtomicU64::new(0),
            ended: AtomicU64::new(NOT_ENDED),
        }
    }

    /// The time since it began; zero before.
    pub fn elapsed(&self) -> Duration {
        self.begun.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// How long the whole run takes, or took, if it was ended early.
    pub fn length(&self) -> Duration {
        let ended = Duration::from_nanos(self.ended.load(Ordering::Relaxed));
        ended.min(self.args.warmup.0 + self.args.duration.0)
    }

    /// The part of it that is measured.
    pub fn measured(&self) -> Duration {
        self.length().saturating_sub(self.args.warmup.0)
    }

    /// How many requests have been sent.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// How many requests were due in the measured part; none in a closed loop, which has no plan.
    pub fn due(&self) -> Option<u64> {
        let before = |time: Duration, rate: u64| {
            (time.as_nanos() * u128::from(rate)).div_ceil(NANOS_PER_SECOND)
        };
        let rate = self.args.rate?;
        let due = before(self.length(), rate).saturating_sub(before(self.args.warmup.0, rate));
        Some(u64::try_from(due).unwrap_or(u64::MAX))
    }

    /// Ends the run early.
    pub fn end(&self) {
        let now = u64::try_from(self.elapsed().as_nanos()).unwrap_or(NOT_ENDED);
        self.ended.fetch_min(now, Ordering::Relaxed);
    }

    /// Whether it is over; answers may still be under way.
    pub fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed) != NOT_ENDED || self.elapsed() >= self.length()
    }

    /// When the next request is due, since the start, once that is now; none if it is not to be sent any more.
    async fn next(&self) -> Option<Duration> {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let Some(rate) = self.args.rate else {
            return (!self.is_over()).then(|| self.elapsed());
        };
        let due = u128::from(number) * NANOS_PER_SECOND / u128::from(rate);
        let due = Duration::from_nanos(u64::try_from(due).unwrap_or(u64::MAX));
        while due < self.length() {
            let now = self.elapsed();
            match due.saturating_sub(now) {
                Duration::ZERO => return (now < self.length() + GRACE).then_some(due),
                left if left > AWAKE => tokio::time::sleep((left - AWAKE).min(GRACE)).await,
                _ => tokio::task::yield_now().await,
            }
        }
        None
    }
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The share of one thread: its connections and callers.
pub async fn run(load: Arc<Load>, number: u32) -> Result<Tally, Error> {
    let share = |whole: u32| {
        let threads = load.args.threads;
        whole.max(threads) / threads + u32::from(number < whole.max(threads) % threads)
    };
    let connecting = connect(&load.args, share(load.args.connections));
    let connections = tokio::time::timeout(CONNECT, connecting)
        .await
        .unwrap_or(Err(Error::Slow));
    if connections.is_err() {
        load.end();
    }
    load.connected.wait();
    load.begun.get_or_init(Instant::now);
    let connections = connections?;

    let tally = Rc::new(RefCell::new(Tally::default()));
    let ending = spawn_local(end_on_signal(Arc::clone(&load)));
    let spinning = load.args.spin.then(|| spawn_local(spin()));
    let callers: Vec<_> = (0..share(load.args.concurrency))
        .zip(connections.iter().cycle())
        .map(|(caller, connection)| {
            let seed = u64::from(number) << 32 | u64::from(caller);
            let (load, tally) = (Arc::clone(&load), Rc::clone(&tally));
            spawn_local(call(load, Rc::clone(connection), seed, tally))
        })
        .collect();
    wait(&load, callers).await;
    ending.abort();
    if let Some(spinning) = spinning {
        spinning.abort();
    }
    let tally = tally.borrow().clone();
    Ok(tally)
}

async fn connect(args: &Args, count: u32) -> Result<Vec<Rc<Connection>>, Error> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(Rc::new(Connection::open(&args.address).await?));
    }
    Ok(connections)
}

/// A run that somebody interrupts has a result too.
async fn end_on_signal(load: Arc<Load>) {
    if tokio::signal::ctrl_c().await.is_ok() {
        load.end();
    }
}

/// Keeps the thread from sleeping for as long as it is there: it looks for what has come whenever nothing else is to be done.
async fn spin() {
    loop {
        tokio::task::yield_now().await;
    }
}

/// Waits for all callers; after the end only for a while, for an answer may never come.
async fn wait(load: &Load, callers: Vec<JoinHandle<()>>) {
    let all = async {
        for caller in callers {
            // One that panics is missing in the counts; the others go on.
            let _ = caller.await;
        }
    };
    let overdue = async {
        while load.elapsed() < load.length() + GRACE {
            let left = (load.length() + GRACE).saturating_sub(load.elapsed());
            tokio::time::sleep(left.min(GRACE / 10)).await;
        }
    };
    tokio::select! {
        () = all => {}
        () = overdue => {}
    }
}

async fn call(load: Arc<Load>, connection: Rc<Connection>, seed: u64, tally: Rc<RefCell<Tally>>) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut requests = Requests::new(&load.args);
    let mut buffer = BytesMut::new();
    loop {
        let message = requests.next(&mut random, &mut buffer);
        let Some(due) = load.next().await else {
            return;
        };
        let is_measured = due >= load.args.warmup.0;
        if is_measured {
            tally.borrow_mut().sent += 1;
        }
        let answer = connection.call(message).await;
        if is_measured {
            let now = load.elapsed();
            let in_time = now <= load.length();
            tally
                .borrow_mut()
                .record(answer, now.saturating_sub(due), in_time);
        }
        if answer == Answer::LOST && !load.is_over() {
            connection.mend().await;
        }
    }
}
