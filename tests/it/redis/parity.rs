//! The scripts say what the pure decision says, reading by reading.

use tollgate::store::redis::Redis;

use super::Map;
use crate::support::redis::Server;
use crate::support::workload::Workload;

const SEEDS: u64 = 60;
const STEPS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_scripts_agree_with_the_pure_decision() {
    let server = Server::start();
    let store = server.store().await;
    for seed in 0..SEEDS {
        compare(&store, "parity", seed).await;
    }
}

/// Runs one random sequence on `store` and on a map. The clock goes forwards and backwards.
async fn compare(store: &Redis, name: &str, seed: u64) {
    let mut workload = Workload::new(name, seed, true);
    let mut map = Map::default();
    for step in 0..STEPS {
        workload.next(|this| {
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

/// Waits within a function that is not async.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}
