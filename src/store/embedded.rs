//! In this process: shards of records behind locks.
//!
//! - A key is its 128-bit fingerprint under a secret of the process, so no client can aim at another's key or at one shard.
//! - A transaction locks the shards it needs in ascending order, so that any number of keys are one step.
//! - The number of keys is bounded. A full shard forgets, of a few keys, the one that is soonest as good as fresh: a hostile flood of new keys
//!   can push out what matters least first, and never grows the process.
//! - [`book`] has what is kept beside the counters, [`snapshot`] writes all of it to a file, [`copy`] is for simulations.
//! - A `shard` is a `table` of `packed` records: a key with one fixed window or one token bucket costs 64 bytes.
//! - Expired keys go as others come: each new key looks at the next few, so their number goes down while they are more than half; and
//!   [`Embedded::sweep`] looks at more now and then. So no lock is ever held for long, and a key that comes again in the next window finds
//!   its place.
//! - Of many keys each is in no cache, and to wait for memory takes longer than the decision. Whoever has others to decide meanwhile calls
//!   [`Embedded::fetch`] first.

use std::hash::Hasher;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use parking_lot::MutexGuard;
use siphasher::sip128::{Hasher128, SipHasher13};
use smallvec::SmallVec;

use self::book::Book;
use self::packed::Packed;
use self::rows::Rows;
use self::shard::{Guarded, Shard};
use super::{Key, Transaction};
use crate::limit::Tag;
use crate::limit::transaction::{Demand, Outcome, Record, Slot, transact_into};
use crate::time::{Clock, Timestamp};

pub mod book;
pub mod copy;
mod packed;
pub mod rows;
mod shard;
pub mod snapshot;
mod table;

/// How many shards there are; a power of two. Many, so that threads seldom meet at one; few enough that all of them stay in a core's cache.
pub const SHARDS: usize = 256;

/// What a key with one limit takes, and each limit of one that has several.
pub(super) const BYTES_A_KEY: usize = table::bytes_each::<Packed>();
pub(super) const BYTES_A_SLOT: usize = size_of::<Slot>();

/// How many keys of a shard one [`Embedded::sweep`] looks at, and how often, with the lock let go of between.
const SWEEP_IDLE: usize = 64;
const SWEEP_LOOKS: usize = 4;

/// Into how many parts the shards are cut for [`Embedded::sweep`] and [`Embedded::make_room`]: a part is looked at in a fraction of a millisecond, and who
/// waits for the processor meanwhile waits no longer.
pub const PARTS: usize = 16;

/// A store in this process.
pub struct Embedded {
    shards: Box<[Guarded]>,
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

/// When a transaction is.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// At this time, whatever the clock says.
    At(Timestamp),
    /// Now. If the clock was looked at a moment ago, it showed this.
    Now(Option<Timestamp>),
}

