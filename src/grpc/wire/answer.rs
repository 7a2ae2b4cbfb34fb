//! An answer as the bytes of a `RateLimitResponse`.
//!
//! Written straight from the answer: building the generated messages first, with a string and a map for each part of them, would
//! cost more than the decision. The field numbers are those of `rls.proto`, `base.proto` and `struct.proto`.

use std::cell::Cell;

use bytes::Bytes;
use prost::encoding::WireType;
use serde_json::Value;

use super::{code, unit_number};
use crate::engine::answer::metadata::Field;
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
    Message::written(|message| message.answer(answer))
}

/// An answer as gRPC sends it: not compressed.
pub fn framed(answer: &Answer<'_>) -> Bytes {
    Message::written(|message| {
        message.0.extend_from_slice(&[0; PREFIX]);
        message.answer(answer);
        let length = (message.0.len() - PREFIX) as u32;
        message.0[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    })
}

fn status(message: &mut Message, status: &Status<'_>) {
    message.number(1, code(status.code) as u64);
    if let Some(limit) = &status.limit {
        message.nested(2, |message| self::limit(message, limit));
    }
    message.number(3, status.remaining.into());
    if let Some(secs) = status.reset_secs {
        // A `google.protobuf.Duration`, which has a sign.
        let secs = secs.min(i64::MAX.unsigned_abs());
        message.nested(4, |message| message.number(1, secs));
    }
}

fn limit(message: &mut Message, limit: &CurrentLimit<'_>) {
    message.number(1, limit.requests_per_unit.into());
    message.number(2, unit_number(limit.unit) as u64);
    message.text(3, limit.name.as_deref().unwrap_or_default());
}

fn header(message: &mut Message, header: &Header<'_>) {
    message.text(1, &header.name);
    message.text(2, &header.value);
}

/// A `google.protobuf.Value`: one of several fields, which is written even when it is zero or empty.
fn field(message: &mut Message, field: Field<'_>) {
    match field {
        Field::Number(number) => message.double(2, number as f64),
        Field::Text(text) => message.bytes(3, text.as_bytes()),
        Field::Json(value) => self::value(message, value),
    }
}

fn value(message: &mut Message, value: &Value) {
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

/// The fields of a message, in the order in which they are written.
struct Message(Vec<u8>);

impl Message {
    /// What `write` has written, in an allocation of just its length.
    fn written(write: impl FnOnce(&mut Self)) -> Bytes {
        let mut message = Message(ROOM.take());
        message.0.clear();
        write(&mut message);
        let bytes = Bytes::copy_from_slice(&message.0);
        if message.0.capacity() <= MOST_KEPT {
            ROOM.set(message.0);
        }
        bytes
    }

    fn answer(&mut self, answer: &Answer<'_>) {
        self.number(1, code(answer.overall) as u64);
        for status in &answer.statuses {
            self.nested(2, |message| self::status(message, status));
        }
        for header in &answer.headers {
            self.nested(3, |message| self::header(message, header));
        }
        self.text(5, answer.body.as_deref().unwrap_or_default());
        if let Some(metadata) = &answer.metadata {
            self.nested(6, |message| {
                metadata.each(|name, field| {
                    message.nested(1, |message| {
                        message.text(1, name);
                        message.nested(2, |message| self::field(message, field));
                    });
                });
            });
        }
    }

    /// A number; zero is what a field reads that is not there.
    fn number(&mut self, tag: u32, number: u64) {
        if number != 0 {
            self.present(tag, number);
        }
    }

    fn present(&mut self, tag: u32, number: u64) {
        self.key(tag, WireType::Varint);
        self.varint(number);
    }

    fn double(&mut self, tag: u32, number: f64) {
        self.key(tag, WireType::SixtyFourBit);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// A text; an empty one is what a field reads that is not there.
    fn text(&mut self, tag: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(tag, text.as_bytes());
        }
    }

    fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        self.key(tag, WireType::LengthDelimited);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A message within this one. Its length stands before it, and is known after it: one byte is held free, which nearly
    /// always is enough, and else the message moves on.
    fn nested(&mut self, tag: u32, write: impl FnOnce(&mut Self)) {
        self.key(tag, WireType::LengthDelimited);
        let at = self.0.len();
        self.0.push(0);
        write(self);
        let length = self.0.len() - at - 1;
        if length < 0x80 {
            self.0[at] = length as u8;
            return;
        }
        let end = self.0.len();
        self.varint(length as u64);
        let digits = self.0.len() - end;
        self.0[at..].rotate_right(digits);
        self.0.remove(at + digits);
    }

    fn key(&mut self, tag: u32, wire_type: WireType) {
        self.varint(u64::from(tag) << 3 | wire_type as u64);
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::{Map, json};
    use smallvec::smallvec;

    use super::*;
    use crate::engine::answer::metadata::Metadata;
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
                headers: smallvec![Header { name, value }],
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
}
