//! Many limits on many keys, charged all or not at all.
//!
//! [`transact`] is what every store makes atomic: the embedded store runs it under its locks, Redis runs its twin
//! (`transaction.lua`) in one script call. It works in two steps on copies of the records: first each demand is read as if
//! the demands came one after the other, then, depending on the [`Outcome`] of the whole, either those copies are kept or
//! only the limits that are charged always. [Candidates](candidate) come last.

use smallvec::SmallVec;

use super::ban::{self, Ban};
use super::candidate::{self, Candidate, Trial};
use super::{Hits, Limit, Receipt, State, Tag, Verdict};
use crate::time::{Micros, Timestamp};

/// The most limits whose state one key holds; beyond it the one that is soonest fresh is forgotten.
pub const MAX_SLOTS: usize = 16;

/// All that is remembered under one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The latest moment this record has seen: its time never goes backwards, whatever the clock does.
    pub seen: Timestamp,
    /// The state of each limit, in order of first use.
    pub slots: SmallVec<[Slot; 1]>,
}

/// The state of one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Which limit.
    pub tag: Tag,
    /// When `state` is as good as fresh.
    pub expires: Timestamp,
    /// What is remembered.
    pub state: State,
}

/// What a descriptor asks of the limits of one key.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    /// Which of the transaction's keys.
    pub key: usize,
    /// How many hits.
    pub amount: Amount,
    /// What its refusal means for the request.
    pub role: Role,
    /// The limits that must all have room.
    pub limits: SmallVec<[Bound<'a>; 2]>,
    /// Counts the refusals of requests with this demand, and refuses them while they were too many.
    pub ban: Option<&'a Ban>,
    /// Limits on trial, which have no part in the decision.
    pub candidates: Vec<Candidate<'a>>,
}

/// A limit within a demand.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// The limit.
    pub limit: &'a Limit,
    /// Charged even when the request is refused, and beyond the limit.
    pub always: bool,
}

/// The hits of a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Takes hits.
    Charge(Hits),
    /// Writes nothing; is told what a charge of this many would be told.
    Peek(Hits),
    /// Gives hits back to the client; is never refused.
    Refund(Hits),
}

/// What a refused demand means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The request is refused.
    Enforced,
    /// The request is refused when all demands of this role are.
    Quota,
    /// Nothing: it is computed and counted only.
    Shadow,
}

/// What one limit of one demand said. Readings come in the order of the demands and of the limits within each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Whether the hits fit, and if not, when.
    pub verdict: Verdict,
    /// What was used before this demand, those before it in the request counted as charged.
    pub used: Hits,
    /// The time until the limit is as good as fresh.
    pub reset: Micros,
}

/// The readings of a transaction; most have one.
pub type Readings = SmallVec<[Reading; 2]>;

/// What a transaction came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the request passes: then each demand that has room is charged; otherwise only what is charged always.
    pub admitted: bool,
    /// What each limit said.
    pub readings: Readings,
    /// What each candidate said, in the order of the demands and of the candidates within each.
    pub trials: Vec<Trial>,
}

