//! What a key takes in memory: computed from how the stores lay keys out, and held against real stores by the tests.

use crate::limit::{Limit, Shape, sliding_window};

use super::embedded;

/// What a key's text and value take in Redis beside their own bytes: the header of the text, and that of the value.
const REDIS_TEXT: usize = 4;
const REDIS_OBJECT: usize = 16;
/// A value up to this many bytes stands in its object.
const REDIS_EMBEDDED: usize = 44;
/// The entries among the keys and among those that expire, and their shares of both tables, which are between half and wholly
/// full.
const REDIS_ENTRIES: usize = 2 * (24 + 12);

/// The head of a value: its version, and when it was last seen.
const HEAD: usize = 8;
/// Of up to four million hits; three bytes more beyond.
const FIXED_WINDOW: usize = 13;
const TOKEN_BUCKET: usize = 32;
/// Of a subject that has come in each part of the window; one that has come once has one count.
const SLIDING_WINDOW: usize = 20 + 2 * sliding_window::REMEMBERED;

/// The bytes of a key of the embedded store with these limits.
pub fn embedded<'l>(limits: impl IntoIterator<Item = &'l Limit>) -> usize {
    let (mut slots, mut boxed) = (0_usize, 0);
    for limit in limits {
        slots += 1;
        boxed += match limit.shape() {
            Shape::FixedWindow(_) | Shape::TokenBucket(_) => 0,
            Shape::SlidingWindow(_) => size_of::<sliding_window::State>(),
        };
    }
    embedded::BYTES_A_KEY
        + boxed
        + match slots {
            0 | 1 => 0,
            // The list grows by doubling.
            several => several.next_power_of_two() * embedded::BYTES_A_SLOT,
        }
}

/// The bytes of a key of Redis with a text of so many bytes and these limits.
pub fn redis<'l>(text: usize, limits: impl IntoIterator<Item = &'l Limit>) -> usize {
    let slots = limits.into_iter().map(|limit| match limit.shape() {
        Shape::FixedWindow(_) => FIXED_WINDOW,
        Shape::TokenBucket(_) => TOKEN_BUCKET,
        Shape::SlidingWindow(_) => SLIDING_WINDOW,
    });
    let value = HEAD + slots.sum::<usize>();
    let value = if value <= REDIS_EMBEDDED {
        allocated(REDIS_OBJECT + REDIS_TEXT + value)
    } else {
        REDIS_OBJECT + allocated(REDIS_TEXT + value)
    };
    allocated(text + REDIS_TEXT) + value + REDIS_ENTRIES
}

/// What Redis' own allocator gives for so many bytes (that of Debian's gives multiples of 16, and takes a tenth more): multiples of 8, and of an eighth of the next power of two beyond 64.
fn allocated(bytes: usize) -> usize {
    let step = if bytes <= 64 {
        8
    } else {
        (bytes.next_power_of_two() / 8).max(16)
    };
    bytes.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::allocated;

    #[test]
    fn sizes_are_those_of_the_allocator() {
        for (bytes, wanted) in [
            (1, 8),
            (64, 64),
            (65, 80),
            (97, 112),
            (129, 160),
            (200, 224),
        ] {
            assert_eq!(allocated(bytes), wanted, "{bytes}");
        }
    }
}
