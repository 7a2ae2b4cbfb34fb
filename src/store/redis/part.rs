//! A transaction cut into calls: one per hash slot in a cluster, else one in all.

use bytes::Bytes;
use fred::util::redis_keyslot;

use smallvec::{SmallVec, smallvec};

use super::connected::Home;
use super::reply::Decided;
use super::request::Asked;
use super::value;
use crate::limit::transaction::{Amount, Demand, Outcome, Record, transact};
use crate::limit::{Durability, Hits, Limit, Unit};
use crate::store::{StoreError, Transaction};
use crate::time::Timestamp;

/// What there is nearly always one of.
pub(super) type Few<T> = SmallVec<[T; 1]>;

/// What stands under the keys of a call; the second place is of no use here.
pub(super) type Records = Few<(Record, bool)>;

/// What of a transaction goes into one call.
#[derive(Debug)]
pub(super) struct Part<'a, 'l> {
    /// Where the keys are.
    pub(super) home: Home,
    /// The keys.
    pub(super) keys: Few<&'a [u8]>,
    /// The demands on them, in the transaction's order.
    pub(super) demands: Few<Asked<'a, 'l>>,
    /// The place of each demand in the transaction.
    pub(super) places: Few<usize>,
    /// All demands of the transaction, if this is all of it.
    pub(super) whole: Option<&'a [Demand<'l>]>,
}

/// Cuts `transaction` by hash slot if it goes to a cluster, and keys of limits per second from the others if there are
/// servers for them: `per_second` then says whether these are a cluster.
pub(super) fn split<'a, 'l>(
    transaction: &Transaction<'a, 'l>,
    in_cluster: bool,
    per_second: Option<bool>,
) -> Few<Part<'a, 'l>> {
    if let ([key], [demand]) = (transaction.keys, transaction.demands) {
        // So it is nearly always, and there is nothing to cut.
        let is_per_second = per_second.is_some() && is_per_second(transaction, 0);
        let mut only = Part::new(Home {
            slot: None,
            is_per_second,
        });
        only.keys.push(key.as_str().as_bytes());
        only.add(0, demand.key, demand);
        only.whole = Some(transaction.demands);
        return smallvec![only];
    }
    let mut parts: Few<Part<'a, 'l>> = Few::new();
    // For each key of the transaction, its part and its place there.
    let mut homes: Few<(usize, usize)> = Few::new();
    for (index, key) in transaction.keys.iter().enumerate() {
        let is_per_second = per_second.is_some() && is_per_second(transaction, index);
        let has_slots = match per_second {
            Some(in_cluster) if is_per_second => in_cluster,
            Some(_) | None => in_cluster,
        };
        // One key by itself is not cut from any other.
        let is_cut = has_slots && transaction.keys.len() > 1;
        let slot = is_cut.then(|| redis_keyslot(key.as_str().as_bytes()));
        let home = Home {
            slot,
            is_per_second,
        };
        let found = parts.iter().position(|part| part.home == home);
        let home = found.unwrap_or_else(|| {
            parts.push(Part::new(home));
            parts.len() - 1
        });
        if let Some(part) = parts.get_mut(home) {
            homes.push((home, part.keys.len()));
            part.keys.push(key.as_str().as_bytes());
        }
    }
    for (place, demand) in transaction.demands.iter().enumerate() {
        let home = homes.get(demand.key).copied();
        if let Some((home, key)) = home
            && let Some(part) = parts.get_mut(home)
        {
            part.add(place, key, demand);
        }
    }
    parts.retain(|part| !part.demands.is_empty());
    if let [only] = parts.as_mut_slice()
        && only.keys.len() == transaction.keys.len()
    {
        only.whole = Some(transaction.demands);
    }
    parts
}

/// Whether all that the key remembers is of limits per second. A ban lasts longer, and other limits of the descriptor are
/// charged with it in one step. Candidates move no key.
fn is_per_second(transaction: &Transaction<'_, '_>, key: usize) -> bool {
    let mut has_any = false;
    let mut demands = transaction
        .demands
        .iter()
        .filter(|demand| demand.key == key);
    let only_seconds = demands.all(|demand| {
        has_any |= !demand.limits.is_empty();
        let mut limits = demand.limits.iter();
        demand.ban.is_none() && limits.all(|bound| bound.limit.unit() == Unit::Second)
    });
    has_any && only_seconds
}

