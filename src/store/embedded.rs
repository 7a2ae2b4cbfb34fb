//! In this process: shards of records behind locks.
//!
//! - A key is its 128-bit fingerprint under a secret of the process, so no client can aim at another's key or at one shard.
//! - A transaction locks the shards it needs in ascending order, so that any number of keys are one step.
//! - The number of keys is bounded. A full shard forgets one of the next [`EVICT_AMONG`] keys, the one that is soonest as
//!   good as fresh: a hostile flood of new keys can push out what matters least first, and never grows the process.
//! - [`book`] has what is kept beside the counters, [`snapshot`] writes all of it to a file.
//! - Expired keys go as others come: each write looks at the next [`SWEEP`] keys, and [`Embedded::sweep`] does the same for
//!   an idle process, so no lock is ever held for long.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

use indexmap::IndexMap;
use parking_lot::{Mutex, MutexGuard};
use siphasher::sip128::{Hasher128, SipHasher13};
use smallvec::SmallVec;

use self::book::Book;
use self::rows::Rows;
use super::{Key, Transaction};
use crate::limit::Tag;
use crate::limit::transaction::{Outcome, Record, transact};
use crate::time::{Clock, Timestamp};

pub mod book;
pub mod rows;
pub mod snapshot;

/// How many shards there are; a power of two.
pub const SHARDS: usize = 1024;

/// How many keys a write looks at for expired ones.
pub const SWEEP: usize = 2;

/// Among how many keys a full shard chooses the one to forget.
pub const EVICT_AMONG: usize = 8;

/// How many keys of a shard one [`Embedded::sweep`] looks at.
const SWEEP_IDLE: usize = 64;

/// A store in this process.
#[derive(Debug)]
pub struct Embedded {
    shards: Box<[Mutex<Shard>]>,
    keys: AtomicUsize,
    most_per_shard: usize,
    secret: SipHasher13,
    /// What `secret` was made of.
    secret_keys: (u64, u64),
    clock: Clock,
    book: Book,
    rows: Rows,
}

#[derive(Debug, Default)]
struct Shard {
    records: IndexMap<u128, Record, BuildHasherDefault<Fingerprint>>,
    /// Where the next look for expired keys begins.
    hand: usize,
}

/// Passes on a fingerprint, which is random enough already.
#[derive(Debug, Default)]
struct Fingerprint(u64);

/// The shards that a transaction has locked, in ascending order.
type Locked<'a> = SmallVec<[(usize, MutexGuard<'a, Shard>); 2]>;

impl Embedded {
    /// A store of about `max_keys` keys, at least one a shard, which reads the time off `clock`.
    pub fn new(max_keys: usize, clock: Clock) -> Self {
        Self::with_secret(max_keys, clock, (rand::random(), rand::random()))
    }

    fn with_secret(max_keys: usize, clock: Clock, secret_keys: (u64, u64)) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            keys: AtomicUsize::new(0),
            most_per_shard: max_keys.div_ceil(SHARDS).max(1),
            secret: SipHasher13::new_with_keys(secret_keys.0, secret_keys.1),
            secret_keys,
            book: Book::new(clock.clone()),
            rows: Rows::default(),
            clock,
        }
    }

    /// See [`Store::transact`](super::Store::transact).
    pub fn transact(&self, transaction: &Transaction<'_, '_>) -> Outcome {
        let now = transaction.now.unwrap_or_else(|| self.clock.now());
        let prints: SmallVec<[u128; 2]> =
            transaction.keys.iter().map(|key| self.print(key)).collect();
        let mut locked = self.lock(&prints);
        let mut records: SmallVec<[(Record, bool); 2]> = prints
            .iter()
            .map(|print| (shard(&mut locked, *print).get(*print), false))
            .collect();
        let outcome = transact(&mut records, transaction.demands, now);
        for (print, (record, changed)) in prints.iter().zip(records) {
            if changed {
                let shard = shard(&mut locked, *print);
                let change = shard.put(*print, record, self.most_per_shard, now);
                self.count(change);
            }
        }
        outcome
    }

    /// See [`Store::forget`](super::Store::forget).
    pub fn forget(&self, key: &Key, tags: &[Tag]) {
        let print = self.print(key);
        let mut locked = self.lock(&[print]);
        if let Some(record) = shard(&mut locked, print).records.get_mut(&print) {
            record.forget(tags);
        }
    }

    /// What is kept beside the counters.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// What was used.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// How many keys there are, expired ones not yet removed included.
    pub fn len(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes some expired keys of each shard; to be called now and then.
    pub fn sweep(&self) {
        let now = self.clock.now();
        for shard in &self.shards {
            let mut shard = shard.lock();
            let removed = shard.sweep(SWEEP_IDLE, now);
            self.count(-removed);
        }
    }

    /// Puts a record in its place as it is.
    fn put(&self, print: u128, record: Record, now: Timestamp) {
        let mut locked = self.lock(&[print]);
        let change = shard(&mut locked, print).put(print, record, self.most_per_shard, now);
        self.count(change);
    }

    fn print(&self, key: &Key) -> u128 {
        let mut hasher = self.secret;
        hasher.write(key.as_str().as_bytes());
        hasher.finish128().as_u128()
    }

    fn lock(&self, prints: &[u128]) -> Locked<'_> {
        let mut wanted: SmallVec<[usize; 2]> = prints.iter().map(|p| shard_of(*p)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let lock = |index: usize| (index, self.shards[index].lock());
        wanted.into_iter().map(lock).collect()
    }

    fn count(&self, change: isize) {
        if change >= 0 {
            self.keys
                .fetch_add(change.unsigned_abs(), Ordering::Relaxed);
        } else {
            self.keys
                .fetch_sub(change.unsigned_abs(), Ordering::Relaxed);
        }
    }
}

