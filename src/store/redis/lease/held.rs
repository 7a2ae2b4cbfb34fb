//! What one place holds of leases: the keys that were asked for of late, and the batches that are out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::combine::{Claim, Read, Runs, extend};
use super::super::connected::Home;
use super::super::refusals::Heard;
use super::{LEASE_FOR, Pace, Stock, Terms};
use crate::limit::transaction::Record;
use crate::limit::{Durability, Hits};

/// How many keys a place remembers, and so how many batches it holds at most.
const MOST_KEYS: usize = 16;

/// A batch is taken only for a key that was asked for so shortly before: cold keys take none.
const HOT_WITHIN: Duration = Duration::from_micros(LEASE_FOR.get() / 4);

/// After this long a batch has arrived, here or back there, or never will.
const ARRIVES_WITHIN: Duration = LEASE_FOR.to_duration();

/// The keys of one place.
#[derive(Debug, Default)]
pub(in super::super) struct Held {
    keys: Vec<Known>,
}

/// A key that was asked for of late.
#[derive(Debug)]
struct Known {
    /// A hash of the key. One that two share makes one of them take a batch early or late, no more.
    print: u64,
    asked: Instant,
    pace: Pace,
    lease: Option<Box<Lease>>,
    /// Since when a batch is on its way here, or what is left over of it on its way back.
    under_way: Option<Instant>,
}

/// A batch, and what is needed to admit from it and to give it back.
#[derive(Debug)]
pub(in super::super) struct Lease {
    /// Counted up, to find it again.
    pub(in super::super) id: u64,
    pub(in super::super) home: Home,
    /// A hash of the key.
    pub(in super::super) print: u64,
    pub(in super::super) key: Bytes,
    /// The packed demand that it was charged for.
    pub(in super::super) demand: Bytes,
    pub(in super::super) durability: Durability,
    /// What stood under the key.
    pub(in super::super) record: Arc<Record>,
    pub(in super::super) heard: Heard,
    /// Who was charged before it, in the same call.
    pub(in super::super) before: Runs,
    pub(in super::super) stock: Stock,
    /// When Redis last forgot all; it holds no longer than to the next time.
    pub(in super::super) era: u64,
}

impl Held {
    /// Takes one request out of a batch.
    pub(in super::super) fn take(
        &mut self,
        claim: &Claim<'_>,
        era: u64,
        now: Instant,
    ) -> Option<Read> {
        let known = self.known(claim.print)?;
        let lease = known.lease.as_mut()?;
        let same = lease.stock.hits() == claim.hits
            && lease.key == claim.key
            && lease.demand == claim.demand
            && lease.durability == claim.durability;
        if !same || lease.era != era {
            return None;
        }
        let (earliest, latest) = lease.heard.reckon(now);
        let Some(place) = lease.stock.take(latest) else {
            known.end_if_used_up();
            return None;
        };
        let mut before = lease.before.clone();
        extend(&mut before, place, claim.hits);
        let read = Read {
            record: Arc::clone(&lease.record),
            heard: lease.heard,
            before,
            now: earliest,
            served_from: Some("lease"),
        };
        known.asked = now;
        known.end_if_used_up();
        Some(read)
    }

    /// How many requests the next call is to take in advance: none for a cold key, nor while a batch is out or under way.
    pub(in super::super) fn batch(&self, print: u64, terms: &Terms, now: Instant) -> u16 {
        let known = self.keys.iter().find(|known| known.print == print);
        match known {
            Some(known) if known.may_take(now) => terms.batch(known.pace),
            Some(_) | None => 0,
        }
    }

    /// The same for a call that is now made.
    pub(in super::super) fn begin(&mut self, print: u64, terms: &Terms, now: Instant) -> u16 {
        let batch = self.batch(print, terms, now);
        if let Some(known) = self.known(print).filter(|_| batch > 0) {
            known.under_way = Some(now);
        }
        batch
    }

