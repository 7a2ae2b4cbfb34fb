//! A copy of all counters, for simulations: what a failover goes back to, and what must not have changed.

use super::Embedded;
use crate::limit::transaction::Record;
use crate::store::Key;

/// What stood under each key at a moment, expired ones included, in no order that means anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents(Vec<(u128, Record)>);

impl Embedded {
    /// A copy of all counters. Only what is done by nobody meanwhile is in it for certain.
    pub fn contents(&self) -> Contents {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let records = shard.records.iter();
            all.extend(records.map(|(print, record)| (print, record.unpack())));
        }
        all.sort_unstable_by_key(|(print, _)| *print);
        Contents(all)
    }

    /// Goes back to how it was: whatever was charged since is lost.
    pub fn go_back(&self, contents: &Contents) {
        for (number, shard) in self.shards.iter().enumerate() {
            let mut shard = shard.lock();
            let removed = shard.records.len();
            *shard = super::Shard::new(number);
            self.count(-isize::try_from(removed).unwrap_or(isize::MAX));
        }
        for (print, record) in &contents.0 {
            self.put(*print, record.clone());
        }
    }

    /// Whether anything is remembered under a key, expired or not.
    pub fn knows(&self, key: &Key) -> bool {
        let print = self.print(key);
        let mut locked = self.lock(&[print]);
        super::shard(&mut locked, print)
            .records
            .find(print)
            .is_some()
    }
}
