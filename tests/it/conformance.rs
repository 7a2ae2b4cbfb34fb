//! The contract of the stores: the same for each, and for the naive model.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;
use tollgate::limit::period::Zone;
use tollgate::limit::transaction::{Amount, Bound, Demand, Outcome, Record, Role, transact};
use tollgate::limit::{Algorithm, Hits, Limit, Unit};
use tollgate::store::embedded::Embedded;
use tollgate::store::redis::Redis;
use tollgate::store::{Key, Store, Transaction};
use tollgate::time::{Clock, Timestamp};

use crate::support::model::Model;
use crate::support::redis::{Server, cluster, connected};
use crate::support::workload::Workload;

/// How many random sequences are tried in memory and over the network, and how long each is.
const SEEDS: u64 = 400;
const SEEDS_REMOTE: u64 = 30;
const STEPS: usize = 300;

#[test]
fn the_embedded_store_agrees_with_the_naive_model() {
    compare(SEEDS, workload(false), || {
        let store = Embedded::new(1 << 20, Clock::System);
        move |transaction| store.transact(transaction)
    });
}

#[test]
fn the_pure_decision_agrees_with_the_naive_model_when_the_clock_jumps() {
    compare(SEEDS, workload(true), || {
        let mut records = HashMap::new();
        move |transaction| transact_in(&mut records, transaction)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_agrees_with_the_naive_model() {
    let server = Server::start();
    let store = Arc::new(connected(&server.settings()).await);
    compare(SEEDS_REMOTE, workload(false), || remote(&store));
}

/// Over several slots a refund is made last, and a bucket whose rate changes forgets at which it was filled before a charge
/// that is given back; both are stricter than one step would be, and left out here.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_cluster_agrees_with_the_naive_model() {
    let store = Arc::new(connected(&cluster::shared()).await);
    let workload = |seed| workload(false)(seed).steady().without_refunds();
    compare(SEEDS_REMOTE, workload, || remote(&store));
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_requests_never_exceed_a_limit_on_the_embedded_store() {
    race(Store::Embedded(Embedded::new(1 << 20, Clock::System))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_requests_never_exceed_a_limit_on_a_redis_cluster() {
    race(Store::Redis(connected(&cluster::shared()).await)).await;
}

/// The sequence of a seed.
fn workload(backwards: bool) -> impl Fn(u64) -> Workload {
    move |seed| Workload::new("model", seed, backwards)
}

/// A store that is asked from a function that is not async.
fn remote(store: &Arc<Redis>) -> impl FnMut(&Transaction<'_, '_>) -> Outcome + use<> {
    let store = Arc::clone(store);
    move |transaction| {
        let runtime = tokio::runtime::Handle::current();
        let answer = tokio::task::block_in_place(|| runtime.block_on(store.transact(transaction)));
        answer.expect("an outcome")
    }
}

/// Many tasks charge overlapping sets of keys. No key is over its limit, and what each key has been charged is exactly the
/// sum over the requests that were admitted.
async fn race(store: Store) {
    const KEYS: usize = 5;
    const TASKS: u64 = 24;
    const REQUESTS: u64 = 40;
    const LIMIT: u32 = 150;
    let store = Arc::new(store);
    let admitted: Arc<[AtomicU64; KEYS]> = Arc::default();
    let algorithm = Algorithm::FixedWindow;
    let limit = Limit::new(LIMIT, Unit::Year, 10, algorithm, &Zone::utc()).expect("a limit");
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, admitted, limit) =
                (Arc::clone(&store), Arc::clone(&admitted), limit.clone());
            tokio::spawn(async move {
                for request in 0..REQUESTS {
                    let number = (task * REQUESTS + request) as usize;
                    let touched = [number % KEYS, (number / 2 + 1) % KEYS];
                    let hits = Hits::whole(1 + (number % 3) as u32);
                    if charge(&store, &limit, &touched, Amount::Charge(hits))
                        .await
                        .admitted
                    {
                        for key in touched {
                            admitted[key].fetch_add(hits.thousandths(), Ordering::SeqCst);
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    for (key, admitted) in admitted.iter().enumerate() {
        let admitted = admitted.load(Ordering::SeqCst);
        let outcome = charge(&store, &limit, &[key], Amount::Peek(Hits::ONE)).await;
        assert_eq!(
            outcome.readings[0].used.thousandths(),
            admitted,
            "key {key}"
        );
        assert!(admitted <= u64::from(LIMIT) * 1000, "key {key}: {admitted}");
    }
}

async fn charge(store: &Store, limit: &Limit, touched: &[usize], amount: Amount) -> Outcome {
    let mut names: Vec<usize> = touched.to_vec();
    names.dedup();
    let keys: Vec<Key> = names
        .iter()
        .map(|name| Key::new("race:", &name.to_string(), ""))
        .collect();
    let demand = |name: &usize| Demand {
        key: names.iter().position(|other| other == name).expect("a key"),
        amount,
        role: Role::Enforced,
        ban: None,
        candidates: Vec::new(),
        limits: smallvec::smallvec![Bound {
            limit,
            always: false
        }],
    };
    let demands: Vec<Demand<'_>> = touched.iter().map(demand).collect();
    let transaction = Transaction {
        keys: &keys,
        demands: &demands,
        now: Some(Timestamp::from_secs(1_700_000_000)),
        timeout: std::time::Duration::from_secs(10),
    };
    store.transact(&transaction).await.expect("an outcome")
}

/// Runs random sequences on fresh stores and on the model; `SEED=n` runs that one alone.
fn compare<S>(count: u64, workload: impl Fn(u64) -> Workload, fresh: impl Fn() -> S)
where
    S: FnMut(&Transaction<'_, '_>) -> Outcome,
{
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..count).collect(),
    };
    for seed in seeds {
        let mut store = fresh();
        let mut model = Model::default();
        let mut workload = workload(seed);
        for step in 0..STEPS {
            let outcome = workload.next(|this| {
                let wanted = model.transact(&this.transaction());
                let found = store(&this.transaction());
                assert!(
                    wanted == found,
                    "SEED={seed}, step {step}: {}",
                    this.explain(&wanted, &found)
                );
                wanted
            });
            workload.note(&outcome);
        }
    }
}

/// The store that is nothing but a map.
fn transact_in(store: &mut HashMap<String, Record>, transaction: &Transaction<'_, '_>) -> Outcome {
    let text = |place: usize| transaction.keys[place].as_str().to_owned();
    let mut records: SmallVec<[(Record, bool); 2]> = (0..transaction.keys.len())
        .map(|place| (store.get(&text(place)).cloned().unwrap_or_default(), false))
        .collect();
    let now = transaction.now.expect("the map has no clock");
    let outcome = transact(&mut records, transaction.demands, now);
    for (place, (record, changed)) in records.into_iter().enumerate() {
        if changed {
            store.insert(text(place), record);
        }
    }
    outcome
}
