//! The network between the service and one server.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Trial, seed};
use crate::support::poll;
use crate::support::proxy::{Fault, Proxy};
use crate::support::redis;

/// How long most faults last.
const LASTS: Duration = Duration::from_millis(1500);

async fn start(name: &str) -> (redis::Server, Proxy, Trial) {
    let server = redis::Server::start();
    let proxy = Proxy::to(server.port, seed());
    let trial = Trial::on_port(name, proxy.port).await;
    (server, proxy, trial)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_replies() {
    let (_server, proxy, trial) = start("slow replies").await;
    for median_ms in [5, 50, 500] {
        let median = Duration::from_millis(median_ms);
        proxy.order(Fault::Slow { median });
        trial.endure(LASTS / 2).await;
    }
    proxy.order(Fault::None);
    let tally = trial.conclude().await;
    assert!(tally.because("fallback_local") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swallowed_bytes() {
    for (requests, replies) in [(true, true), (true, false), (false, true)] {
        let name = format!("swallowed requests: {requests}, replies: {replies}");
        let (_server, proxy, trial) = start(&name).await;
        proxy.order(Fault::Swallow { requests, replies });
        trial.until_open().await;
        trial.endure(LASTS).await;
        proxy.order(Fault::None);
        let tally = trial.conclude().await;
        assert!(tally.because("fallback_deny") > 0);
        assert!(tally.because("fallback_allow") > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_bytes() {
    let (_server, proxy, trial) = start("held bytes").await;
    proxy.order(Fault::Hold);
    trial.until_open().await;
    trial.endure(LASTS / 2).await;
    proxy.order(Fault::None);
    trial.conclude().await;
}

/// Long enough for the connections to be given up, and for new ones to be tried in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swallowed_bytes_for_long() {
    let (_server, proxy, trial) = start("swallowed for long").await;
    let (requests, replies) = (true, true);
    proxy.order(Fault::Swallow { requests, replies });
    trial.until_open().await;
    trial.endure(LASTS * 4).await;
    let connections = proxy.connections();
    assert!(connections < 50, "{connections} connections");
    proxy.order(Fault::None);
    trial.conclude().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_connections() {
    let (_server, proxy, trial) = start("ended connections").await;
    let mut random = SmallRng::seed_from_u64(seed());
    for _ in 0..10 {
        proxy.reset();
        poll::hold(Duration::from_millis(random.random_range(10..300))).await;
        trial.assert_well();
    }
    trial.conclude().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_within_a_reply() {
    let (_server, proxy, trial) = start("cut replies").await;
    let mut random = SmallRng::seed_from_u64(seed());
    for _ in 0..5 {
        proxy.order(Fault::CutAfter(random.random_range(1..4000)));
        proxy.reset();
        trial.endure(LASTS / 4).await;
    }
    proxy.order(Fault::None);
    trial.conclude().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections() {
    let (_server, proxy, trial) = start("refused connections").await;
    proxy.order(Fault::Refuse);
    proxy.reset();
    trial.endure(LASTS).await;
    proxy.order(Fault::None);
    let tally = trial.conclude().await;
    assert!(tally.because("fallback_local") > 0);
}

/// One after the other, as the seed says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_it() {
    let (server, proxy, trial) = start("all of it").await;
    let mut random = SmallRng::seed_from_u64(seed());
    for _ in 0..12 {
        let fault = match random.random_range(0..7) {
            0 => Fault::Slow {
                median: Duration::from_millis(random.random_range(1..200)),
            },
            1 => Fault::Swallow {
                requests: random.random(),
                replies: true,
            },
            2 => Fault::CutAfter(random.random_range(1..4000)),
            3 => Fault::Refuse,
            4 => Fault::Hold,
            _ => Fault::None,
        };
        proxy.order(fault);
        if random.random_bool(0.4) {
            proxy.reset();
        }
        let is_stopped = random.random_bool(0.2);
        if is_stopped {
            server.signal("-STOP");
        }
        trial
            .endure(Duration::from_millis(random.random_range(50..500)))
            .await;
        if is_stopped {
            server.signal("-CONT");
        }
    }
    proxy.order(Fault::None);
    trial.conclude().await;
}