    /// Remembers that a key was asked for, and has `room` left.
    pub(in super::super) fn note(&mut self, print: u64, room: Hits, now: Instant) {
        if let Some(known) = self.known(print) {
            (known.asked, known.pace) = (now, known.pace.left(room));
            return;
        }
        if self.keys.len() >= MOST_KEYS {
            let without = self.keys.iter().enumerate();
            let without = without.filter(|(_, known)| known.lease.is_none());
            let Some((oldest, _)) = without.min_by_key(|(_, known)| known.asked) else {
                return;
            };
            self.keys.swap_remove(oldest);
        }
        self.keys.push(Known {
            print,
            asked: now,
            pace: Pace::begin(room),
            lease: None,
            under_way: None,
        });
    }

    /// Holds a batch. It is handed back if that cannot be.
    pub(in super::super) fn put(&mut self, lease: Lease) -> Option<Lease> {
        match self.known(lease.print) {
            Some(known) if known.lease.is_none() => {
                known.under_way = None;
                known.lease = Some(Box::new(lease));
                None
            }
            Some(_) | None => Some(lease),
        }
    }

    /// Ends the batch of this number.
    pub(in super::super) fn end(&mut self, id: u64) -> Option<Lease> {
        self.end_where(|lease| lease.id == id)
    }

    /// Ends the batch of this key.
    pub(in super::super) fn end_of(&mut self, key: &[u8]) -> Option<Lease> {
        self.end_where(|lease| lease.key == key)
    }

    /// Ends all batches.
    pub(in super::super) fn end_all(&mut self) -> Vec<Lease> {
        self.keys.iter_mut().filter_map(Known::end).collect()
    }

    /// The key's batch is here, or what was left over of it is back.
    pub(in super::super) fn has_arrived(&mut self, print: u64) {
        if let Some(known) = self.known(print) {
            known.under_way = None;
        }
    }

    fn end_where(&mut self, is_it: impl Fn(&Lease) -> bool) -> Option<Lease> {
        let with = |known: &&mut Known| known.lease.as_deref().is_some_and(&is_it);
        self.keys.iter_mut().find(with).and_then(Known::end)
    }

    fn known(&mut self, print: u64) -> Option<&mut Known> {
        self.keys.iter_mut().find(|known| known.print == print)
    }
}

impl Known {
    fn end(&mut self) -> Option<Lease> {
        let ended = *self.lease.take()?;
        self.pace = self.pace.after(&ended.stock);
        self.under_way = (!ended.stock.is_used_up()).then(Instant::now);
        Some(ended)
    }

    fn may_take(&self, now: Instant) -> bool {
        // Whoever was to tell that it is back may have ended with its runtime.
        let long_ago = |since: Instant| now.saturating_duration_since(since) > ARRIVES_WITHIN;
        self.lease.is_none() && self.under_way.is_none_or(long_ago) && self.is_hot(now)
    }

    /// What has nothing to give back makes way for the next batch at once.
    fn end_if_used_up(&mut self) {
        let used_up = |lease: &Lease| lease.stock.is_used_up();
        if self.lease.as_deref().is_some_and(used_up) {
            self.end();
        }
    }

    fn is_hot(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.asked) < HOT_WITHIN
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::combine::Asking;
    use super::*;
    use crate::limit::period::Zone;
    use crate::limit::{Algorithm, Limit, Unit, lease};
    use crate::time::Timestamp;

    const BATCH: u16 = 10;
    const ERA: u64 = 3;

    fn asked(print: u64) -> Asking {
        let limit = Limit::new(10_000, Unit::Year, 1, Algorithm::FixedWindow, &Zone::utc());
        let limit = limit.expect("a limit").leased(lease::Lease::parse("1%"));
        let limits = smallvec::smallvec![limit];
        Asking {
            home: Home::default(),
            key: Bytes::from(print.to_string()),
            demand: Bytes::from_static(b"demand"),
            durability: Durability::Usual,
            print,
            terms: Some(Box::new(Terms {
                limits,
                hits: Hits::ONE,
            })),
        }
    }

