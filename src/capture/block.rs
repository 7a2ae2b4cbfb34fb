//! Many decisions, packed: what a capture is written and read in.
//!
//! A block is `block`, four numbers of 32 bits (packed length, plain length, decisions, checksum), two of 64 (the first
//! moment, and how many decisions are missing since the block before), all little-endian, and the packed bytes: deflate over
//! one decision after the other, each as the distance of its moment from the one before, its length and its form.

use std::io::{Read, Write};
use std::ops::Range;

use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

use crate::time::Timestamp;

use super::form::{self, Input, Malformed};

/// What a block begins with.
const MARK: &[u8; 5] = b"block";

/// The length of what comes before the packed bytes.
pub const HEAD: usize = MARK.len() + 4 * 4 + 2 * 8;

/// A block is written once it is about so long.
pub const USUAL: usize = 256 << 10;

/// No block is longer, packed or not: one of the usual length, and one decision beyond.
pub const MOST: usize = USUAL + (1 << 20);

/// What a block's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The length of the packed bytes.
    pub packed: usize,
    /// Their length unpacked.
    pub plain: usize,
    /// How many decisions.
    pub decisions: u32,
    /// Of the packed bytes.
    checksum: u32,
    /// The moment that the distances begin at.
    first: i64,
    /// How many are missing since the block before.
    pub missing: u64,
}

/// A block that grows.
#[derive(Debug, Default)]
pub struct Builder {
    plain: Vec<u8>,
    decisions: u32,
    first: i64,
    last: i64,
}

impl Builder {
    /// Adds a decision by its form.
    pub fn add(&mut self, at: Timestamp, form: &[u8]) {
        let at = at.as_micros();
        if self.decisions == 0 {
            (self.first, self.last) = (at, at);
        }
        form::number(&mut self.plain, form::zigzag(at.wrapping_sub(self.last)));
        form::number(&mut self.plain, form.len() as u64);
        self.plain.extend_from_slice(form);
        self.last = at;
        self.decisions += 1;
    }

    /// Whether it is long enough.
    pub fn is_full(&self) -> bool {
        self.plain.len() >= USUAL
    }

    /// How many decisions are in it.
    pub fn decisions(&self) -> u32 {
        self.decisions
    }

    /// The block, head and all; from here on another grows. `missing` decisions came before it and are nowhere.
    pub fn finish(&mut self, missing: u64) -> std::io::Result<Vec<u8>> {
        let mut packer = DeflateEncoder::new(vec![0; HEAD], Compression::fast());
        packer.write_all(&self.plain)?;
        let mut block = packer.finish()?;
        let packed = &block[HEAD..];
        let mut head = Vec::with_capacity(HEAD);
        head.extend_from_slice(MARK);
        let lengths = [packed.len(), self.plain.len()];
        for number in lengths.map(|length| u32::try_from(length).unwrap_or(u32::MAX)) {
            head.extend_from_slice(&number.to_le_bytes());
        }
        head.extend_from_slice(&self.decisions.to_le_bytes());
        head.extend_from_slice(&checksum(packed).to_le_bytes());
        head.extend_from_slice(&self.first.to_le_bytes());
        head.extend_from_slice(&missing.to_le_bytes());
        block[..HEAD].copy_from_slice(&head);
        self.plain.clear();
        self.decisions = 0;
        Ok(block)
    }
}

impl Head {
    /// Reads a head.
    pub fn read(bytes: &[u8; HEAD]) -> Result<Self, Malformed> {
        let mut from = Input(bytes);
        if from.bytes(MARK.len() as u64)? != MARK {
            return Err(Malformed);
        }
        let mut small = || {
            let bytes = from.bytes(4)?;
            bytes
                .try_into()
                .map(u32::from_le_bytes)
                .map_err(|_| Malformed)
        };
        let [packed, plain, decisions, checksum] = [small()?, small()?, small()?, small()?];
        let mut large = || {
            let bytes = from.bytes(8)?;
            bytes
                .try_into()
                .map(u64::from_le_bytes)
                .map_err(|_| Malformed)
        };
        let (first, missing) = (large()?.cast_signed(), large()?);
        let (packed, plain) = (packed as usize, plain as usize);
        if packed > MOST || plain > MOST {
            return Err(Malformed);
        }
        Ok(Self {
            packed,
            plain,
            decisions,
            checksum,
            first,
            missing,
        })
    }

    /// Unpacks the bytes of this block into `plain`, which keeps its room.
    pub fn unpack(&self, packed: &[u8], plain: &mut Vec<u8>) -> Result<(), Malformed> {
        plain.clear();
        if checksum(packed) != self.checksum {
            return Err(Malformed);
        }
        // One more than there may be tells that there are too many.
        let mut bounded = DeflateDecoder::new(packed).take(self.plain as u64 + 1);
        bounded.read_to_end(plain).map_err(|_| Malformed)?;
        match plain.len() == self.plain {
            true => Ok(()),
            false => Err(Malformed),
        }
    }

    /// Goes through the decisions of an unpacked block.
    pub fn walk(&self) -> Walk {
        Walk {
            place: 0,
            at: self.first,
            left: self.decisions,
        }
    }
}

/// A place in an unpacked block.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    place: usize,
    at: i64,
    left: u32,
}

impl Walk {
    /// The next decision: its moment, and where its form is in `plain`, the block's; none after the last.
    pub fn next(&mut self, plain: &[u8]) -> Result<Option<(Timestamp, Range<usize>)>, Malformed> {
        let mut from = Input(plain.get(self.place..).ok_or(Malformed)?);
        if self.left == 0 {
            return match from.0.is_empty() {
                true => Ok(None),
                false => Err(Malformed),
            };
        }
        let distance = form::unzigzag(from.number()?);
        let length = from.number()?;
        let form = from.bytes(length)?;
        self.at = self.at.wrapping_add(distance);
        self.left -= 1;
        self.place = plain.len() - from.0.len();
        let begin = self.place - form.len();
        Ok(Some((Timestamp::from_micros(self.at), begin..self.place)))
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
