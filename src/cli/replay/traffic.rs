//! What was asked and answered, in the order of time: captures and access logs, several of them as one.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::capture::reader::End;
use crate::capture::{Decision, Header, MAGIC, Reader, Trouble};
use crate::time::Timestamp;

use super::access_log::{self, AccessLog};

/// The most files at once.
const MAX_FILES: usize = 64;

/// How much of a file is read at once.
const BUFFER: usize = 256 << 10;

/// All traffic, in the order of time.
pub(super) struct Traffic {
    inputs: Vec<Input>,
    /// The moment of what each has next; none at its end.
    heads: Vec<Option<Timestamp>>,
    /// The input that the decision at hand is from.
    at_hand: usize,
    /// How many bytes have been read.
    pub(super) read: Arc<AtomicU64>,
    /// How many there are, if all are files.
    pub(super) bytes: Option<u64>,
}

/// A file of traffic.
struct Input {
    path: PathBuf,
    kind: Kind,
}

#[expect(clippy::large_enum_variant, reason = "there are few")]
enum Kind {
    Capture(Reader<BufReader<Counted>>),
    Log(AccessLog<BufReader<Counted>>),
}

/// Counts what is read.
pub(super) struct Counted {
    from: Box<dyn Read>,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// What is known of the traffic once it has been read.
#[derive(Clone, Debug, Default)]
pub(super) struct About {
    /// What people should know of the files.
    pub(super) notes: Vec<String>,
    /// How many decisions the recorder could not take.
    pub(super) missing: u64,
}

impl Traffic {
    /// Opens all files; the error says what is wrong with one.
    pub(super) fn open(
        paths: &[PathBuf],
        log: &access_log::LogArgs,
        domains: &[&str],
    ) -> Result<Self, String> {
        if paths.len() > MAX_FILES {
            return Err(format!("there are more than {MAX_FILES} files of traffic"));
        }
        let read = Arc::new(AtomicU64::new(0));
        let mut bytes = Some(0);
        let mut inputs = Vec::with_capacity(paths.len());
        for path in paths {
            let (kind, length) =
                open(path, (log, domains), &read).map_err(|error| super::failed(path, &error))?;
            bytes = bytes.zip(length).map(|(sum, length)| sum + length);
            inputs.push(Input {
                path: path.clone(),
                kind,
            });
        }
        let mut traffic = Self {
            heads: vec![None; inputs.len()],
            inputs,
            at_hand: 0,
            read,
            bytes,
        };
        for place in 0..traffic.inputs.len() {
            traffic.advance(place)?;
        }
        Ok(traffic)
    }

    /// What the captures were recorded with; none if there are none. The error tells of two that do not go together.
    pub(super) fn header(&self) -> Result<Option<Header>, String> {
        let mut first: Option<(&Path, &Header)> = None;
        for input in &self.inputs {
            let Kind::Capture(reader) = &input.kind else {
                continue;
            };
            let header = reader.header();
            let Some((path, other)) = first else {
                first = Some((&input.path, header));
                continue;
            };
            let settings = |header: &Header| {
                let Header {
                    stop_increment,
                    shadow_mode,
                    quota_mode,
                    ..
                } = *header;
                (
                    header.sample.to_bits(),
                    stop_increment,
                    shadow_mode,
                    quota_mode,
                )
            };
            if settings(header) != settings(other) {
                return Err(format!(
                    "{} and {} were recorded with other settings: RECORD_SAMPLE, SHADOW_MODE, QUOTA_MODE and \
                     STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT must be the same",
                    path.display(),
                    input.path.display()
                ));
            }
        }
        if first.is_some()
            && self
                .inputs
                .iter()
                .any(|input| matches!(input.kind, Kind::Log(_)))
        {
            let problem = "captures and access logs say the same twice: replay one or the other";
            return Err(problem.to_owned());
        }
        Ok(first.map(|(_, header)| header.clone()))
    }

    /// Whether there is a decision to come, which is then at hand.
    pub(super) fn has_more(&mut self) -> bool {
        let heads = self.heads.iter().enumerate();
        let heads = heads.filter_map(|(place, head)| head.map(|head| (head, place)));
        let first = heads.min();
        self.at_hand = first.map_or(0, |(_, place)| place);
        first.is_some()
    }

    /// The decision at hand; none if it cannot be read.
    pub(super) fn at_hand(&mut self) -> Option<Decision<'_>> {
        match &mut self.inputs.get_mut(self.at_hand)?.kind {
            Kind::Capture(reader) => reader.decision(),
            Kind::Log(log) => log.decision(),
        }
    }

    /// Goes on, once the decision at hand is done with.
    pub(super) fn go_on(&mut self) -> Result<(), String> {
        self.advance(self.at_hand)
    }

    fn advance(&mut self, place: usize) -> Result<(), String> {
        let Some(input) = self.inputs.get_mut(place) else {
            return Ok(());
        };
        let head = match &mut input.kind {
            Kind::Capture(reader) => reader.advance().map_err(|error| error.to_string()),
            Kind::Log(log) => log.advance(),
        };
        self.heads[place] = head.map_err(|error| super::failed(&input.path, &error))?;
        Ok(())
    }

    /// What is to be said of the files, at the end.
    pub(super) fn about(&self) -> About {
        let mut about = About::default();
        for input in &self.inputs {
            let path = input.path.display();
            match &input.kind {
                Kind::Capture(reader) => {
                    about.missing += reader.missing();
                    match reader.end() {
                        Some(End::CutOff(place)) => about.notes.push(format!(
                            "{path} ends in the middle of a block, at byte {place}: its writer was killed, or it is still \
                             being written. What came before is replayed"
                        )),
                        Some(End::Damaged(place)) => about.notes.push(format!(
                            "{path} is damaged from byte {place} on. What came before is replayed"
                        )),
                        Some(End::Whole) | None => {}
                    }
                }
                Kind::Log(log) => about
                    .notes
                    .extend(log.notes().map(|note| format!("{path}: {note}"))),
            }
        }
        if about.missing > 0 {
            let missing = about.missing;
            about.notes.push(format!(
                "{missing} decisions were made and are missing, since they came faster than they were written: later decisions on \
                 the same counters may differ for that alone"
            ));
        }
        about
    }
}

fn open(
    path: &Path,
    log: (&access_log::LogArgs, &[&str]),
    count: &Arc<AtomicU64>,
) -> Result<(Kind, Option<u64>), Trouble> {
    let (from, length): (Box<dyn Read>, _) = if path.as_os_str() == "-" {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        (Box::new(file), Some(length))
    };
    let mut from = from;
    // What a file is can be seen from how it begins.
    let mut begin = Vec::with_capacity(MAGIC.len());
    from.by_ref()
        .take(MAGIC.len() as u64)
        .read_to_end(&mut begin)?;
    let is_log = begin.trim_ascii_start().starts_with(b"{");
    let from = Counted {
        from: Box::new(io::Cursor::new(begin).chain(from)),
        count: Arc::clone(count),
    };
    let from = BufReader::with_capacity(BUFFER, from);
    let kind = match is_log {
        true => Kind::Log(AccessLog::new(from, log.0, log.1).map_err(Trouble::Log)?),
        false => Kind::Capture(Reader::new(from)?),
    };
    Ok((kind, length))
}
