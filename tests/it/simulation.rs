//! Seeded simulations of the whole service: engines, rules, store and directory on a hand-moved clock, with faults, checked
//! against a naive recount. What is simulated and what must hold: `docs/reliability.md`.
//!
//! `SEED=n` plays one seed, `SEEDS=n` plays so many, `WITHOUT=recount,sums` leaves checks out. A check that fails is named with its seed and the last steps.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;

use self::play::Play;
use self::shared::Shared;
use self::steps::Scope;
use crate::support::redis::{Server, cluster, connected};

mod ask;
mod checks;
mod ledger;
mod naive;
mod play;
mod rules;
mod shared;
mod steps;
mod world;

/// How many seeds are played in memory, and how many against Redis.
const SEEDS: u64 = 1500;
const SEEDS_REMOTE: u64 = 30;

/// How many of the last steps are shown.
const SHOWN: usize = 40;

#[tokio::test]
async fn whatever_happens_in_memory_the_promises_hold() {
    let scope = Scope {
        steps: 32,
        copies: true,
        one_step: true,
        expires: true,
    };
    play_all(SEEDS, scope, &Shared::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whatever_happens_on_redis_the_promises_hold() {
    let server = Server::start();
    let shared = Shared::redis(server.store().await, server.admin().await);
    let scope = Scope {
        steps: 40,
        copies: true,
        one_step: true,
        expires: false,
    };
    play_all(SEEDS_REMOTE, scope, &shared).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whatever_happens_on_a_cluster_the_promises_hold() {
    let shared = Shared::cluster(connected(&cluster::shared()).await);
    let scope = Scope {
        steps: 60,
        copies: false,
        one_step: false,
        expires: false,
    };
    play_all(SEEDS_REMOTE, scope, &shared).await;
}

/// Plays many seeds, or the one that is asked for.
async fn play_all(usual: u64, scope: Scope, shared: &Shared) {
    let number = |name: &str| {
        let number = std::env::var(name).ok()?;
        Some(number.parse::<u64>().expect("a number"))
    };
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(usual),
    };
    for seed in seeds {
        let mut trace = Vec::new();
        let playing = Play::run(seed, scope, shared.clone(), &mut trace);
        // A panic, whose message stands above, is shown like a check that fails.
        let result = AssertUnwindSafe(playing).catch_unwind().await;
        let (check, why) = match result {
            Ok(Ok(())) => continue,
            Ok(Err(broken)) => (broken.check, broken.why),
            Err(_) => ("no panic", "it panics".to_owned()),
        };
        let first = trace.len().saturating_sub(SHOWN);
        let steps = trace[first..].join("\n");
        panic!("{steps}\n\nSEED={seed} breaks `{check}`: {why}");
    }
}
