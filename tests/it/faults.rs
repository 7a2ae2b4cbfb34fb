//! The service while Redis fails in every way that can be made here: each call has its answer, in time, and no error.
//!
//! Load comes over gRPC; between the service and Redis is a proxy that breaks on order. `SEED=n` replays the choices of a run.
//! What the machine is slow at is not the service's: the bounds of time are wide, and what was measured is printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::support::caller::Caller;
use crate::support::http;
use crate::support::poll;
use crate::support::server::{Server, Setup};

use self::load::{BIG, HOLDERS, SMALL, Tally};

mod cluster;
mod connections;
mod instances;
mod load;
mod servers;

const RULES: &str = "
domain: d
descriptors:
  - {key: big, rate_limit: {requests_per_unit: 1000000, unit: year}}
  - {key: small, rate_limit: {requests_per_unit: 300, unit: year}}
  - {key: allow, rate_limit: {requests_per_unit: 1000000, unit: year, failure_mode: allow}}
  - {key: deny, rate_limit: {requests_per_unit: 1000000, unit: year, failure_mode: deny}}
  - {key: pair, rate_limit: {requests_per_unit: 1000000, unit: year}}
";

/// What the store is given, on a machine whose own pauses are longer than the 10 ms that it has by default.
const STORE_TIMEOUT: Duration = Duration::from_millis(50);

/// How much later than it should be an answer may come here, on a busy machine.
const MARGIN: Duration = Duration::from_secs(2);

/// How long after a fault the store must decide again. An attempt to connect may have two seconds left, and be followed by the
/// longest pause between attempts, two more.
const RESUMES: Duration = Duration::from_secs(10);

/// Callers at once.
const CALLERS: usize = 24;

/// A service under load.
struct Trial {
    name: String,
    server: Server,
    done: Arc<AtomicBool>,
    load: JoinSet<Tally>,
}

fn seed() -> u64 {
    let given = std::env::var("SEED").ok();
    given.map_or(1, |seed| seed.parse().expect("SEED is a number"))
}

/// With `--nocapture`, what docs/reliability.md has its figures from.
#[expect(clippy::print_stdout, reason = "figures are for whoever runs the test")]
fn tell(text: &str) {
    println!("{text}");
}

impl Trial {
    /// Starts a service on the Redis at `url`, and load.
    async fn start(name: &str, kind: &str, url: &str) -> Self {
        let timeout = format!("{}ms", STORE_TIMEOUT.as_millis());
        let server = Setup::rules(RULES)
            .env("REDIS_TYPE", kind)
            .env("REDIS_URL", url)
            .env("STORE_TIMEOUT", &timeout)
            .env("INSTANCE_COUNT", "1")
            .env("REDIS_TIMEOUT", "2s")
            .start_ready();
        let (done, mut load) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        let mut callers = Vec::new();
        for _ in 0..3 {
            callers.push(Caller::connect(server.grpc.expect("a port")).await);
        }
        let trial = Self {
            name: format!("{name}, SEED={}", seed()),
            done: Arc::clone(&done),
            load: JoinSet::new(),
            server,
        };
        trial.until_resumed().await;
        for n in 0..CALLERS {
            let caller = callers[n % callers.len()].clone();
            let seed = seed().wrapping_mul(1000) + n as u64;
            load.spawn(load::keep_asking(caller, seed, Arc::clone(&done)));
        }
        let trial = Self { load, ..trial };
        // Some of it while all is well.
        poll::hold(Duration::from_millis(300)).await;
        trial
    }

    /// The same on one server, at a port.
    async fn on_port(name: &str, port: u16) -> Self {
        Self::start(name, "single", &format!("127.0.0.1:{port}")).await
    }

    /// Waits until the store decides again, for each subject, and tells how long that took.
    async fn until_resumed(&self) -> Duration {
        let begun = Instant::now();
        let caller = Caller::connect(self.server.grpc.expect("a port")).await;
        for holder in 0..HOLDERS {
            poll::until_async("the store to decide again", || async {
                let called = caller.ask(&load::request(&[("pair", holder)]), None).await;
                let called = called.expect("an answer");
                (load::reason_of(&called) == "within_limit").then_some(())
            })
            .await;
        }
        begun.elapsed()
    }

