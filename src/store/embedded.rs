//! In this process: shards of records behind locks.
//!
//! - A key is its 128-bit fingerprint under a secret of the process, so no client can aim at another's key or at one shard.
//! - A transaction locks the shards it needs in ascending order, so that any number of keys are one step.
//! - The number of keys is bounded. A full shard forgets one of the next [`EVICT_AMONG`] keys, the one that is soonest as
//!   good as fresh: a hostile flood of new keys can push out what matters least first, and never grows the process.
//! - [`book`] has what is kept beside the counters, [`snapshot`] writes all of it to a file, [`copy`] is for simulations.
//! - A shard is a `table` of `packed` records: a key with one fixed window or one token bucket costs 64 bytes.
//! - Expired keys go as others come: each new key looks at the next [`SWEEP`], so their number goes down while they are more than
//!   half; and [`Embedded::sweep`] looks at more now and then. So no lock is ever held for long, and a key that comes again in the
//!   next window finds its place.

use std::hash::Hasher;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};
use siphasher::sip128::{Hasher128, SipHasher13};
use smallvec::SmallVec;

use self::book::Book;
use self::packed::Packed;
use self::rows::Rows;
use self::table::Table;
use super::{Key, Transaction};
use crate::limit::Tag;
use crate::limit::transaction::{Demand, Outcome, Record, Slot, transact};
use crate::time::{Clock, Timestamp};

pub mod book;
pub mod copy;
mod packed;
pub mod rows;
pub mod snapshot;
mod table;

/// How many shards there are; a power of two.
pub const SHARDS: usize = 1024;

/// How many keys are looked at for expired ones when a new one comes.
pub const SWEEP: usize = 2;

/// Among how many keys a full shard chooses the one to forget.
pub const EVICT_AMONG: usize = 8;

/// What a key with one limit takes, and each limit of one that has several.
pub(super) const BYTES_A_KEY: usize = table::bytes_each::<Packed>();
pub(super) const BYTES_A_SLOT: usize = size_of::<Slot>();

/// How many keys of a shard one [`Embedded::sweep`] looks at.
const SWEEP_IDLE: usize = 64;

/// Into how many parts the shards are cut for [`Embedded::sweep`]: a part is looked at in a fraction of a millisecond, and who waits for
/// the processor meanwhile waits no longer.
pub const SWEEP_PARTS: usize = 16;

/// A store in this process.
pub struct Embedded {
    shards: Box<[Mutex<Shard>]>,
    keys: AtomicUsize,
    most_per_shard: usize,
    secret: SipHasher13,
    /// What `secret` was made of.
    secret_keys: (u64, u64),
    clock: Clock,
    /// The last moment that was given to a transaction, where no two have the same.
    stamps: Option<AtomicI64>,
    book: Book,
    rows: Rows,
}

impl std::fmt::Debug for Embedded {
    /// Leaves out the secret: who knows it can aim at a shard.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shard {
    records: Table<Packed>,
    /// Where the next look for expired keys begins.
    hand: usize,
    /// Before then no key expires, so there is nothing to look for.
    quiet_until: Timestamp,
    /// The same for the keys that the hand has passed since it began anew, and for those written since.
    round: Timestamp,
}

/// The shards that a transaction has locked, in ascending order.
type Locked<'a> = SmallVec<[(usize, MutexGuard<'a, Shard>); 2]>;

impl Embedded {
    /// A store of about `max_keys` keys, at least one a shard, which reads the time off `clock`.
    pub fn new(max_keys: usize, clock: Clock) -> Self {
        Self::with_secret(max_keys, clock, (rand::random(), rand::random()))
    }

    /// The same, with a secret of one's own: equal secrets place equal keys alike. Who knows it can choose keys that meet in one
    /// shard, so it is for a snapshot's own secret, and for simulations.
    pub fn with_secret(max_keys: usize, clock: Clock, secret_keys: (u64, u64)) -> Self {
        Self {
            shards: (0..SHARDS)
                .map(|number| Mutex::new(Shard::new(number)))
                .collect(),
            keys: AtomicUsize::new(0),
            most_per_shard: max_keys.div_ceil(SHARDS).max(1),
            secret: SipHasher13::new_with_keys(secret_keys.0, secret_keys.1),
            secret_keys,
            book: Book::new(clock.clone()),
            rows: Rows::default(),
            clock,
            stamps: None,
        }
    }

