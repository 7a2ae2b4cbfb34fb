//! A Redis of their own for limits per second: what lies there, and that a request is charged in both or in neither.

use std::process::Command;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use smallvec::smallvec;
use tokio::task::JoinSet;
use tollgate::limit::period::Zone;
use tollgate::limit::transaction::{Amount, Bound, Demand, Role};
use tollgate::limit::{Algorithm, Hits, Limit, Unit};
use tollgate::store::Transaction;
use tollgate::store::redis::Redis;
use tollgate::store::redis::settings::Settings;

use super::{key, per_day, used};
use crate::support::http::send;
use crate::support::redis::{CALL_TIMEOUT, Server, cluster, connected};
use crate::support::server::{Server as Tollgate, Setup};

const TASKS: u64 = 16;
const REQUESTS: usize = 30;

/// A window of seconds that no test is as long as.
fn per_second(requests: u32) -> Limit {
    let algorithm = Algorithm::FixedWindow;
    Limit::new(requests, Unit::Second, 1_000_000, algorithm, &Zone::utc()).expect("a limit")
}

fn url(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port)
}

fn keys(server: &Server) -> Vec<String> {
    let port = server.port.to_string();
    let output = Command::new("redis-cli")
        .args(["-p", &port, "--scan", "--pattern", "*edge*"])
        .output();
    let text = String::from_utf8_lossy(&output.expect("redis-cli").stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

const RULES: &str = "
domain: edge
descriptors:
  - key: second
    rate_limit: {unit: second, unit_multiplier: 1000000, requests_per_unit: 2}
  - key: day
    rate_limit: {unit: day, requests_per_unit: 3}
  - key: both
    rate_limits:
      - {name: a, unit: second, unit_multiplier: 1000000, requests_per_unit: 9}
      - {name: b, unit: day, requests_per_unit: 9}
";

fn json(server: &Tollgate, keys: &[&str], hits: u32) -> u16 {
    let descriptor = |key: &&str| format!(r#"{{"entries": [{{"key": "{key}", "value": "v"}}]}}"#);
    let descriptors = keys.iter().map(descriptor).collect::<Vec<_>>().join(", ");
    let body =
        format!(r#"{{"domain": "edge", "hitsAddend": {hits}, "descriptors": [{descriptors}]}}"#);
    let reply = send(server.http, "POST", "/json", &[], &body);
    reply.expect("an answer").code
}

#[test]
fn limits_per_second_lie_in_a_redis_of_their_own() {
    let (first, second) = (Server::start(), Server::start());
    let server = Setup::rules(RULES)
        .env("REDIS_URL", &url(&first))
        .env("REDIS_PERSECOND", "true")
        .env("REDIS_PERSECOND_SOCKET_TYPE", "tcp")
        .env("REDIS_PERSECOND_URL", &url(&second))
        .env("STORE_TIMEOUT", "5s")
        .start_ready();
    assert_eq!(json(&server, &["second", "day", "both"], 1), 200);
    let (of_first, of_second) = (keys(&first), keys(&second));
    let has = |keys: &[String], name: &str| keys.iter().any(|key| key.contains(name));
    assert!(
        has(&of_second, "second") && of_second.len() == 1,
        "{of_second:?}"
    );
    assert!(
        has(&of_first, "day") && has(&of_first, "both"),
        "{of_first:?}"
    );
    assert!(!has(&of_first, "second"), "{of_first:?}");
    // The second one refuses two hits, so the first is not charged either; then the other way round.
    assert_eq!(json(&server, &["second", "day"], 2), 429);
    assert_eq!(json(&server, &["day"], 2), 200);
    assert_eq!(json(&server, &["second", "day"], 1), 429);
    assert_eq!(json(&server, &["second"], 1), 200);
    assert_eq!(json(&server, &["second"], 1), 429);
}

#[test]
fn a_second_redis_that_is_away_is_decided_by_the_failure_mode() {
    let (first, second) = (Server::start(), Server::start());
    let server = Setup::rules(&RULES.replace("domain: edge", "domain: edge\nfailure_mode: deny"))
        .env("REDIS_URL", &url(&first))
        .env("REDIS_PERSECOND", "true")
        .env("REDIS_PERSECOND_URL", &url(&second))
        .env("STORE_TIMEOUT", "1s")
        .start_ready();
    assert_eq!(json(&server, &["second"], 1), 200);
    drop(second);
    assert_eq!(json(&server, &["second"], 1), 429);
    assert_eq!(json(&server, &["day"], 1), 200);
}

/// Takes a hit of each of these, of which the even ones are limited per day and the odd ones per second.
async fn take(store: &Redis, places: &[usize], limits: &[Limit; 2]) -> bool {
    let keys: Vec<_> = places.iter().map(|n| key(&format!("two {n}"))).collect();
    let demand = |(key, place): (usize, &usize)| Demand {
        key,
        amount: Amount::Charge(Hits::ONE),
        role: Role::Enforced,
        ban: None,
        candidates: Vec::new(),
        limits: smallvec![Bound {
            limit: &limits[place % 2],
            always: false,
        }],
    };
    let demands: Vec<Demand<'_>> = places.iter().enumerate().map(demand).collect();
    let transaction = Transaction {
        keys: &keys,
        demands: &demands,
        now: None,
        timeout: CALL_TIMEOUT,
    };
    let outcome = store.transact(&transaction).await;
    outcome.expect("an outcome").admitted
}

async fn race(first: Settings, second: Settings) {
    const KEYS: usize = 6;
    const LIMIT: u32 = 60;
    let settings = Settings {
        per_second: Some(Box::new(second)),
        ..first
    };
    let store = Arc::new(connected(&settings).await);
    let mut tasks = JoinSet::new();
    for seed in 0..TASKS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut random = SmallRng::seed_from_u64(seed);
            let limits = [per_day(LIMIT), per_second(LIMIT)];
            let mut charged = [0_u64; KEYS];
            for _ in 0..REQUESTS {
                let first = random.random_range(0..KEYS);
                let places: Vec<usize> = (0..random.random_range(1..=3))
                    .map(|n| (first + n) % KEYS)
                    .collect();
                if take(&store, &places, &limits).await {
                    places.iter().for_each(|place| charged[*place] += 1);
                }
            }
            charged
        });
    }
    let all = tasks.join_all().await;
    let limits = [per_day(LIMIT), per_second(LIMIT)];
    let mut reached = [false; 2];
    for place in 0..KEYS {
        let charged: u64 = all.iter().map(|charged| charged[place]).sum();
        let found = used(&store, &key(&format!("two {place}")), &limits[place % 2]).await;
        assert_eq!(found, charged, "{place}");
        assert!(found <= u64::from(LIMIT), "{place}");
        reached[place % 2] |= found == u64::from(LIMIT);
    }
    assert!(
        reached[0] && reached[1],
        "limits of both are reached: {all:?}"
    );
    assert_eq!(store.lost_give_backs(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_charged_in_both_or_in_neither() {
    let (first, second) = (Server::start(), Server::start());
    race(first.settings(), second.settings()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_the_two_may_be_a_cluster() {
    let first = Server::start();
    race(first.settings(), cluster::shared()).await;
}
