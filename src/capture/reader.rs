//! Reads a capture, one block in memory at a time. A file that ends in the middle of a block, as one does whose writer was killed,
//! is read up to there.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;

use super::block::{HEAD, Head, Walk};
use super::form::{self, Malformed};
use super::{Decision, Header, MAGIC, MAX_HEADER, VERSION};
use crate::time::Timestamp;

/// Why a capture cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Neither a capture nor an access log.
    #[error(
        "it is neither a capture of `serve --record` nor an access log: lines of JSON, each beginning with `{{`"
    )]
    Unknown,
    /// Lines of an access log that cannot be used.
    #[error("{0}")]
    Log(String),
    /// A version that is not known.
    #[error(
        "it has version {0} of the form, and this is a Tollgate that reads version {VERSION}; use the one that wrote it, or a later one"
    )]
    Version(u8),
    /// The header cannot be read.
    #[error("its header cannot be read: {0}")]
    Header(String),
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Where a block did.
    Whole,
    /// In the middle of a block, this many bytes into the file.
    CutOff(u64),
    /// What comes this many bytes into the file is no block.
    Damaged(u64),
}

/// A capture that is being read.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    header: Header,
    /// Where the next block begins.
    place: u64,
    missing: u64,
    /// Where the block at hand begins.
    begun: u64,
    /// Whether there is a block at hand.
    open: bool,
    packed: Vec<u8>,
    plain: Vec<u8>,
    walk: Walk,
    /// The moment of the decision at hand, and where its form is in `plain`.
    at: Timestamp,
    form: Range<usize>,
    end: Option<End>,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn new(mut from: R) -> Result<Self, Trouble> {
        let mut magic = [0; MAGIC.len()];
        let read = from.read_exact(&mut magic);
        read.map_err(|error| match error.kind() == ErrorKind::UnexpectedEof {
            true => Trouble::Unknown,
            false => Trouble::Io(error),
        })?;
        if magic != *MAGIC {
            return Err(Trouble::Unknown);
        }
        let mut start = [0; 5];
        from.read_exact(&mut start)?;
        let [version, length @ ..] = start;
        if version != VERSION {
            return Err(Trouble::Version(version));
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_HEADER {
            return Err(Trouble::Header(format!("it has {length} bytes")));
        }
        let mut header = vec![0; length];
        from.read_exact(&mut header)?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|error| Trouble::Header(error.to_string()))?;
        if super::Sample::new(header.sample).is_none() {
            let sample = header.sample;
            return Err(Trouble::Header(format!("its sample is {sample}")));
        }
        Ok(Self {
            from,
            header,
            place: (MAGIC.len() + 5 + length) as u64,
            missing: 0,
            begun: 0,
            open: false,
            packed: Vec::new(),
            plain: Vec::new(),
            walk: Walk::default(),
            at: Timestamp::default(),
            form: 0..0,
            end: None,
        })
    }

    /// What is the same for all decisions.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many decisions the recorder could not take, as far as the file has been read.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// How it ended; none before it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// How many bytes of the file have been read, whole blocks only.
    pub fn place(&self) -> u64 {
        self.place
    }

    /// The next decision; none at the end.
    pub fn next_decision(&mut self) -> Result<Option<Decision<'_>>, Trouble> {
        Ok(match self.advance()? {
            Some(_) => self.decision(),
            None => None,
        })
    }

    /// Goes on to the next decision, and tells its moment; none at the end.
    pub fn advance(&mut self) -> Result<Option<Timestamp>, Trouble> {
        while self.end.is_none() {
            if self.open {
                match self.walk.next(&self.plain) {
                    Ok(Some((at, form))) => {
                        (self.at, self.form) = (at, form);
                        return Ok(Some(at));
                    }
                    Ok(None) => self.open = false,
                    Err(Malformed) => self.end = Some(End::Damaged(self.begun)),
                }
            } else {
                self.block()?;
            }
        }
        Ok(None)
    }

    /// The decision at hand; none if its bytes are none, which is where the capture ends.
    pub fn decision(&mut self) -> Option<Decision<'_>> {
        match form::read(self.at, &self.plain[self.form.clone()]) {
            Ok(decision) => Some(decision),
            Err(Malformed) => {
                self.end = Some(End::Damaged(self.begun));
                None
            }
        }
    }

    /// Reads the next block, or finds the end.
    fn block(&mut self) -> Result<(), Trouble> {
        let mut bytes = [0; HEAD];
        match fill(&mut self.from, &mut bytes)? {
            0 => {
                self.end = Some(End::Whole);
                return Ok(());
            }
            HEAD => {}
            _ => {
                self.end = Some(End::CutOff(self.place));
                return Ok(());
            }
        }
        let Ok(head) = Head::read(&bytes) else {
            self.end = Some(End::Damaged(self.place));
            return Ok(());
        };
        self.packed.resize(head.packed, 0);
        if fill(&mut self.from, &mut self.packed)? < head.packed {
            self.end = Some(End::CutOff(self.place));
            return Ok(());
        }
        if head.unpack(&self.packed, &mut self.plain).is_err() {
            self.end = Some(End::Damaged(self.place));
            return Ok(());
        }
        self.begun = self.place;
        self.place += (HEAD + head.packed) as u64;
        self.missing = self.missing.saturating_add(head.missing);
        self.walk = head.walk();
        self.open = true;
        Ok(())
    }
}

/// Reads until `bytes` are full or there is no more; how many there were.
fn fill(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match from.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
