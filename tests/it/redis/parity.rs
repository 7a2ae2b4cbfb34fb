//! The scripts say what the pure decision says, reading by reading.

use tollgate::limit::Hits;
use tollgate::limit::transaction::{Amount, Demand};
use tollgate::store::Key;
use tollgate::store::redis::Redis;

use super::{Map, key, per_hour, used};
use crate::support::redis::{Server, cluster, connected};
use crate::support::workload::{Step, Workload};

const SEEDS: u64 = 60;
const STEPS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_scripts_agree_with_the_pure_decision() {
    let server = Server::start();
    let store = server.store().await;
    let admin = server.admin().await;
    for seed in 0..SEEDS {
        // On the way the script must be loaded again.
        admin.run("SCRIPT FLUSH").await;
        let workload = Workload::new("parity", seed, true);
        compare(&store, seed, workload, |step| step.demands.clone());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn many_slots_agree_with_the_pure_decision() {
    let store = connected(&cluster::shared()).await;
    for seed in 0..SEEDS {
        // A charge that is given back leaves the bucket filled up to then, at the rate of then: the same unless that changes.
        let workload = Workload::new("slots", seed, false).steady();
        compare(&store, seed, workload, without_refunds);
    }
    assert_eq!(store.lost_give_backs(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_refund_beside_other_slots_is_made_only_if_all_admit() {
    let store = connected(&cluster::shared()).await;
    let (refunded, charged) = (key("refunded"), key("charged beside a refund"));
    let limit = per_hour(5);
    let keys = [refunded.clone(), charged.clone()];
    let start = Amount::Charge(Hits::whole(4));
    super::ask(&store, &keys, &limit, start)
        .await
        .expect("an outcome");
    for (hits, refunded_after) in [(2, 4), (1, 1)] {
        let amounts = [
            Amount::Refund(Hits::whole(3)),
            Amount::Charge(Hits::whole(hits)),
        ];
        let outcome = super::ask_each(&store, &keys, &limit, &amounts).await;
        assert_eq!(outcome.expect("an outcome").admitted, hits == 1);
        assert_eq!(used(&store, &refunded, &limit).await, refunded_after);
    }
    assert_eq!(used(&store, &charged, &limit).await, 5);
}

/// Runs a workload on `store` and on a map, its demands as `choose` makes them.
fn compare(
    store: &Redis,
    seed: u64,
    mut workload: Workload,
    choose: impl for<'l> Fn(&Step<'l>) -> Vec<Demand<'l>>,
) {
    let mut map = Map::default();
    for step in 0..STEPS {
        workload.next(|this| {
            let keys: Vec<Key> = this.keys.clone();
            let this = Step {
                keys,
                demands: choose(this),
                now: this.now,
            };
            let wanted = map.transact(&this.transaction());
            let found = wait_for(store.transact(&this.transaction())).expect("an outcome");
            assert!(
                wanted == found,
                "seed {seed}, step {step}: {}",
                this.explain(&wanted, &found)
            );
        });
    }
}

/// Refunds that are held back read the state before them.
fn without_refunds<'l>(step: &Step<'l>) -> Vec<Demand<'l>> {
    let mut demands = step.demands.clone();
    for demand in &mut demands {
        if let Amount::Refund(hits) = demand.amount {
            demand.amount = Amount::Charge(hits);
        }
    }
    demands
}

/// Waits within a function that is not async.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}