    /// A batch of the key, heard of at `now`.
    fn lease(asked: &Asking, id: u64, now: Instant) -> Lease {
        let at = Timestamp::from_secs(1_700_000_000);
        let before: Runs = smallvec::smallvec![(1, Hits::ONE)];
        let (stock, _) = Stock::new(terms(asked).clone(), Record::default(), at, &before, BATCH);
        Lease {
            id,
            home: Home::default(),
            print: asked.print,
            key: asked.key.clone(),
            demand: asked.demand.clone(),
            durability: asked.durability,
            record: Arc::default(),
            heard: Heard {
                at,
                asked: now,
                heard: now,
            },
            before,
            stock,
            era: ERA,
        }
    }

    fn hot(asked: &Asking, now: Instant) -> Held {
        let mut held = Held::default();
        held.note(asked.print, Hits::whole(5000), now);
        assert!(held.put(lease(asked, 1, now)).is_none());
        held
    }

    fn terms(asked: &Asking) -> &Terms {
        asked.terms.as_deref().expect("terms")
    }

    #[test]
    fn a_batch_is_for_its_key_demand_and_hits_and_ends_with_its_era_and_time() {
        let (now, own) = (Instant::now(), asked(7));
        let mut held = hot(&own, now);
        let claim = own.with(Hits::ONE);
        let others = [
            Claim {
                key: b"of the same print",
                ..claim
            },
            Claim {
                demand: b"another",
                ..claim
            },
            Claim {
                hits: Hits::whole(2),
                ..claim
            },
        ];
        for other in &others {
            assert!(held.take(other, ERA, now).is_none());
        }
        assert!(
            held.take(&own.with(Hits::ONE), ERA + 1, now).is_none(),
            "Redis was emptied"
        );
        let late = now + LEASE_FOR.to_duration();
        assert!(
            held.take(&own.with(Hits::ONE), ERA, late).is_none(),
            "its time is over"
        );
        for place in 0..BATCH {
            let read = held
                .take(&own.with(Hits::ONE), ERA, now)
                .expect("one of the batch");
            assert_eq!(read.before.as_slice(), [(1 + place, Hits::ONE)]);
        }
        assert!(
            held.take(&own.with(Hits::ONE), ERA, now).is_none(),
            "all are taken"
        );
    }

    #[test]
    fn a_batch_is_taken_for_hot_keys_and_one_at_a_time() {
        let (now, own) = (Instant::now(), asked(7));
        assert_eq!(
            Held::default().batch(own.print, terms(&own), now),
            0,
            "never asked for"
        );
        let mut held = hot(&own, now);
        assert_eq!(held.batch(own.print, terms(&own), now), 0, "one is out");
        held.take(&own.with(Hits::ONE), ERA, now)
            .expect("one of the batch");
        let ended = held.end(1).expect("the batch");
        assert_eq!(ended.stock.unused(&[]).count(), 1);
        assert_eq!(
            held.batch(own.print, terms(&own), now),
            0,
            "it is on its way back"
        );
        held.has_arrived(own.print);
        assert_eq!(
            held.begin(own.print, terms(&own), now),
            2,
            "twice what was admitted"
        );
        assert_eq!(
            held.begin(own.print, terms(&own), now),
            0,
            "it is on its way here"
        );
        held.has_arrived(own.print);
        assert_eq!(
            held.batch(own.print, terms(&own), now + HOT_WITHIN),
            0,
            "cold again"
        );
    }

    #[test]
    fn a_place_is_bounded_and_keeps_what_is_out() {
        let (now, own) = (Instant::now(), asked(7));
        let mut held = hot(&own, now);
        for print in 100..200 {
            held.note(print, Hits::whole(5000), now + Duration::from_micros(print));
            assert!(held.keys.len() <= MOST_KEYS);
        }
        assert!(held.take(&own.with(Hits::ONE), ERA, now).is_some());
        let homeless = held.put(lease(&asked(100), 2, now));
        assert!(homeless.is_some(), "the key was forgotten");
        assert_eq!(held.end_all().len(), 1);
    }
}
