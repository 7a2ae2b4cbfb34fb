//! The Redis store, against real servers.

use std::collections::HashMap;

use smallvec::SmallVec;
use tollgate::limit::transaction::{Outcome, Record, transact};
use tollgate::store::Transaction;

mod parity;

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