/// Decides `demands` on `records` at `now` and charges them.
///
/// Takes copies of the records: `true` in the second place of a pair tells that this one must be written back; else it may
/// hold what a refusal undoes, and is to be dropped.
pub fn transact(records: &mut [(Record, bool)], demands: &[Demand<'_>], now: Timestamp) -> Outcome {
    let mut outcome = Outcome::default();
    transact_into(records, demands, now, &mut outcome);
    outcome
}

/// The same with the outcome where it stays, as it is large; nothing is in it yet.
pub fn transact_into(
    records: &mut [(Record, bool)],
    demands: &[Demand<'_>],
    now: Timestamp,
    outcome: &mut Outcome,
) {
    if demands.iter().all(|demand| demand.candidates.is_empty()) {
        return decide(records, demands, now, outcome);
    }
    candidate::transact(records, demands, now, outcome);
}

/// The same without candidates.
#[inline]
pub(super) fn decide(
    records: &mut [(Record, bool)],
    demands: &[Demand<'_>],
    now: Timestamp,
    outcome: &mut Outcome,
) {
    // Most refusals write nothing, and need no records as they were.
    let refusal_writes = demands.iter().any(Demand::is_written_when_refused);
    let before = refusal_writes.then(|| records.iter().map(|(record, _)| record.clone()).collect());
    let readings = &mut outcome.readings;
    let mut fold = Fold::default();
    for demand in demands {
        let (record, changed) = &mut records[demand.key];
        let (fits, wrote) = read(record, demand, now, readings);
        fold.add(demand.role, fits);
        *changed |= wrote;
    }
    let admitted = fold.admitted();
    if !admitted {
        records.iter_mut().for_each(|(_, changed)| *changed = false);
        if let Some(before) = before {
            refuse(records, before, demands, now, readings);
        }
    }
    outcome.admitted = admitted;
}

/// Undoes the charge of one limit under a key, as far as it is still felt. Tells whether the record must be written back.
pub fn give_back(record: &mut Record, limit: &Limit, now: Timestamp, receipt: &Receipt) -> bool {
    let now = record.advance_clock(now);
    let known = record.slots.iter().any(|slot| slot.tag == limit.tag());
    if !known {
        return false;
    }
    let slot = record.slot(limit, now);
    limit.give_back(&mut slot.state, now, receipt);
    slot.expires = now + limit.fresh_in(&slot.state, now);
    true
}

/// Whether a request passes, given what becomes of its demands one by one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fold {
    refused: bool,
    quotas: u32,
    quotas_refused: u32,
}

impl Fold {
    /// Takes note of one demand.
    pub fn add(&mut self, role: Role, fits: bool) {
        match role {
            Role::Enforced => self.refused |= !fits,
            Role::Quota => {
                self.quotas += 1;
                self.quotas_refused += u32::from(!fits);
            }
            Role::Shadow => {}
        }
    }

    /// No enforced demand refused, and of the quotas, if any, at least one passed.
    pub fn admitted(&self) -> bool {
        !self.refused && (self.quotas == 0 || self.quotas_refused < self.quotas)
    }
}

impl Amount {
    /// The hits that must fit.
    pub fn wanted(self) -> Hits {
        match self {
            Amount::Charge(hits) | Amount::Peek(hits) => hits,
            Amount::Refund(_) => Hits::ZERO,
        }
    }
}

impl<'a> Demand<'a> {
    /// The ban that a refusal of the request counts for, if any: not of what only asks or gives back, nor of what cannot refuse
    /// by itself.
    pub fn counted_ban(&self) -> Option<&'a Ban> {
        let charges = matches!(self.amount, Amount::Charge(_));
        self.ban.filter(|_| charges && self.role == Role::Enforced)
    }

    /// Whether a refusal of the request may leave something under the demand's key.
    fn is_written_when_refused(&self) -> bool {
        self.counted_ban().is_some() || self.limits.iter().any(|bound| bound.always)
    }
}

impl Record {
    /// What is used of a limit.
    pub fn used(&mut self, limit: &Limit, now: Timestamp) -> Hits {
        let now = self.advance_clock(now);
        limit.used(&self.slot(limit, now).state)
    }

    /// Charges a limit, in which there is room for it.
    pub fn charge(&mut self, limit: &Limit, hits: Hits, now: Timestamp) {
        let now = self.advance_clock(now);
        apply(limit, self.slot(limit, now), Amount::Charge(hits), now);
    }

    /// Counts a refusal, and tells how long the ban lasts that there is now.
    pub fn refuse(&mut self, ban: &Ban, now: Timestamp) -> Option<Micros> {
        let now = self.advance_clock(now);
        let slot = self.slot_of(ban.tag(), now, || State::Ban(ban::State::fresh(ban, now)));
        let State::Ban(state) = &mut slot.state else {
            return None;
        };
        state.advance(ban, now);
        state.refuse(ban, now);
        slot.expires = now + state.fresh_in(ban, now);
        state.banned(now)
    }

    /// Forgets the limits and bans of these tags. Tells whether there were any.
    pub fn forget(&mut self, tags: &[Tag]) -> bool {
        let before = self.slots.len();
        self.slots.retain(|slot| !tags.contains(&slot.tag));
        self.slots.len() != before
    }

    /// When all of the record is as good as fresh.
    pub fn expires(&self) -> Timestamp {
        let latest = self.slots.iter().map(|slot| slot.expires).max();
        latest.unwrap_or(self.seen)
    }

    /// The moment that counts for this record: `now`, or the latest it has seen.
    fn advance_clock(&mut self, now: Timestamp) -> Timestamp {
        self.seen = self.seen.max(now);
        self.seen
    }

    /// The advanced slot of `limit`, made if need be.
    fn slot(&mut self, limit: &Limit, now: Timestamp) -> &mut Slot {
        let slot = self.slot_of(limit.tag(), now, || limit.fresh(now));
        limit.advance(&mut slot.state, now);
        slot
    }

    /// The slot of `tag`, made if need be.
    fn slot_of(&mut self, tag: Tag, now: Timestamp, fresh: impl FnOnce() -> State) -> &mut Slot {
        let found = self.slots.iter().position(|slot| slot.tag == tag);
        let index = found.unwrap_or_else(|| {
            self.make_room(now);
            self.slots.push(Slot {
                tag,
                expires: now,
                state: fresh(),
            });
            self.slots.len() - 1
        });
        &mut self.slots[index]
    }

    /// How long the demand's ban still lasts, if there is one.
    fn banned(&self, demand: &Demand<'_>, now: Timestamp) -> Option<Micros> {
        let tag = demand.ban?.tag();
        let slot = self.slots.iter().find(|slot| slot.tag == tag)?;
        match (&slot.state, demand.amount) {
            (_, Amount::Refund(_)) => None,
            (State::Ban(state), Amount::Charge(_) | Amount::Peek(_)) => state.banned(now),
            (State::FixedWindow(_) | State::TokenBucket(_) | State::SlidingWindow(_), _) => None,
        }
    }

    /// At the bound, forgets what is as good as fresh, or else what will be so soonest. Not before: under a limit that has been
    /// lowered since, a slot may not be as fresh as it was said to be.
    fn make_room(&mut self, now: Timestamp) {
        if self.slots.len() < MAX_SLOTS {
            return;
        }
        self.slots.retain(|slot| slot.expires > now);
        if self.slots.len() >= MAX_SLOTS {
            let soonest = (0..self.slots.len()).min_by_key(|&i| self.slots[i].expires);
            soonest.map(|i| self.slots.remove(i));
        }
    }
}

/// Reads a demand off `record`, and charges it there if it fits. Tells whether it fits and whether the record has changed.
fn read(
    record: &mut Record,
    demand: &Demand<'_>,
    now: Timestamp,
    readings: &mut Readings,
) -> (bool, bool) {
    let now = record.advance_clock(now);
    let wanted = demand.amount.wanted();
    let first = readings.len();
    let banned = record.banned(demand, now);
    let mut fits = true;
    for bound in &demand.limits {
        let slot = record.slot(bound.limit, now);
        let verdict = match (demand.amount, banned) {
            (Amount::Refund(_), _) => Verdict::Allowed,
            (_, Some(wait)) => Verdict::Banned(wait),
            (Amount::Charge(_) | Amount::Peek(_), None) => {
                bound.limit.verdict(&slot.state, now, wanted)
            }
        };
        fits &= verdict == Verdict::Allowed;
        readings.push(Reading {
            verdict,
            used: bound.limit.used(&slot.state),
            reset: Micros::ZERO,
        });
    }
    let mut changed = false;
    for (bound, reading) in demand.limits.iter().zip(&mut readings[first..]) {
        let limit = bound.limit;
        // It was advanced to `now` when it was read, or is made anew where the others have pushed it out.
        let slot = record.slot_of(limit.tag(), now, || limit.fresh(now));
        if fits || bound.always {
            changed |= apply(bound.limit, slot, demand.amount, now);
        }
        // What is charged though it did not fit pushes the moment away at which the same request would pass.
        if matches!(reading.verdict, Verdict::Wait(_)) {
            reading.verdict = match bound.limit.verdict(&slot.state, now, wanted) {
                Verdict::Allowed => reading.verdict,
                later @ (Verdict::Wait(_) | Verdict::Never | Verdict::Banned(_)) => later,
            };
        }
        reading.reset = bound.limit.fresh_in(&slot.state, now);
    }
    (fits, changed)
}

/// Writes what a refused request leaves, to the records as they were before it.
fn refuse(
    records: &mut [(Record, bool)],
    before: SmallVec<[Record; 2]>,
    demands: &[Demand<'_>],
    now: Timestamp,
    mut readings: &mut [Reading],
) {
    for ((record, _), before) in records.iter_mut().zip(before) {
        *record = before;
    }
    for demand in demands {
        let (own, rest) = readings.split_at_mut(demand.limits.len());
        readings = rest;
        let (record, changed) = &mut records[demand.key];
        *changed |= charge_always(record, demand, now);
        *changed |= count_refusal(record, demand, now, own);
    }
}

/// Charges those limits of a refused request that are charged always.
fn charge_always(record: &mut Record, demand: &Demand<'_>, now: Timestamp) -> bool {
    let now = record.advance_clock(now);
    let mut changed = false;
    for bound in demand.limits.iter().filter(|bound| bound.always) {
        let slot = record.slot(bound.limit, now);
        changed |= apply(bound.limit, slot, demand.amount, now);
    }
    changed
}

/// Counts for a demand with a ban that its request was refused, by whichever demand. A refusal that begins the ban reads as
/// banned, if it is this demand that refuses. Nothing is counted while a ban lasts.
fn count_refusal(
    record: &mut Record,
    demand: &Demand<'_>,
    now: Timestamp,
    readings: &mut [Reading],
) -> bool {
    let banned = |reading: &Reading| matches!(reading.verdict, Verdict::Banned(_));
    let Some(ban) = demand
        .counted_ban()
        .filter(|_| !readings.iter().any(banned))
    else {
        return false;
    };
    let began = record.refuse(ban, now);
    let refuses = |reading: &Reading| reading.verdict != Verdict::Allowed;
    if let Some(wait) = began.filter(|_| readings.iter().any(refuses)) {
        readings
            .iter_mut()
            .for_each(|reading| reading.verdict = Verdict::Banned(wait));
    }
    true
}

fn apply(limit: &Limit, slot: &mut Slot, amount: Amount, now: Timestamp) -> bool {
    match amount {
        Amount::Charge(hits) => limit.charge(&mut slot.state, hits),
        Amount::Refund(hits) => limit.refund(&mut slot.state, hits),
        Amount::Peek(_) => return false,
    }
    slot.expires = now + limit.fresh_in(&slot.state, now);
    true
}
