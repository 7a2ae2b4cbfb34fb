//! The contract of the stores: the same for each, and for the naive model.

use std::collections::HashMap;

use smallvec::SmallVec;
use tollgate::limit::transaction::{Outcome, Record, transact};
use tollgate::store::Transaction;
use tollgate::store::embedded::Embedded;
use tollgate::time::Clock;

use crate::support::model::Model;
use crate::support::workload::Workload;

/// How many random sequences are tried, and how long each is.
const SEEDS: u64 = 400;
const STEPS: usize = 300;

#[test]
fn the_embedded_store_agrees_with_the_naive_model() {
    compare(false, || {
        let store = Embedded::new(1 << 20, Clock::System);
        move |transaction| store.transact(transaction)
    });
}

#[test]
fn the_pure_decision_agrees_with_the_naive_model_when_the_clock_jumps() {
    compare(true, || {
        let mut records = HashMap::new();
        move |transaction| transact_in(&mut records, transaction)
    });
}

/// Runs random sequences on fresh stores and on the model; `SEED=n` runs that one alone.
fn compare<S>(backwards: bool, fresh: impl Fn() -> S)
where
    S: FnMut(&Transaction<'_, '_>) -> Outcome,
{
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    };
    for seed in seeds {
        let mut store = fresh();
        let mut model = Model::default();
        let mut workload = Workload::new("model", seed, backwards);
        for step in 0..STEPS {
            workload.next(|this| {
                let wanted = model.transact(&this.transaction());
                let found = store(&this.transaction());
                assert!(
                    wanted == found,
                    "SEED={seed}, step {step}: {}",
                    this.explain(&wanted, &found)
                );
            });
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
