//! A record as a shard holds it: what most keys need, one limit, takes 40 bytes in place.
//!
//! A [`Record`] has room for the largest state of any kind and for a list. Here each common kind of record has a form of its
//! own, and all others are a list elsewhere. The forms hold the same; packing and unpacking loses nothing.

use smallvec::SmallVec;

use crate::limit::transaction::{Record, Slot};
use crate::limit::{Hits, State, Tag, fixed_window, sliding_window, token_bucket};
use crate::time::Timestamp;

/// A record.
#[derive(Clone, Debug)]
pub(super) enum Packed {
    /// One fixed window.
    FixedWindow {
        tag: Tag,
        seen: Timestamp,
        expires: Timestamp,
        end: Timestamp,
        used: Hits,
    },
    /// One token bucket that was brought up to date when the record was last seen.
    TokenBucket {
        tag: Tag,
        seen: Timestamp,
        expires: Timestamp,
        used: Hits,
        grains: u64,
    },
    /// One sliding window.
    SlidingWindow {
        tag: Tag,
        seen: Timestamp,
        expires: Timestamp,
        state: Box<sliding_window::State>,
    },
    /// Anything else.
    Other { seen: Timestamp, slots: Vec<Slot> },
}

/// With its fingerprint and its place in a chain it fills one line of the cache, of 64 bytes: see [`table`](super::table).
const _: () = assert!(size_of::<Packed>() <= 40);

impl Packed {
    /// See [`Record::expires`].
    pub(super) fn expires(&self) -> Timestamp {
        match self {
            Packed::FixedWindow { expires, .. }
            | Packed::TokenBucket { expires, .. }
            | Packed::SlidingWindow { expires, .. } => *expires,
            Packed::Other { seen, slots } => {
                let latest = slots.iter().map(|slot| slot.expires).max();
                latest.unwrap_or(*seen)
            }
        }
    }

    /// The record.
    pub(super) fn unpack(&self) -> Record {
        let one = |tag: Tag, seen: Timestamp, expires: Timestamp, state: State| Record {
            seen,
            slots: SmallVec::from_buf([Slot {
                tag,
                expires,
                state,
            }]),
        };
        match *self {
            Packed::FixedWindow {
                tag,
                seen,
                expires,
                end,
                used,
            } => {
                let state = fixed_window::State { end, used };
                one(tag, seen, expires, State::FixedWindow(state))
            }
            Packed::TokenBucket {
                tag,
                seen,
                expires,
                used,
                grains,
            } => {
                let state = token_bucket::State {
                    used,
                    grains,
                    at: seen,
                };
                one(tag, seen, expires, State::TokenBucket(state))
            }
            Packed::SlidingWindow {
                tag,
                seen,
                expires,
                ref state,
            } => one(tag, seen, expires, State::SlidingWindow(state.clone())),
            Packed::Other { seen, ref slots } => Record {
                seen,
                slots: slots.iter().cloned().collect(),
            },
        }
    }
}

impl From<Record> for Packed {
    fn from(record: Record) -> Self {
        let Record { seen, mut slots } = record;
        let only = if slots.len() == 1 { slots.pop() } else { None };
        let Some(Slot {
            tag,
            expires,
            state,
        }) = only
        else {
            return Packed::Other {
                seen,
                slots: slots.into_vec(),
            };
        };
        match state {
            State::FixedWindow(fixed_window::State { end, used }) => Packed::FixedWindow {
                tag,
                seen,
                expires,
                end,
                used,
            },
            State::TokenBucket(token_bucket::State { used, grains, at }) if at == seen => {
                Packed::TokenBucket {
                    tag,
                    seen,
                    expires,
                    used,
                    grains,
                }
            }
            State::SlidingWindow(state) => Packed::SlidingWindow {
                tag,
                seen,
                expires,
                state,
            },
            State::TokenBucket(_) | State::Ban(_) => Packed::Other {
                seen,
                slots: vec![Slot {
                    tag,
                    expires,
                    state,
                }],
            },
        }
    }
}

impl Default for Packed {
    fn default() -> Self {
        Packed::Other {
            seen: Timestamp::default(),
            slots: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::limit::ban;

    fn time() -> impl Strategy<Value = Timestamp> {
        (0..3_i64).prop_map(Timestamp::from_secs)
    }

    fn hits() -> impl Strategy<Value = Hits> {
        (0..3_u32).prop_map(Hits::whole)
    }

    fn state() -> impl Strategy<Value = State> {
        prop_oneof![
            (time(), hits())
                .prop_map(|(end, used)| State::FixedWindow(fixed_window::State { end, used })),
            (hits(), 0..3_u64, time()).prop_map(|(used, grains, at)| {
                State::TokenBucket(token_bucket::State { used, grains, at })
            }),
            (0..3_i64, hits()).prop_map(|(newest, hits)| {
                let counts = [hits; sliding_window::REMEMBERED];
                State::SlidingWindow(Box::new(sliding_window::State { newest, counts }))
            }),
            (time(), 0..3_u32, time(), 0..3_u32).prop_map(|(end, refusals, until, times)| {
                State::Ban(ban::State {
                    end,
                    refusals,
                    until,
                    times,
                })
            }),
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        let tag = (0..3_u32).prop_map(Tag::from_stored);
        let slot = (tag, time(), state()).prop_map(|(tag, expires, state)| Slot {
            tag,
            expires,
            state,
        });
        (time(), vec(slot, 0..4)).prop_map(|(seen, slots)| Record {
            seen,
            slots: slots.into(),
        })
    }

    proptest! {
        #[test]
        fn a_record_is_unpacked_as_it_was(record in record()) {
            let packed = Packed::from(record.clone());
            prop_assert_eq!(packed.expires(), record.expires());
            prop_assert_eq!(packed.unpack(), record);
        }
    }
}