impl Shard {
    fn get(&self, print: u128) -> Record {
        self.records.get(&print).cloned().unwrap_or_default()
    }

    /// Writes a record, and tells by how much the number of keys has changed.
    fn put(&mut self, print: u128, record: Record, most: usize, now: Timestamp) -> isize {
        let mut change = -self.sweep(SWEEP, now);
        if !self.records.contains_key(&print) && self.records.len() >= most {
            self.evict();
            change -= 1;
        }
        if self.records.insert(print, record).is_none() {
            change += 1;
        }
        change
    }

    /// Removes the expired among the next `count` keys, and tells how many that were.
    fn sweep(&mut self, count: usize, now: Timestamp) -> isize {
        let mut removed = 0;
        for _ in 0..count.min(self.records.len()) {
            let index = self.advance_hand();
            let expired = self
                .records
                .get_index(index)
                .is_some_and(|(_, record)| record.expires() <= now);
            if expired {
                // The last key takes the place, and is looked at next.
                self.records.swap_remove_index(index);
                self.hand = index;
                removed += 1;
            }
        }
        removed
    }

    /// Forgets, of the next few keys, the one that is soonest as good as fresh.
    fn evict(&mut self) {
        let sample: SmallVec<[usize; EVICT_AMONG]> = (0..EVICT_AMONG.min(self.records.len()))
            .map(|_| self.advance_hand())
            .collect();
        let expires = |index: &usize| self.records.get_index(*index).map(|(_, r)| r.expires());
        let soonest = sample.into_iter().min_by_key(expires);
        if let Some(index) = soonest {
            self.records.swap_remove_index(index);
        }
    }

    /// The place to look at now; the hand moves on to the next.
    fn advance_hand(&mut self) -> usize {
        let index = if self.hand < self.records.len() {
            self.hand
        } else {
            0
        };
        self.hand = index + 1;
        index
    }
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, print: u128) {
        self.0 = print as u64;
    }
}

/// The upper bits choose the shard, the lower ones the place within it.
fn shard_of(print: u128) -> usize {
    (print >> 64) as usize % SHARDS
}

fn shard<'a>(locked: &'a mut Locked<'_>, print: u128) -> &'a mut Shard {
    let wanted = shard_of(print);
    let index = locked.partition_point(|(index, _)| *index < wanted);
    &mut locked[index].1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limit::period::Zone;
    use crate::limit::transaction::{Amount, Bound, Demand, Role};
    use crate::limit::{Algorithm, Hits, Limit, Unit};
    use crate::time::Micros;

    fn charge(store: &Embedded, name: &str) -> Outcome {
        let zone = Zone::utc();
        let limit = Limit::new(5, Unit::Second, 1, Algorithm::FixedWindow, &zone).expect("a limit");
        let bound = Bound {
            limit: &limit,
            always: false,
        };
        let demand = Demand {
            key: 0,
            amount: Amount::Charge(Hits::ONE),
            role: Role::Enforced,
            limits: smallvec::smallvec![bound],
            ban: None,
        };
        store.transact(&Transaction {
            keys: &[Key::new("", name, "")],
            demands: &[demand],
            now: None,
            timeout: Duration::ZERO,
        })
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let (clock, _) = Clock::manual(Timestamp::from_secs(1));
        let store = Embedded::new(4 * SHARDS, clock);
        for i in 0..20 * SHARDS {
            charge(&store, &i.to_string());
        }
        assert!(store.len() <= 4 * SHARDS, "{} keys", store.len());
        assert!(store.len() > 3 * SHARDS, "{} keys", store.len());
    }

    #[test]
    fn expired_keys_go_when_swept_and_when_others_come() {
        let (clock, handle) = Clock::manual(Timestamp::from_secs(1));
        let store = Embedded::new(usize::MAX, clock);
        for i in 0..10_000 {
            charge(&store, &i.to_string());
        }
        assert_eq!(store.len(), 10_000);
        handle.advance(Micros::from_secs(2));
        for i in 0..10_000 {
            charge(&store, &format!("new {i}"));
        }
        assert!(store.len() < 15_000, "{} keys", store.len());
        handle.advance(Micros::from_secs(2));
        store.sweep();
        assert!(store.is_empty(), "{} keys", store.len());
    }
}
