//! What is said to the script: packed integers, little-endian, in the order in which `transaction.lua` takes them.

use std::cell::Cell;
use std::ops::Deref;

use bytes::{BufMut, Bytes, BytesMut};

use crate::limit::ban::Ban;
use crate::limit::candidate::Candidate;
use crate::limit::fixed_window::Windows;
use crate::limit::transaction::{Amount, Bound, Demand, Role};
use crate::limit::{Hits, Limit, Receipt, Shape, Tag};
use crate::time::Timestamp;

/// A demand of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a, 'l> {
    /// The place of its key among those of the call.
    pub(super) key: usize,
    /// The hits; they may differ from the demand's own.
    pub(super) amount: Amount,
    /// The rest.
    pub(super) demand: &'a Demand<'l>,
}

impl<'l> Asked<'_, 'l> {
    /// The demand, with other hits.
    pub(super) fn demand(&self, amount: Amount) -> Demand<'l> {
        Demand {
            key: self.key,
            amount,
            ..self.demand.clone()
        }
    }
}

/// A charge to give back.
#[derive(Debug)]
pub(super) struct Charged<'l> {
    /// The place of its key.
    pub(super) key: usize,
    /// The limit that was charged.
    pub(super) limit: &'l Limit,
    /// What was charged and when.
    pub(super) receipt: Receipt,
}

/// Numbers as they are packed: seven bytes hold all that a double holds exactly.
const NUMBER: usize = 7;
const TAG_WIDTH: usize = 4;
const PLACE: usize = 2;

thread_local! {
    /// Room for a packed demand; it grows to what the largest needs.
    static PACKED: Cell<BytesMut> = Cell::new(BytesMut::new());
}

const TRANSACT: u8 = 1;
const GIVE_BACK: u8 = 2;
const FORGET: u8 = 3;
const USUAL: u8 = 4;

/// Packs a transaction. Its quota demands can refuse it only if `quotas_decide`. Calendar windows are described around the
/// moment `around`, which is asked for if there are any.
pub(super) fn transact(
    demands: &[Asked<'_, '_>],
    quotas_decide: bool,
    now: Option<Timestamp>,
    around: impl Fn() -> Timestamp,
) -> Bytes {
    let mut body = start(TRANSACT, quotas_decide, now);
    put_demands(&mut body, demands, &around);
    body.freeze()
}

/// Packs a usual transaction: see [`is_usual`].
pub(super) fn usual(
    demands: &[Asked<'_, '_>],
    now: Option<Timestamp>,
    around: impl Fn() -> Timestamp,
) -> Bytes {
    let mut body = start(USUAL, true, now);
    put(&mut body, 0, PLACE);
    put_demands(&mut body, demands, &around);
    body.freeze()
}

/// Packs equal demands on one key, in the order of `runs`: how many, and the hits of each.
pub(super) fn together(demand: &[u8], runs: &[(u16, Hits)]) -> BytesMut {
    let mut body = start(USUAL, true, None);
    put(&mut body, runs.len() as u64, PLACE);
    for (many, hits) in runs {
        put(&mut body, u64::from(*many), PLACE);
        put_hits(&mut body, *hits);
    }
    body.put_slice(demand);
    body
}

/// Packs a demand for [`together`].
pub(super) fn demand(asked: Asked<'_, '_>, around: impl Fn() -> Timestamp) -> Packed {
    let asked = Asked {
        amount: Amount::Charge(Hits::ZERO),
        ..asked
    };
    let mut body = PACKED.take();
    body.clear();
    put_demands(&mut body, &[asked], &around);
    Packed(body)
}

/// A demand that is packed, most likely to be compared with another and no more: it lies where the last one did.
#[derive(Debug)]
pub(super) struct Packed(BytesMut);

impl Deref for Packed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        PACKED.set(std::mem::take(&mut self.0));
    }
}

/// Whether the script runs these demands straight through: each under a key of its own, charging or peeking at fixed windows and
/// token buckets, and nothing written when the request is refused.
pub(super) fn is_usual(demands: &[Asked<'_, '_>]) -> bool {
    demands.iter().enumerate().all(|(place, asked)| {
        let plain = |bound: &Bound<'_>| {
            let stored_whole = !matches!(bound.limit.shape(), Shape::SlidingWindow(_));
            stored_whole && !bound.always
        };
        asked.key == place
            && !matches!(asked.amount, Amount::Refund(_))
            && asked.demand.ban.is_none()
            && asked.demand.candidates.is_empty()
            && asked.demand.limits.iter().all(plain)
    })
}

