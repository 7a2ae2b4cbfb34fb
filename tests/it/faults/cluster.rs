//! A cluster: one of its masters fails, or hands its slots over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::google::protobuf::UInt64Value;
use tokio::task::JoinSet;

use super::{Trial, seed, tell};
use crate::support::caller::{Caller, reason};
use crate::support::poll;
use crate::support::proxy::Fault;
use crate::support::redis::cluster::{Cluster, MASTERS};
use crate::support::redis::until;
use crate::support::server::{Setup, request};

/// The most charges that a replica here may be behind: all that are answered in a tenth of a second.
const REPLICATION_TAIL: u64 = 150;

/// Of a limit that is not reached.
const LIMIT: u64 = 1_000_000;

const LASTS: Duration = Duration::from_millis(1000);

async fn start(name: &str) -> (Cluster, Trial) {
    let cluster = Cluster::behind_proxies(false, seed()).await;
    let trial = Trial::start(name, "cluster", &cluster.addresses()).await;
    let connections = cluster.proxies.iter().map(|proxy| proxy.connections());
    assert!(connections.min() > Some(0), "all goes through the proxies");
    (cluster, trial)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_to_one_master() {
    let (cluster, trial) = start("one master's network").await;
    let proxy = &cluster.proxies[0];
    let median = Duration::from_millis(50);
    let (requests, replies) = (true, true);
    for fault in [
        Fault::Slow { median },
        Fault::Swallow { requests, replies },
        Fault::CutAfter(500),
        Fault::Refuse,
    ] {
        proxy.order(fault);
        proxy.reset();
        trial.endure(LASTS).await;
    }
    proxy.order(Fault::None);
    let tally = trial.conclude().await;
    assert!(tally.because("fallback_local") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_master() {
    let (cluster, trial) = start("a stopped master").await;
    // Not for so long that the others take it for dead, which is another test's.
    cluster.servers[1].signal("-STOP");
    trial.until_open().await;
    trial.endure(LASTS / 2).await;
    cluster.servers[1].signal("-CONT");
    trial.conclude().await;
}

/// The replica takes over, and lacks at most what the master had answered and not yet told it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_with_a_replica() {
    let mut cluster = Cluster::start(true).await;
    let trial = Trial::start("a killed master", "cluster", &cluster.addresses()).await;
    cluster.servers[0].kill();
    let killed = Instant::now();
    let replica = cluster.admins[MASTERS].clone();
    until("the replica takes over", async || {
        let info = replica.text("INFO replication").await;
        info.contains("role:master")
    })
    .await;
    until("the cluster is well", async || {
        let info = replica.text("CLUSTER INFO").await;
        info.contains("cluster_state:ok")
    })
    .await;
    let failed_over = killed.elapsed();
    let back = trial.until_resumed().await;
    tell(&format!(
        "failed over after {failed_over:?}, back {back:?} later"
    ));
    assert!(back < Duration::from_secs(3), "{back:?}");
    let tally = trial.conclude_without(REPLICATION_TAIL).await;
    assert!(tally.because("fallback_local") > 0);
}

/// What was admitted on a replica's word is there when that replica is the master; and what was not, was not admitted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_loses_nothing_that_is_replicated() {
    let rules = "
domain: d
descriptors:
  - {key: kept, rate_limit: {requests_per_unit: 1000000, unit: month, durability: replicated, failure_mode: deny}}
";
    let mut cluster = Cluster::start(true).await;
    let service = Setup::rules(rules)
        .env("REDIS_TYPE", "cluster")
        .env("REDIS_URL", &cluster.addresses())
        .env("STORE_TIMEOUT", "50ms")
        .start_ready();
    let caller = Caller::connect(service.grpc.expect("a port")).await;
    let subjects: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    for subject in &subjects {
        poll::until_async("the store to decide", || ask(&caller, subject, 1)).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for subject in subjects.clone() {
        let (caller, done) = (caller.clone(), Arc::clone(&done));
        load.spawn(async move {
            let mut admitted = 0;
            while !done.load(Ordering::Relaxed) {
                admitted += u64::from(ask(&caller, &subject, 1).await.is_some());
                poll::pause().await;
            }
            (subject, admitted)
        });
    }
    poll::hold(LASTS).await;
    cluster.servers[0].kill();
    let replica = cluster.admins[MASTERS].clone();
    until("the replica takes over", async || {
        let info = replica.text("INFO replication").await;
        info.contains("role:master")
    })
    .await;
    poll::until("the failover to be counted", || {
        (service.metric("tollgate_store_failovers") == 1.0).then_some(())
    });
    // The new master has no replica of its own: what it charges is not confirmed, and denied.
    poll::hold(LASTS).await;
    done.store(true, Ordering::Relaxed);
    let mut total = 0;
    while let Some(of_one) = load.join_next().await {
        let (subject, admitted) = of_one.expect("no panic");
        let used = used(&caller, &subject).await;
        assert!(used >= admitted, "{subject}: {used} of {admitted}");
        total += admitted;
    }
    tell(&format!("{total} admitted, none lost"));
    assert!(total > 100, "{total}");
}

/// What the store leaves of the subject's limit, if it is the store that lets the request pass.
async fn ask(caller: &Caller, subject: &str, hits: u64) -> Option<u64> {
    let mut request = request("d", &[&[("kept", subject)]]);
    request.descriptors[0].hits_addend = Some(UInt64Value { value: hits });
    let called = caller.ask(&request, None).await.expect("an answer");
    let left = u64::from(called.response.statuses[0].limit_remaining);
    (reason(&called.response) == "within_limit").then_some(left)
}

async fn used(caller: &Caller, subject: &str) -> u64 {
    // A peek is told what one more hit would be told.
    let left = poll::until_async("the new master", || ask(caller, subject, 0)).await;
    LIMIT - left - 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move() {
    let (cluster, trial) = start("moving slots").await;
    for holder in 0..4 {
        // As the service names it: see `engine::key`.
        let key = tollgate::store::Key::new("", &format!("d|big={holder}"), "");
        let slot = cluster.slot_of(key.as_str()).await;
        let from = Cluster::first_master(slot);
        let to = (from + 1) % MASTERS;
        cluster.move_keys(slot, from, to).await;
        trial.assert_well();
        cluster.settle_slot(slot, from, to).await;
    }
    let tally = trial.conclude().await;
    tell(&format!(
        "{} without the store",
        tally.because("fallback_local")
    ));
}
