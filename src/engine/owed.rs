//! What this instance has admitted without the store: the store is told when it answers again.
//!
//! Until then it lies in a ledger of records like the store's own. What is still used there of a limit is charged in the store,
//! beyond the limit if it must be, so that all instances feel it; what belongs to a window that has passed is not owed any more.
//!
//! - A call that was sent and not answered in time counts as charged, and is not owed. The breaker of a server sees to it that
//!   those are few. So does one that tells the store what is owed; what it told of is counted.
//! - Only what limits of `failure_mode: local` have admitted is counted anywhere; what `allow` lets through is not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::Engine;
use super::charges::{Charges, Item};
use crate::limit::transaction::{Amount, Bound, Demand, Outcome, Role};
use crate::limit::{Hits, Limit, Tag, Verdict};
use crate::rules::FailureMode;
use crate::store::embedded::Embedded;
use crate::store::{Key, StoreError, Transaction};
use crate::time::{Clock, Timestamp};

/// The most keys that something is owed under; what is admitted under others is not charged later.
pub const MAX_KEYS: usize = 1 << 16;

/// Between two attempts while the store does not answer.
const RETRY: Duration = Duration::from_millis(100);

/// How long the store may take for one key.
const WITHIN: Duration = Duration::from_secs(1);

/// How many keys are charged at once.
const AT_ONCE: usize = 16;

/// How long the store is left to requests after each time, by how long that took: it has just come back, and much may be owed.
const PAUSE: u32 = 4;

/// What is owed.
#[derive(Debug)]
pub(super) struct Owed {
    ledger: Embedded,
    /// The limits that the ledger has under each key.
    keys: Mutex<HashMap<Key, Limits>>,
    /// How many keys are out of `keys` while the store is being told.
    paying: AtomicUsize,
    noted: Notify,
    settled: AtomicU64,
    /// Thousandths of hits.
    unknown: AtomicU64,
}

/// Not in the map itself, which moves what is in it when it grows, while a request waits.
type Limits = Vec<Owing>;

/// A limit, and the share of it that this instance has decided by.
#[derive(Debug)]
struct Owing {
    limit: Limit,
    share: Limit,
}

impl Owed {
    /// Nothing, by this clock.
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            // Its shards are not filled evenly.
            ledger: Embedded::new(4 * MAX_KEYS, clock),
            keys: Mutex::default(),
            paying: AtomicUsize::new(0),
            noted: Notify::new(),
            settled: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        }
    }

    /// See [`Embedded::make_room`].
    pub(super) fn make_room(&self, part: usize) -> usize {
        self.ledger.make_room(part)
    }

    /// Takes note of a request that was admitted by this instance's share among `instances`. What had no room, and refused nothing
    /// for that, was not charged and is not owed.
    pub(super) fn note(
        &self,
        charges: &Charges<'_>,
        outcome: &Outcome,
        instances: u32,
        now: Option<Timestamp>,
    ) {
        let mut readings = outcome.readings.as_slice();
        let limited = charges.items.iter().filter_map(|item| match item {
            Item::Limited(limited) => Some(limited),
            Item::Free | Item::Unlimited(_) => None,
        });
        for limited in limited {
            let demand = &charges.demands[limited.demand];
            let (own, rest) = readings.split_at(demand.limits.len());
            readings = rest;
            let fits = own.iter().all(|one| one.verdict == Verdict::Allowed);
            let Amount::Charge(hits) = demand.amount else {
                continue;
            };
            if !fits {
                continue;
            }
            for (bound, terms) in demand.limits.iter().zip(charges.terms_of(limited)) {
                if terms.failure_mode == FailureMode::Local {
                    let limit = bound.limit;
                    let owing = || Owing {
                        limit: limit.clone(),
                        share: limit.share(instances),
                    };
                    let key = &charges.keys[demand.key];
                    self.add(key, (limit.tag(), owing), hits, now);
                }
            }
        }
    }

    fn add(
        &self,
        key: &Key,
        (tag, owing): (Tag, impl FnOnce() -> Owing),
        hits: Hits,
        now: Option<Timestamp>,
    ) {
        let mut keys = self.keys.lock();
        if keys.len() >= MAX_KEYS && !keys.contains_key(key) {
            return;
        }
        let limits = keys
            .entry(key.clone())
            .or_insert_with(|| Limits::with_capacity(1));
        let known = limits.iter().position(|owing| owing.limit.tag() == tag);
        let index = known.unwrap_or_else(|| {
            limits.push(owing());
            limits.len() - 1
        });
        // Under the lock, so that whoever takes the key out takes these hits too.
        let charge = demand(&limits[index].share, Amount::Charge(hits));
        self.transact(key, &[charge], now);
        drop(keys);
        if known.is_none() {
            self.noted.notify_one();
        }
    }

    /// Takes some keys out, and what is owed under each of their limits.
    fn take_some(&self, now: Option<Timestamp>) -> Vec<(Key, Limits, SmallVec<[Hits; 1]>)> {
        let mut keys = self.keys.lock();
        let some: Vec<Key> = keys.keys().take(AT_ONCE).cloned().collect();
        let take = |key: Key| {
            let limits = keys.remove(&key)?;
            let peek = Amount::Peek(Hits::ZERO);
            let looks = limits.iter().map(|owing| demand(&owing.share, peek));
            let looks: Vec<Demand<'_>> = looks.collect();
            let readings = self.transact(&key, &looks, now).readings;
            drop(looks);
            let used = readings.iter().map(|reading| reading.used).collect();
            let tags: Vec<Tag> = limits.iter().map(|owing| owing.limit.tag()).collect();
            self.ledger.forget(&key, &tags);
            Some((key, limits, used))
        };
        self.paying.store(some.len(), Ordering::Relaxed);
        some.into_iter().filter_map(take).collect()
    }

    fn transact(&self, key: &Key, demands: &[Demand<'_>], now: Option<Timestamp>) -> Outcome {
        self.ledger.transact(&Transaction {
            keys: std::slice::from_ref(key),
            demands,
            now,
            timeout: Duration::ZERO,
        })
    }
}

