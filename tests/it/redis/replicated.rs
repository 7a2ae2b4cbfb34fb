//! Limits whose charges count when a replica has them too.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tollgate::limit::transaction::{Amount, Bound, Demand, Role};
use tollgate::limit::{Durability, Hits, Limit};
use tollgate::store::Transaction;
use tollgate::store::redis::Redis;
use tollgate::store::redis::settings::Credentials;

use super::{ask, charge, key, per_day, used};
use crate::support::redis::cluster::Cluster;
use crate::support::redis::{Admin, CALL_TIMEOUT, Server, connected, until};

fn replicated(requests: u32) -> Limit {
    per_day(requests).durable(Durability::Replicated)
}

async fn with_replica() -> (Server, Server) {
    let master = Server::start();
    let of = format!("127.0.0.1 {}", master.port);
    let replica = Server::with(&["--replicaof", &of]);
    let copy = replica.admin().await;
    until("the replica is up to date", async || {
        let info = copy.text("INFO replication").await;
        info.contains("master_link_status:up")
    })
    .await;
    // The master asks it for confirmation once it has heard from it.
    let there = master.admin().await;
    until("the master takes it for one", async || {
        let info = there.text("INFO replication").await;
        info.contains("state=online")
    })
    .await;
    (master, replica)
}

/// How often a command was called.
async fn calls(admin: &Admin, command: &str) -> u64 {
    let stats = admin.text("INFO commandstats").await;
    let counted = stats.split(&format!("cmdstat_{command}:calls=")).nth(1);
    let digits = counted.and_then(|rest| rest.split(',').next());
    digits.map_or(0, |digits| digits.parse().expect("a number"))
}

/// The store on this server, which waits for replicas no longer than this.
async fn patient(server: &Server, within: Duration) -> Redis {
    let mut settings = server.settings();
    settings.timeout = within;
    connected(&settings).await
}

fn is_unconfirmed(store: &Redis) -> bool {
    store.servers().iter().any(|server| server.is_unconfirmed)
}

/// The value on the replica is that on the master at the moment of each answer, not some time afterwards.
#[tokio::test]
async fn a_charge_that_is_answered_is_on_the_replica() {
    let (master, replica) = with_replica().await;
    let store = master.store().await;
    let (there, copy) = (master.admin().await, replica.admin().await);
    let (key, limit) = (key("replicated"), replicated(100_000));
    let get = format!("GET {}", key.as_str());
    for _ in 0..200 {
        charge(&store, &key, &limit).await.expect("confirmed");
        // The copy is asked first.
        let copied = copy.run(&get).await;
        assert_eq!(copied, there.run(&get).await);
    }
    assert_eq!(used(&store, &key, &limit).await, 200);
}

#[tokio::test]
async fn what_comes_together_is_confirmed_together() {
    let (master, _replica) = with_replica().await;
    let (store, admin) = (master.store().await, master.admin().await);
    let limit = replicated(100_000);
    let keys: Vec<_> = (0..1000).map(|n| key(&n.to_string())).collect();
    charge(&store, &keys[0], &limit).await.expect("connected");
    let before = calls(&admin, "wait").await;
    let charges = keys.iter().map(|key| charge(&store, key, &limit));
    for outcome in join_all(charges).await {
        assert!(outcome.expect("confirmed").admitted);
    }
    let waits = calls(&admin, "wait").await - before;
    assert!((1..=20).contains(&waits), "{waits} for 1000 charges");
    let usual = per_day(100_000);
    charge(&store, &key("usual"), &usual).await.expect("made");
    assert_eq!(calls(&admin, "wait").await - before, waits, "not for those");
}

#[tokio::test]
async fn without_a_replica_nothing_is_confirmed_and_other_limits_are_well() {
    let server = Server::start();
    let store = patient(&server, CALL_TIMEOUT / 100).await;
    let (key, limit, usual) = (key("alone"), replicated(1000), per_day(1000));
    let error = charge(&store, &key, &limit).await.expect_err("unconfirmed");
    assert_eq!(error.kind(), "unconfirmed");
    assert!(error.was_sent());
    assert_eq!(used(&store, &key, &usual).await, 1, "it was charged");
    until("calls are kept from it", async || {
        charge(&store, &key, &limit).await.expect_err("unconfirmed");
        is_unconfirmed(&store)
    })
    .await;
    let begun = Instant::now();
    for _ in 0..20 {
        charge(&store, &key, &usual).await.expect("an outcome");
    }
    assert!(begun.elapsed() < CALL_TIMEOUT, "{:?}", begun.elapsed());
    assert!(!store.servers()[0].is_open);
}

