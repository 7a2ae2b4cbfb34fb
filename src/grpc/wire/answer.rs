//! An answer as the bytes of a `RateLimitResponse`.
//!
//! Written straight from the answer: building the generated messages first, with a string and a map for each part of them, would
//! cost more than the decision. The field numbers are those of `rls.proto`, `base.proto` and `struct.proto`.

use std::cell::Cell;

use bytes::Bytes;
use prost::encoding::WireType;
use serde_json::Value;

use super::{code, key, unit_number};
use crate::engine::answer::metadata::Field;
use crate::engine::answer::shape::Form;
use crate::engine::{Answer, CurrentLimit, Header, Status};

/// What stands before a message: whether it is compressed, and its length in four bytes.
pub const PREFIX: usize = 5;

/// The most room that a thread keeps for its next message, in bytes; nearly all take a hundredth of it.
const MOST_KEPT: usize = 64 * 1024;

thread_local! {
    /// Where the messages of a thread are written, since their length is known only then.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An answer.
pub fn bytes(answer: &Answer<'_>) -> Bytes {
    Message::written(None, |message| message.answer(answer))
}

/// An answer as gRPC sends it: not compressed.
pub fn framed(answer: &Answer<'_>) -> Bytes {
    Message::written(None, |message| message.framed(answer))
}

/// The same, and where its numbers are that say what is left and until when, in order.
pub(super) fn framed_with(answer: &Answer<'_>, holes: &mut Vec<Hole>) -> Bytes {
    Message::written(Some(holes), |message| message.framed(answer))
}

/// A number in a message that another one of its length can stand in place of.
#[derive(Debug)]
pub(super) struct Hole {
    /// Where it begins, in bytes.
    pub(super) at: usize,
    pub(super) form: Form,
    pub(super) number: u64,
}

fn status(message: &mut Message<'_>, status: &Status<'_>) {
    message.number(1, code(status.code) as u64);
    if let Some(limit) = &status.limit {
        message.nested(2, |message| self::limit(message, limit));
    }
    message.counted(3, status.remaining.into());
    if let Some(secs) = status.reset_secs {
        // A `google.protobuf.Duration`, which has a sign.
        let secs = secs.min(i64::MAX.unsigned_abs());
        message.nested(4, |message| message.counted(1, secs));
    }
}

fn limit(message: &mut Message<'_>, limit: &CurrentLimit<'_>) {
    message.number(1, limit.requests_per_unit.into());
    message.number(2, unit_number(limit.unit) as u64);
    message.text(3, limit.name.as_deref().unwrap_or_default());
}

/// A `google.protobuf.Value`: one of several fields, which is written even when it is zero or empty.
fn value(message: &mut Message<'_>, value: &Value) {
    match value {
        Value::Null => message.present(1, 0),
        Value::Number(number) => message.double(2, number.as_f64().unwrap_or_default()),
        Value::String(text) => message.bytes(3, text.as_bytes()),
        Value::Bool(flag) => message.present(4, u64::from(*flag)),
        Value::Object(map) => message.nested(5, |message| {
            for (name, value) in map {
                message.nested(1, |message| {
                    message.text(1, name);
                    message.nested(2, |message| self::value(message, value));
                });
            }
        }),
        Value::Array(values) => message.nested(6, |message| {
            for value in values {
                message.nested(1, |message| self::value(message, value));
            }
        }),
    }
}

/// Keys of messages and texts.
const PIECE_1: u8 = key(1, WireType::LengthDelimited);
const PIECE_2: u8 = key(2, WireType::LengthDelimited);
const PIECE_3: u8 = key(3, WireType::LengthDelimited);

/// What a number takes in a `google.protobuf.Value`.
const DOUBLE: u8 = 9;

/// Whether a name, a value of this length and all that stands between take no length of more than one byte.
fn is_short(name: &str, length: usize) -> bool {
    !name.is_empty() && name.len() + length <= 0x70
}

/// The fields of a message, in the order in which they are written.
struct Message<'h> {
    bytes: Vec<u8>,
    /// Where it is noted which numbers say what is left and until when, if anybody asks.
    holes: Option<&'h mut Vec<Hole>>,
}

impl<'h> Message<'h> {
    /// What `write` has written, in an allocation of just its length.
    fn written(holes: Option<&'h mut Vec<Hole>>, write: impl FnOnce(&mut Self)) -> Bytes {
        let mut message = Message {
            bytes: ROOM.take(),
            holes,
        };
        message.bytes.clear();
        write(&mut message);
        let bytes = Bytes::copy_from_slice(&message.bytes);
        if message.bytes.capacity() <= MOST_KEPT {
            ROOM.set(message.bytes);
        }
        bytes
    }