fn put_demands(body: &mut BytesMut, demands: &[Asked<'_, '_>], around: &impl Fn() -> Timestamp) {
    put(body, demands.len() as u64, PLACE);
    for asked in demands {
        put_place(body, asked.key);
        let (kind, hits) = match asked.amount {
            Amount::Charge(hits) => (0, hits),
            Amount::Peek(hits) => (1, hits),
            Amount::Refund(hits) => (2, hits),
        };
        body.put_u8(kind);
        body.put_u8(role(asked.demand.role));
        put_hits(body, hits);
        put(body, asked.demand.limits.len() as u64, 1);
        let candidates = &asked.demand.candidates;
        let has_candidates = !candidates.is_empty();
        body.put_u8(u8::from(asked.demand.ban.is_some()) + 2 * u8::from(has_candidates));
        if let Some(ban) = asked.demand.ban {
            put_ban(body, ban);
        }
        for bound in &asked.demand.limits {
            put_limit(body, bound.limit, bound.always, around);
        }
        if has_candidates {
            put(body, candidates.len() as u64, 1);
            candidates
                .iter()
                .for_each(|candidate| put_candidate(body, candidate, around));
        }
    }
}

fn put_candidate(body: &mut BytesMut, candidate: &Candidate<'_>, around: &impl Fn() -> Timestamp) {
    // Lua counts from 1, so that 0 is none.
    let instead_of = candidate.instead_of.map_or(0, |place| place as u64 + 1);
    put(body, instead_of, 1);
    body.put_u8(role(candidate.role));
    put_limit(body, candidate.limit, candidate.always, around);
}

fn role(role: Role) -> u8 {
    match role {
        Role::Enforced => 0,
        Role::Quota => 1,
        Role::Shadow => 2,
    }
}

/// Packs the return of charges, and the bans under their keys' places that a refusal is counted for. Calendar windows are
/// described around the time of each charge.
pub(super) fn give_back(
    charges: &[Charged<'_>],
    bans: &[(usize, &Ban)],
    now: Option<Timestamp>,
) -> BytesMut {
    let mut body = start(GIVE_BACK, false, now);
    put(&mut body, charges.len() as u64, PLACE);
    for charged in charges {
        put_place(&mut body, charged.key);
        put_time(&mut body, charged.receipt.at);
        put_hits(&mut body, charged.receipt.used_before);
        put_hits(&mut body, charged.receipt.hits);
        put_limit(&mut body, charged.limit, false, &|| charged.receipt.at);
    }
    put(&mut body, bans.len() as u64, PLACE);
    for (key, ban) in bans {
        put_place(&mut body, *key);
        put_ban(&mut body, ban);
    }
    body
}

/// Packs the names of limits and bans that the one key of the call is to forget.
pub(super) fn forget(tags: &[Tag]) -> BytesMut {
    let mut body = start(FORGET, false, None);
    put(&mut body, tags.len() as u64, PLACE);
    for tag in tags {
        put(&mut body, u64::from(tag.get()), TAG_WIDTH);
    }
    body
}

fn start(operation: u8, quotas_decide: bool, now: Option<Timestamp>) -> BytesMut {
    let mut body = BytesMut::with_capacity(64);
    body.put_u8(operation);
    body.put_u8(u8::from(now.is_some()));
    body.put_u8(u8::from(quotas_decide));
    put_time(&mut body, now.unwrap_or_default());
    body
}

fn put_limit(body: &mut BytesMut, limit: &Limit, always: bool, around: &impl Fn() -> Timestamp) {
    let (first, second, calendar) = match limit.shape() {
        Shape::FixedWindow(Windows::Even(length)) => (length.get(), 0, None),
        Shape::FixedWindow(Windows::Calendar(calendar)) => (0, 0, Some(calendar)),
        Shape::TokenBucket(bucket) => (bucket.refill(), bucket.cost(), None),
        Shape::SlidingWindow(slices) => (slices.length().get(), 0, None),
    };
    body.put_u8(u8::from(always));
    body.put_u8(u8::from(calendar.is_some()));
    put(body, u64::from(limit.tag().get()), TAG_WIDTH);
    put_hits(body, limit.capacity());
    put(body, first, NUMBER);
    put(body, second, NUMBER);
    if let Some(calendar) = calendar {
        for border in calendar.borders(around()) {
            put_time(body, border);
        }
    }
}

fn put_ban(body: &mut BytesMut, ban: &Ban) {
    put(body, u64::from(ban.tag().get()), TAG_WIDTH);
    put(body, u64::from(ban.after()), TAG_WIDTH);
    put(body, ban.window().get(), NUMBER);
    put(body, ban.first().get(), NUMBER);
    put(body, ban.longest().get(), NUMBER);
}

/// Lua counts from 1.
fn put_place(body: &mut BytesMut, place: usize) {
    put(body, place as u64 + 1, PLACE);
}

fn put_hits(body: &mut BytesMut, hits: Hits) {
    put(body, hits.thousandths(), NUMBER);
}

/// Moments before the epoch count as the epoch.
fn put_time(body: &mut BytesMut, time: Timestamp) {
    put(body, u64::try_from(time.as_micros()).unwrap_or(0), NUMBER);
}

fn put(body: &mut BytesMut, number: u64, width: usize) {
    body.put_uint_le(number, width);
}
