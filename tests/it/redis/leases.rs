//! Hits that are charged in advance: few calls, no limit exceeded, and what is not used goes back.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tollgate::limit::lease::Lease;
use tollgate::limit::{Algorithm, Hits, Limit, Unit};
use tollgate::store::redis::Redis;
use tollgate::store::{Key, Store};
use tollgate::time::Clock;

use super::hot::{calls, charge_at_once};
use super::{ask, charge, key, limit, per_day, used};
use crate::support::http;
use crate::support::poll::pause;
use crate::support::redis::{CALL_TIMEOUT, Server, cluster, connected, until};
use crate::support::server::{Setup, is_over, request};

const RULES: &str = "
domain: d
descriptors:
  - key: user
    rate_limit: {name: year, requests_per_unit: 100000, unit: year, lease: 1%}
";

/// How long a batch is held at most.
const LEASE_FOR: Duration = Duration::from_secs(1);

/// A limit of which a tenth may be taken in advance.
fn leased(limit: Limit) -> Limit {
    limit.leased(Lease::parse("10%"))
}

fn yearly(requests: u32) -> Limit {
    leased(limit(requests, Unit::Year, Algorithm::FixedWindow))
}

async fn admits(store: &Redis, key: &Key, limit: &Limit) -> bool {
    let outcome = charge(store, key, limit).await;
    outcome.expect("an outcome").admitted
}

/// Charges one after the other, and tells how many were admitted.
async fn charge_in_turn(store: &Redis, key: &Key, limit: &Limit, count: usize) -> u64 {
    let mut admitted = 0;
    for _ in 0..count {
        admitted += u64::from(admits(store, key, limit).await);
    }
    admitted
}

/// Charges until a batch is out, and tells how many were admitted.
async fn charge_until_leased(store: &Redis, key: &Key, limit: &Limit) -> u64 {
    let (before, mut admitted) = (store.leased(), 0);
    until("a request is answered from a lease", async || {
        admitted += u64::from(admits(store, key, limit).await);
        store.leased() > before
    })
    .await;
    admitted
}

#[tokio::test]
async fn requests_one_after_the_other_cost_few_calls() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let bucket = Algorithm::TokenBucket {
        burst: Hits::whole(100_000),
    };
    for (name, limit) in [
        ("leased", yearly(100_000)),
        (
            "leased bucket",
            leased(limit(600_000, Unit::Minute, bucket)),
        ),
    ] {
        let before = calls(&admin).await;
        assert_eq!(charge_in_turn(&store, &key(name), &limit, 500).await, 500);
        let made = calls(&admin).await - before;
        assert!(made < 100, "{name}: {made} calls for 500 requests");
    }
    let before = calls(&admin).await;
    charge_in_turn(&store, &key("plain"), &per_day(100_000), 500).await;
    assert_eq!(calls(&admin).await - before, 500, "without a lease");
}

#[tokio::test]
async fn a_key_that_is_asked_for_once_takes_nothing_in_advance() {
    let server = Server::start();
    let store = server.store().await;
    let limit = yearly(100_000);
    for subject in 0..50 {
        let key = key(&format!("cold {subject}"));
        assert!(admits(&store, &key, &limit).await);
        assert_eq!(used(&store, &key, &limit).await, 1);
    }
    assert_eq!(store.leased(), 0);
}

