//! What lies in Redis: how long, how much, and what if it is not ours.

use tollgate::limit::transaction::{Amount, Bound, Demand, Outcome, Role};
use tollgate::limit::{Algorithm, Hits, Limit, Unit};
use tollgate::store::redis::Redis;
use tollgate::store::{Key, StoreError, Transaction};

use super::hot::calls_of;
use super::{ask, charge, key, limit, per_day, reading, used};
use crate::support::redis::{Admin, CALL_TIMEOUT, Server, until};

const ALGORITHMS: [Algorithm; 3] = [
    Algorithm::FixedWindow,
    Algorithm::TokenBucket {
        burst: Hits::whole(10),
    },
    Algorithm::SlidingWindow,
];

#[tokio::test]
async fn a_key_lives_until_it_is_as_good_as_fresh() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    for (n, algorithm) in ALGORITHMS.into_iter().enumerate() {
        for unit in [Unit::Second, Unit::Minute, Unit::Month] {
            let (key, limit) = (
                Key::new("", &format!("{n}"), unit.name()),
                limit(10, unit, algorithm),
            );
            let outcome = charge(&store, &key, &limit).await.expect("an outcome");
            let left = admin.run(&format!("PTTL {}", key.as_str())).await.as_i64();
            let left = left.expect("a number");
            let reset = i64::try_from(reading(&outcome).reset.get().div_ceil(1000)).expect("ms");
            assert!(left <= reset, "{unit:?} {algorithm:?}: {left} of {reset}");
            if unit != Unit::Second {
                assert!(
                    left > reset - 5_000,
                    "{unit:?} {algorithm:?}: {left} of {reset}"
                );
                continue;
            }
            until("the key is gone", async || {
                admin
                    .run(&format!("EXISTS {}", key.as_str()))
                    .await
                    .as_i64()
                    == Some(0)
            })
            .await;
        }
    }
}

/// While the last window goes on, and a shorter one ends and begins: what is charged is written over what stands there.
#[tokio::test]
async fn a_value_is_written_in_place_while_its_key_expires_as_before() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let (short, long) = (
        limit(1_000_000, Unit::Second, Algorithm::FixedWindow),
        per_day(1_000_000),
    );
    let key = key("overwritten");
    let (mut charges, mut seconds) = (0_u64, 0);
    let mut expires = None;
    while seconds < 2 {
        let outcome = charge_both(&store, &key, [&short, &long]).await;
        let before = [0, 1].map(|place| outcome.readings[place].used.floor());
        assert!(outcome.admitted && before[0] <= before[1]);
        assert_eq!(before[1], charges, "of the day");
        seconds += u64::from(before[0] == 0 && charges > 0);
        charges += 1;
        let expiry = expires_at(&admin, &key).await;
        assert_eq!(*expires.get_or_insert(expiry), expiry, "charge {charges}");
    }
    let commands = (
        calls_of(&admin, "set:").await,
        calls_of(&admin, "setrange:").await,
    );
    assert_eq!(commands, (1, charges - 1));
}

/// A value is as long as before, and its key is to live longer: what a bucket has not yet got back must not be forgotten.
#[tokio::test]
async fn a_key_lives_longer_with_each_hit_of_a_bucket() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let window = limit(1_000_000, Unit::Second, Algorithm::FixedWindow);
    let burst = Hits::whole(10);
    let bucket = limit(10, Unit::Hour, Algorithm::TokenBucket { burst });
    let key = key("bucket");
    let mut before = 0;
    for hits in 1..=3 {
        charge_both(&store, &key, [&window, &bucket]).await;
        let now = expires_at(&admin, &key).await;
        // A hit flows back in six minutes.
        let least = before + if hits == 1 { 1 } else { 350_000 };
        assert!(now >= least, "hit {hits}: {now} after {before}");
        before = now;
    }
}

/// Takes one hit of one key under two limits.
async fn charge_both(store: &Redis, key: &Key, limits: [&Limit; 2]) -> Outcome {
    let bound = |limit| Bound {
        limit,
        always: false,
    };
    let demand = Demand {
        key: 0,
        amount: Amount::Charge(Hits::ONE),
        role: Role::Enforced,
        ban: None,
        candidates: Vec::new(),
        limits: limits.into_iter().map(bound).collect(),
    };
    let transaction = Transaction {
        keys: std::slice::from_ref(key),
        demands: std::slice::from_ref(&demand),
        now: None,
        timeout: CALL_TIMEOUT,
    };
    store.transact(&transaction).await.expect("an outcome")
}

/// When a key expires, in milliseconds of Unix time.
async fn expires_at(admin: &Admin, key: &Key) -> i64 {
    let expiry = admin.run(&format!("PEXPIRETIME {}", key.as_str())).await;
    expiry.as_i64().expect("ms")
}

#[tokio::test]
async fn the_memory_of_a_key() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    for (n, algorithm) in ALGORITHMS.into_iter().enumerate() {
        let (key, limit) = (key(&format!("user{n}")), limit(1000, Unit::Hour, algorithm));
        charge(&store, &key, &limit).await.expect("an outcome");
        let usage = admin.run(&format!("MEMORY USAGE {}", key.as_str())).await;
        let usage = usage.as_i64().expect("bytes");
        println!("{algorithm:?}: {usage} bytes under {key:?}");
        assert!(usage < 250, "{algorithm:?}: {usage} bytes");
    }
}

#[tokio::test]
async fn a_peek_and_a_refusal_write_nothing() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let (key, limit) = (key("unwritten"), per_day(3));
    for amount in [Amount::Peek(Hits::ONE), Amount::Charge(Hits::whole(4))] {
        let keys = std::slice::from_ref(&key);
        ask(&store, keys, &limit, amount).await.expect("an outcome");
        assert_eq!(admin.run("DBSIZE").await.as_i64(), Some(0), "{amount:?}");
    }
}

#[tokio::test]
async fn a_foreign_or_damaged_value_is_an_error_of_its_key_alone() {
    let server = Server::start();
    let (store, admin) = (server.store().await, server.admin().await);
    let limit = per_day(3);
    let (bad, good) = (key("bad"), key("good"));
    charge(&store, &good, &limit).await.expect("an outcome");
    // A text that is not ours, another version, one that ends too early, an algorithm that there is not.
    let values: [&[u8]; 5] = [
        b"hello",
        b"",
        &[2, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 0, 0, 0, 0, 9],
        &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    for value in values {
        admin.set(bad.as_str(), value).await;
        refuses_to_touch(&store, &bad, &good).await;
        assert_eq!(admin.get(bad.as_str()).await, value);
    }
    // Nor one that is whole, but of a version to come.
    let mut later = admin.get(good.as_str()).await;
    later[0] += 1;
    admin.set(bad.as_str(), &later).await;
    refuses_to_touch(&store, &bad, &good).await;
    refuses_to_touch(&store, &bad, &key("another")).await;
    admin.send(&["DEL", bad.as_str()]).await.expect("deleted");
    admin
        .send(&["LPUSH", bad.as_str(), "x"])
        .await
        .expect("a list");
    refuses_to_touch(&store, &bad, &good).await;
    assert_eq!(used(&store, &good, &limit).await, 1);
}

async fn refuses_to_touch(store: &tollgate::store::redis::Redis, bad: &Key, good: &Key) {
    let keys = [good.clone(), bad.clone()];
    let error = ask(store, &keys, &per_day(3), Amount::Charge(Hits::ONE)).await;
    let error = error.expect_err("a value that is not ours");
    assert!(matches!(error, StoreError::Corrupt(_)), "{error:?}");
    assert!(error.to_string().contains(bad.as_str()), "{error}");
}
