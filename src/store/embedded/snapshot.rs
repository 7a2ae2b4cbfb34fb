//! The store in a file, so that a single instance does not forget a month's quotas when it ends.
//!
//! A file is a mark, a version, the secret under which keys are fingerprints, then records, texts and items, each with a byte
//! that says which, an end, and the SHA-256 of all before it. It is written beside its place and then put there, so that
//! there is always a whole one; it is read only if the digest is right. It holds the store's secret and what people noted of
//! subjects: only its owner may read it.
//!
//! - `stream`: a file's bytes, in and out
//! - `form`: the bytes of a record

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::Embedded;
use super::book::Text;
use super::packed::Packed;
use crate::limit::MAX_EXACT;
use crate::limit::transaction::Record;
use crate::store::usage::Row;
use crate::time::{Clock, Timestamp};

mod form;
mod stream;

use stream::{Reader, Writer};

/// How every file begins.
const MARK: &[u8; 8] = b"TOLLGATE";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// The length of the mark and the version.
const HEAD: usize = MARK.len() + size_of::<u32>();

const END: u8 = 0;
const RECORD: u8 = 1;
const TEXT: u8 = 2;
const ITEM: u8 = 3;
const USAGE: u8 = 4;

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
    Usage(u64, Row),
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
        // The new name lasts once its directory is on the disk.
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(keys)
    }

    /// A store of about `max_keys` keys as `path` has it.
    pub fn load(path: &Path, max_keys: usize, clock: Clock) -> Result<Self, SnapshotError> {
        let mut file = File::open(path)?;
        let length = check(&mut file)?;
        let mut reader = Reader::new(BufReader::new(file.take(length)));
        reader.array::<HEAD>()?;
        let secret = (reader.u64()?, reader.u64()?);
        let store = Self::with_secret(max_keys, clock, secret);
        let now = store.clock.now();
        while let Some(part) = part(&mut reader)? {
            match part {
                Part::Record(print, record) if record.expires() > now => {
                    store.put(print, record);
                }
                Part::Record(..) => {}
                Part::Text(key, text) => store.book.restore_text(key, text),
                Part::Item(id, text) => store.book.restore_item(id, text),
                Part::Usage(number, row) => store.rows.restore(number, row),
            }
        }
        reader.end()?;
        store.rows.begin_after(now);
        Ok(store)
    }

    fn write(&self, writer: &mut Writer) -> io::Result<u64> {
        writer.bytes(MARK)?;
        writer.bytes(&VERSION.to_le_bytes())?;
        let (first, second) = self.secret_keys;
        writer.bytes(&first.to_le_bytes())?;
        writer.bytes(&second.to_le_bytes())?;
        // Before the counters, which then are never behind it.
        for (number, row) in self.rows.contents() {
            writer.bytes(&[USAGE])?;
            writer.bytes(&number.to_le_bytes())?;
            writer.text(row.id.as_bytes())?;
            writer.bytes(&row.end.as_micros().to_le_bytes())?;
            writer.bytes(&row.used.to_le_bytes())?;
            writer.text(&row.text)?;
        }
        let now = self.clock.now();
        let mut keys = 0;
        for shard in &self.shards {
            // Copied, so that no request waits for the disk.
            let records: Vec<(u128, Packed)> = {
                let shard = shard.lock();
                let held = shard.records.iter().filter(|(_, r)| r.expires() > now);
                held.map(|(print, record)| (print, record.clone()))
                    .collect()
            };
            for (print, record) in &records {
                writer.bytes(&[RECORD])?;
                writer.bytes(&print.to_le_bytes())?;
                writer.bytes(&form::encode(&record.unpack()))?;
            }
            keys += records.len() as u64;
        }
        for (key, (text, until)) in self.book.texts().flatten() {
            writer.bytes(&[TEXT])?;
            writer.text(key.as_bytes())?;
            writer.text(&text)?;
            let until = until.map_or(i64::MAX, Timestamp::as_micros);
            writer.bytes(&until.to_le_bytes())?;
        }
        for (id, text) in &self.book.items().1 {
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
    let foreign = || SnapshotError::Foreign("no snapshot of Tollgate's".to_owned());
    let mut reader = Reader::new(&mut *file);
    match reader.array() {
        Ok(mark) if mark == *MARK => {}
        Err(SnapshotError::Io(error)) => return Err(error.into()),
        Ok(_) | Err(SnapshotError::Foreign(_) | SnapshotError::Damaged(_)) => return Err(foreign()),
    }
    let version = reader.u32()?;
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

/// The next part; none at the end.
fn part(reader: &mut Reader<impl Read>) -> Result<Option<Part>, SnapshotError> {
    Ok(Some(match reader.byte()? {
        END => return Ok(None),
        RECORD => {
            let print = u128::from_le_bytes(reader.array()?);
            Part::Record(print, form::decode(reader)?)
        }
        TEXT => {
            let (key, text) = (reader.string()?, reader.text()?);
            let until = reader.i64()?;
            let until = (until != i64::MAX).then(|| Timestamp::from_micros(until));
            Part::Text(key, (text.into(), until))
        }
        ITEM => Part::Item(reader.string()?, reader.text()?.into()),
        USAGE => {
            let number = reader.u64()?;
            if number > MAX_EXACT {
                return Err(SnapshotError::Damaged("a number that cannot be"));
            }
            let row = Row {
                id: reader.string()?,
                end: Timestamp::from_micros(reader.i64()?),
                used: reader.u64()?,
                text: reader.text()?.into(),
            };
            Part::Usage(number, row)
        }
        _ => return Err(SnapshotError::Damaged("an unknown part")),
    }))
}