impl Engine {
    /// How many keys there are under which something may be owed, and how many have been settled.
    pub fn owed(&self) -> (usize, u64) {
        let settled = self.owed.settled.load(Ordering::Relaxed);
        let keys = self.owed.keys.lock();
        let paying = self.owed.paying.load(Ordering::Relaxed);
        (keys.len() + paying, settled)
    }

    /// How many hits the store was told of later, and has not said whether it charged them.
    pub fn owed_unknown(&self) -> u64 {
        self.owed.unknown.load(Ordering::Relaxed).div_ceil(1000)
    }

    /// Tells the store what it does not know of, whenever it answers, until the future is dropped.
    pub async fn pay_owed(&self) {
        loop {
            self.owed.noted.notified().await;
            while self.owed().0 > 0 {
                let begun = tokio::time::Instant::now();
                let some = self.owed.take_some(self.given_time()).into_iter();
                let paying = some.map(|(key, limits, hits)| self.pay(key, limits, hits));
                let paid = futures::future::join_all(paying).await;
                self.owed.paying.store(0, Ordering::Relaxed);
                let pause = match paid.contains(&false) {
                    true => RETRY,
                    false => (begun.elapsed() * PAUSE).min(RETRY),
                };
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Charges what is owed under one key. Tells whether the store has answered.
    async fn pay(&self, key: Key, limits: Limits, hits: SmallVec<[Hits; 1]>) -> bool {
        let owed = limits
            .iter()
            .zip(&hits)
            .filter(|(_, hits)| **hits > Hits::ZERO);
        let demands: Vec<Demand<'_>> = owed
            .map(|(owing, hits)| demand(&owing.limit, Amount::Charge(*hits)))
            .collect();
        if demands.is_empty() {
            return true;
        }
        // Whether the store answers is found out by a look: a charge that is lost on the way is lost for good.
        let look = Amount::Peek(Hits::ZERO);
        let looks = limits.iter().map(|owing| demand(&owing.limit, look));
        let looks: Vec<Demand<'_>> = looks.collect();
        let result = match self.tell(&key, &looks).await {
            // With a look in it, it is not combined with requests of other threads, whose connection may still be silent.
            Ok(_) => self.tell(&key, &[&demands[..], &looks[..1]].concat()).await,
            Err(error) if error.was_sent() => Err(StoreError::Unreachable("no answer".to_owned())),
            Err(error) => Err(error),
        };
        match result {
            Ok(_) => {
                self.owed.settled.fetch_add(1, Ordering::Relaxed);
                true
            }
            // Nothing was charged: it is owed as before.
            Err(StoreError::Unreachable(_) | StoreError::Open(_) | StoreError::Refused(_)) => {
                drop((demands, looks));
                for (owing, hits) in limits.into_iter().zip(hits) {
                    let (tag, now) = (owing.limit.tag(), self.given_time());
                    self.owed.add(&key, (tag, || owing), hits, now);
                }
                false
            }
            // It may have been.
            Err(StoreError::Timeout | StoreError::Unconfirmed(_) | StoreError::Corrupt(_)) => {
                let most = hits.iter().map(|hits| hits.thousandths()).max();
                let most = most.unwrap_or_default();
                self.owed.unknown.fetch_add(most, Ordering::Relaxed);
                false
            }
        }
    }

    async fn tell(&self, key: &Key, demands: &[Demand<'_>]) -> Result<Outcome, StoreError> {
        let transaction = Transaction {
            keys: std::slice::from_ref(key),
            demands,
            now: self.given_time(),
            timeout: WITHIN,
        };
        self.store.transact(&transaction).await
    }
}

/// What is asked of a limit; a charge is made in any case.
fn demand(limit: &Limit, amount: Amount) -> Demand<'_> {
    let bound = Bound {
        limit,
        always: true,
    };
    Demand {
        key: 0,
        amount,
        role: Role::Shadow,
        limits: std::iter::once(bound).collect(),
        ban: None,
        candidates: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::Settings;
    use crate::limit::period::Zone;
    use crate::limit::{Algorithm, Unit};
    use crate::store::Store;
    use crate::store::embedded::{PARTS, SHARDS};
    use crate::store::faulty::Faulty;
    use crate::telemetry::metrics::Metrics;

    /// A store that is elsewhere may stop answering; the one in this process never does.
    #[test]
    fn the_memory_of_an_outage_is_there_before_it() {
        let clock = Clock::default();
        let here = || Store::Embedded(Embedded::new(16, clock.clone()));
        let elsewhere = Store::Faulty(Arc::new(Faulty::new(Arc::new(here()))));
        for (store, of_outages, all) in [(elsewhere, 0, 2 * SHARDS), (here(), SHARDS, SHARDS)] {
            let engine = Engine::new(store, Settings::default(), clock.clone(), Metrics::new());
            let missing = || (0..PARTS).map(|part| engine.make_room(part)).sum::<usize>();
            assert_eq!([missing(), missing()], [all, 0]);
            for part in 0..PARTS {
                assert_eq!(engine.local.make_room(part), of_outages / PARTS);
                assert_eq!(engine.owed.make_room(part), of_outages / PARTS);
            }
        }
    }

    #[test]
    fn no_more_keys_owe_than_may_and_those_owe_more() {
        let (clock, _) = Clock::manual(Timestamp::from_secs(1));
        let owed = Owed::new(clock);
        let hour = Limit::new(9, Unit::Hour, 1, Algorithm::FixedWindow, &Zone::utc());
        let hour = hour.expect("a limit");
        let add = |name: &str| {
            let owing = || Owing {
                limit: hour.clone(),
                share: hour.clone(),
            };
            let key = Key::new("", name, "");
            owed.add(&key, (hour.tag(), owing), Hits::ONE, None);
        };
        for n in 0..MAX_KEYS {
            add(&n.to_string());
        }
        assert_eq!(owed.keys.lock().len(), MAX_KEYS);
        add("beyond");
        add("0");
        assert_eq!(owed.keys.lock().len(), MAX_KEYS);
        let used = |name: &str| {
            let look = demand(&hour, Amount::Peek(Hits::ZERO));
            owed.transact(&Key::new("", name, ""), &[look], None)
                .readings[0]
                .used
        };
        assert_eq!(used("beyond"), Hits::ZERO);
        assert_eq!(used("0"), Hits::whole(2));
    }
}
