//! The store in a file, so that a single instance does not forget a month's quotas when it ends.
//!
//! A file is a mark, a version, the secret under which keys are fingerprints, then records, texts and items, each with a byte
//! that says which, an end, and the SHA-256 of all before it. It is written beside its place and then put there, so that
//! there is always a whole one; it is read only if the digest is right. It holds the store's secret and what people noted of
//! subjects: only its owner may read it.
//!
//! - [`form`]: the bytes of a record

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::Embedded;
use super::book::Text;
use crate::limit::transaction::Record;
use crate::time::{Clock, Timestamp};

pub mod form;

/// How every file begins.
const MARK: &[u8; 8] = b"TOLLGATE";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// The longest key or text, in bytes.
const MAX_TEXT: u32 = 1 << 20;

const END: u8 = 0;
const RECORD: u8 = 1;
const TEXT: u8 = 2;
const ITEM: u8 = 3;

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not one of these files, or of another version.
    #[error("it is {0}")]
    Foreign(String),
    /// It is cut short or changed.
    #[error("it is damaged ({0})")]
    Damaged(&'static str),
}

/// What a file holds, as it is read.
enum Part {
    Record(u128, Record),
    Text(String, Text),
    Item(String, Bytes),
}

impl Embedded {
    /// Writes what holds now to `path`; each shard is as it is at one moment. Tells how many keys that are.
    pub fn save(&self, path: &Path) -> Result<u64, SnapshotError> {
        let beside = beside(path);
        // What an earlier attempt has left may be anyone's to read.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        let mut writer = Writer::new(BufWriter::new(file));
        let keys = self.write(&mut writer)?;
        let file = writer.finish()?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        if let Some(directory) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            File::open(directory)?.sync_all()?;
        }
        Ok(keys)
    }

    /// A store of about `max_keys` keys as `path` has it.
    pub fn load(path: &Path, max_keys: usize, clock: Clock) -> Result<Self, SnapshotError> {
        let mut file = File::open(path)?;
        let length = check(&mut file)?;
        let mut reader = Reader {
            from: BufReader::new(file.take(length)),
        };
        reader.bytes(MARK.len() + size_of_val(&VERSION))?;
        let secret = (reader.u64()?, reader.u64()?);
        let store = Self::with_secret(max_keys, clock, secret);
        let now = store.clock.now();
        let (mut texts, mut items) = (Vec::new(), Vec::new());
        while let Some(part) = reader.part()? {
            match part {
                Part::Record(print, record) if record.expires() > now => {
                    store.put(print, record, now);
                }
                Part::Record(..) => {}
                Part::Text(key, text) => texts.push((key, text)),
                Part::Item(id, text) => items.push((id, text)),
            }
        }
        store.book.restore(texts, items);
        Ok(store)
    }

    fn write(&self, writer: &mut Writer) -> io::Result<u64> {
        writer.bytes(MARK)?;
        writer.bytes(&VERSION.to_le_bytes())?;
        let (first, second) = self.secret_keys;
        writer.bytes(&first.to_le_bytes())?;
        writer.bytes(&second.to_le_bytes())?;
        let now = self.clock.now();
        let mut keys = 0;
        for shard in &self.shards {
            // Copied, so that no request waits for the disk.
            let records: Vec<(u128, Record)> = {
                let shard = shard.lock();
                let held = shard.records.iter().filter(|(_, r)| r.expires() > now);
                held.map(|(print, record)| (*print, record.clone()))
                    .collect()
            };
            for (print, record) in &records {
                writer.bytes(&[RECORD])?;
                writer.bytes(&print.to_le_bytes())?;
                writer.bytes(&form::encode(record))?;
            }
            keys += records.len() as u64;
        }
        let (texts, items) = self.book.contents();
        for (key, (text, until)) in &texts {
            writer.bytes(&[TEXT])?;
            writer.text(key.as_bytes())?;
            writer.text(text)?;
            let until = until.map_or(i64::MAX, Timestamp::as_micros);
            writer.bytes(&until.to_le_bytes())?;
        }
        for (id, text) in &items {
            writer.bytes(&[ITEM])?;
            writer.text(id.as_bytes())?;
            writer.text(text)?;
        }
        writer.bytes(&[END])?;
        Ok(keys)
    }
}

