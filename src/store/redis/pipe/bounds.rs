//! What a server may say at most: looked at before it is decoded.
//!
//! The decoder calls itself for what is within a frame, so a few thousand arrays within each other end the process; and it begins
//! anew with each read, so a frame in many pieces costs the square of its length. Here each byte of a frame's heads is seen once,
//! and only whole frames within the bounds are decoded.

use std::io;

use smallvec::SmallVec;

/// How deep a frame may be nested: the answer to the greeting is the deepest, a list of modules, each with a list of what it
/// was given. Our scripts answer texts; what tells of changes is a list within a list.
pub(in crate::store::redis) const MOST_NESTED: usize = 8;

/// How many frames may be within one: what tells of changes has one for each key.
pub(in crate::store::redis) const MOST_WITHIN: usize = 1 << 16;

/// The longest frame, in bytes: all lists, full.
pub(in crate::store::redis) const MOST_BYTES: usize = 256 << 20;

/// The longest head of a frame, and the longest one that is a line: an error, a status.
const MOST_LINE: usize = 64 * 1024;

/// How far a frame has been looked at, from read to read.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// Where the next head begins.
    at: usize,
    /// How many frames are still to come in each that is open.
    open: SmallVec<[usize; MOST_NESTED]>,
    within: usize,
}

impl Bounds {
    /// Whether `read` begins with a whole frame; then the next look is at what follows it. `read` only ever grows meanwhile.
    pub(super) fn is_whole(&mut self, read: &[u8]) -> io::Result<bool> {
        loop {
            if self.at > 0 && self.open.is_empty() {
                // All heads are there; the text after the last one may still be on its way.
                let is_whole = self.at <= read.len();
                if is_whole {
                    *self = Self::default();
                }
                return Ok(is_whole);
            }
            let rest = read.get(self.at..).unwrap_or_default();
            let Some(head) = head(rest)? else {
                return match read.len() {
                    0..=MOST_BYTES => Ok(false),
                    _ => Err(strange("is too long")),
                };
            };
            self.at = self.at.saturating_add(head.bytes);
            if self.at > MOST_BYTES {
                return Err(strange("is too long"));
            }
            self.within = self.within.saturating_add(head.frames);
            if self.within > MOST_WITHIN {
                return Err(strange("has too many within it"));
            }
            if head.frames > 0 {
                if self.open.len() >= MOST_NESTED {
                    return Err(strange("is nested too deep"));
                }
                self.open.push(head.frames);
                continue;
            }
            while let Some(left) = self.open.last_mut() {
                *left -= 1;
                if *left > 0 {
                    break;
                }
                self.open.pop();
            }
        }
    }
}

/// The beginning of a frame.
struct Head {
    /// With the text that follows, if one does.
    bytes: usize,
    /// How many frames follow.
    frames: usize,
}

/// None if it is not all there.
fn head(rest: &[u8]) -> io::Result<Option<Head>> {
    let Some(&mark) = rest.first() else {
        return Ok(None);
    };
    let looked_at = rest.get(..MOST_LINE).unwrap_or(rest);
    let Some(end) = looked_at.windows(2).position(|pair| pair == b"\r\n") else {
        return match rest.len() {
            0..MOST_LINE => Ok(None),
            _ => Err(strange("has too long a line")),
        };
    };
    let line = end + 2;
    let number = || number(rest.get(1..end).unwrap_or_default());
    let (text, frames) = match mark {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => (0, 0),
        // The line's end is after the text too.
        b'$' | b'!' | b'=' => (number()?.map_or(0, |length| length.saturating_add(2)), 0),
        b'*' | b'~' | b'>' => (0, number()?.unwrap_or(0)),
        b'%' => (0, number()?.unwrap_or(0).saturating_mul(2)),
        // Attributes, and what comes in chunks: no server says it to us.
        _ => return Err(strange("is of no kind that is expected")),
    };
    Ok(Some(Head {
        bytes: line.saturating_add(text),
        frames,
    }))
}

/// A length; none if it says that there is nothing.
fn number(digits: &[u8]) -> io::Result<Option<usize>> {
    if digits == b"-1" {
        return Ok(None);
    }
    let text = std::str::from_utf8(digits).ok();
    let number = text.and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| strange("has no length"))
}

fn strange(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("what redis says {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is a whole frame once all of it is there; it must not be one before.
    fn look(frame: &[u8]) -> io::Result<bool> {
        let mut bounds = Bounds::default();
        for end in 0..frame.len() {
            assert!(!bounds.is_whole(&frame[..end])?, "after {end} bytes");
        }
        bounds.is_whole(frame)
    }

    fn nested(depth: usize) -> Vec<u8> {
        [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat()
    }

    #[test]
    fn frames_are_whole_at_their_end() {
        for frame in [
            &b"$5\r\nhello\r\n"[..],
            b"$0\r\n\r\n",
            b"$-1\r\n",
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":12\r\n",
            b"_\r\n",
            b"#t\r\n",
            b",1.5\r\n",
            b"(123\r\n",
            b"=7\r\ntxt:abc\r\n",
            b"!3\r\nERR\r\n",
            b"*0\r\n",
            b"*2\r\n*1\r\n$1\r\na\r\n*0\r\n",
            b"%1\r\n+a\r\n~2\r\n:1\r\n:2\r\n",
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n",
        ] {
            let shown = String::from_utf8_lossy(frame);
            assert!(look(frame).expect("within bounds"), "{shown}");
        }
    }

    #[test]
    fn a_frame_is_taken_up_to_each_bound_and_not_beyond() {
        assert!(look(&nested(MOST_NESTED)).expect("the deepest"));
        look(&nested(MOST_NESTED + 1)).expect_err("deeper");
        let many = |count: usize| [format!("*{count}\r\n").into(), b"_\r\n".repeat(count)].concat();
        let mut bounds = Bounds::default();
        assert!(bounds.is_whole(&many(MOST_WITHIN)).expect("the most"));
        bounds.is_whole(&many(MOST_WITHIN + 1)).expect_err("more");
        let mut bounds = Bounds::default();
        bounds
            .is_whole(format!("${}\r\n", MOST_BYTES - 20).as_bytes())
            .expect("a long one");
        for said in [
            format!("${MOST_BYTES}\r\n"),
            format!("%{}\r\n", usize::MAX),
            format!("${}\r\n", usize::MAX),
            format!("+{}", "x".repeat(MOST_LINE)),
            "$?\r\n".to_owned(),
            "*-2\r\n".to_owned(),
            "|1\r\n".to_owned(),
            "GET /\r\n".to_owned(),
        ] {
            let look = Bounds::default().is_whole(said.as_bytes());
            assert!(look.is_err(), "{}", &said[..said.len().min(20)]);
        }
    }
}
