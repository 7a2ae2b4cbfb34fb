//! When servers stop, hang, start again or are replaced.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::Either;
use futures::stream::FuturesUnordered;
use tollgate::limit::transaction::Amount;
use tollgate::limit::{Hits, Limit};
use tollgate::store::redis::{MAX_IN_FLIGHT, Redis};
use tollgate::store::{Key, StoreError};

use super::{ask_within, charge, key, per_day, used};
use crate::support::redis::cluster::{Cluster, MASTERS};
use crate::support::redis::sentinel::Sentinel;
use crate::support::redis::{PATIENCE, Server, connected, until};
use crate::support::server::{Setup, request};

/// The longest that a call without a connection may take, on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn the_script_is_loaded_again_after_it_was_forgotten() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let (key, limit) = (key("flush"), per_day(5));
    for _ in 0..3 {
        charge(&store, &key, &limit).await.expect("an outcome");
        admin.run("SCRIPT FLUSH").await;
    }
    assert_eq!(used(&store, &key, &limit).await, 3);
}

#[tokio::test]
async fn a_stopped_server_is_unreachable_at_once_and_is_found_again() {
    let mut server = Server::start();
    let store = server.store().await;
    let (key, limit) = (key("restart"), per_day(5));
    charge(&store, &key, &limit).await.expect("an outcome");
    server.kill();
    until("the loss is seen", async || {
        matches!(
            charge(&store, &key, &limit).await,
            Err(StoreError::Unreachable(_))
        )
    })
    .await;
    let started = Instant::now();
    charge(&store, &key, &limit).await.expect_err("no server");
    assert!(started.elapsed() < AT_ONCE, "took {:?}", started.elapsed());
    store.ping().await.expect_err("no server");
    server.restart();
    until("service resumes", async || {
        charge(&store, &key, &limit).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_store_may_start_before_its_server() {
    let mut server = Server::start();
    server.kill();
    let store = Redis::connect(&server.settings()).expect("settings");
    let error = store.ping().await.expect_err("no server");
    assert_eq!(error.kind(), "unreachable");
    server.restart();
    until("service begins", async || store.ping().await.is_ok()).await;
}

#[tokio::test]
async fn a_hanging_server_costs_no_more_than_the_timeout() {
    let server = Server::start();
    let store = server.store().await;
    let (key, limit) = (key("hang"), per_day(5));
    charge(&store, &key, &limit).await.expect("an outcome");
    server.signal("-STOP");
    let timeout = Duration::from_millis(20);
    let started = Instant::now();
    let error = charge_within(&store, &key, &limit, timeout).await;
    assert_eq!(error.expect_err("no answer").kind(), "timeout");
    assert!(started.elapsed() < AT_ONCE, "took {:?}", started.elapsed());
    server.signal("-CONT");
    until("service resumes", async || store.ping().await.is_ok()).await;
}

#[tokio::test]
async fn a_charge_whose_answer_is_lost_is_made_once() {
    let server = Server::start();
    let store = server.store().await;
    let (key, limit) = (key("lost"), per_day(5));
    charge(&store, &key, &limit).await.expect("an outcome");
    server.signal("-STOP");
    // It may take longer than the connection lives, so it is under way when that is given up, and is executed afterwards.
    let call = charge_within(&store, &key, &limit, PATIENCE);
    let wake = async {
        until("the connection is given up", async || {
            matches!(store.ping().await, Err(StoreError::Unreachable(_)))
        })
        .await;
        server.signal("-CONT");
    };
    let (answer, ()) = tokio::join!(call, wake);
    until("service resumes", async || store.ping().await.is_ok()).await;
    assert_eq!(answer.expect_err("the answer was lost").kind(), "timeout");
    assert_eq!(used(&store, &key, &limit).await, 2);
}

#[tokio::test]
async fn sentinel_leads_to_the_new_master() {
    let mut servers = Sentinel::start().await;
    let store = connected(&servers.settings()).await;
    let (key, limit) = (key("sentinel"), per_day(1000));
    charge(&store, &key, &limit).await.expect("an outcome");
    let replica = servers.replica.admin().await;
    until("the replica has it", async || {
        replica.run("DBSIZE").await.as_i64() == Some(1)
    })
    .await;
    servers.master.kill();
    until("service resumes", async || {
        charge(&store, &key, &limit).await.is_ok()
    })
    .await;
    assert_eq!(used(&store, &key, &limit).await, 2);
    assert_eq!(store.failovers(), 1);
}

#[tokio::test]
async fn a_lost_master_of_a_cluster_stops_its_slots_only_until_its_replica_takes_over() {
    let mut cluster = Cluster::start(true).await;
    let store = connected(&cluster.settings()).await;
    let limit = per_day(1_000_000);
    let mut keys: Vec<Key> = Vec::new();
    for master in 0..MASTERS {
        let on_master = async |n: &usize| {
            let slot = cluster.slot_of(key(&format!("f{n}")).as_str()).await;
            Cluster::first_master(slot) == master
        };
        let mut n = 0;
        while !on_master(&n).await {
            n += 1;
        }
        keys.push(key(&format!("f{n}")));
        charge(&store, &keys[master], &limit)
            .await
            .expect("an outcome");
    }
    cluster.servers[0].kill();
    until("the loss is seen", async || {
        charge(&store, &keys[0], &limit).await.is_err()
    })
    .await;
    charge(&store, &keys[1], &limit)
        .await
        .expect("another master is not affected");
    until("service resumes", async || {
        charge(&store, &keys[0], &limit).await.is_ok()
    })
    .await;
    until("all is well", async || store.ping().await.is_ok()).await;
    for key in &keys {
        charge(&store, key, &limit).await.expect("an outcome");
    }
}

async fn charge_within(
    store: &Redis,
    key: &Key,
    limit: &Limit,
    timeout: Duration,
) -> Result<(), StoreError> {
    let keys = std::slice::from_ref(key);
    let amounts = [Amount::Charge(Hits::ONE)];
    let outcome = ask_within(store, keys, limit, &amounts, timeout).await;
    outcome.map(|_| ())
}

/// Calls at a server that hangs, each given up soon, do not pile up without end.
#[tokio::test]
async fn what_waits_for_a_hanging_server_is_bounded() {
    let server = Server::start();
    let store = server.store().await;
    let limit = per_day(5);
    charge(&store, &key("first"), &limit)
        .await
        .expect("an outcome");
    server.signal("-STOP");
    let names: Vec<Key> = (0..20_000).map(|n| key(&n.to_string())).collect();
    let asking = names
        .iter()
        .map(|key| charge_within(&store, key, &limit, Duration::from_millis(1)));
    let errors = futures::future::join_all(asking).await.into_iter();
    let kinds: Vec<_> = errors
        .map(|error| error.expect_err("no answer").kind())
        .collect();
    assert!(kinds.contains(&"timeout") && kinds.contains(&"unreachable"));
    server.signal("-CONT");
    until("service resumes", async || {
        charge(&store, &key("last"), &limit).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_asked_by_each_call() {
    let server = Server::start();
    let store = server.store().await;
    let limit = per_day(1000);
    charge(&store, &key("first"), &limit)
        .await
        .expect("an outcome");
    let is_open = || store.servers().iter().all(|server| server.is_open);
    assert!(!is_open());
    server.signal("-STOP");
    let timeout = Duration::from_millis(5);
    let mut kinds = HashMap::<_, usize>::new();
    for n in 0..500 {
        let error = charge_within(&store, &key(&n.to_string()), &limit, timeout).await;
        *kinds
            .entry(error.expect_err("no answer").kind())
            .or_default() += 1;
    }
    assert!(is_open());
    // Those that open it, and few that look whether it still holds.
    assert!(
        kinds["timeout"] < 50 && kinds["breaker_open"] > 400,
        "{kinds:?}"
    );
    server.signal("-CONT");
    until("service resumes", async || {
        charge(&store, &key("last"), &limit).await.is_ok()
    })
    .await;
    assert!(!is_open());
}

/// Callers with next to no time, 32 in a row, made a server that is well look as if it did not answer.
#[tokio::test]
async fn the_breaker_does_not_open_for_the_hurry_of_callers() {
    let server = Server::start();
    let store = server.store().await;
    let limit = per_day(1000);
    for timeout in [Duration::ZERO, Duration::from_micros(1)] {
        for n in 0..100 {
            let of_hurry = key(&format!("hurry{n}"));
            // It may even be answered.
            let _ = charge_within(&store, &of_hurry, &limit, timeout).await;
            assert!(!store.servers()[0].is_open, "{timeout:?}");
        }
        if timeout.is_zero() {
            assert_eq!(used(&store, &key("hurry0"), &limit).await, 0, "not sent");
        }
    }
}

/// Calls beyond the bound fail at once, and wait for nothing.
#[tokio::test]
async fn calls_beyond_the_bound_fail_at_once() {
    let server = Server::start();
    let store = server.store().await;
    let limit = per_day(10);
    charge(&store, &key("before"), &limit)
        .await
        .expect("an outcome");
    server.signal("-STOP");
    let keys: Vec<_> = (0..=MAX_IN_FLIGHT).map(|n| key(&n.to_string())).collect();
    let mut calls: FuturesUnordered<_> =
        keys.iter().map(|key| charge(&store, key, &limit)).collect();
    let first = calls.next().await.expect("a call").expect_err("too many");
    let wanted = format!("{MAX_IN_FLIGHT} calls are under way already");
    assert!(first.to_string().contains(&wanted), "{first}");
    server.signal("-CONT");
    while calls.next().await.is_some() {}
    until("places are free again", async || {
        charge(&store, &key("after"), &limit).await.is_ok()
    })
    .await;
}

/// Nor do more wait for the call of a hot key than may.
#[tokio::test]
async fn no_more_wait_for_a_hot_key_than_may() {
    const MOST_WAITING: usize = 4096;
    let server = Server::start();
    let store = server.store().await;
    let (key, limit) = (key("hot"), per_day(1_000_000));
    charge(&store, &key, &limit).await.expect("an outcome");
    server.signal("-STOP");
    // One is on its way, and all but the last wait for it.
    let calls = (0..MOST_WAITING + 2).map(|_| charge(&store, &key, &limit));
    let mut calls: FuturesUnordered<_> = calls.collect();
    let first = calls.next().await.expect("a call");
    let refused = |outcome| matches!(outcome, Err(StoreError::Unreachable(_)));
    assert!(refused(first), "one too many");
    server.signal("-CONT");
    while let Some(outcome) = calls.next().await {
        assert!(!refused(outcome), "there was room");
    }
}

/// Who waits for the call of another is told when its own time is over: before that call's, or after it.
#[tokio::test]
async fn who_waits_for_a_hot_key_gives_up_in_its_own_time() {
    let server = Server::start();
    let store = server.store().await;
    let (key, limit) = (key("hot"), per_day(1000));
    charge(&store, &key, &limit).await.expect("an outcome");
    server.signal("-STOP");
    let within = |timeout| charge_within(&store, &key, &limit, timeout);
    let timeout = Duration::from_millis(50);
    let longer = Box::pin(within(PATIENCE));
    let shorter = Box::pin(within(timeout));
    let longer = match futures::future::select(longer, shorter).await {
        Either::Left((answered, _)) => panic!("by a server that hangs: {answered:?}"),
        Either::Right((told, longer)) => {
            assert_eq!(told.expect_err("no answer").kind(), "timeout");
            longer
        }
    };
    server.signal("-CONT");
    longer.await.expect("an outcome");
    assert_eq!(used(&store, &key, &limit).await, 2, "it was not sent");

    // Nor does it matter whether that call is made for one or for those who waited.
    server.signal("-STOP");
    let shorter = Box::pin(async {
        within(timeout).await.expect_err("no answer");
        // Meanwhile the call for the one that waits begins.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        within(timeout).await
    });
    let longer = match futures::future::select(shorter, Box::pin(within(PATIENCE))).await {
        Either::Left((told, longer)) => {
            assert_eq!(told.expect_err("no answer").kind(), "timeout");
            longer
        }
        Either::Right((answered, _)) => panic!("by a server that hangs: {answered:?}"),
    };
    server.signal("-CONT");
    longer.await.expect("an outcome");

    server.signal("-STOP");
    let begun = Instant::now();
    let timeouts = [timeout, timeout * 2, timeout * 2];
    let told = futures::future::join_all(timeouts.map(within)).await;
    let took = begun.elapsed();
    for told in told {
        told.expect_err("no answer");
    }
    assert!(took >= timeout && took < timeout * 2 + AT_ONCE, "{took:?}");
    server.signal("-CONT");
}

/// Nobody knows whether it passes: what one master has charged goes back when another is not there.
#[tokio::test]
async fn what_was_charged_beside_a_lost_master_is_given_back() {
    let mut cluster = Cluster::start(false).await;
    let store = connected(&cluster.settings()).await;
    let limit = per_day(5);
    let mut keys: Vec<Key> = Vec::new();
    for master in 0..2 {
        for n in 0.. {
            let key = key(&format!("beside {n}"));
            if Cluster::first_master(cluster.slot_of(key.as_str()).await) == master {
                keys.push(key);
                break;
            }
        }
    }
    for admin in &cluster.admins {
        admin
            .run("CONFIG SET cluster-require-full-coverage no")
            .await;
    }
    charge(&store, &keys[0], &limit).await.expect("an outcome");
    cluster.servers[1].kill();
    until("the loss is seen", async || {
        charge(&store, &keys[1], &limit).await.is_err()
    })
    .await;
    let pair = super::ask(&store, &keys, &limit, Amount::Charge(Hits::ONE)).await;
    pair.expect_err("half of it is not known");
    until("it is given back", async || {
        used(&store, &keys[0], &limit).await == 1
    })
    .await;
}

/// It is decided without the store, and told once however often it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_not_ours_is_named_in_the_log() {
    let redis = Server::start();
    let admin = redis.admin().await;
    let service = Setup::rules(
        "{domain: d, descriptors: [{key: a, rate_limit: {requests_per_unit: 5, unit: day}}]}",
    )
    .env("REDIS_URL", &format!("127.0.0.1:{}", redis.port))
    .env("STORE_TIMEOUT", "5s")
    .start_ready();
    let key = "{d|a=alice}";
    admin.set(key, b"hello").await;
    let mut client = service.client().await;
    for _ in 0..3 {
        let asked = request("d", &[&[("a", "alice")]]);
        client.should_rate_limit(asked).await.expect("an answer");
    }
    let line = service.wait_for_log("decided without the store");
    assert!(
        line.contains(key) && line.contains("CACHE_KEY_PREFIX"),
        "{line}"
    );
    let told = service.log().into_iter().filter(|line| line.contains(key));
    assert_eq!(told.count(), 1);
    assert_eq!(admin.get(key).await, b"hello");
}