/// Where a file is written before it is put in its place.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Whether the file is whole and one of ours; how long it is without its digest. It is then at its beginning again.
fn check(file: &mut File) -> Result<u64, SnapshotError> {
    let mut head = [0; 12];
    let begun = file.read_exact(&mut head);
    if begun.is_err() || &head[..8] != MARK {
        return Err(SnapshotError::Foreign(
            "no snapshot of Tollgate's".to_owned(),
        ));
    }
    let version = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if version != VERSION {
        let what = format!("of version {version}, and this is version {VERSION}");
        return Err(SnapshotError::Foreign(what));
    }
    let length = file.metadata()?.len();
    let length = length.checked_sub(SHA256_OUTPUT_LEN as u64);
    let length = length.ok_or(SnapshotError::Damaged("cut short"))?;
    file.rewind()?;
    let mut context = Context::new(&SHA256);
    let mut rest = BufReader::with_capacity(1 << 16, Read::by_ref(file).take(length));
    let mut buffer = vec![0; 1 << 16];
    loop {
        match rest.read(&mut buffer)? {
            0 => break,
            read => context.update(&buffer[..read]),
        }
    }
    let mut digest = [0; SHA256_OUTPUT_LEN];
    file.seek(io::SeekFrom::Start(length))?;
    file.read_exact(&mut digest)?;
    if context.finish().as_ref() != digest {
        return Err(SnapshotError::Damaged("its digest does not fit"));
    }
    file.rewind()?;
    Ok(length)
}

struct Writer {
    to: BufWriter<File>,
    context: Context,
}

impl Writer {
    fn new(to: BufWriter<File>) -> Self {
        let context = Context::new(&SHA256);
        Self { to, context }
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.context.update(bytes);
        self.to.write_all(bytes)
    }

    fn text(&mut self, text: &[u8]) -> io::Result<()> {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.bytes(&length.to_le_bytes())?;
        self.bytes(text)
    }

    fn finish(mut self) -> io::Result<File> {
        let digest = self.context.finish();
        self.to.write_all(digest.as_ref())?;
        self.to.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

struct Reader {
    from: BufReader<io::Take<File>>,
}

impl Reader {
    fn part(&mut self) -> Result<Option<Part>, SnapshotError> {
        Ok(Some(match self.bytes(1)?.first() {
            Some(&END) => return Ok(None),
            Some(&RECORD) => {
                let print = self.bytes(16)?;
                let print = print.try_into().map(u128::from_le_bytes);
                let print = print.map_err(|_| SnapshotError::Damaged("a short key"))?;
                let mut take = |length| self.bytes(length);
                Part::Record(print, form::decode(&mut take)?)
            }
            Some(&TEXT) => {
                let (key, text) = (self.string()?, self.text()?);
                let until = self.u64()?.cast_signed();
                let until = (until != i64::MAX).then(|| Timestamp::from_micros(until));
                Part::Text(key, (text.into(), until))
            }
            Some(&ITEM) => Part::Item(self.string()?, self.text()?.into()),
            Some(_) | None => return Err(SnapshotError::Damaged("an unknown part")),
        }))
    }

    fn string(&mut self) -> Result<String, SnapshotError> {
        String::from_utf8(self.text()?).map_err(|_| SnapshotError::Damaged("no text"))
    }

    fn text(&mut self) -> Result<Vec<u8>, SnapshotError> {
        let length = self.bytes(4)?.try_into().map(u32::from_le_bytes);
        match length {
            Ok(length) if length <= MAX_TEXT => self.bytes(length as usize),
            Ok(_) | Err(_) => Err(SnapshotError::Damaged("a text that is too long")),
        }
    }

    fn u64(&mut self) -> Result<u64, SnapshotError> {
        let bytes = self.bytes(8)?.try_into().map(u64::from_le_bytes);
        bytes.map_err(|_| SnapshotError::Damaged("a short number"))
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, SnapshotError> {
        let mut bytes = vec![0; length];
        let read = self.from.read_exact(&mut bytes);
        read.map_err(|_| SnapshotError::Damaged("cut short"))?;
        Ok(bytes)
    }
}