    fn framed(&mut self, answer: &Answer<'_>) {
        self.bytes.extend_from_slice(&[0; PREFIX]);
        self.answer(answer);
        let length = (self.bytes.len() - PREFIX) as u32;
        self.bytes[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    }

    fn answer(&mut self, answer: &Answer<'_>) {
        self.number(1, code(answer.overall) as u64);
        for status in &answer.statuses {
            self.nested(2, |message| self::status(message, status));
        }
        for header in &answer.headers {
            self.header(header);
        }
        self.text(5, answer.body.as_deref().unwrap_or_default());
        if let Some(metadata) = &answer.metadata {
            self.nested(6, |message| {
                metadata.each(|name, field| message.field(name, field));
            });
        }
    }

    /// A header. Nearly all are so short that each length takes one byte: they are known before, and no place is held free for them.
    fn header(&mut self, header: &Header<'_>) {
        let (name, value) = (&*header.name, &*header.value);
        if value.is_empty() || !is_short(name, value.len()) {
            return self.nested(3, |message| {
                message.text(1, name);
                message.text(2, value);
                message.mark_digits(header);
            });
        }
        let length = name.len() + value.len() + 4;
        self.bytes
            .extend_from_slice(&[PIECE_3, length as u8, PIECE_1, name.len() as u8]);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(&[PIECE_2, value.len() as u8]);
        self.bytes.extend_from_slice(value.as_bytes());
        self.mark_digits(header);
    }

    /// Notes the numbers of a header whose value has just been written.
    fn mark_digits(&mut self, header: &Header<'_>) {
        if self.holes.is_some() {
            let value = self.bytes.len() - header.value.len();
            for digits in &header.numbers {
                self.mark(value + digits.at, Form::Digits, digits.number);
            }
        }
    }

    /// Notes a number.
    fn mark(&mut self, at: usize, form: Form, number: u64) {
        if let Some(holes) = &mut self.holes {
            holes.push(Hole { at, form, number });
        }
    }

    /// A field of a `google.protobuf.Struct`, under its name; short ones like short headers.
    fn field(&mut self, name: &str, field: Field<'_>) {
        match field {
            Field::Text(text) if is_short(name, text.len()) => {
                let length = text.len() as u8;
                self.name(name, length + 2);
                self.bytes
                    .extend_from_slice(&[PIECE_2, length + 2, PIECE_3, length]);
                self.bytes.extend_from_slice(text.as_bytes());
            }
            Field::Number(number) | Field::Counted(number) if is_short(name, DOUBLE.into()) => {
                self.name(name, DOUBLE);
                self.bytes.extend_from_slice(&[PIECE_2, DOUBLE]);
                if let Field::Counted(_) = field {
                    self.mark(self.bytes.len() + 1, Form::Double, number);
                }
                self.double(2, number as f64);
            }
            Field::Text(_) | Field::Number(_) | Field::Counted(_) | Field::Json(_) => {
                self.nested(1, |message| {
                    message.text(1, name);
                    message.nested(2, |message| match field {
                        Field::Number(number) | Field::Counted(number) => {
                            message.double(2, number as f64)
                        }
                        Field::Text(text) => message.bytes(3, text.as_bytes()),
                        Field::Json(value) => self::value(message, value),
                    });
                })
            }
        }
    }

    /// Begins a short field of a struct, whose value takes so many bytes.
    #[inline]
    fn name(&mut self, name: &str, value: u8) {
        let length = name.len() as u8;
        self.bytes
            .extend_from_slice(&[PIECE_1, length + 4 + value, PIECE_1, length]);
        self.bytes.extend_from_slice(name.as_bytes());
    }

    /// A number; zero is what a field reads that is not there.
    #[inline]
    fn number(&mut self, tag: u8, number: u64) {
        if number != 0 {
            self.present(tag, number);
        }
    }

    /// A number that says what is left or until when.
    #[inline]
    fn counted(&mut self, tag: u8, number: u64) {
        if number != 0 {
            // Behind the key, of one byte.
            self.mark(self.bytes.len() + 1, Form::Varint, number);
            self.present(tag, number);
        }
    }

    #[inline]
    fn present(&mut self, tag: u8, number: u64) {
        self.begin(key(tag, WireType::Varint), number);
    }

    #[inline]
    fn double(&mut self, tag: u8, number: f64) {
        let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
        let key = key(tag, WireType::SixtyFourBit);
        self.bytes.extend_from_slice(&[key, a, b, c, d, e, f, g, h]);
    }

    /// A text; an empty one is what a field reads that is not there.
    #[inline]
    fn text(&mut self, tag: u8, text: &str) {
        if !text.is_empty() {
            self.bytes(tag, text.as_bytes());
        }
    }

    #[inline]
    fn bytes(&mut self, tag: u8, bytes: &[u8]) {
        self.begin(key(tag, WireType::LengthDelimited), bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// A message within this one. Its length stands before it, and is known after it: one byte is held free, which nearly
    /// always is enough, and else the message moves on.
    #[inline]
    fn nested(&mut self, tag: u8, write: impl FnOnce(&mut Self)) {
        let key = key(tag, WireType::LengthDelimited);
        self.bytes.extend_from_slice(&[key, 0]);
        let begin = self.bytes.len();
        write(self);
        let length = self.bytes.len() - begin;
        match self.bytes.get_mut(begin - 1) {
            Some(place) if length < 0x80 => *place = length as u8,
            _ => self.make_way(begin, length),
        }
    }

    /// Puts a length of several bytes before the last `length` bytes, in place of the one at hand.
    #[cold]
    fn make_way(&mut self, begin: usize, length: usize) {
        let end = self.bytes.len();
        self.varint(length as u64);
        let digits = self.bytes.len() - end;
        self.bytes[begin - 1..].rotate_right(digits);
        self.bytes.remove(begin - 1 + digits);
        for hole in self.holes.iter_mut().flat_map(|holes| holes.iter_mut()) {
            if hole.at >= begin {
                hole.at += digits - 1;
            }
        }
    }

    /// A key and a number, which nearly always is one byte.
    #[inline]
    fn begin(&mut self, key: u8, number: u64) {
        if number < 0x80 {
            self.bytes.extend_from_slice(&[key, number as u8]);
        } else {
            self.bytes.push(key);
            self.varint(number);
        }
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::value::Kind;
    use prost::Message as _;
    use serde_json::{Map, json};
    use smallvec::smallvec;

    use super::*;
    use crate::engine::Reason;
    use crate::engine::answer::metadata::{Decision, Metadata};
    use crate::grpc::wire::RateLimitResponse;

    /// The lengths of messages within messages take one byte, two and three; and room is kept or not.
    #[test]
    fn an_answer_of_any_length_is_read_as_it_was_written() {
        for length in [1, 90, 110, 120, 127, 128, 16_300, 16_384, 200_000, 1] {
            let value = "x".repeat(length);
            let mut fields = Map::new();
            fields.insert("m".into(), json!({"a": [{"b": value}, null, 1.5]}));
            let (name, value) = ("n".into(), value.into());
            let answer = Answer {
                headers: smallvec![Header {
                    name,
                    value,
                    numbers: smallvec![]
                }],
                metadata: Some(Metadata::Reference(fields)),
                ..Answer::default()
            };
            let written = bytes(&answer);
            let read = RateLimitResponse::decode(written.clone()).expect("a message");
            assert_eq!(read.encode_to_vec(), written, "{length}");
            assert_eq!(framed(&answer).slice(PREFIX..), written, "{length}");
            let header = read.response_headers_to_add[0].value.len();
            assert_eq!(header, length);
        }
    }

    /// Short ones and long ones are written by different hands.
    #[test]
    fn a_decision_is_read_as_it_was_written_however_long_its_texts_are() {
        for length in (0..300).chain([16_384]) {
            let text = "x".repeat(length);
            let decision = Decision {
                domain: text.as_str().into(),
                reason: Reason::OverLimit,
                decisive: None,
                retry_after: Some(length as u64),
            };
            let (name, value) = ("retry-after".into(), text.as_str().into());
            let answer = Answer {
                headers: smallvec![Header {
                    name,
                    value,
                    numbers: smallvec![]
                }],
                metadata: Some(Metadata::Decision(decision)),
                ..Answer::default()
            };
            let read = RateLimitResponse::decode(bytes(&answer)).expect("a message");
            let header = &read.response_headers_to_add[0];
            assert_eq!((&*header.key, &header.value), ("retry-after", &text));
            let fields = read.dynamic_metadata.expect("metadata").fields;
            let kind = |name: &str| fields[name].kind.clone().expect("a value");
            assert_eq!(kind("domain"), Kind::StringValue(text.clone()));
            assert_eq!(kind("reason"), Kind::StringValue("over_limit".to_owned()));
            assert_eq!(kind("retry_after"), Kind::NumberValue(length as f64));
            assert_eq!(fields.len(), 3);
        }
    }
}
