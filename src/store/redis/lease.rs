//! Leases: a batch of equal requests is charged in one call, and those that come next are admitted from memory.
//!
//! This file is the arithmetic, without I/O or clock. `held` keeps what one place of [`combine`](super::combine) has, and `returns`
//! gives back what is left over.
//!
//! # What holds
//!
//! Say that a hit is *out* while it is charged, and neither admitted nor given back. One instance has at most one batch of a key
//! out, for at most [`LEASE_FOR`], and never more than the smallest lease of the limits allows.
//!
//! - *A fixed window is never over its limit.* A hit is admitted only in the window that it was charged in, by the latest time that
//!   it can be in the store.
//! - *A token bucket admits at most its burst, the refill, and what is out.* Let X be what the store has as used, Y what it would
//!   have if each hit were charged when it is admitted. Y − X + out grows only while Y is 0, when the bucket is in truth full: and then
//!   it is at most what is out. So Y never exceeds X, which fits, by more than has been out at one time. It takes a bucket that
//!   fills up while a batch is out: therefore what has flowed in since beyond what was used before ends as much of the batch
//!   ([`Stock::forgiven`]). One instance by itself then never exceeds the bucket; several may, by less than their batches, when one gives
//!   back what another has reckoned as used before.
//! - *Nobody is refused too early by more than what is out*, plus what has been lost: batches of instances that were killed, and of
//!   calls whose answer was. To a bucket a batch goes back short of what flowed in meanwhile, if nothing was used before it: at most what it
//!   refills in the time of a batch, and one request, however many there are.
//!
//! A reset, a refund of more than was admitted, and a clock of Redis that is set or replaced (failover) do not reach what is out:
//! in that window as much more may be admitted.

use smallvec::SmallVec;

use super::combine::Runs;
use super::part;
use super::request::Asked;
use crate::limit::transaction::{Amount, Bound, Demand, Record, Role, transact};
use crate::limit::{Hits, Limit, Receipt, Shape, Tag};
use crate::time::{Micros, Timestamp};

pub(super) mod held;
pub(super) mod returns;
#[cfg(test)]
mod simulation;

/// How long a batch may be admitted from.
pub(super) const LEASE_FOR: Micros = Micros::from_secs(1);

/// A batch ends so long before its window, since clocks drift: Linux slews a clock by at most 0.5 ms in a second.
const MARGIN: Micros = Micros::new(2_000);

/// A batch is at most this part of what was left at the last answer: it shrinks to nothing as the limit nears.
const PART_OF_ROOM: u64 = 8;

/// The first batch of a key, in requests; those after it are twice what was admitted from the last.
const FIRST_BATCH: u16 = 16;

/// The limits that a batch is charged on, all of which have a lease; and the hits of each request.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    limits: SmallVec<[Limit; 1]>,
    hits: Hits,
}

/// What an instance remembers of a key from one call to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// What was left at the last answer.
    room: Hits,
    /// How many requests are worth taking at most.
    wanted: u16,
}

/// A batch, as far as it is not admitted.
#[derive(Debug)]
pub(super) struct Stock {
    terms: Terms,
    /// The time of the charge.
    at: Timestamp,
    /// From then on it may not be admitted from.
    until: Timestamp,
    /// What was used of each limit just before it.
    used_before: SmallVec<[Hits; 1]>,
    /// How many requests were charged.
    charged: u16,
    /// Which of them is next.
    next: u16,
    /// How many were admitted.
    admitted: u16,
}

/// A charge of a limit to give back.
#[derive(Debug)]
pub(super) struct Unused<'s> {
    pub(super) limit: &'s Limit,
    pub(super) receipt: Receipt,
}

/// Whether all that a demand is charged on may be taken in advance.
pub(super) fn may_lease(asked: &Asked<'_, '_>, hits: Hits) -> bool {
    let limits = &asked.demand.limits;
    let leased = |bound: &Bound<'_>| bound.limit.lease().is_some();
    hits > Hits::ZERO && !limits.is_empty() && limits.iter().all(leased)
}

impl Terms {
    /// Of a demand that [may be leased](may_lease).
    pub(super) fn of(asked: &Asked<'_, '_>, hits: Hits) -> Self {
        let limits = asked.demand.limits.iter().map(|bound| bound.limit.clone());
        let limits = limits.collect();
        Self { limits, hits }
    }

    /// The hits of each request.
    pub(super) fn hits(&self) -> Hits {
        self.hits
    }

    /// How many requests to take in advance.
    pub(super) fn batch(&self, pace: Pace) -> u16 {
        let share = |limit: &Limit| limit.lease().map(|lease| lease.of(limit.capacity()));
        let shares = self
            .limits
            .iter()
            .map(|limit| share(limit).unwrap_or_default());
        let part = Hits::from_thousandths(pace.room.thousandths() / PART_OF_ROOM);
        let most = self.requests(shares.min().unwrap_or_default().min(part));
        // What a bucket refills meanwhile ends as much of the batch, and costs nobody anything.
        let refills = self.limits.iter().filter_map(|limit| match limit.shape() {
            Shape::TokenBucket(bucket) => Some(bucket.refill_in(LEASE_FOR)),
            Shape::FixedWindow(_) | Shape::SlidingWindow(_) => None,
        });
        let refilled = self.requests(refills.max().unwrap_or_default());
        most.min(pace.wanted.saturating_add(refilled))
    }

