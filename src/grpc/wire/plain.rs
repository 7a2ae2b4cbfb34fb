//! Messages as nearly all are, read in place: a domain, hits, and descriptors of entries alone.
//!
//! The generated message would be a copy of each text, and cost as much as the answer does to write. It has the last word: what is
//! otherwise in any way, even wrong, is not read here, and whoever asks has prost read it. The field numbers are those of `rls.proto` and
//! `ratelimit.proto`.

use prost::encoding::WireType;

use super::key;
use crate::engine::Request;
use crate::engine::charges::{MAX_DESCRIPTORS, MAX_ENTRIES};
use crate::rules::{Descriptor, Entry};

/// What a number of a message of this kind takes at most, in bytes.
const LONGEST_NUMBER: usize = 5;

/// Reads the request of a message; none if it has anything that few messages have, or more than there may be, and then what has been read is of
/// no use.
pub(super) fn request<'m>(message: &'m [u8], to: &mut Request<'m>) -> Option<()> {
    const DOMAIN: u8 = key(1, WireType::LengthDelimited);
    const DESCRIPTOR: u8 = key(2, WireType::LengthDelimited);
    const HITS_ADDEND: u8 = key(3, WireType::Varint);
    *to = Request::default();
    let mut fields = Fields(message);
    while let Some(key) = fields.key() {
        match key {
            DOMAIN => to.domain = fields.text()?,
            DESCRIPTOR => {
                if to.descriptors.len() >= MAX_DESCRIPTORS {
                    return None;
                }
                // Filled where it stays, as it is large.
                to.descriptors.push(Descriptor::default());
                descriptor(fields.piece()?, to.descriptors.last_mut()?)?;
            }
            HITS_ADDEND => to.hits_addend = fields.number()?,
            _ => return None,
        }
    }
    Some(())
}

fn descriptor<'m>(message: &'m [u8], to: &mut Descriptor<'m>) -> Option<()> {
    const ENTRY: u8 = key(1, WireType::LengthDelimited);
    let mut fields = Fields(message);
    while let Some(key) = fields.key() {
        match key {
            ENTRY if to.entries.len() < MAX_ENTRIES => to.entries.push(entry(fields.piece()?)?),
            _ => return None,
        }
    }
    Some(())
}

fn entry(message: &[u8]) -> Option<Entry<'_>> {
    const KEY: u8 = key(1, WireType::LengthDelimited);
    const VALUE: u8 = key(2, WireType::LengthDelimited);
    let mut entry = Entry { key: "", value: "" };
    let mut fields = Fields(message);
    while let Some(key) = fields.key() {
        match key {
            KEY => entry.key = fields.text()?,
            VALUE => entry.value = fields.text()?,
            _ => return None,
        }
    }
    Some(entry)
}

/// The fields of a message that have not been read yet.
struct Fields<'m>(&'m [u8]);

impl<'m> Fields<'m> {
    /// The key of the next field, where it is one byte; none at the end.
    fn key(&mut self) -> Option<u8> {
        let (key, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*key)
    }

    fn number(&mut self) -> Option<u32> {
        let mut number = 0_u64;
        for place in 0..LONGEST_NUMBER {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << (7 * place);
            if *byte < 0x80 {
                return u32::try_from(number).ok();
            }
        }
        None
    }

    fn piece(&mut self) -> Option<&'m [u8]> {
        let length = self.number()? as usize;
        let (piece, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(piece)
    }

    fn text(&mut self) -> Option<&'m str> {
        std::str::from_utf8(self.piece()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::grpc::wire::{self, RateLimitRequest};

    fn read(message: &[u8]) -> Option<Request<'_>> {
        // What stood there before is not told from what is read.
        let mut to = Request {
            domain: "other",
            hits_addend: 7,
            descriptors: smallvec::smallvec![Descriptor::default()],
        };
        request(message, &mut to).map(|()| to)
    }

    /// Pieces of messages and what may stand in their place, so that some are put together to whole ones.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let entry = prop_oneof![
            "\\PC{0,3}".prop_map(|text| [&[0x0a, text.len() as u8], text.as_bytes()].concat()),
            "\\PC{0,3}".prop_map(|text| [&[0x12, text.len() as u8], text.as_bytes()].concat()),
            vec(any::<u8>(), 0..4),
        ];
        let nest = |tag: u8| {
            move |parts: Vec<Vec<u8>>| {
                let all = parts.concat();
                [&[tag << 3 | 2, all.len() as u8], &all[..]].concat()
            }
        };
        let entry = vec(entry, 0..3).prop_map(nest(1));
        let other = vec(any::<u8>(), 0..6);
        let descriptor = vec(prop_oneof![8 => entry, 1 => other], 0..3).prop_map(nest(2));
        let domain =
            "\\PC{0,9}".prop_map(|text| [&[0x0a, text.len() as u8], text.as_bytes()].concat());
        let hits = vec(any::<u8>(), 0..7).prop_map(|number| [&[0x18], &number[..]].concat());
        let field =
            prop_oneof![4 => descriptor, 2 => domain, 1 => hits, 1 => vec(any::<u8>(), 0..4)];
        vec(field, 0..4).prop_map(|fields| fields.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn what_is_read_is_what_the_generated_message_says(bytes in bytes()) {
            let Some(read) = read(&bytes) else {
                return Ok(());
            };
            let message = RateLimitRequest::decode(&*bytes).expect("what is read is a message");
            let told = wire::request(&message).expect("no limits");
            prop_assert_eq!(format!("{read:?}"), format!("{told:?}"));
        }
    }

    #[test]
    fn what_a_gateway_sends_is_read() {
        let entries = |count: usize| {
            let entry = |place| (format!("key_{place}"), "x".repeat(place * 200));
            (0..count).map(entry).collect::<Vec<_>>()
        };
        for hits in [0, 1, 127, 128, u32::MAX] {
            let message = wire::message("edge", hits, (0..5).map(entries));
            let bytes = message.encode_to_vec();
            let read = read(&bytes).expect("a request");
            let told = wire::request(&message).expect("a request");
            assert_eq!(format!("{read:?}"), format!("{told:?}"));
        }
    }

    /// What comes after a number that is too long, or a length that is, is not taken for something else.
    #[test]
    fn what_is_cut_or_unusual_is_left_to_the_generated_message() {
        let whole = wire::message("edge", 300, [vec![("user".to_owned(), "alice".to_owned())]]);
        let whole = whole.encode_to_vec();
        let ends: Vec<_> = (0..whole.len())
            .filter(|end| read(&whole[..*end]).is_some())
            .collect();
        // Between two fields there is a whole message.
        assert_eq!(ends, [0, 6, whole.len() - 3]);
        for unusual in [
            &[0x20, 1][..],                           // a field that is not known
            &[0x12, 2, 0x20, 1],                      // hits that are given back
            &[0x12, 4, 0x1a, 2, 8, 0],                // a descriptor's own hits
            &[0x12, 2, 0x12, 0],                      // a limit
            &[0x0a, 1, 0xff],                         // no text
            &[0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0], // a length of six bytes
            &[0x18, 0xff, 0xff, 0xff, 0xff, 0x1f],    // a number beyond 32 bits
            &[0x8a, 0],                               // a key of two bytes
        ] {
            assert!(read(unusual).is_none(), "{unusual:x?}");
        }
    }
}
