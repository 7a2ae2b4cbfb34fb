//! What stands under a key: a version, the moment it was last seen, and its slots, as the `.lua` twins encode them.

use bytes::{Buf, Bytes};

use crate::limit::transaction::{MAX_SLOTS, Record, Slot};
use crate::limit::{Hits, State, Tag, ban, fixed_window, sliding_window, token_bucket};
use crate::time::Timestamp;

const VERSION: u8 = 3;
/// How many bytes a number has, and a time in seconds.
const NUMBER: usize = 7;
const SECONDS: usize = 5;
/// What a window's end has beyond itself if the hits in it take more than [`FEW`] bytes; the others follow.
const MANY_HITS: u64 = 1 << 39;
const FEW: usize = 4;

/// Reads the record under a key, an empty one if nothing stands there; none if it is not one of ours.
pub(super) fn decode(mut value: Bytes) -> Option<Record> {
    let mut record = Record::default();
    if value.is_empty() {
        return Some(record);
    }
    if value.get_u8() != VERSION {
        return None;
    }
    record.seen = take_time(&mut value)?;
    while value.has_remaining() {
        let tag = Tag::from_stored(value.try_get_u32_le().ok()?);
        record.slots.push(slot(tag, &mut value)?);
    }
    (record.slots.len() <= MAX_SLOTS).then_some(record)
}

fn slot(tag: Tag, value: &mut Bytes) -> Option<Slot> {
    if tag.algorithm() == 1 {
        // It is as good as fresh when its window ends, on a whole second.
        let end = take(value, SECONDS)?;
        let few = take(value, FEW)?;
        let many = match end & MANY_HITS {
            0 => 0,
            _ => take(value, NUMBER - FEW)?,
        };
        let used = Hits::from_thousandths(many << (8 * FEW) | few);
        let end = Timestamp::from_secs(i64::try_from(end % MANY_HITS).ok()?);
        let state = State::FixedWindow(fixed_window::State { end, used });
        return Some(Slot {
            tag,
            expires: end,
            state,
        });
    }
    let expires = take_time(value)?;
    let state = match tag.algorithm() {
        0 => State::Ban(ban::State {
            end: take_time(value)?,
            refusals: value.try_get_u32_le().ok()?,
            until: take_time(value)?,
            times: value.try_get_u8().ok()?.into(),
        }),
        2 => State::TokenBucket(token_bucket::State {
            used: take_hits(value)?,
            grains: take(value, NUMBER)?,
            at: take_time(value)?,
        }),
        _ => {
            let newest = i64::try_from(take(value, NUMBER)?).ok()?;
            let stored = usize::from(value.try_get_u8().ok()?);
            let width = usize::from(value.try_get_u8().ok()?);
            let mut counts = [Hits::ZERO; sliding_window::REMEMBERED];
            if width == 0 || width > NUMBER {
                return None;
            }
            for count in counts.get_mut(..stored)? {
                *count = Hits::from_thousandths(take(value, width)?);
            }
            State::SlidingWindow(Box::new(sliding_window::State { newest, counts }))
        }
    };
    Some(Slot {
        tag,
        expires,
        state,
    })
}

fn take_time(value: &mut Bytes) -> Option<Timestamp> {
    let micros = i64::try_from(take(value, NUMBER)?).ok()?;
    Some(Timestamp::from_micros(micros))
}

fn take_hits(value: &mut Bytes) -> Option<Hits> {
    take(value, NUMBER).map(Hits::from_thousandths)
}

fn take(value: &mut Bytes, width: usize) -> Option<u64> {
    (value.remaining() >= width).then(|| value.get_uint_le(width))
}
