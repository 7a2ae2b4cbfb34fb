//! The Redis store, against real servers.

use std::collections::HashMap;
use std::time::Duration;

use smallvec::{SmallVec, smallvec};
use tollgate::limit::period::Zone;
use tollgate::limit::transaction::{
    Amount, Bound, Demand, Outcome, Reading, Record, Role, transact,
};
use tollgate::limit::{Algorithm, Hits, Limit, Unit};
use tollgate::store::redis::Redis;
use tollgate::store::{Key, StoreError, Transaction};

use crate::support::redis::CALL_TIMEOUT;

mod atomic;
mod connecting;
mod failing;
mod hot;
mod leases;
mod moving;
mod parity;
mod per_second;
mod replicated;
mod values;

/// The store that is nothing but a map.
#[derive(Debug, Default)]
pub(crate) struct Map(HashMap<String, Record>);

impl Map {
    pub(crate) fn transact(&mut self, transaction: &Transaction<'_, '_>) -> Outcome {
        let text = |place: usize| transaction.keys[place].as_str().to_owned();
        let mut records: SmallVec<[(Record, bool); 2]> = (0..transaction.keys.len())
            .map(|place| (self.0.get(&text(place)).cloned().unwrap_or_default(), false))
            .collect();
        let now = transaction.now.expect("the map has no clock");
        let outcome = transact(&mut records, transaction.demands, now);
        for (place, (record, changed)) in records.into_iter().enumerate() {
            if changed {
                self.0.insert(text(place), record);
            }
        }
        outcome
    }
}

/// `requests` per `unit`.
fn limit(requests: u32, unit: Unit, algorithm: Algorithm) -> Limit {
    Limit::new(requests, unit, 1, algorithm, &Zone::utc()).expect("a limit")
}

/// A limit whose window no test lives to see the end of; tests run at the turn of an hour now and then.
fn per_day(requests: u32) -> Limit {
    limit(requests, Unit::Day, Algorithm::FixedWindow)
}

/// A key with a hash tag of its own.
fn key(name: &str) -> Key {
    Key::new("test:", name, "")
}

/// Asks `amount` of each key under the same limit, at the store's own time.
async fn ask(
    store: &Redis,
    keys: &[Key],
    limit: &Limit,
    amount: Amount,
) -> Result<Outcome, StoreError> {
    ask_each(store, keys, limit, &vec![amount; keys.len()]).await
}

/// The same with an amount for each key.
async fn ask_each(
    store: &Redis,
    keys: &[Key],
    limit: &Limit,
    amounts: &[Amount],
) -> Result<Outcome, StoreError> {
    ask_within(store, keys, limit, amounts, CALL_TIMEOUT).await
}

async fn ask_within(
    store: &Redis,
    keys: &[Key],
    limit: &Limit,
    amounts: &[Amount],
    timeout: Duration,
) -> Result<Outcome, StoreError> {
    let demands: Vec<Demand<'_>> = amounts
        .iter()
        .enumerate()
        .map(|(key, &amount)| Demand {
            key,
            amount,
            role: Role::Enforced,
            ban: None,
            candidates: Vec::new(),
            limits: smallvec![Bound {
                limit,
                always: false
            }],
        })
        .collect();
    let transaction = Transaction {
        keys,
        demands: &demands,
        now: None,
        timeout,
    };
    store.transact(&transaction).await
}

/// Takes one hit of one key.
async fn charge(store: &Redis, key: &Key, limit: &Limit) -> Result<Outcome, StoreError> {
    ask(
        store,
        std::slice::from_ref(key),
        limit,
        Amount::Charge(Hits::ONE),
    )
    .await
}

/// What is used of one key, in whole hits.
async fn used(store: &Redis, key: &Key, limit: &Limit) -> u64 {
    let peek = Amount::Peek(Hits::ONE);
    let outcome = ask(store, std::slice::from_ref(key), limit, peek).await;
    reading(&outcome.expect("an outcome")).used.floor()
}

fn reading(outcome: &Outcome) -> Reading {
    outcome.readings[0]
}
