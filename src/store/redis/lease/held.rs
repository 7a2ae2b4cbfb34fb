//! What one place holds of leases: the keys that were asked for of late, and the batches that are out.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::combine::{Asking, Read, Runs, extend};
use super::super::refusals::Heard;
use super::{LEASE_FOR, Pace, Stock};
use crate::limit::Hits;

/// How many keys a place remembers, and so how many batches it holds at most.
const MOST_KEYS: usize = 16;

/// A batch is taken only for a key that was asked for so shortly before: cold keys take none.
const HOT_WITHIN: Duration = Duration::from_micros(LEASE_FOR.get() / 4);

/// After this long a batch has gone back, or never will.
const RETURNED_WITHIN: Duration = LEASE_FOR.to_duration();

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
    /// Since when what is left over of the last batch goes back.
    returns: Option<Instant>,
}

/// A batch, and what is needed to admit from it and to give it back.
#[derive(Debug)]
pub(in super::super) struct Lease {
    /// Counted up, to find it again.
    pub(in super::super) id: u64,
    pub(in super::super) slot: u16,
    /// A hash of the key.
    pub(in super::super) print: u64,
    pub(in super::super) key: Bytes,
    /// The packed demand that it was charged for.
    pub(in super::super) demand: Bytes,
    /// What stood under the key.
    pub(in super::super) value: Bytes,
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
        asked: &Asking,
        era: u64,
        now: Instant,
    ) -> Option<Read> {
        let known = self.known(asked.print)?;
        let lease = known.lease.as_mut()?;
        let same = lease.stock.hits() == asked.hits
            && lease.key == asked.key
            && lease.demand == asked.demand;
        if !same || lease.era != era {
            return None;
        }
        let (earliest, latest) = lease.heard.reckon(now);
        let Some(place) = lease.stock.take(latest) else {
            known.end_if_used_up();
            return None;
        };
        let mut before = lease.before.clone();
        extend(&mut before, place, asked.hits);
        let read = Read {
            value: lease.value.clone(),
            heard: lease.heard,
            before,
            now: earliest,
        };
        known.asked = now;
        known.end_if_used_up();
        Some(read)
    }

    /// How many requests the next call is to take in advance: none for a cold key, nor while a batch is out or goes back.
    pub(in super::super) fn batch(&self, asked: &Asking, now: Instant) -> u16 {
        let Some(terms) = &asked.terms else { return 0 };
        let known = self.keys.iter().find(|known| known.print == asked.print);
        match known {
            Some(known) if known.may_take(now) => terms.batch(known.pace),
            Some(_) | None => 0,
        }
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
            returns: None,
        });
    }

    /// Holds a batch. It is handed back if that cannot be.
    pub(in super::super) fn put(&mut self, lease: Lease) -> Option<Lease> {
        match self.known(lease.print) {
            Some(known) if known.lease.is_none() => {
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

    /// What was left over of a key's batch has gone back.
    pub(in super::super) fn has_returned(&mut self, print: u64) {
        if let Some(known) = self.known(print) {
            known.returns = None;
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
        self.returns = (!ended.stock.is_used_up()).then(Instant::now);
        Some(ended)
    }

    fn may_take(&self, now: Instant) -> bool {
        // Whoever was to tell that it is back may have ended with its runtime.
        let long_ago = |since: Instant| now.saturating_duration_since(since) > RETURNED_WITHIN;
        self.lease.is_none() && self.returns.is_none_or(long_ago) && self.is_hot(now)
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