    /// The same store, which gives no two transactions the same moment: of those on one key, the later is the one that saw the
    /// other. With more than a million a second, its time goes ahead of the clock.
    #[must_use]
    pub fn with_distinct_moments(mut self) -> Self {
        self.stamps = Some(AtomicI64::new(i64::MIN));
        self
    }

    /// See [`Store::transact`](super::Store::transact).
    pub fn transact(&self, transaction: &Transaction<'_, '_>) -> Outcome {
        self.transact_at(transaction).0
    }

    /// The same; tells also at which time it was decided.
    pub fn transact_at(&self, transaction: &Transaction<'_, '_>) -> (Outcome, Timestamp) {
        if let [key] = transaction.keys {
            return self.transact_one(key, transaction.demands, transaction.now);
        }
        let count = transaction.keys.len();
        let mut prints: SmallVec<[u128; 2]> = SmallVec::with_capacity(count);
        for key in transaction.keys {
            prints.push(self.print(key));
        }
        let mut locked = self.lock(&prints);
        let now = self.moment(transaction.now);
        let mut places: SmallVec<[Option<usize>; 2]> = SmallVec::with_capacity(count);
        let mut records: SmallVec<[(Record, bool); 2]> = SmallVec::with_capacity(count);
        for print in &prints {
            let shard = shard(&mut locked, *print);
            let place = shard.records.find(*print);
            places.push(place);
            records.push((shard.get(place), false));
        }
        let outcome = transact(&mut records, transaction.demands, now);
        // Known keys first: they are where they are until one comes or goes.
        for ((print, place), (record, changed)) in prints.iter().zip(&places).zip(&mut records) {
            if let (true, Some(place)) = (*changed, place) {
                let record = std::mem::take(record);
                shard(&mut locked, *print).replace(*place, record.into());
            }
        }
        for ((print, place), (record, changed)) in prints.iter().zip(places).zip(records) {
            if !changed || place.is_some() {
                continue;
            }
            let shard = shard(&mut locked, *print);
            self.count(shard.add(*print, record.into(), self.most_per_shard, now));
        }
        (outcome, now)
    }