/// The fingerprints of some keys, in their order.
#[derive(Debug)]
pub struct Prints(SmallVec<[u128; 2]>);

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
            shards: (0..SHARDS).map(Guarded::new).collect(),
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

    /// Asks for the memory of the next keys of a part, which is below [`PARTS`], before they come, and tells of how many shards it was missing; to be called
    /// now and then. Where a kernel gives memory in huge pages, whoever touches a new one waits while it is cleared: milliseconds, on some virtual machines.
    pub fn make_room(&self, part: usize) -> usize {
        let is_missing = |shard: &&Guarded| shard.make_room(self.most_per_shard);
        self.part(part).filter(is_missing).count()
    }

    /// See [`Store::transact`](super::Store::transact).
    pub fn transact(&self, transaction: &Transaction<'_, '_>) -> Outcome {
        let prints = self.prints(transaction.keys);
        let when = transaction.now.map_or(When::Now(None), When::At);
        let mut outcome = Outcome::default();
        self.transact_at(&prints, transaction.demands, when, &mut outcome);
        outcome
    }

    /// The same for keys of these fingerprints, with the outcome where it stays; tells at which time it was decided.
    pub fn transact_at(
        &self,
        Prints(prints): &Prints,
        demands: &[Demand<'_>],
        when: When,
        outcome: &mut Outcome,
    ) -> Timestamp {
        if let [print] = prints[..] {
            return self.transact_one(print, demands, when, outcome);
        }
        let count = prints.len();
        let mut locked = self.lock(prints);
        let swept = locked.iter().map(|(_, shard)| shard.swept()).max();
        let now = self.moment(when, swept.unwrap_or_default());
        let mut places: SmallVec<[Option<usize>; 2]> = SmallVec::with_capacity(count);
        let mut records: SmallVec<[(Record, bool); 2]> = SmallVec::with_capacity(count);
        for print in prints {
            let shard = shard(&mut locked, *print);
            let place = shard.records.find(*print);
            places.push(place);
            records.push((shard.get(place), false));
        }
        transact_into(&mut records, demands, now, outcome);
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
        now
    }

    /// The fingerprints of `keys`.
    pub fn prints(&self, keys: &[Key]) -> Prints {
        let mut prints = SmallVec::new();
        for key in keys {
            prints.push(self.print(key));
        }
        Prints(prints)
    }

    /// Begins to bring the records of these keys into the cache. It changes nothing, and holds nothing.
    pub fn fetch(&self, Prints(prints): &Prints) {
        for print in prints {
            self.shards[shard_of(*print)].lock().records.fetch(*print);
        }
    }

    /// The same with one key, as most have.
    fn transact_one(
        &self,
        print: u128,
        demands: &[Demand<'_>],
        when: When,
        outcome: &mut Outcome,
    ) -> Timestamp {
        let mut shard = self.shards[shard_of(print)].lock();
        let now = self.moment(when, shard.swept());
        let place = shard.records.find(print);
        let mut records = [(shard.get(place), false)];
        transact_into(&mut records, demands, now, outcome);
        let [(record, changed)] = records;
        if !changed {
            return now;
        }
        match place {
            Some(place) => shard.replace(place, record.into()),
            None => self.count(shard.add(print, record.into(), self.most_per_shard, now)),
        }
        now
    }

    /// The moment of a transaction whose keys are locked, in shards of which no key was removed after `swept`. A record that is there
    /// keeps the time from going back; so a time from before the lock will do, unless a key may have been removed at a later one: that
    /// one would begin anew at a time at which it was still used.
    fn moment(&self, when: When, swept: Timestamp) -> Timestamp {
        let lately = match when {
            When::At(given) => return given,
            When::Now(lately) => lately,
        };
        let Some(last) = &self.stamps else {
            let lately = lately.filter(|lately| *lately >= swept);
            return lately.unwrap_or_else(|| self.clock.now());
        };
        // Read with the keys locked, so that no transaction on the same keys has a moment between.
        let now = self.clock.now().as_micros();
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

    /// Removes some expired keys of each shard of a part, which is below [`PARTS`]; to be called now and then.
    pub fn sweep(&self, part: usize) {
        let now = self.clock.now();
        for shard in self.part(part) {
            for _ in 0..SWEEP_LOOKS {
                let removed = shard.lock().sweep(SWEEP_IDLE, now);
                self.count(-removed);
            }
        }
    }

    /// Puts a record in its place as it is.
    fn put(&self, print: u128, record: Record) {
        let mut locked = self.lock(&[print]);
        let change = shard(&mut locked, print).put(print, record.into(), self.most_per_shard);
        self.count(change);
    }

    fn part(&self, part: usize) -> impl Iterator<Item = &Guarded> {
        self.shards.iter().skip(part).step_by(PARTS)
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

    use super::*;
    use crate::limit::period::Zone;
    use crate::limit::transaction::{Amount, Bound, Demand, Role, transact};
    use crate::limit::{Algorithm, Hits, Limit, Unit};
    use crate::time::Micros;

    fn limit() -> Limit {
        let zone = Zone::utc();
        Limit::new(5, Unit::Second, 1, Algorithm::FixedWindow, &zone).expect("a limit")
    }

    /// One hit of the key at this place.
    pub(super) fn hit(limit: &Limit, key: usize) -> Demand<'_> {
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
        (0..PARTS).for_each(|part| store.sweep(part));
        assert!(store.is_empty(), "{} keys", store.len());
    }

    /// A key that was used up and has been removed since does not begin anew at a time at which it was still used.
    #[test]
    fn a_look_at_the_clock_from_before_a_removal_does_not_count() {
        let (full, over) = (Timestamp::from_micros(1_900_000), Timestamp::from_secs(3));
        let limit = limit();
        // Two keys as well, as they go another way.
        for names in [&["a"][..], &["b", "c"]] {
            let (clock, handle) = Clock::manual(full);
            let store = Embedded::new(usize::MAX, clock);
            let keys: Vec<Key> = names.iter().map(|name| Key::new("", name, "")).collect();
            let prints = store.prints(&keys);
            let demands: Vec<Demand<'_>> = (0..keys.len()).map(|key| hit(&limit, key)).collect();
            let ask = || {
                let mut outcome = Outcome::default();
                let lately = When::Now(Some(full));
                let at = store.transact_at(&prints, &demands, lately, &mut outcome);
                (outcome.admitted, at)
            };
            handle.advance(Micros::new(1000));
            for _ in 0..5 {
                assert_eq!(ask(), (true, full), "the look before will do");
            }
            handle.set(over);
            assert_eq!(ask(), (false, full));
            (0..PARTS).for_each(|part| store.sweep(part));
            assert!(store.is_empty());
            assert_eq!(ask(), (true, over), "{names:?}");
        }
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
