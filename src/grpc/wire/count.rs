//! How many descriptors a message has, and entries each of them, looked at before they are read: two bytes are enough to name one, which
//! takes a hundred once it is.

use prost::DecodeError;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::engine::Rejection;
use crate::engine::charges::{MAX_DESCRIPTORS, MAX_ENTRIES};

/// The number of the descriptors in `rls.proto`.
const DESCRIPTORS: u32 = 2;

/// The number of the entries in `ratelimit.proto`.
const ENTRIES: u32 = 1;

/// Refuses a message of more than there may be. Whoever reads it says what else is wrong with it.
pub(super) fn check(message: &[u8]) -> Result<(), Rejection> {
    let mut descriptors = 0;
    let mut many_entries = None;
    // What is malformed is so to whoever reads it, too.
    let _ = each(message, DESCRIPTORS, |descriptor| {
        let mut entries = 0;
        let read = each(descriptor, ENTRIES, |_| {
            entries += 1;
            Ok(())
        });
        if entries > MAX_ENTRIES {
            many_entries.get_or_insert((descriptors, entries));
        }
        descriptors += 1;
        read
    });
    let (what, found, most) = match many_entries {
        _ if descriptors > MAX_DESCRIPTORS => {
            ("descriptors".to_owned(), descriptors, MAX_DESCRIPTORS)
        }
        Some((place, entries)) => {
            let what = format!("entries in descriptor {place}");
            (what, entries, MAX_ENTRIES)
        }
        None => return Ok(()),
    };
    Err(Rejection::TooMany { what, found, most })
}

/// Calls `look` with each message in the field of this number.
fn each<'m>(
    message: &'m [u8],
    number: u32,
    mut look: impl FnMut(&'m [u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut left = message;
    while left.has_remaining() {
        let (tag, wire_type) = decode_key(&mut left)?;
        if tag != number || wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut left, DecodeContext::default())?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut left)?).unwrap_or(usize::MAX);
        let Some((piece, rest)) = left.split_at_checked(length) else {
            // Cut off: the reader says so.
            return Ok(());
        };
        left = rest;
        look(piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::engine::Request;
    use crate::engine::charges::check_bounds;
    use crate::grpc::wire::{self, RateLimitRequest, Unread};

    /// A message of descriptors with so many entries each; one that is `unusual` is not read in place.
    fn message(entries: &[usize], unusual: bool) -> RateLimitRequest {
        let entry = ("key".to_owned(), "value".to_owned());
        let descriptors = entries.iter().map(|count| vec![entry.clone(); *count]);
        let mut message = wire::message("edge", 1, descriptors);
        if unusual && let Some(first) = message.descriptors.first_mut() {
            first.is_negative_hits = true;
        }
        message
    }

    #[test]
    fn what_is_too_many_is_refused_before_it_is_read_and_in_the_same_words() {
        let bounds = [
            vec![1; MAX_DESCRIPTORS + 1],
            vec![0; 100_000],
            [vec![1; 3], vec![MAX_ENTRIES + 1], vec![MAX_ENTRIES + 2]].concat(),
        ];
        for entries in &bounds {
            for unusual in [false, true] {
                let message = message(entries, unusual);
                let late = wire::request(&message).expect("a request");
                let late = check_bounds(&late).expect_err("too many");
                let bytes = message.encode_to_vec();
                let mut room = None;
                let read = wire::read(&bytes, &mut room, &mut Request::default());
                let Err(Unread::Rejected(early)) = read else {
                    panic!("{read:?}");
                };
                assert_eq!(early.to_string(), late.to_string());
                assert!(room.is_none(), "nothing was read");
            }
        }
    }

    #[test]
    fn as_many_as_may_be_are_read() {
        let most = [vec![1; MAX_DESCRIPTORS - 1], vec![MAX_ENTRIES]].concat();
        for unusual in [false, true] {
            let bytes = message(&most, unusual).encode_to_vec();
            let mut room = None;
            let mut read = Request::default();
            wire::read(&bytes, &mut room, &mut read).expect("a request");
            check_bounds(&read).expect("as many as may be");
        }
    }

    /// Whoever reads them says what is wrong.
    #[test]
    fn what_is_malformed_is_left_to_the_reader() {
        for bytes in [
            &[0x12][..],
            &[0x12, 9, 0x0a],
            &[0x0f],
            &[0x12, 2, 0x0a, 9],
            &[
                0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
        ] {
            check(bytes).expect("not many");
            let mut room = None;
            let read = wire::read(bytes, &mut room, &mut Request::default());
            assert!(matches!(read, Err(Unread::Malformed(_))), "{bytes:x?}");
        }
    }
}