/// Calls behind one that is not confirmed go together when its time is over, rather than each in its turn.
#[tokio::test]
async fn a_replica_that_hangs_makes_no_queue() {
    let (master, replica) = with_replica().await;
    let store = patient(&master, CALL_TIMEOUT / 5).await;
    let (limit, admin) = (replicated(100_000), master.admin().await);
    until("a charge is confirmed", async || {
        charge(&store, &key("first"), &limit).await.is_ok()
    })
    .await;
    replica.signal("-STOP");
    let before = calls(&admin, "wait").await;
    let keys: Vec<_> = (0..20).map(|n| key(&format!("behind{n}"))).collect();
    let mut asked = Vec::new();
    for key in &keys {
        let mut charge = Box::pin(charge(&store, key, &limit));
        assert!(futures::poll!(&mut charge).is_pending());
        asked.push(charge);
        crate::support::poll::pause().await;
    }
    for answer in join_all(asked).await {
        answer.expect_err("no replica");
    }
    replica.signal("-CONT");
    let waits = calls(&admin, "wait").await - before;
    assert!((1..=4).contains(&waits), "{waits}");
}

/// One limit that asks for it is enough, wherever it stands; what is not charged waits for nobody.
#[tokio::test]
async fn all_of_a_request_is_confirmed_if_one_of_its_limits_asks() {
    let server = Server::start();
    let store = patient(&server, CALL_TIMEOUT / 100).await;
    let (usual, kept) = (per_day(1000), replicated(2000));
    let key = key("mixed");
    let both = [&usual, &kept].map(|limit| Bound {
        limit,
        always: false,
    });
    let ask = async |amount| {
        let demand = Demand {
            key: 0,
            amount,
            role: Role::Enforced,
            limits: both.into_iter().collect(),
            ban: None,
            candidates: Vec::new(),
        };
        let transaction = Transaction {
            keys: std::slice::from_ref(&key),
            demands: &[demand],
            now: None,
            timeout: CALL_TIMEOUT,
        };
        store.transact(&transaction).await.map(|_| ())
    };
    let error = ask(Amount::Charge(Hits::ONE)).await.expect_err("nobody");
    assert!(error.to_string().ends_with("0 of 1 replicas"), "{error}");
    for amount in [Amount::Peek(Hits::ONE), Amount::Refund(Hits::ONE)] {
        ask(amount).await.expect("nobody is asked");
    }
}

/// Whoever may not ask for replicas is told so, and not that they are slow.
#[tokio::test]
async fn a_user_without_wait_says_so() {
    let server = Server::start();
    let admin = server.admin().await;
    admin.run("ACL SETUSER app on >horse ~* +@all -wait").await;
    let mut settings = server.settings();
    settings.credentials = Credentials::parse("app:horse");
    let store = connected(&settings).await;
    let error = charge(&store, &key("acl"), &replicated(5)).await;
    let error = error.expect_err("nobody is asked").to_string();
    assert!(error.contains("NOPERM"), "{error}");
}

/// What was confirmed is there when the replica takes over, and what the replica did not have was not confirmed.
#[tokio::test]
async fn what_is_confirmed_outlives_the_master() {
    let (mut master, replica) = with_replica().await;
    let store = patient(&master, CALL_TIMEOUT / 5).await;
    let (key, limit, usual) = (key("outlives"), replicated(1000), per_day(1000));
    let other = super::key("lost");
    let mut confirmed = 0;
    until("seven are confirmed", async || {
        confirmed += u64::from(charge(&store, &key, &limit).await.is_ok());
        confirmed == 7
    })
    .await;
    replica.signal("-STOP");
    for _ in 0..5 {
        charge(&store, &other, &usual).await.expect("made");
    }
    let error = charge(&store, &key, &limit).await.expect_err("no replica");
    assert!(error.was_sent(), "{error:?}");
    // So that it cannot be sent what it has not read.
    let admin = master.admin().await;
    admin.run("CLIENT KILL TYPE replica").await;
    master.kill();
    replica.signal("-CONT");
    let copy = replica.admin().await;
    copy.run("REPLICAOF NO ONE").await;
    let store = replica.store().await;
    assert!(used(&store, &key, &usual).await >= 7);
}

#[tokio::test]
async fn a_replica_that_is_back_confirms_again() {
    let (master, replica) = with_replica().await;
    let store = patient(&master, CALL_TIMEOUT / 5).await;
    let (key, limit) = (key("back"), replicated(100_000));
    until("a charge is confirmed", async || {
        charge(&store, &key, &limit).await.is_ok()
    })
    .await;
    replica.signal("-STOP");
    let many = join_all((0..40).map(|_| charge(&store, &key, &limit))).await;
    assert!(many.iter().all(Result::is_err));
    replica.signal("-CONT");
    until("charges are confirmed", async || {
        charge(&store, &key, &limit).await.is_ok()
    })
    .await;
    assert!(!is_unconfirmed(&store));
}

/// Of several subjects in a cluster each is confirmed by its own master's replica, and all or none are charged.
#[tokio::test]
async fn a_cluster_confirms_part_by_part() {
    let cluster = Cluster::start(true).await;
    let store = connected(&cluster.settings()).await;
    let keys: Vec<_> = (0..6).map(|n| key(&format!("part{n}"))).collect();
    let limit = replicated(2);
    let charge = Amount::Charge(Hits::ONE);
    until("it is confirmed", async || {
        ask(&store, &keys, &limit, charge).await.is_ok()
    })
    .await;
    let mut waits = 0;
    for admin in &cluster.admins {
        waits += calls(admin, "wait").await;
    }
    assert!(waits >= 3, "{waits}");
}
