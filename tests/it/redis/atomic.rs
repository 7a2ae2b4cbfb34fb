//! Many at once: limits hold, and a request is charged on all its keys or on none.

use std::collections::HashMap;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tollgate::limit::Hits;
use tollgate::limit::transaction::Amount;
use tollgate::store::Key;

use super::{ask, charge, key, per_day, used};
use crate::support::redis::{Server, cluster, connected};

const TASKS: u64 = 32;
const REQUESTS: usize = 30;
const LIMIT: u32 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_admits_its_limit_and_not_one_more() {
    let server = Server::start();
    let store = Arc::new(server.store().await);
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let (key, limit) = (key("one"), per_day(LIMIT));
            let mut admitted = 0;
            for _ in 0..REQUESTS {
                let outcome = charge(&store, &key, &limit).await;
                admitted += u32::from(outcome.expect("an outcome").admitted);
            }
            admitted
        });
    }
    assert_eq!(tasks.join_all().await.iter().sum::<u32>(), LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_sets_of_keys_are_charged_all_or_not_at_all() {
    let store = Arc::new(connected(&cluster::shared()).await);
    let keys: Arc<Vec<Key>> = Arc::new((0..8).map(|n| key(&format!("set {n}"))).collect());
    let mut tasks = JoinSet::new();
    for seed in 0..TASKS {
        let (store, keys) = (Arc::clone(&store), Arc::clone(&keys));
        tasks.spawn(async move {
            let mut random = SmallRng::seed_from_u64(seed);
            let (limit, mut charged) = (per_day(LIMIT), HashMap::<String, u64>::new());
            for _ in 0..REQUESTS {
                let count = random.random_range(1..=4);
                let some: Vec<Key> = keys.choose_multiple(&mut random, count).cloned().collect();
                let hit = Amount::Charge(Hits::ONE);
                if ask(&store, &some, &limit, hit)
                    .await
                    .expect("an outcome")
                    .admitted
                {
                    for key in &some {
                        *charged.entry(key.as_str().to_owned()).or_default() += 1;
                    }
                }
            }
            charged
        });
    }
    let mut charged = HashMap::<String, u64>::new();
    for (key, hits) in tasks.join_all().await.into_iter().flatten() {
        *charged.entry(key).or_default() += hits;
    }
    for key in keys.iter() {
        let found = used(&store, key, &per_day(LIMIT)).await;
        assert_eq!(found, charged[key.as_str()], "{key:?}");
        assert!(found <= u64::from(LIMIT), "{key:?}");
    }
    assert!(charged.values().any(|&hits| hits == u64::from(LIMIT)));
    assert_eq!(store.lost_give_backs(), 0);
}
