//! Keys that many ask for at once, and subjects that do not take no for an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tollgate::limit::transaction::Amount;
use tollgate::limit::{Algorithm, Hits, Unit};
use tollgate::store::Key;
use tollgate::store::redis::Redis;

use super::{ask, charge, key, limit, per_day, reading, used};
use crate::support::redis::{Admin, Server, cluster, connected, until};

/// How often Redis has run a script.
pub(super) async fn calls(admin: &Admin) -> u64 {
    calls_of(admin, "eval").await
}

/// How often Redis has run commands whose names begin so.
pub(super) async fn calls_of(admin: &Admin, command: &str) -> u64 {
    let name = format!("cmdstat_{command}");
    let stats = admin.run("INFO commandstats").await;
    let stats = stats.as_string().expect("text");
    let lines = stats.lines().filter_map(|line| {
        let (_, rest) = line.strip_prefix(&name)?.split_once("calls=")?;
        rest.split(',').next()?.parse::<u64>().ok()
    });
    lines.sum()
}

/// Asks until the refusal is served from memory.
async fn refuse_from_memory(store: &Redis, key: &Key, limit: &tollgate::limit::Limit) {
    until("the refusal is remembered", async || {
        let before = store.spared().0;
        let outcome = charge(store, key, limit).await.expect("an outcome");
        assert!(!outcome.admitted);
        store.spared().0 > before
    })
    .await;
}

/// All at once, each asked before the next.
pub(super) async fn charge_at_once(
    store: &Redis,
    key: &Key,
    limit: &tollgate::limit::Limit,
    hits: &[u32],
) -> Vec<(bool, u64)> {
    let asking = hits.iter().map(|hits| {
        let amount = Amount::Charge(Hits::whole(*hits));
        ask(store, std::slice::from_ref(key), limit, amount)
    });
    let outcomes = join_all(asking).await.into_iter();
    outcomes
        .map(|outcome| {
            let outcome = outcome.expect("an outcome");
            (outcome.admitted, reading(&outcome).used.floor())
        })
        .collect()
}

#[tokio::test]
async fn a_hot_key_is_exact_in_the_order_of_arrival_and_costs_few_calls() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let before = calls(&admin).await;
    let answers = charge_at_once(&store, &key("hot"), &per_day(700), &[1; 1000]).await;
    for (place, (admitted, used)) in answers.into_iter().enumerate() {
        let place = place as u64;
        assert_eq!((admitted, used), (place < 700, place.min(700)), "{place}");
    }
    let made = calls(&admin).await - before;
    assert!(made <= 10, "{made} calls for 1000 requests");
}

/// The first of those that come together waits for the others, once several have come together; one by itself never waits for long.
#[tokio::test]
async fn those_that_come_together_for_a_hot_key_are_one_call() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let (key, limit) = (key("together"), per_day(1000));
    charge_at_once(&store, &key, &limit, &[1; 10]).await;
    let before = calls(&admin).await;
    for _ in 0..5 {
        charge_at_once(&store, &key, &limit, &[1; 10]).await;
    }
    assert_eq!(calls(&admin).await - before, 5);
    let combined = store.spared().1;
    for _ in 0..5 {
        charge(&store, &key, &limit).await.expect("an outcome");
    }
    assert_eq!(store.spared().1, combined, "nobody to go with");
    assert_eq!(used(&store, &key, &limit).await, 65);
}

/// That two have come at a time is remembered for four times at which one comes alone.
#[tokio::test]
async fn two_that_have_met_are_one_call_from_then_on_until_one_comes_alone_too_often() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let (first, key, limit) = (key("first"), key("two"), per_day(1000));
    // It takes the script there.
    charge(&store, &first, &limit).await.expect("an outcome");
    for (alone, wanted) in [(0, 2), (0, 1), (3, 1), (3, 1), (4, 2), (0, 1)] {
        for _ in 0..alone {
            charge(&store, &key, &limit).await.expect("an outcome");
        }
        let before = calls(&admin).await;
        charge_at_once(&store, &key, &limit, &[1; 2]).await;
        let made = calls(&admin).await - before;
        assert_eq!(made, wanted, "after {alone} alone");
    }
}

#[tokio::test]
async fn requests_of_different_hits_go_together_as_if_one_after_the_other() {
    let store = connected(&cluster::shared()).await;
    for seed in 0..20 {
        let mut random = SmallRng::seed_from_u64(seed);
        let algorithm = match seed % 2 {
            0 => Algorithm::FixedWindow,
            // It refills by less than a hit while the test runs.
            _ => Algorithm::TokenBucket {
                burst: Hits::whole(150),
            },
        };
        let limit = limit(100, Unit::Year, algorithm);
        let most = limit.capacity().floor();
        let hits: Vec<u32> = (0..120).map(|_| random.random_range(1..5)).collect();
        let key = key(&format!("mixed {seed}"));
        let answers = charge_at_once(&store, &key, &limit, &hits).await;
        let mut sum = 0;
        for (place, ((admitted, used), hits)) in answers.into_iter().zip(hits).enumerate() {
            let fits = sum + u64::from(hits) <= most;
            assert_eq!((admitted, used), (fits, sum), "seed {seed}, place {place}");
            sum += if fits { u64::from(hits) } else { 0 };
        }
        assert_eq!(used(&store, &key, &limit).await, sum, "seed {seed}");
    }
}