    /// Waits until a breaker is open, and is seen to be by those who watch.
    async fn until_open(&self) {
        poll::until_async("a breaker to be seen open", || async {
            let text = http::get(self.server.http, "/metrics").body;
            let is_open = |line: &&str| {
                line.starts_with("tollgate_store_breaker_open{") && line.ends_with(" 1")
            };
            let in_metrics = text.lines().any(|line| is_open(&line));
            let ready = http::get(self.server.http, "/health/ready").body;
            (in_metrics && ready.contains("\"breaker\":\"open\"")).then_some(())
        })
        .await;
    }

    /// It is alive and ready, and few calls are under way.
    #[track_caller]
    fn assert_well(&self) {
        for path in ["/health/live", "/health/ready", "/healthcheck"] {
            let reply = http::get(self.server.http, path);
            assert_eq!(reply.code, 200, "{}: {path}: {}", self.name, reply.body);
        }
        let under_way = self.server.metric("tollgate_in_flight");
        assert!(
            under_way <= CALLERS as f64 + 1.0,
            "{}: {under_way}",
            self.name
        );
    }

    /// Holds while the fault lasts.
    async fn endure(&self, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.assert_well();
            poll::hold(Duration::from_millis(100)).await;
        }
    }

    /// After the fault: the store decides again, the load ends, and the accounts are right.
    async fn conclude(self) -> Tally {
        self.conclude_without(0).await
    }

    /// The same where the store may have forgotten so many charges.
    async fn conclude_without(mut self, forgotten: u64) -> Tally {
        let resumed = self.until_resumed().await;
        assert!(resumed < RESUMES, "{}: {resumed:?}", self.name);
        poll::hold(Duration::from_millis(300)).await;
        self.assert_well();
        self.done.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        while let Some(of_one) = self.load.join_next().await {
            tally.add(of_one.expect("no panic"));
        }
        self.check(&tally, resumed, forgotten).await;
        tally
    }

    async fn check(&self, tally: &Tally, resumed: Duration, forgotten: u64) {
        let name = &self.name;
        tell(&format!("{name}: resumed after {resumed:?}; {tally}"));
        assert!(tally.troubles.is_empty(), "{name}: {:?}", tally.troubles);
        let latest = tally.late.last().copied().unwrap_or_default();
        assert!(latest < MARGIN, "{name}: {latest:?} late");
        poll::until_async("all to be told to the store", || async {
            (self.server.metric("tollgate_owed") == 0.0).then_some(())
        })
        .await;
        // Each may have been charged or not; it counts as charged.
        let unknown = self
            .server
            .metric("tollgate_store_errors{kind=\"timeout\"}") as u64;
        let unknown = unknown + self.server.metric("tollgate_settled_unknown") as u64;
        let caller = Caller::connect(self.server.grpc.expect("a port")).await;
        let (mut missing, mut surplus) = (0, 0);
        for holder in 0..HOLDERS {
            let used = load::used(&caller, holder).await;
            let admitted = tally.admitted(BIG, holder);
            missing += admitted.saturating_sub(used);
            surplus += used.saturating_sub(admitted);
            let small = tally.admitted(SMALL, holder);
            let forgotten = forgotten + unknown;
            let local = tally.admitted_locally(SMALL, holder);
            // The store's limit, and this instance's share of it, which is all.
            assert!(
                small <= 300 + local.min(300) + forgotten,
                "{name}: {small}, {local}"
            );
        }
        tell(&format!(
            "{name}: {unknown} unknown, {missing} missing in the store, {surplus} beyond"
        ));
        assert!(
            missing <= unknown + forgotten,
            "{name}: {missing} > {unknown}"
        );
        assert!(surplus <= unknown, "{name}: {surplus} > {unknown}");
    }
}
