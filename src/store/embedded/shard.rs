//! A shard: some of the keys, bounded in number, of which those go that have expired.

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::packed::Packed;
use super::table::{Chunk, Table};
use crate::limit::transaction::Record;
use crate::time::Timestamp;

/// How many keys are looked at for expired ones when a new one comes.
const SWEEP: usize = 2;

/// Among how many keys a full shard chooses the one to forget.
const EVICT_AMONG: usize = 8;

/// A shard, in one line of the cache with its lock.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Guarded(Mutex<Shard>);

const _: () = assert!(size_of::<Guarded>() == 64);

/// A part of all keys.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) records: Table<Packed>,
    /// Where the next look for expired keys begins.
    hand: u32,
    /// By when keys had expired that were removed: whole seconds since the epoch, rounded up.
    swept: u32,
    /// Before then no key expires, so there is nothing to look for.
    pub(super) quiet_until: Timestamp,
    /// The same for the keys that the hand has passed since it began anew, and for those written since.
    round: Timestamp,
}

impl Guarded {
    /// An empty one, the one at this place of all.
    pub(super) fn new(number: usize) -> Self {
        Self(Mutex::new(Shard::new(number)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shard> {
        self.0.lock()
    }

    /// Makes room for the keys that come next, of which there are to be `most`, and tells whether it was missing. The lock is let go of meanwhile.
    pub(super) fn make_room(&self, most: usize) -> bool {
        let is_missing = self.lock().records.is_short(most);
        if is_missing {
            let chunk = Chunk::default();
            self.lock().records.add_chunk(chunk);
        }
        is_missing
    }
}

impl Shard {
    /// An empty one, the one at this place of all.
    pub(super) fn new(number: usize) -> Self {
        Self {
            records: Table::at_place(number),
            hand: 0,
            swept: 0,
            quiet_until: Timestamp::MAX,
            round: Timestamp::MAX,
        }
    }

    /// The record at a place, or that of a key that is not known.
    pub(super) fn get(&self, place: Option<usize>) -> Record {
        place.map_or_else(Record::default, |place| self.records.at(place).unpack())
    }

    /// Writes the record of a new key where some that have expired go, and tells by how much the number of keys has changed.
    pub(super) fn add(
        &mut self,
        print: u128,
        record: Packed,
        most: usize,
        now: Timestamp,
    ) -> isize {
        let swept = self.sweep(SWEEP, now);
        self.put(print, record, most) - swept
    }

    /// Writes a record, and tells by how much the number of keys has changed.
    pub(super) fn put(&mut self, print: u128, record: Packed, most: usize) -> isize {
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
    pub(super) fn replace(&mut self, place: usize, record: Packed) {
        self.note(record.expires());
        *self.records.at_mut(place) = record;
    }

    /// There is a key that expires then.
    fn note(&mut self, expires: Timestamp) {
        self.quiet_until = self.quiet_until.min(expires);
        self.round = self.round.min(expires);
    }

    /// Removes the expired among the next `count` keys, and tells how many that were.
    pub(super) fn sweep(&mut self, count: usize, now: Timestamp) -> isize {
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
                self.hand = index as u32;
                self.note_swept(now);
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
        if self.hand as usize >= self.records.len() {
            self.hand = 0;
            self.quiet_until = std::mem::replace(&mut self.round, Timestamp::MAX);
        }
        let index = self.hand;
        self.hand += 1;
        index as usize
    }

    /// No key that was removed, since it had expired, would still hold at this time or later.
    pub(super) fn swept(&self) -> Timestamp {
        Timestamp::from_secs(self.swept.into())
    }

    fn note_swept(&mut self, now: Timestamp) {
        let second = now.as_micros().div_euclid(1_000_000) + 1;
        // Beyond the last there is none to compare with, nor a year in which to care.
        self.swept = self
            .swept
            .max(u32::try_from(second.max(0)).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::limit::period::Zone;
    use crate::limit::transaction::transact;
    use crate::limit::{Algorithm, Limit, Unit};
    use crate::store::embedded::tests::hit;
    use crate::time::Micros;

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
}
