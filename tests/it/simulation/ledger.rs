//! Every hit that was let through, with its time, its instance, its limit and its subject, recounted from the beginning.

use std::collections::{BTreeMap, HashMap};

use tollgate::limit::Unit;

use super::rules::Spec;
use crate::support::model::end_of_period;

/// Who has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    Store,
    /// This instance alone.
    Local(usize),
}

/// All hits.
#[derive(Default)]
pub(super) struct Ledger {
    entries: Vec<Entry>,
    seen: HashMap<(Place, String), i64>,
    /// Which key, when, and how many entries there were.
    forgotten: Vec<(String, i64, usize)>,
    zone: &'static str,
}

/// What a failover goes back to.
#[derive(Clone)]
pub(super) struct Mark {
    entries: usize,
    seen: HashMap<(Place, String), i64>,
}

/// Hits of one request on one limit.
#[derive(Clone, Debug)]
struct Entry {
    place: Place,
    key: String,
    /// The key's time, which does not go back.
    at: i64,
    spec: Spec,
    /// In thousandths; less than none for what was given back.
    hits: i64,
    /// A failover has lost it, or the key was forgotten and its time went back: the limit may be exceeded by so much.
    allowed_for: bool,
}

impl Ledger {
    pub(super) fn new(zone: &'static str) -> Self {
        Self {
            zone,
            ..Self::default()
        }
    }

    /// The time of a key that is written at `now`.
    pub(super) fn write(&mut self, place: Place, key: &str, now: i64) -> i64 {
        let seen = self.seen.entry((place, key.to_owned())).or_insert(now);
        *seen = now.max(*seen);
        *seen
    }

    /// Hits that were let through.
    pub(super) fn add(&mut self, place: Place, key: &str, now: i64, spec: &Spec, hits: i64) {
        let at = self.write(place, key, now);
        self.entries.push(Entry {
            place,
            key: key.to_owned(),
            at,
            spec: spec.clone(),
            hits,
            allowed_for: false,
        });
    }

    /// The store has forgotten a key at `now`, and with it how late it was.
    pub(super) fn forget(&mut self, key: &str, now: i64) {
        self.seen.remove(&(Place::Store, key.to_owned()));
        let upto = self.entries.len();
        self.forgotten.push((key.to_owned(), now, upto));
    }

    /// The clock goes back: what was as good as fresh when it was forgotten may not have been so yet.
    pub(super) fn go_back(&mut self, now: i64) {
        for (key, at, upto) in self.forgotten.extract_if(.., |(_, at, _)| now < *at) {
            let _ = at;
            let before = self.entries[..upto].iter_mut();
            let of_key = before.filter(|entry| entry.place == Place::Store && entry.key == key);
            of_key.for_each(|entry| entry.allowed_for = true);
        }
    }

    /// What instances enforce alone is not looked into: it may have been forgotten.
    pub(super) fn allow_for_local(&mut self) {
        let local = self.entries.iter_mut();
        let local = local.filter(|entry| entry.place != Place::Store);
        local.for_each(|entry| entry.allowed_for = true);
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            entries: self.entries.len(),
            seen: self.seen.clone(),
        }
    }

    /// The store has lost what came after `mark`.
    pub(super) fn lose(&mut self, mark: &Mark) {
        let lost = self.entries[mark.entries..].iter_mut();
        let lost = lost.filter(|entry| entry.place == Place::Store);
        lost.for_each(|entry| entry.allowed_for = true);
        self.seen.retain(|(place, _), _| *place != Place::Store);
        let before = mark.seen.iter();
        let before = before.filter(|((place, _), _)| *place == Place::Store);
        self.seen.extend(before.map(|(of, at)| (of.clone(), *at)));
    }

    /// No window, no interval, is over its limit; the error says which one is.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut limits: BTreeMap<(Place, &str, String), Vec<&Entry>> = BTreeMap::new();
        for entry in self.entries.iter().filter(|entry| !entry.allowed_for) {
            let of = (entry.place, &*entry.key, entry.spec.name());
            limits.entry(of).or_default().push(entry);
        }
        for ((place, key, limit), entries) in limits {
            // What is charged always may go over, by its nature.
            if entries.iter().any(|entry| entry.spec.always) {
                continue;
            }
            for first in 0..entries.len() {
                self.check_from(&entries[first..])
                    .map_err(|error| format!("{limit} of {key} in {place:?}: {error}"))?;
            }
        }
        Ok(())
    }

    /// No interval that begins with the first of these is over its limit.
    fn check_from(&self, entries: &[&Entry]) -> Result<(), String> {
        let Some(first) = entries.first().filter(|entry| entry.hits > 0) else {
            return Ok(());
        };
        let (mut sum, mut most, mut fastest) = (0, 0, 0);
        for last in entries {
            sum += last.hits;
            let elapsed = last.at - first.at;
            (most, fastest) = (
                most.max(last.spec.capacity() as i64),
                fastest.max(i64::from(last.spec.requests)),
            );
            let window = last.spec.window();
            let bound = match last.spec.algorithm {
                tollgate::limit::Algorithm::FixedWindow => {
                    if self.window_of(&last.spec, first.at) != self.window_of(&last.spec, last.at) {
                        return Ok(());
                    }
                    last.spec.capacity() as i64
                }
                tollgate::limit::Algorithm::SlidingWindow => {
                    if elapsed >= window {
                        return Ok(());
                    }
                    last.spec.capacity() as i64
                }
                tollgate::limit::Algorithm::TokenBucket { .. } => {
                    let inflow = i128::from(fastest) * 1000 * i128::from(elapsed);
                    most + (inflow / i128::from(window)) as i64
                }
            };
            if last.hits > 0 && sum > bound {
                let (from, to) = (first.at, last.at);
                return Err(format!("{sum} from {from} to {to}, at most {bound}"));
            }
        }
        Ok(())
    }

    /// The end of the fixed window that holds a moment.
    fn window_of(&self, spec: &Spec, at: i64) -> i64 {
        match spec.unit {
            Unit::Second | Unit::Minute | Unit::Hour => at.div_euclid(spec.window()),
            Unit::Day | Unit::Week | Unit::Month | Unit::Year => {
                end_of_period(spec.unit, spec.multiplier, self.zone, at)
            }
        }
    }
}