    /// How many requests `hits` are, rounded down.
    fn requests(&self, hits: Hits) -> u16 {
        let requests = hits.thousandths() / self.hits.thousandths().max(1);
        u16::try_from(requests).unwrap_or(u16::MAX)
    }

    /// What is used of each limit of a record at `at`, and what is left of the scarcest.
    fn read(&self, record: Record, at: Timestamp) -> (SmallVec<[Hits; 1]>, Hits) {
        let bound = |limit| Bound {
            limit,
            always: false,
        };
        let demand = Demand {
            key: 0,
            amount: Amount::Peek(Hits::ZERO),
            role: Role::Enforced,
            limits: self.limits.iter().map(bound).collect(),
            ban: None,
            candidates: Vec::new(),
        };
        let read = transact(&mut [(record, false)], &[demand], at).readings;
        let used: SmallVec<[Hits; 1]> = read.iter().map(|reading| reading.used).collect();
        let room = part::room(self.limits.iter().zip(used.iter().copied()));
        (used, room)
    }
}

impl Pace {
    /// After a call that took nothing in advance and left `room`.
    pub(super) fn begin(room: Hits) -> Self {
        Self {
            room,
            wanted: FIRST_BATCH,
        }
    }

    /// The same with what is left now.
    pub(super) fn left(self, room: Hits) -> Self {
        Self { room, ..self }
    }

    /// After a batch that ends.
    pub(super) fn after(self, stock: &Stock) -> Self {
        Self {
            wanted: stock.admitted.saturating_mul(2).max(1),
            ..self
        }
    }
}

impl Stock {
    /// What a call got of `batch` requests behind those `before` them, given the record that stood there before; and what is left
    /// after all of them.
    pub(super) fn new(
        terms: Terms,
        record: Record,
        at: Timestamp,
        before: &Runs,
        batch: u16,
    ) -> (Self, Hits) {
        let time = record.seen.max(at);
        let (mut used, room) = terms.read(record, at);
        let charged_before = part::fitting(room, before);
        for used in &mut used {
            *used = used.plus(charged_before);
        }
        let room = room.saturating_sub(charged_before);
        let own = part::fitting(room, &[(batch, terms.hits)]);
        let charged = terms.requests(own);
        let ends = terms.limits.iter().filter_map(|limit| match limit.shape() {
            Shape::FixedWindow(windows) => Some(before_by(windows.end(time), MARGIN)),
            Shape::TokenBucket(_) | Shape::SlidingWindow(_) => None,
        });
        let stock = Self {
            until: ends.fold(at + LEASE_FOR, Timestamp::min),
            at: time,
            used_before: used,
            charged,
            next: 0,
            admitted: 0,
            terms,
        };
        (stock, room.saturating_sub(own))
    }

    /// The hits of a request of it.
    pub(super) fn hits(&self) -> Hits {
        self.terms.hits
    }

    /// Takes one request, and tells how many of the batch come before it; none if there is none, or the time of the store may be past
    /// the end by now. `latest` is the latest that it can be.
    pub(super) fn take(&mut self, latest: Timestamp) -> Option<u16> {
        let place = self.next.max(self.forgiven(latest)).min(self.charged);
        self.next = place;
        if latest >= self.until || place == self.charged {
            return None;
        }
        self.next += 1;
        self.admitted += 1;
        Some(place)
    }

    /// Whether there is nothing left to take, nor to give back.
    pub(super) fn is_used_up(&self) -> bool {
        self.next == self.charged && self.unused(&[]).next().is_none()
    }

    /// What is left over, limit by limit; those of the tags `but` have been reset.
    pub(super) fn unused(&self, but: &[Tag]) -> impl Iterator<Item = Unused<'_>> {
        let times =
            |many: u16| Hits::from_thousandths(self.terms.hits.thousandths() * u64::from(many));
        let limits = self.terms.limits.iter().zip(&self.used_before);
        let all = limits.map(move |(limit, used_before)| {
            // In a bucket those that were passed over have been refilled.
            let gone = match limit.shape() {
                Shape::TokenBucket(_) => self.next,
                Shape::FixedWindow(_) | Shape::SlidingWindow(_) => self.admitted,
            };
            Unused {
                limit,
                receipt: Receipt {
                    at: self.at,
                    used_before: used_before.plus(times(gone)),
                    hits: times(self.charged - gone),
                },
            }
        });
        let left = |unused: &Unused<'_>| unused.receipt.hits > Hits::ZERO;
        all.filter(left)
            .filter(|unused| !but.contains(&unused.limit.tag()))
    }

    /// How many requests of the batch the refill of a bucket has already made up for: what was used before comes first.
    fn forgiven(&self, latest: Timestamp) -> u16 {
        let elapsed = latest.since(self.at);
        let limits = self.terms.limits.iter().zip(&self.used_before);
        let of_each = limits.map(|(limit, used_before)| match limit.shape() {
            Shape::TokenBucket(bucket) => {
                let refilled = bucket.refill_in(elapsed);
                refilled.saturating_sub(*used_before)
            }
            Shape::FixedWindow(_) | Shape::SlidingWindow(_) => Hits::ZERO,
        });
        let most = of_each.max().unwrap_or_default().thousandths();
        let requests = most.div_ceil(self.terms.hits.thousandths().max(1));
        u16::try_from(requests).unwrap_or(u16::MAX)
    }
}

fn before_by(moment: Timestamp, margin: Micros) -> Timestamp {
    let margin = i64::try_from(margin.get()).unwrap_or(i64::MAX);
    Timestamp::from_micros(moment.as_micros().saturating_sub(margin))
}
