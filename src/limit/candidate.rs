//! Limits on trial: a candidate is judged and charged as if it stood in place of one live limit, all else being as it is, and
//! never has a part in the decision.
//!
//! So the decision is made once more, on copies, with the candidate in its place; of what that leaves behind only the
//! candidate's own state is kept. It is charged when the request would pass under it, also when the live limit refuses; a
//! request that would be refused costs nothing of it, unless it is charged always.

use smallvec::SmallVec;

use super::transaction::{
    Amount, Bound, Demand, MAX_SLOTS, Outcome, Reading, Record, Role, decide,
};
use super::{Limit, Tag, Verdict};
use crate::time::Timestamp;

/// A limit that is tried beside those of a demand.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The limit, [on trial](Limit::on_trial).
    pub limit: &'a Limit,
    /// The place, among the demand's limits, of the one that it would replace; none if nothing limits there.
    pub instead_of: Option<usize>,
    /// What its demand's refusal would mean for the request.
    pub role: Role,
    /// Charged even when the request would be refused.
    pub always: bool,
}

/// What came of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What it said.
    pub reading: Reading,
    /// Whether its demand would have room.
    pub fits: bool,
    /// Whether the request would pass.
    pub passes: bool,
}

/// Decides demands of which some have candidates, charges them, and tries the candidates.
#[inline(never)]
pub(super) fn transact(
    records: &mut [(Record, bool)],
    demands: &[Demand<'_>],
    now: Timestamp,
    outcome: &mut Outcome,
) {
    let before: SmallVec<[Record; 2]> = records.iter().map(|(record, _)| record.clone()).collect();
    decide(records, demands, now, outcome);
    outcome.trials = try_all(records, &before, demands, now);
}

/// Tries the candidates of `demands`, in their order, and charges them on `records`, which are as the request leaves them;
/// `before` is how they were. Candidates that share a counter are tried together.
fn try_all(
    records: &mut [(Record, bool)],
    before: &[Record],
    demands: &[Demand<'_>],
    now: Timestamp,
) -> Vec<Trial> {
    let counters: Vec<Counter> = demands
        .iter()
        .flat_map(|demand| demand.candidates.iter().map(|one| Counter::of(demand, one)))
        .collect();
    let mut trials: Vec<Option<Trial>> = vec![None; counters.len()];
    for (first, counter) in counters.iter().enumerate() {
        if trials[first].is_none() {
            let mut said = world(records, before, demands, *counter, now).into_iter();
            let same = counters.iter().zip(&mut trials);
            for (_, trial) in same.filter(|(other, _)| *other == counter) {
                *trial = said.next();
            }
        }
    }
    trials.into_iter().flatten().collect()
}

/// A counter on trial: its key's place, and its name there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Counter(usize, Tag);

impl Counter {
    fn of(demand: &Demand<'_>, candidate: &Candidate<'_>) -> Self {
        Self(demand.key, candidate.limit.tag())
    }
}

/// Decides as if the candidates of one counter were the limits; what each of them said.
fn world(
    records: &mut [(Record, bool)],
    before: &[Record],
    demands: &[Demand<'_>],
    counter: Counter,
    now: Timestamp,
) -> SmallVec<[Trial; 1]> {
    let mut tried = Vec::with_capacity(demands.len());
    let mut places: SmallVec<[Place; 1]> = SmallVec::new();
    let mut first = 0;
    for demand in demands {
        let mut candidates = demand.candidates.iter();
        let same = candidates.find(|one| Counter::of(demand, one) == counter);
        let limits = demand.limits.clone();
        let mut instead = Demand {
            limits,
            candidates: Vec::new(),
            ..*demand
        };
        if let Some(candidate) = same {
            places.push(Place {
                demand: tried.len(),
                limit: stand_in(&mut instead, candidate),
                first,
            });
        }
        first += instead.limits.len();
        tried.push(instead);
    }
    let mut copies: SmallVec<[(Record, bool); 2]> =
        before.iter().map(|copy| (copy.clone(), false)).collect();
    let mut outcome = Outcome::default();
    decide(&mut copies, &tried, now, &mut outcome);
    let allowed = |reading: &Reading| reading.verdict == Verdict::Allowed;
    let mut trials = SmallVec::new();
    let mut is_charged = false;
    for Place {
        demand,
        limit,
        first,
    } in places
    {
        let Demand { limits, amount, .. } = &tried[demand];
        let own = &outcome.readings[first..first + limits.len()];
        let fits = own.iter().all(allowed);
        let takes = !matches!(amount, Amount::Peek(_));
        is_charged |= takes && (limits[limit].always || (fits && outcome.admitted));
        trials.push(Trial {
            reading: own[limit],
            fits,
            passes: outcome.admitted,
        });
    }
    let Counter(key, tag) = counter;
    if is_charged {
        keep(&mut records[key], &before[key], &copies[key].0, tag);
    }
    trials
}

/// Where a candidate stands in for a limit.
struct Place {
    /// The demand's place.
    demand: usize,
    /// The limit's, in the demand.
    limit: usize,
    /// Where the readings of the demand begin.
    first: usize,
}

/// Puts a candidate in its place among the limits, and tells which that is.
fn stand_in<'l>(demand: &mut Demand<'l>, candidate: &Candidate<'l>) -> usize {
    let bound = Bound {
        limit: candidate.limit,
        always: candidate.always,
    };
    demand.role = candidate.role;
    match candidate.instead_of {
        Some(place) if place < demand.limits.len() => {
            demand.limits[place] = bound;
            place
        }
        Some(_) | None => {
            demand.limits.push(bound);
            demand.limits.len() - 1
        }
    }
}

/// Keeps the state of a candidate. No live limit makes way for it, and one that the request has only read, or that a refusal
/// has undone, stays as it was.
fn keep((record, changed): &mut (Record, bool), before: &Record, copy: &Record, tag: Tag) {
    let Some(slot) = copy.slots.iter().find(|slot| slot.tag == tag) else {
        return;
    };
    if !*changed {
        record.clone_from(before);
    }
    match record.slots.iter().position(|slot| slot.tag == tag) {
        Some(place) => record.slots[place] = slot.clone(),
        None if record.slots.len() < MAX_SLOTS => record.slots.push(slot.clone()),
        None => return,
    }
    record.seen = record.seen.max(copy.seen);
    *changed = true;
}
