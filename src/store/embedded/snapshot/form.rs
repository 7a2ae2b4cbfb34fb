//! A record as bytes: when it was last seen, how many slots, and of each its tag, when it expires, and its state.

use super::SnapshotError;
use crate::limit::transaction::{MAX_SLOTS, Record, Slot};
use crate::limit::{Hits, State, Tag, ban, fixed_window, sliding_window, token_bucket};
use crate::time::Timestamp;

const BAN: u8 = 0;
const FIXED_WINDOW: u8 = 1;
const TOKEN_BUCKET: u8 = 2;
const SLIDING_WINDOW: u8 = 3;

/// The bytes of a record.
pub fn encode(record: &Record) -> Vec<u8> {
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

/// Reads a record; `take` gives so many bytes.
pub fn decode(
    take: &mut impl FnMut(usize) -> Result<Vec<u8>, SnapshotError>,
) -> Result<Record, SnapshotError> {
    let seen = time(take)?;
    let count = usize::from(byte(take)?);
    if count > MAX_SLOTS {
        return Err(SnapshotError::Damaged("too many limits under one key"));
    }
    let slots = (0..count).map(|_| {
        Ok(Slot {
            tag: Tag::from_stored(number32(take)?),
            expires: time(take)?,
            state: state(take)?,
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

fn state(
    take: &mut impl FnMut(usize) -> Result<Vec<u8>, SnapshotError>,
) -> Result<State, SnapshotError> {
    Ok(match byte(take)? {
        BAN => State::Ban(ban::State {
            end: time(take)?,
            refusals: number32(take)?,
            until: time(take)?,
            times: number32(take)?,
        }),
        FIXED_WINDOW => State::FixedWindow(fixed_window::State {
            end: time(take)?,
            used: hits(take)?,
        }),
        TOKEN_BUCKET => State::TokenBucket(token_bucket::State {
            used: hits(take)?,
            grains: number64(take)?,
            at: time(take)?,
        }),
        SLIDING_WINDOW => {
            let newest = number64(take)?.cast_signed();
            let mut counts = [Hits::ZERO; sliding_window::REMEMBERED];
            for count in &mut counts {
                *count = hits(take)?;
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

fn byte(
    take: &mut impl FnMut(usize) -> Result<Vec<u8>, SnapshotError>,
) -> Result<u8, SnapshotError> {
    let byte = take(1)?.first().copied();
    byte.ok_or(SnapshotError::Damaged("cut short"))
}

fn number32(
    take: &mut impl FnMut(usize) -> Result<Vec<u8>, SnapshotError>,
) -> Result<u32, SnapshotError> {
    let bytes = take(4)?.try_into().map(u32::from_le_bytes);
    bytes.map_err(|_| SnapshotError::Damaged("a short number"))
}

fn number64(
    take: &mut impl FnMut(usize) -> Result<Vec<u8>, SnapshotError>,
) -> Result<u64, SnapshotError> {
    let bytes = take(8)?.try_into().map(u64::from_le_bytes);
    bytes.map_err(|_| SnapshotError::Damaged("a short number"))
}

fn time(
    take: &mut impl FnMut(usize) -> Result<Vec<u8>, SnapshotError>,
) -> Result<Timestamp, SnapshotError> {
    Ok(Timestamp::from_micros(number64(take)?.cast_signed()))
}

fn hits(
    take: &mut impl FnMut(usize) -> Result<Vec<u8>, SnapshotError>,
) -> Result<Hits, SnapshotError> {
    Ok(Hits::from_thousandths(number64(take)?).min(Hits::MAX_USED))
}
