//! Calls and answers as bytes: RESP3, as <https://redis.io/docs/latest/develop/reference/protocol-spec/> has it.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use redis_protocol::resp3::decode::complete::decode_bytes_mut;
use redis_protocol::resp3::types::BytesFrame;

use crate::store::redis::node::Call;

/// More digits than any length within the bounds has.
const MOST_DIGITS: usize = 10;

/// What a line ends with, and a text.
const END: &[u8; 2] = b"\r\n";

/// Adds a call to what is to be written.
pub(super) fn put(out: &mut BytesMut, call: &Call<'_>, whole: bool) {
    // The command, the script, the number of keys, the keys, the body.
    let (command, script) = call.command(whole);
    put_head(out, b'*', 4 + call.keys.len());
    put_bytes(out, command.as_bytes());
    put_bytes(out, script.as_bytes());
    match call.keys.len() {
        1 => out.extend_from_slice(b"$1\r\n1\r\n"),
        many => put_bytes(out, many.to_string().as_bytes()),
    }
    call.keys.iter().for_each(|key| put_bytes(out, key));
    put_bytes(out, call.body);
}

/// Adds a command of these words.
pub(super) fn put_command(out: &mut BytesMut, words: &[&[u8]]) {
    put_head(out, b'*', words.len());
    words.iter().for_each(|word| put_bytes(out, word));
}

/// Adds an argument.
fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_head(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(END);
}

/// Adds the line that says how much follows: of a list, how many; of a text, how many bytes.
fn put_head(out: &mut BytesMut, mark: u8, number: usize) {
    // Written from its end, and added in one piece.
    let mut line = [0; 1 + 20 + 2];
    let mut at = line.len() - 2;
    line[at..].copy_from_slice(END);
    let mut left = number;
    loop {
        at -= 1;
        line[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    at -= 1;
    line[at] = mark;
    out.extend_from_slice(&line[at..]);
}

/// Takes the frame that `read` begins with, which must be there as a whole.
pub(super) fn take_frame(read: &mut BytesMut) -> io::Result<BytesFrame> {
    if let Some(data) = take_text(read) {
        return Ok(BytesFrame::BlobString {
            data,
            attributes: None,
        });
    }
    match decode_bytes_mut(read).map_err(io::Error::other)? {
        Some((frame, ..)) => Ok(frame),
        None => Err(io::Error::other("a frame that ends elsewhere")),
    }
}

/// The same for a text, which is what scripts answer; the library's decoder, made for all kinds, takes several times as long. It has the word
/// on all else, and on what is wrong.
fn take_text(read: &mut BytesMut) -> Option<Bytes> {
    let (b'$', after) = read.split_first()? else {
        return None;
    };
    let mut digits = after.iter().take(MOST_DIGITS);
    let digits = digits.position(|byte| *byte == b'\r')?;
    let length = std::str::from_utf8(&after[..digits]).ok()?.parse().ok()?;
    let begin = 1 + digits + END.len();
    let end = begin.checked_add(length)?;
    let ends = |at: usize| read.get(at..)?.starts_with(END).then_some(());
    ends(begin - END.len()).and_then(|()| ends(end))?;
    let mut text = read.split_to(end + END.len());
    text.advance(begin);
    text.truncate(length);
    Some(text.freeze())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is left of `said` when its first frame is taken, and that; none if it is wrong.
    fn first(
        said: &[u8],
        take: impl Fn(&mut BytesMut) -> io::Result<BytesFrame>,
    ) -> Option<(BytesFrame, BytesMut)> {
        let mut read = BytesMut::from(said);
        let frame = take(&mut read).ok()?;
        Some((frame, read))
    }

    fn by_the_library(read: &mut BytesMut) -> io::Result<BytesFrame> {
        match decode_bytes_mut(read).map_err(io::Error::other)? {
            Some((frame, ..)) => Ok(frame),
            None => Err(io::Error::other("not whole")),
        }
    }

    fn said() -> impl Strategy<Value = Vec<u8>> {
        let text = prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(|text| [format!("${}\r\n", text.len()).as_bytes(), &text, END].concat());
        let other = prop::sample::select(vec![
            &b"$-1\r\n"[..],
            b"$3\r\nfour\r\n",
            b"$+2\r\nab\r\n",
            b"$ 2\r\nab\r\n",
            b"$\r\n",
            b"$99999999999999999999\r\n",
            b"$2\nab\r\n",
            b"$2\rxab\r\n",
            b"-ERR no\r\n",
            b"*1\r\n$1\r\na\r\n",
            b":1\r\n",
            b"",
        ]);
        prop_oneof![text, other.prop_map(<[u8]>::to_vec)]
    }

    proptest! {
        #[test]
        fn frames_are_what_the_library_takes_them_for(said in said(), rest in said()) {
            let said = [said, rest].concat();
            prop_assert_eq!(first(&said, take_frame), first(&said, by_the_library));
        }
    }

    #[test]
    fn a_text_is_taken_from_before_what_follows_it() {
        let mut read = BytesMut::from(&b"$5\r\nhello\r\n$0\r\n\r\n:1\r\n"[..]);
        assert_eq!(take_text(&mut read).expect("a text"), "hello");
        assert_eq!(take_text(&mut read).expect("a text"), "");
        assert_eq!(take_text(&mut read), None);
        assert_eq!(read, &b":1\r\n"[..]);
    }
}