/// There are 4096 places: of five hundred keys some thirty pairs share one, and wait there for each other.
#[tokio::test]
async fn keys_that_meet_while_they_wait_are_charged_each_for_itself() {
    let server = Server::start();
    let store = server.store().await;
    let limits = [per_day(1), per_day(2)];
    let keys: Vec<Key> = (0..500).map(|n| key(&format!("meets {n}"))).collect();
    let asking = (0..3)
        .flat_map(|_| keys.iter().enumerate())
        .map(|(n, key)| {
            let limit = &limits[n % 2];
            charge(&store, key, limit)
        });
    let outcomes = join_all(asking).await;
    for (n, key) in keys.iter().enumerate() {
        let own = outcomes.iter().skip(n).step_by(keys.len());
        let admitted: Vec<bool> = own
            .map(|outcome| outcome.as_ref().expect("an outcome").admitted)
            .collect();
        let wanted = [true, n % 2 == 1, false];
        assert_eq!(admitted, wanted, "{}", key.as_str());
        assert_eq!(used(&store, key, &limits[n % 2]).await, 1 + n as u64 % 2);
    }
}

#[tokio::test]
async fn who_gives_up_while_waiting_is_not_charged() {
    let server = Server::start();
    let store = server.store().await;
    let (key, limit) = (key("given up"), per_day(100));
    let first = charge(&store, &key, &limit);
    let mut given_up = Box::pin(charge(&store, &key, &limit));
    let last = charge(&store, &key, &limit);
    let (first, (), last) = futures::join!(
        first,
        async {
            // It is asked once, so that it waits, and then dropped.
            assert!(futures::poll!(given_up.as_mut()).is_pending());
            drop(given_up);
        },
        last
    );
    assert!(first.is_ok() && last.is_ok());
    assert_eq!(used(&store, &key, &limit).await, 2);
}

#[tokio::test]
async fn a_refused_subject_costs_redis_nothing_until_it_could_pass() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let (key, limit) = (
        key("hammering"),
        limit(3, Unit::Second, Algorithm::FixedWindow),
    );
    for _ in 0..3 {
        // The window may end meanwhile; then it begins anew.
        charge(&store, &key, &limit).await.expect("an outcome");
    }
    let daily_limit = per_day(1);
    let daily = super::key("hammering by the day");
    charge(&store, &daily, &daily_limit)
        .await
        .expect("an outcome");
    refuse_from_memory(&store, &daily, &daily_limit).await;
    let before = calls(&admin).await;
    for _ in 0..1000 {
        let outcome = charge(&store, &daily, &daily_limit)
            .await
            .expect("an outcome");
        assert!(!outcome.admitted);
    }
    assert_eq!(calls(&admin).await - before, 0);
    // What waits a second passes after it, and not before it is told to.
    until("the second has passed", async || {
        charge(&store, &key, &limit)
            .await
            .expect("an outcome")
            .admitted
    })
    .await;
}

#[tokio::test]
async fn a_remembered_refusal_ends_with_whatever_makes_room() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let elsewhere = server.store().await;
    let one = Hits::ONE;
    let key = key("made-room");
    let limit = per_day(2);
    // Well before it is asked again in any case, half a minute later.
    let soon = Duration::from_secs(15);
    let again = async |after: &str| {
        let begun = Instant::now();
        until(&format!("it passes after {after}"), async || {
            charge(&store, &key, &limit)
                .await
                .expect("an outcome")
                .admitted
        })
        .await;
        assert!(begun.elapsed() < soon, "it passes late after {after}");
    };
    charge(&store, &key, &limit).await.expect("an outcome");
    charge(&store, &key, &limit).await.expect("an outcome");

    refuse_from_memory(&store, &key, &limit).await;
    let refund = Amount::Refund(one);
    let keys = std::slice::from_ref(&key);
    ask(&elsewhere, keys, &limit, refund)
        .await
        .expect("a refund of another instance");
    again("the refund").await;

    refuse_from_memory(&store, &key, &limit).await;
    admin.run(&format!("DEL {}", key.as_str())).await;
    again("the DEL").await;
    again("the DEL, again").await;

    refuse_from_memory(&store, &key, &limit).await;
    admin.run("FLUSHALL").await;
    again("the FLUSHALL").await;
    again("the FLUSHALL, again").await;

    refuse_from_memory(&store, &key, &limit).await;
    let raised = charge(&store, &key, &per_day(3)).await;
    assert!(raised.expect("an outcome").admitted, "at once");

    refuse_from_memory(&store, &key, &per_day(3)).await;
    admin.run("CLIENT KILL TYPE normal").await;
    admin.run(&format!("DEL {}", key.as_str())).await;
    again("the lost connection").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_on_many_threads_share_a_hot_key_exactly() {
    let server = Server::start();
    let store = Arc::new(server.store().await);
    let other = Arc::new(server.store().await);
    // A runtime that ends loses the calls that it has under way for others.
    let done = Arc::new(tokio::sync::Barrier::new(4));
    let runtime = |store: Arc<Redis>| {
        let done = Arc::clone(&done);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let mut admitted = 0;
                for _ in 0..10 {
                    let answers =
                        charge_at_once(&store, &key("shared"), &per_day(1000), &[1; 100]).await;
                    admitted += answers.iter().filter(|(admitted, _)| *admitted).count();
                }
                done.wait().await;
                admitted
            })
        })
    };
    let threads: Vec<_> = [&store, &store, &other, &other]
        .map(|store| runtime(Arc::clone(store)))
        .into();
    let count = tokio::task::spawn_blocking(|| {
        let counts = threads
            .into_iter()
            .map(|thread| thread.join().expect("a count"));
        counts.sum::<usize>()
    });
    assert_eq!(count.await.expect("a count"), 1000);
}