impl<'a, 'l> Part<'a, 'l> {
    fn new(home: Home) -> Self {
        Self {
            home,
            keys: Few::new(),
            demands: Few::new(),
            places: Few::new(),
            whole: None,
        }
    }

    fn add(&mut self, place: usize, key: usize, demand: &'a Demand<'l>) {
        self.places.push(place);
        self.demands.push(Asked {
            key,
            amount: demand.amount,
            demand,
        });
    }

    /// When what it charges counts as made: when all of it does. What a failover loses of a refund makes a limit stricter.
    pub(super) fn durability(&self) -> Durability {
        let charges = self.demands.iter();
        let charges = charges.filter(|asked| matches!(asked.amount, Amount::Charge(_)));
        let limits = charges.flat_map(|asked| &asked.demand.limits);
        let mut all = limits.map(|bound| bound.limit.durability());
        match all.any(|one| one == Durability::Replicated) {
            true => Durability::Replicated,
            false => Durability::Usual,
        }
    }

    /// How many limits the demands have in all.
    pub(super) fn limits(&self) -> usize {
        let limits = self.demands.iter().map(|asked| asked.demand.limits.len());
        limits.sum()
    }

    /// How many candidates they have in all.
    pub(super) fn candidates(&self) -> usize {
        let candidates = self.demands.iter();
        candidates.map(|asked| asked.demand.candidates.len()).sum()
    }

    /// What stood under the keys.
    pub(super) fn records(
        &self,
        values: impl IntoIterator<Item = Bytes>,
    ) -> Result<Records, StoreError> {
        let read = |(place, value)| {
            let record = value::decode(value).ok_or_else(|| self.foreign(place))?;
            Ok((record, false))
        };
        values.into_iter().enumerate().map(read).collect()
    }

    /// What the demands come to at `at`, given what stood under the keys.
    pub(super) fn decide(&self, records: Records, at: Timestamp) -> Decided {
        let times: Few<Timestamp> = records
            .iter()
            .map(|(record, _)| record.seen.max(at))
            .collect();
        let outcome = self.outcome(records, at);
        let times = self.demands.iter().flat_map(|asked| {
            let limits = asked.demand.limits.iter();
            limits.map(|_| times[asked.key])
        });
        Decided {
            admitted: outcome.admitted,
            readings: outcome.readings.into_iter().zip(times).collect(),
            // Whoever has candidates asks the script.
            trials: Vec::new(),
        }
    }

    /// The same without the times.
    pub(super) fn outcome(&self, mut records: Records, at: Timestamp) -> Outcome {
        if let Some(all) = self.whole {
            return transact(&mut records, all, at);
        }
        let demand = |asked: &Asked<'a, 'l>| asked.demand(asked.amount);
        let own: Few<Demand<'l>> = self.demands.iter().map(demand).collect();
        transact(&mut records, &own, at)
    }

    /// What the one demand comes to at `now` after those `before` it, each charged at `at` if there was room.
    pub(super) fn outcome_after(
        &self,
        before: &[(u16, Hits)],
        mut records: Records,
        at: Timestamp,
        now: Timestamp,
    ) -> Outcome {
        if let Some(asked) = self.demands.first().filter(|_| !before.is_empty())
            && let Some((record, _)) = records.get_mut(asked.key)
        {
            let limits = || asked.demand.limits.iter().map(|bound| bound.limit);
            let room = room(limits().map(|limit| (limit, record.used(limit, at))));
            let hits = fitting(room, before);
            limits().for_each(|limit| record.charge(limit, hits, at));
        }
        self.outcome(records, now)
    }

    /// What is left of the scarcest limit of the one demand after it was decided, if it was charged `hits`.
    pub(super) fn room_after(&self, decided: &Decided, hits: Hits) -> Hits {
        let limits = self.demands.iter().flat_map(|asked| &asked.demand.limits);
        let read = limits.zip(&decided.readings);
        let used = read.map(|(bound, (reading, _))| (bound.limit, reading.used.plus(hits)));
        room(used)
    }

    /// The one demand, if it may go together with others like it.
    pub(super) fn only_charge(&self) -> Option<(Asked<'a, 'l>, Hits)> {
        match self.demands.as_slice() {
            [only] if self.keys.len() == 1 => match only.amount {
                Amount::Charge(hits) => Some((*only, hits)),
                Amount::Peek(_) | Amount::Refund(_) => None,
            },
            _ => None,
        }
    }

