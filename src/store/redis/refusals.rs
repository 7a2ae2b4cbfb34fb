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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use redis_protocol::resp3::types::BytesFrame;
use siphasher::sip128::{Hasher128, SipHasher13};
use smallvec::SmallVec;

use super::part::{Part, Records};
use super::value;
use crate::limit::transaction::{Outcome, Record};
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
    /// Whether anything is, or was since all was forgotten: faster to tell than by the cache, which has locks.
    knows_any: AtomicBool,
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
            knows_any: AtomicBool::new(false),
            learning: Mutex::default(),
            forgotten: AtomicU64::new(0),
            era: AtomicU64::new(0),
            served: AtomicU64::new(0),
            hasher: SipHasher13::new_with_keys(rand::random(), rand::random()),
        }
    }

    /// What is asked `now`, if it is certain to be refused.
    pub(super) fn refuse(&self, part: &Part<'_, '_>, now: Instant) -> Option<Outcome> {
        if !self.knows_any.load(Ordering::Acquire) || part.keys.len() > MOST_KEYS {
            return None;
        }
        let known: SmallVec<[Arc<Known>; 1]> = part
            .keys
            .iter()
            .map(|key| self.known.get(&self.print(key)))
            .collect::<Option<_>>()?;
        let moments = known.iter().map(|known| known.heard.reckon(now));
        let (earliest, latest) = moments.reduce(|(a, b), (c, d)| (a.max(c), b.max(d)))?;
        let is_old = |known: &Arc<Known>| now.duration_since(known.heard.asked) > TRUSTED;
        let records = || -> Records { known.iter().map(|k| (k.record.clone(), false)).collect() };
        if known.iter().any(is_old) || part.outcome(records(), latest).admitted {
            part.keys.iter().for_each(|key| self.drop_one(key));
            return None;
        }
        let outcome = part.outcome(records(), earliest);
        if outcome.admitted {
            return None;
        }
        self.served.fetch_add(1, Ordering::Relaxed);
        Some(outcome)
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
        self.knows_any.store(false, Ordering::Release);
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

    fn know(&self, print: u128, known: Arc<Known>) {
        self.known.insert(print, known);
        self.knows_any.store(true, Ordering::Release);
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
        refusals.know(self.print, known);
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
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::super::part;
    use super::*;
    use crate::limit::period::Zone;
    use crate::limit::transaction::{Amount, Bound, Demand, Role, transact};
    use crate::limit::{Algorithm, Hits, Limit, Unit, Verdict};
    use crate::store::{Key, Transaction};

    /// A hundred days after the epoch.
    const AT: i64 = 8_640_000_000_000;

    fn limit(random: &mut SmallRng) -> Limit {
        let algorithm = match random.random_range(0..3) {
            0 => Algorithm::FixedWindow,
            1 => Algorithm::SlidingWindow,
            _ => Algorithm::TokenBucket {
                burst: Hits::whole(random.random_range(1..8)),
            },
        };
        let (requests, multiplier) = (random.random_range(1..8), random.random_range(1..30));
        let zone = Zone::utc();
        Limit::new(requests, Unit::Second, multiplier, algorithm, &zone).expect("a limit")
    }

    fn ask<T>(limit: &Limit, hits: u32, run: impl FnOnce(&Part<'_, '_>) -> T) -> T {
        let bound = Bound {
            limit,
            always: false,
        };
        let demands = [Demand {
            key: 0,
            amount: Amount::Charge(Hits::whole(hits)),
            role: Role::Enforced,
            limits: std::iter::once(bound).collect(),
            ban: None,
            candidates: Vec::new(),
        }];
        let keys = [Key::new("", "subject", "")];
        let transaction = Transaction {
            keys: &keys,
            demands: &demands,
            now: None,
            timeout: Duration::ZERO,
        };
        run(&part::split(&transaction, false, None)[0])
    }

    fn wait(outcome: &Outcome) -> Option<Micros> {
        match outcome.readings[0].verdict {
            Verdict::Wait(wait) => Some(wait),
            Verdict::Allowed | Verdict::Never | Verdict::Banned(_) => None,
        }
    }

    /// Redis decides somewhen between asking and hearing. Whenever the memory refuses, Redis would; and who waits as long as it
    /// says comes late enough.
    #[test]
    fn what_is_refused_from_memory_would_be_refused() {
        let mut served = 0;
        for seed in 0..3000 {
            let mut random = SmallRng::seed_from_u64(seed);
            let (limit, refusals) = (limit(&mut random), Refusals::new());
            let asked = Instant::now();
            let micros = |n: u64| Duration::from_micros(n);
            let decided = asked + micros(random.random_range(0..2_000_000));
            let heard = decided + micros(random.random_range(0..2_000_000));
            let at = Timestamp::from_micros(AT + random.random_range(0..60_000_000));
            let mut records: Records = std::iter::once((Record::default(), false)).collect();
            for _ in 0..8 {
                ask(&limit, 1, |part| {
                    let demand = part.demands[0].demand(Amount::Charge(Hits::ONE));
                    let mut after = records.clone();
                    if transact(&mut after, &[demand], at).admitted {
                        records = after;
                    }
                });
            }
            let known = Known {
                record: records[0].0.clone(),
                heard: Heard { at, asked, heard },
            };
            refusals.know(refusals.print(b"{subject}"), Arc::new(known));
            let mut now = heard;
            for _ in 0..20 {
                now += micros(random.random_range(0..3_000_000));
                let time = at + Micros::new(now.duration_since(decided).as_micros() as u64);
                let hits = random.random_range(1..4);
                ask(&limit, hits, |part| {
                    let Some(told) = refusals.refuse(part, now) else {
                        return;
                    };
                    served += 1;
                    assert!(now.duration_since(asked) <= TRUSTED, "seed {seed}");
                    let redis = part.outcome(records.clone(), time);
                    assert!(!redis.admitted, "seed {seed}: {limit}, {told:?}");
                    assert!(
                        wait(&told) >= wait(&redis),
                        "seed {seed}: {limit}, {told:?}"
                    );
                });
            }
        }
        assert!(served > 3000, "{served}");
    }

    #[test]
    fn what_changes_while_it_is_asked_for_is_not_remembered() {
        // Version 3, seen at 1 us, and a window of a second that ends at 101 days, with 5 hits.
        let mut value = vec![3, 1, 0, 0, 0, 0, 0, 0];
        value.extend((32 + 8_u32).to_le_bytes());
        value.extend(&(101 * 86_400_u64).to_le_bytes()[..5]);
        value.extend(5000_u32.to_le_bytes());
        let now = Instant::now();
        let heard = Heard {
            at: Timestamp::from_micros(AT),
            asked: now,
            heard: now,
        };
        let limit = Limit::new(5, Unit::Second, 1, Algorithm::FixedWindow, &Zone::utc());
        let limit = limit.expect("a limit");
        let text = |text: &'static str| BytesFrame::BlobString {
            data: Bytes::from_static(text.as_bytes()),
            attributes: None,
        };
        let one = |key| BytesFrame::Array {
            data: vec![text(key)],
            attributes: None,
        };
        for (changed, remembered, emptied) in [
            (None, true, false),
            (Some(one("{another}")), false, false),
            (Some(one("{subject}")), false, false),
            (Some(BytesFrame::Null), false, true),
        ] {
            let refusals = Refusals::new();
            let era = refusals.era();
            let learning = refusals.learn(b"{subject}").expect("nobody asks for it");
            assert!(refusals.learn(b"{subject}").is_none(), "it is asked for");
            if let Some(keys) = changed {
                refusals.hear(&[text("invalidate"), keys]);
            }
            learning.learnt(Bytes::from(value.clone()), heard);
            let refused = ask(&limit, 1, |part| refusals.refuse(part, now));
            assert_eq!(refused.is_some(), remembered);
            assert_eq!(
                refusals.era() != era,
                emptied,
                "what is held elsewhere ends too"
            );
        }
    }

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