#[tokio::test]
async fn unused_hits_go_back() {
    let store = connected(&cluster::shared()).await;
    let (key, limit) = (key("unused"), yearly(100_000));
    let admitted = charge_until_leased(&store, &key, &limit).await;
    let began = Instant::now();
    until("only what was admitted is used", async || {
        used(&store, &key, &limit).await == admitted
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(20));
    // At the end they need not wait.
    let more = charge_until_leased(&store, &key, &limit).await;
    store.give_back_leases().await;
    assert_eq!(used(&store, &key, &limit).await, admitted + more);
    assert_eq!(store.lost_give_backs(), 0);
}

#[tokio::test]
async fn instances_refuse_no_earlier_than_by_their_batches_and_never_too_late() {
    const LIMIT: u64 = 2_000;
    let server = Server::start();
    let (first, second, third) = tokio::join!(server.store(), server.store(), server.store());
    let stores = [first, second, third];
    let (key, limit) = (key("shared"), yearly(LIMIT as u32));
    let until_refused = async |store: &Redis| {
        let mut admitted = 0;
        while admits(store, &key, &limit).await {
            admitted += 1;
        }
        admitted
    };
    let admitted: u64 = join_all(stores.iter().map(until_refused))
        .await
        .iter()
        .sum();
    // Each may have a batch out when the others are refused.
    let early = LIMIT / 10 * stores.len() as u64;
    assert!((LIMIT - early..=LIMIT).contains(&admitted), "{admitted}");
    let mut admitted = admitted;
    until("all of the limit is admitted", async || {
        for store in &stores {
            admitted += u64::from(admits(store, &key, &limit).await);
        }
        admitted >= LIMIT
    })
    .await;
    let more = join_all(
        stores
            .iter()
            .map(|store| charge_in_turn(store, &key, &limit, 50)),
    )
    .await;
    assert_eq!(admitted + more.iter().sum::<u64>(), LIMIT);
    assert_eq!(used(&stores[0], &key, &limit).await, LIMIT);
    assert!(stores.iter().all(|store| store.leased() > 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_is_over_its_limit_across_its_borders() {
    const LIMIT: u64 = 400;
    const TASKS: usize = 3;
    let server = Server::start();
    let (first, second, third) = tokio::join!(server.store(), server.store(), server.store());
    let stores = [first, second, third].map(std::sync::Arc::new);
    let ends = Instant::now() + Duration::from_millis(3_500);
    let task = |store: std::sync::Arc<Redis>| async move {
        let key = key("windows");
        let limit = leased(limit(LIMIT as u32, Unit::Second, Algorithm::FixedWindow));
        // By window; what came so close to a border that it may belong to either counts for none.
        let mut admitted: HashMap<i64, u64> = HashMap::new();
        let second = || Clock::System.now().as_micros() / 1_000_000;
        while Instant::now() < ends {
            let before = second();
            if admits(&store, &key, &limit).await {
                if second() == before {
                    *admitted.entry(before).or_default() += 1;
                }
            } else {
                pause().await;
            }
        }
        admitted
    };
    let tasks = stores.iter().cycle().take(stores.len() * TASKS);
    let tasks: Vec<_> = tasks
        .map(|store| tokio::spawn(task(std::sync::Arc::clone(store))))
        .collect();
    let mut windows: HashMap<i64, u64> = HashMap::new();
    for task in tasks {
        for (window, admitted) in task.await.expect("a count") {
            *windows.entry(window).or_default() += admitted;
        }
    }
    assert!(windows.len() >= 3, "{windows:?}");
    assert!(
        windows.values().all(|admitted| *admitted <= LIMIT),
        "{windows:?}"
    );
    assert!(stores.iter().any(|store| store.leased() > 0));
}

#[tokio::test]
async fn a_killed_instance_takes_no_more_with_it_than_its_batch() {
    const LIMIT: u64 = 1_000;
    let server = Server::start();
    let settings = server.settings();
    let (key, limit) = (key("killed"), yearly(LIMIT as u32));
    let killed = {
        let (key, limit) = (key.clone(), limit.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            // Nothing of it goes on after this.
            runtime.block_on(async {
                let store = connected(&settings).await;
                charge_until_leased(&store, &key, &limit).await
            })
        })
    };
    let killed = tokio::task::spawn_blocking(|| killed.join().expect("a count"));
    let killed = killed.await.expect("a count");
    let store = server.store().await;
    let lost = used(&store, &key, &limit).await - killed;
    assert!(lost > 0 && lost <= LIMIT / 10, "{lost}");
    let mut admitted = killed;
    until("the rest is admitted", async || {
        admitted += charge_in_turn(&store, &key, &limit, 100).await;
        admitted + lost >= LIMIT
    })
    .await;
    admitted += charge_in_turn(&store, &key, &limit, 50).await;
    assert_eq!(admitted + lost, LIMIT);
}

#[tokio::test]
async fn changed_rules_hold_at_once() {
    let server = Server::start();
    let store = server.store().await;
    let (key, before) = (key("changed"), yearly(100_000));
    let mut admitted = charge_until_leased(&store, &key, &before).await;
    // Nothing is left under the new limit, and nothing is taken from a batch of the old one.
    assert!(!admits(&store, &key, &yearly(admitted as u32)).await);
    let plain = limit(100_000, Unit::Year, Algorithm::FixedWindow);
    let leased = store.leased();
    admitted += charge_in_turn(&store, &key, &plain, 5).await;
    let other = yearly(200_000);
    admitted += u64::from(admits(&store, &key, &other).await);
    assert_eq!(store.leased(), leased, "its batch is of other rules");
    until("what is left of the old batch is back", async || {
        used(&store, &key, &plain).await == admitted
    })
    .await;
}

#[tokio::test]
async fn a_reset_ends_the_batches_of_its_instance() {
    let server = Server::start();
    let store = Store::Redis(server.store().await);
    let Store::Redis(redis) = &store else { return };
    let (key, limit) = (key("reset"), yearly(100_000));
    charge_until_leased(redis, &key, &limit).await;
    let forgotten = store.forget(&key, &[limit.tag()], CALL_TIMEOUT).await;
    forgotten.expect("a reset");
    assert_eq!(used(redis, &key, &limit).await, 0);
    let plain = super::limit(100_000, Unit::Year, Algorithm::FixedWindow);
    assert_eq!(charge_in_turn(redis, &key, &plain, 5).await, 5);
    let began = Instant::now();
    until("the time of the batch is over", async || {
        began.elapsed() > LEASE_FOR * 3 / 2
    })
    .await;
    assert_eq!(
        used(redis, &key, &limit).await,
        5,
        "nothing of it went back"
    );
}

#[tokio::test]
async fn many_requests_at_once_are_exact_beside_other_limits_of_the_key() {
    let server = Server::start();
    let store = server.store().await;
    let (key, other) = (key("beside"), per_day(10));
    // The record holds the state of a limit that is not asked for: not what the straight path knows.
    assert!(admits(&store, &key, &other).await);
    let plain = limit(300, Unit::Year, Algorithm::FixedWindow);
    let hits: Vec<u32> = (0..150).map(|place| 1 + place % 5 / 2).collect();
    let mut sum = 0;
    for (place, answer) in charge_at_once(&store, &key, &plain, &hits)
        .await
        .into_iter()
        .enumerate()
    {
        let fits = sum + u64::from(hits[place]) <= 300;
        assert_eq!(answer, (fits, sum), "{place}");
        sum += if fits { u64::from(hits[place]) } else { 0 };
    }
    assert_eq!(used(&store, &key, &plain).await, sum);
    let limit = yearly(100_000);
    let admitted = charge_in_turn(&store, &key, &limit, 100).await;
    assert_eq!(admitted, 100);
    assert!(store.leased() > 50, "{}", store.leased());
    let peek = tollgate::limit::transaction::Amount::Peek(Hits::ONE);
    let outcome = ask(&store, std::slice::from_ref(&key), &other, peek).await;
    assert_eq!(
        super::reading(&outcome.expect("an outcome")).used,
        Hits::ONE
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_gives_back_what_it_took() {
    let redis = Server::start();
    let url = format!("127.0.0.1:{}", redis.port);
    let start = || {
        let setup = Setup::rules(RULES).env("REDIS_URL", &url);
        setup.env("STORE_TIMEOUT", "5s").start_ready()
    };
    let ended = start();
    let mut client = ended.client().await;
    let mut admitted = 0;
    until("a request is answered from a lease", async || {
        for _ in 0..20 {
            let answer = client
                .should_rate_limit(request("d", &[&[("user", "u")]]))
                .await;
            assert!(!is_over(answer.expect("an answer").get_ref()));
            admitted += 1;
        }
        ended.metric("tollgate_store_leased") > 0.0
    })
    .await;
    drop(client);
    ended.signal("TERM");
    assert!(ended.wait().success());
    let reply = http::get(start().http, "/api/v1/rate-limit/quota/user=u");
    let shown: serde_json::Value = serde_json::from_str(&reply.body).expect("JSON");
    let limit = &shown["rules"][0]["limits"][0];
    assert_eq!(limit["used"], admitted, "{shown}");
    assert_eq!(limit["lease"], "1%", "{shown}");
}