    /// The error of a value that is not ours.
    pub(super) fn foreign(&self, place: usize) -> StoreError {
        let key = self.keys.get(place).copied().unwrap_or_default();
        let key = String::from_utf8_lossy(key);
        StoreError::Corrupt(format!(
            "the value under {key:?}, which this version of Tollgate has not written: delete it, or set another CACHE_KEY_PREFIX"
        ))
    }
}

/// What is left of the scarcest of these limits, given what is used of each; what counts without end always has room.
pub(super) fn room<'l>(used: impl Iterator<Item = (&'l Limit, Hits)>) -> Hits {
    let ends = used.filter(|(limit, _)| limit.capacity() < Hits::MAX_USED);
    let rooms = ends.map(|(limit, used)| limit.capacity().saturating_sub(used));
    rooms.min().unwrap_or(Hits::MAX_USED)
}

/// How many hits of these runs of equal requests fit into `room`, one request after the other.
pub(super) fn fitting(room: Hits, runs: &[(u16, Hits)]) -> Hits {
    let mut left = room.thousandths();
    for (many, each) in runs {
        let each = each.thousandths();
        let fit = left.checked_div(each).unwrap_or(u64::MAX);
        left -= fit.min(u64::from(*many)) * each;
    }
    Hits::from_thousandths(room.thousandths() - left)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::limit::Algorithm;
    use crate::limit::period::Zone;
    use crate::limit::transaction::{Bound, Role};
    use crate::store::Key;

    fn limit(random: &mut SmallRng, algorithm: u32) -> Limit {
        let algorithm = match algorithm {
            0 => Algorithm::FixedWindow,
            _ => Algorithm::TokenBucket {
                burst: Hits::from_thousandths(random.random_range(1000..30_000)),
            },
        };
        let requests = random.random_range(1..30);
        Limit::new(requests, Unit::Minute, 1, algorithm, &Zone::utc()).expect("a limit")
    }

    #[test]
    fn those_that_go_together_are_told_what_they_would_be_told_one_by_one() {
        for seed in 0..2000 {
            let mut random = SmallRng::seed_from_u64(seed);
            let limits: Vec<Limit> = (0..random.random_range(1..3))
                .map(|algorithm| limit(&mut random, algorithm))
                .collect();
            let bound = |limit| Bound {
                limit,
                always: false,
            };
            let demand = |hits: Hits| Demand {
                key: 0,
                amount: Amount::Charge(hits),
                role: Role::Enforced,
                limits: limits.iter().map(bound).collect(),
                ban: None,
                candidates: Vec::new(),
            };
            let hits = |random: &mut SmallRng| match random.random_range(0..3) {
                0 => Hits::from_thousandths(random.random_range(1..4000)),
                _ => Hits::ONE,
            };
            let mut at = Timestamp::from_secs(1_774_700_000);
            let mut records: Records = std::iter::once((Record::default(), false)).collect();
            for _ in 0..20 {
                at = at + crate::time::Micros::new(random.random_range(0..3_000_000));
                let before: Vec<(u16, Hits)> = (0..random.random_range(0..4))
                    .map(|_| (random.random_range(1..5), hits(&mut random)))
                    .collect();
                let own = [demand(hits(&mut random))];
                let keys = [Key::new("", "subject", "")];
                let parts = split(
                    &Transaction {
                        keys: &keys,
                        demands: &own,
                        now: None,
                        timeout: Duration::ZERO,
                    },
                    false,
                    None,
                );
                // What is charged in advance is decided later than it was charged.
                let now = at + crate::time::Micros::new(random.random_range(0..2) * 700_000);
                let together = parts[0].outcome_after(&before, records.clone(), at, now);
                let mut ask = |demand, at| {
                    let mut after = records.clone();
                    let outcome = transact(&mut after, &[demand], at);
                    if outcome.admitted {
                        records = after;
                    }
                    outcome
                };
                for (many, each) in &before {
                    for _ in 0..*many {
                        ask(demand(*each), at);
                    }
                }
                let alone = ask(own[0].clone(), now);
                at = now;
                assert_eq!(together.admitted, alone.admitted, "seed {seed}");
                assert_eq!(together.readings, alone.readings, "seed {seed}");
            }
        }
    }
}
