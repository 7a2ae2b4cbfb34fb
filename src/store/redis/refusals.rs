//! Refusals remembered: a subject that hammers on is refused from memory until it could pass again.
//!
//! What is remembered is not the refusal but the record that refused, as Redis has it. A request for it is decided on a copy
//! with the twins of the script: so a raised limit, another plan or fewer hits are judged as they should be, and whatever is not
//! refused goes to Redis. Redis itself tells when the record changes, whoever changes it (client tracking): a refund, a reset, a
//! charge of another instance, an operator's `DEL` or `FLUSHALL`. Nothing is remembered across the end of a connection.
//!
//! The time of Redis is reckoned on from that of its last answer by this process's own steady clock. Between asking and
//! hearing lies a round trip: that a request is refused must hold at the latest time that it can be, and how long it waits is told for the
//! earliest. A jump of Redis's clock is noticed after [`TRUSTED`] at the latest.

use std::collections::HashSet;
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use redis_protocol::resp3::types::BytesFrame;
use siphasher::sip128::{Hasher128, SipHasher13};
use smallvec::SmallVec;

use super::part::{Part, Records};
use super::reply::Decided;
use super::value;
use crate::limit::transaction::Record;
use crate::time::{Micros, Timestamp};

/// How many records are remembered at most; about 300 bytes each.
const MOST: usize = 1 << 16;

/// How many keys of one call are remembered at most.
pub(super) const MOST_KEYS: usize = 8;

/// How many are being asked for at once.
const MOST_LEARNING: usize = 1024;

/// For how long a record is believed without asking again.
const TRUSTED: Duration = Duration::from_secs(30);

/// When Redis said what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// The time of Redis.
    pub(super) at: Timestamp,
    /// When it was asked.
    pub(super) asked: Instant,
    /// When its answer was here.
    pub(super) heard: Instant,
}

/// The records that refuse.
#[derive(Debug)]
pub(super) struct Refusals {
    known: Cache<u128, Arc<Known>>,
    learning: Mutex<HashSet<u128>>,
    /// Counts what has been forgotten: who was asking meanwhile may have heard what held before.
    forgotten: AtomicU64,
    /// Counts how often all was forgotten.
    era: AtomicU64,
    served: AtomicU64,
    hasher: SipHasher13,
}

#[derive(Debug)]
struct Known {
    record: Record,
    heard: Heard,
}

/// A look at one record, for as long as it takes.
pub(super) struct Learning<'r> {
    refusals: &'r Refusals,
    print: u128,
    forgotten: u64,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self {
            known: Cache::new(MOST),
            learning: Mutex::default(),
            forgotten: AtomicU64::new(0),
            era: AtomicU64::new(0),
            served: AtomicU64::new(0),
            hasher: SipHasher13::new_with_keys(rand::random(), rand::random()),
        }
    }

    /// What is asked, if it is certain to be refused.
    pub(super) fn refuse(&self, part: &Part<'_, '_>) -> Option<Decided> {
        if self.known.is_empty() || part.keys.len() > MOST_KEYS {
            return None;
        }
        let known: SmallVec<[Arc<Known>; 1]> = part
            .keys
            .iter()
            .map(|key| self.known.get(&self.print(key)))
            .collect::<Option<_>>()?;
        let now = Instant::now();
        let moments = known.iter().map(|known| known.heard.reckon(now));
        let (earliest, latest) = moments.reduce(|(a, b), (c, d)| (a.max(c), b.max(d)))?;
        let is_old = |known: &Arc<Known>| now.duration_since(known.heard.asked) > TRUSTED;
        let records = || -> Records { known.iter().map(|k| (k.record.clone(), false)).collect() };
        if known.iter().any(is_old) || part.decide(records(), latest).admitted {
            part.keys.iter().for_each(|key| self.drop_one(key));
            return None;
        }
        let decided = part.decide(records(), earliest);
        if decided.admitted {
            return None;
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        Some(decided)
    }

    /// Begins to ask for the record under `key`; none if that is not needed, or too much is being asked.
    pub(super) fn learn(&self, key: &[u8]) -> Option<Learning<'_>> {
        let print = self.print(key);
        let mut learning = self.learning.lock();
        let may = learning.len() < MOST_LEARNING && !self.known.contains_key(&print);
        (may && learning.insert(print)).then(|| Learning {
            refusals: self,
            print,
            forgotten: self.forgotten.load(Ordering::Acquire),
        })
    }

    /// Takes what Redis says unasked: the keys that have changed, or that all have.
    pub(super) fn hear(&self, said: &[BytesFrame]) {
        let [BytesFrame::BlobString { data: word, .. }, keys] = said else {
            return;
        };
        if word.as_ref() != b"invalidate" {
            return;
        }
        let BytesFrame::Array { data: keys, .. } = keys else {
            self.forget_all();
            return;
        };
        for key in keys {
            if let BytesFrame::BlobString { data: key, .. } = key {
                self.forget(key);
            }
        }
    }

    /// Redis says that what stands under `key` has changed.
    fn forget(&self, key: &[u8]) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.drop_one(key);
    }

    /// Redis says that all has changed, or can no longer say what has.
    pub(super) fn forget_all(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.known.clear();
    }

    /// How often all was forgotten: a connection has ended, or Redis was emptied.
    pub(super) fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    /// How many requests were refused from memory.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn drop_one(&self, key: &[u8]) {
        self.known.remove(&self.print(key));
    }

    fn print(&self, key: &[u8]) -> u128 {
        let mut hasher = self.hasher;
        hasher.write(key);
        hasher.finish128().as_u128()
    }
}

impl Learning<'_> {
    /// Remembers what Redis has under the key, unless it has changed since.
    pub(super) fn learnt(&self, value: Bytes, heard: Heard) {
        let Some(record) = value::decode(value).filter(|record| !record.slots.is_empty()) else {
            return;
        };
        let refusals = self.refusals;
        let known = Arc::new(Known { record, heard });
        refusals.known.insert(self.print, known);
        // After it is there: what is forgotten from now on finds it.
        if refusals.forgotten.load(Ordering::Acquire) != self.forgotten {
            refusals.known.remove(&self.print);
        }
    }
}

impl Drop for Learning<'_> {
    fn drop(&mut self) {
        self.refusals.learning.lock().remove(&self.print);
    }
}

impl Heard {
    /// The earliest and the latest that the time of Redis can be by now.
    pub(super) fn reckon(&self, now: Instant) -> (Timestamp, Timestamp) {
        let after = |since: Instant| {
            let passed = now.saturating_duration_since(since).as_micros();
            self.at + Micros::new(u64::try_from(passed).unwrap_or(u64::MAX))
        };
        (after(self.heard), after(self.asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_records_are_asked_for_than_may_be_at_once() {
        let refusals = Refusals::new();
        let key = |n: usize| n.to_string().into_bytes();
        let mut asked: Vec<_> = (0..MOST_LEARNING)
            .map(|n| refusals.learn(&key(n)).expect("one of the most"))
            .collect();
        assert!(refusals.learn(&key(0)).is_none(), "it is asked for already");
        assert!(refusals.learn(&key(MOST_LEARNING)).is_none(), "one beyond");
        asked.pop();
        assert!(refusals.learn(&key(MOST_LEARNING)).is_some());
    }
}
