//! A record as bytes: when it was last seen, how many slots, and of each its tag, when it expires, and its state.
//!
//! A number that no state can have is refused, since the arithmetic of the limits counts on that.

use std::io::Read;

use super::SnapshotError;
use super::stream::Reader;
use crate::limit::transaction::{MAX_SLOTS, Record, Slot};
use crate::limit::{Hits, MAX_EXACT, State, Tag, ban, fixed_window, sliding_window, token_bucket};
use crate::time::Timestamp;

/// No moment and no slice is further from 0: the end of the calendar is nearer, and no sum of two overflows.
const FURTHEST: u64 = 1 << 60;

const BAN: u8 = 0;
const FIXED_WINDOW: u8 = 1;
const TOKEN_BUCKET: u8 = 2;
const SLIDING_WINDOW: u8 = 3;

/// The bytes of a record.
pub(super) fn encode(record: &Record) -> Vec<u8> {
    let mut to = Vec::with_capacity(64);
    put_time(&mut to, record.seen);
    to.push(u8::try_from(record.slots.len()).unwrap_or(u8::MAX));
    for slot in &record.slots {
        to.extend(slot.tag.get().to_le_bytes());
        put_time(&mut to, slot.expires);
        put_state(&mut to, &slot.state);
    }
    to
}

/// Reads a record.
pub(super) fn decode(from: &mut Reader<impl Read>) -> Result<Record, SnapshotError> {
    let seen = time(from)?;
    let count = usize::from(from.byte()?);
    if count > MAX_SLOTS {
        return Err(SnapshotError::Damaged("too many limits under one key"));
    }
    let slots = (0..count).map(|_| {
        Ok(Slot {
            tag: Tag::from_stored(from.u32()?),
            expires: time(from)?,
            state: state(from)?,
        })
    });
    let slots = slots.collect::<Result<_, SnapshotError>>()?;
    Ok(Record { seen, slots })
}

fn put_state(to: &mut Vec<u8>, state: &State) {
    match state {
        State::Ban(state) => {
            to.push(BAN);
            put_time(to, state.end);
            to.extend(state.refusals.to_le_bytes());
            put_time(to, state.until);
            to.extend(state.times.to_le_bytes());
        }
        State::FixedWindow(state) => {
            to.push(FIXED_WINDOW);
            put_time(to, state.end);
            put_hits(to, state.used);
        }
        State::TokenBucket(state) => {
            to.push(TOKEN_BUCKET);
            put_hits(to, state.used);
            to.extend(state.grains.to_le_bytes());
            put_time(to, state.at);
        }
        State::SlidingWindow(state) => {
            to.push(SLIDING_WINDOW);
            to.extend(state.newest.to_le_bytes());
            state.counts.iter().for_each(|count| put_hits(to, *count));
        }
    }
}

fn state(from: &mut Reader<impl Read>) -> Result<State, SnapshotError> {
    Ok(match from.byte()? {
        BAN => State::Ban(ban::State {
            end: time(from)?,
            refusals: count(from)?,
            until: time(from)?,
            times: count(from)?,
        }),
        FIXED_WINDOW => State::FixedWindow(fixed_window::State {
            end: time(from)?,
            used: hits(from)?,
        }),
        TOKEN_BUCKET => State::TokenBucket(token_bucket::State {
            used: hits(from)?,
            grains: within(from.u64()?, MAX_EXACT)?,
            at: time(from)?,
        }),
        SLIDING_WINDOW => {
            let newest = time(from)?.as_micros();
            let mut counts = [Hits::ZERO; sliding_window::REMEMBERED];
            for count in &mut counts {
                *count = hits(from)?;
            }
            State::SlidingWindow(Box::new(sliding_window::State { newest, counts }))
        }
        _ => return Err(SnapshotError::Damaged("an unknown algorithm")),
    })
}

fn put_time(to: &mut Vec<u8>, time: Timestamp) {
    to.extend(time.as_micros().to_le_bytes());
}

fn put_hits(to: &mut Vec<u8>, hits: Hits) {
    to.extend(hits.thousandths().to_le_bytes());
}

fn time(from: &mut Reader<impl Read>) -> Result<Timestamp, SnapshotError> {
    let micros = from.i64()?;
    within(micros.unsigned_abs(), FURTHEST)?;
    Ok(Timestamp::from_micros(micros))
}

fn hits(from: &mut Reader<impl Read>) -> Result<Hits, SnapshotError> {
    let most = Hits::MAX_USED.thousandths();
    Ok(Hits::from_thousandths(within(from.u64()?, most)?))
}

/// How often something happened; one more is still a number.
fn count(from: &mut Reader<impl Read>) -> Result<u32, SnapshotError> {
    let count = from.u32()?;
    within(u64::from(count), u64::from(u32::MAX) - 1)?;
    Ok(count)
}

fn within(number: u64, most: u64) -> Result<u64, SnapshotError> {
    if number <= most {
        Ok(number)
    } else {
        Err(SnapshotError::Damaged("a number that cannot be"))
    }
}