    /// The same with one key, as most have.
    fn transact_one(
        &self,
        key: &Key,
        demands: &[Demand<'_>],
        now: Option<Timestamp>,
    ) -> (Outcome, Timestamp) {
        let print = self.print(key);
        let mut shard = self.shards[shard_of(print)].lock();
        let now = self.moment(now);
        let place = shard.records.find(print);
        let mut records = [(shard.get(place), false)];
        let outcome = transact(&mut records, demands, now);
        let [(record, changed)] = records;
        if !changed {
            return (outcome, now);
        }
        match place {
            Some(place) => shard.replace(place, record.into()),
            None => self.count(shard.add(print, record.into(), self.most_per_shard, now)),
        }
        (outcome, now)
    }

    /// The moment of a transaction whose keys are locked: so none on the same keys has one between.
    fn moment(&self, given: Option<Timestamp>) -> Timestamp {
        let now = given.unwrap_or_else(|| self.clock.now());
        let Some(last) = self.stamps.as_ref().filter(|_| given.is_none()) else {
            return now;
        };
        let now = now.as_micros();
        let before = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
            Some(now.max(last.saturating_add(1)))
        });
        let (Ok(before) | Err(before)) = before;
        Timestamp::from_micros(now.max(before.saturating_add(1)))
    }

    /// See [`Store::forget`](super::Store::forget).
    pub fn forget(&self, key: &Key, tags: &[Tag]) {
        let print = self.print(key);
        let mut locked = self.lock(&[print]);
        let shard = shard(&mut locked, print);
        if let Some(place) = shard.records.find(print) {
            let mut record = shard.records.at(place).unpack();
            record.forget(tags);
            shard.replace(place, record.into());
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

    /// Removes some expired keys of each shard of a part, which is below [`SWEEP_PARTS`]; to be called now and then.
    pub fn sweep(&self, part: usize) {
        let now = self.clock.now();
        for shard in self.shards.iter().skip(part).step_by(SWEEP_PARTS) {
            let mut shard = shard.lock();
            let removed = shard.sweep(SWEEP_IDLE, now);
            self.count(-removed);
        }
    }

    /// Puts a record in its place as it is.
    fn put(&self, print: u128, record: Record) {
        let mut locked = self.lock(&[print]);
        let change = shard(&mut locked, print).put(print, record.into(), self.most_per_shard);
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
        let mut locked = Locked::with_capacity(wanted.len());
        for index in wanted {
            locked.push((index, self.shards[index].lock()));
        }
        locked
    }

    fn count(&self, change: isize) {
        let by = change.unsigned_abs();
        match change.signum() {
            1 => self.keys.fetch_add(by, Ordering::Relaxed),
            -1 => self.keys.fetch_sub(by, Ordering::Relaxed),
            // All threads share the number, and nearly always it stays as it is.
            _ => by,
        };
    }
}

impl Shard {
    fn new(number: usize) -> Self {
        Self {
            records: Table::at_place(number),
            hand: 0,
            quiet_until: Timestamp::MAX,
            round: Timestamp::MAX,
        }
    }

    fn get(&self, place: Option<usize>) -> Record {
        place.map_or_else(Record::default, |place| self.records.at(place).unpack())
    }

    /// Writes the record of a new key where some that have expired go, and tells by how much the number of keys has changed.
    fn add(&mut self, print: u128, record: Packed, most: usize, now: Timestamp) -> isize {
        let swept = self.sweep(SWEEP, now);
        self.put(print, record, most) - swept
    }

    /// Writes a record, and tells by how much the number of keys has changed.
    fn put(&mut self, print: u128, record: Packed, most: usize) -> isize {
        let mut change = 0;
        if self.records.len() >= most && self.records.find(print).is_none() {
            self.evict();
            change -= 1;
        }
        self.note(record.expires());
        let round = &mut self.round;
        let known = self.records.insert(print, record, |lowered| {
            *round = lowered.expires().min(*round);
        });
        change + isize::from(!known)
    }

    /// Writes the record of a known key.
    fn replace(&mut self, place: usize, record: Packed) {
        self.note(record.expires());
        *self.records.at_mut(place) = record;
    }

    /// There is a key that expires then.
    fn note(&mut self, expires: Timestamp) {
        self.quiet_until = self.quiet_until.min(expires);
        self.round = self.round.min(expires);
    }

    /// Removes the expired among the next `count` keys, and tells how many that were.
    fn sweep(&mut self, count: usize, now: Timestamp) -> isize {
        let mut removed = 0;
        for _ in 0..count.min(self.records.len()) {
            if now < self.quiet_until {
                break;
            }
            let index = self.advance_hand();
            let expires = self.records.at(index).expires();
            if expires <= now {
                // Another key takes the place, and is looked at next.
                self.remove(index);
                self.hand = index;
                removed += 1;
            } else {
                self.round = self.round.min(expires);
            }
        }
        removed
    }

    /// Forgets, of the next few keys, the one that is soonest as good as fresh.
    fn evict(&mut self) {
        let sample: SmallVec<[(Timestamp, usize); EVICT_AMONG]> = (0..EVICT_AMONG
            .min(self.records.len()))
            .map(|_| {
                let index = self.advance_hand();
                let expires = self.records.at(index).expires();
                self.round = self.round.min(expires);
                (expires, index)
            })
            .collect();
        if let Some((_, index)) = sample.into_iter().min_by_key(|(expires, _)| *expires) {
            self.remove(index);
        }
    }

    /// Removes a key; others may move to where the hand has passed.
    fn remove(&mut self, index: usize) {
        let round = &mut self.round;
        self.records.remove(index, |lowered| {
            *round = lowered.expires().min(*round);
        });
    }

    /// The place to look at now; the hand moves on to the next.
    fn advance_hand(&mut self) -> usize {
        if self.hand >= self.records.len() {
            self.hand = 0;
            self.quiet_until = std::mem::replace(&mut self.round, Timestamp::MAX);
        }
        let index = self.hand;
        self.hand += 1;
        index
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
    use std::collections::HashMap;
    use std::time::Duration;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::limit::period::Zone;
    use crate::limit::transaction::{Amount, Bound, Demand, Role};
    use crate::limit::{Algorithm, Hits, Limit, Unit};
    use crate::time::Micros;

    fn limit() -> Limit {
        let zone = Zone::utc();
        Limit::new(5, Unit::Second, 1, Algorithm::FixedWindow, &zone).expect("a limit")
    }

    /// One hit of the key at this place.
    fn hit(limit: &Limit, key: usize) -> Demand<'_> {
        let bound = Bound {
            limit,
            always: false,
        };
        Demand {
            key,
            amount: Amount::Charge(Hits::ONE),
            role: Role::Enforced,
            limits: smallvec::smallvec![bound],
            ban: None,
            candidates: Vec::new(),
        }
    }

    fn charge_all(store: &Embedded, keys: &[Key]) -> Outcome {
        let limit = limit();
        let demands: Vec<Demand<'_>> = (0..keys.len()).map(|key| hit(&limit, key)).collect();
        store.transact(&Transaction {
            keys,
            demands: &demands,
            now: None,
            timeout: Duration::ZERO,
        })
    }

    fn charge(store: &Embedded, name: &str) -> Outcome {
        charge_all(store, &[Key::new("", name, "")])
    }

    /// Nothing expires unnoticed: no key does so before its shard looks for one.
    fn check_quiet(store: &Embedded) {
        for shard in &store.shards {
            let shard = shard.lock();
            let soonest = shard
                .records
                .iter()
                .map(|(_, record)| record.expires())
                .min();
            assert!(
                soonest.is_none_or(|soonest| soonest >= shard.quiet_until),
                "{shard:?}"
            );
        }
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let (clock, _) = Clock::manual(Timestamp::from_secs(1));
        let store = Embedded::new(4 * SHARDS, clock);
        for i in 0..20 * SHARDS {
            charge(&store, &i.to_string());
        }
        check_quiet(&store);
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
        check_quiet(&store);
        handle.advance(Micros::from_secs(2));
        (0..SWEEP_PARTS).for_each(|part| store.sweep(part));
        assert!(store.is_empty(), "{} keys", store.len());
    }

    /// Whatever comes, changes, makes way and is swept, in whatever order.
    #[test]
    fn a_shard_overlooks_no_key_that_expires() {
        const MOST: usize = 16;
        for seed in 0..300 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut shard = Shard::new(seed as usize);
            let mut now = Timestamp::from_secs(1_700_000_000);
            for step in 0..400 {
                now = now + Micros::new(random.random_range(0..1_000_000));
                let print = random.random_range(0..64);
                let seconds = random.random_range(1..60);
                match (random.random_range(0..3), shard.records.find(print)) {
                    (0, Some(place)) => shard.replace(place, charged(seconds, now)),
                    (0 | 1, _) => {
                        shard.put(print, charged(seconds, now), MOST);
                    }
                    _ => {
                        shard.sweep(SWEEP, now);
                    }
                }
                let mut records = shard.records.iter();
                let quiet = records.all(|(_, record)| record.expires() >= shard.quiet_until);
                assert!(quiet, "seed {seed}, step {step}: {shard:?}");
            }
            // From here on nothing is written, and one round finds all that has expired.
            now = now + Micros::from_secs(60);
            shard.sweep(2 * MOST, now);
            assert_eq!(shard.records.len(), 0, "seed {seed}");
        }
    }

    /// A record that is as good as fresh within this many seconds.
    fn charged(seconds: u32, now: Timestamp) -> Packed {
        let zone = Zone::utc();
        let limit = Limit::new(5, Unit::Second, seconds, Algorithm::FixedWindow, &zone);
        let limit = limit.expect("a limit");
        let mut records = [(Record::default(), false)];
        transact(&mut records, &[hit(&limit, 0)], now);
        let [(record, _)] = records;
        Packed::from(record)
    }

    #[test]
    fn keys_of_one_transaction_may_share_a_shard() {
        let (clock, handle) = Clock::manual(Timestamp::from_secs(1));
        let store = Embedded::new(usize::MAX, clock);
        let limit = limit();
        let mut model: HashMap<usize, Record> = HashMap::new();
        for step in 0..300 {
            // Some are known and some are not, and many of those around them have expired.
            let numbers: Vec<usize> = (0..100).map(|i| (step * 37 + i * 7) % 5003).collect();
            let mut records: Vec<(Record, bool)> = numbers
                .iter()
                .map(|number| (model.get(number).cloned().unwrap_or_default(), false))
                .collect();
            let demands: Vec<Demand<'_>> = (0..numbers.len()).map(|key| hit(&limit, key)).collect();
            let wanted = transact(&mut records, &demands, store.clock.now());
            let written = numbers.iter().zip(records).filter(|(_, (_, wrote))| *wrote);
            model.extend(written.map(|(number, (record, _))| (*number, record)));
            let keys: Vec<Key> = numbers
                .iter()
                .map(|number| Key::new("", &number.to_string(), ""))
                .collect();
            assert_eq!(charge_all(&store, &keys), wanted, "step {step}");
            handle.advance(Micros::new(30_000));
            if step % 10 == 0 {
                check_quiet(&store);
            }
        }
        let held: usize = store.shards.iter().map(|s| s.lock().records.len()).sum();
        assert_eq!(store.len(), held);
    }
}
