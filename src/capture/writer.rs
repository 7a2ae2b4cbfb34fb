//! The thread that writes a capture: it empties the buffers of a recorder, puts the decisions in the order of their moments,
//! and keeps the file within its bounds.
//!
//! Only the owner may read the file: it says who asked for what. What is there already becomes `FILE.1`, in place of what that was;
//! so does the file itself once it has half of the bytes that it may have.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::{info, warn};

use super::block::Builder;
use super::recorder::{Pending, Recorder};
use super::{Header, MAGIC, VERSION};
use crate::time::Clock;

/// How often buffers are emptied.
const EVERY: Duration = Duration::from_millis(100);

/// After so many times a block is written though it is short: at most so much is lost when the process is killed, and what is
/// held.
const SHORT_AFTER: u32 = 10;

/// For so long a decision waits for those of other threads that were made before it.
const HOLD_MICROS: i64 = 1_000_000;

/// Where a capture is written, and how much of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The file.
    pub path: PathBuf,
    /// The most bytes of it and the one before it together.
    pub max_bytes: u64,
}

/// The thread that writes, until it is told to finish.
#[derive(Debug)]
pub struct Writer {
    finish: Sender<()>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Opens the file and writes what `recorder` takes. The error says why it cannot be opened.
    pub fn start(target: Target, header: Header, recorder: Arc<Recorder>) -> io::Result<Self> {
        let mut output = Output {
            file: open(&target.path)?,
            written: 0,
            target,
            header,
            builder: Builder::default(),
            missing_before: 0,
        };
        output.begin()?;
        let (finish, finished) = channel();
        let thread = thread::Builder::new().name("capture".to_owned());
        let thread = thread.spawn(move || {
            let mut pending = Vec::new();
            let mut rounds = 0;
            loop {
                let at_end = match finished.recv_timeout(EVERY) {
                    Err(RecvTimeoutError::Timeout) => false,
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
                };
                rounds += 1;
                let flush = at_end || rounds % SHORT_AFTER == 0;
                if let Err(error) = output.round(&recorder, &mut pending, (at_end, flush)) {
                    recorder.stop();
                    let path = output.target.path.display();
                    warn!("recording has stopped: {path} cannot be written: {error}");
                    return;
                }
                if at_end {
                    let (taken, missing) = recorder.counts();
                    let path = output.target.path.display();
                    info!("recorded {taken} decisions in {path}, {missing} are missing");
                    return;
                }
            }
        })?;
        Ok(Self { finish, thread })
    }

    /// Writes what there is, and ends. It takes a moment, so it is not for a thread that serves.
    pub fn finish(self) {
        // It may have ended, and has then said why.
        let _ = self.finish.send(());
        let _ = self.thread.join();
    }
}

/// The file, and the block that is to be added to it.
#[derive(Debug)]
struct Output {
    file: File,
    written: u64,
    target: Target,
    header: Header,
    builder: Builder,
    /// How many were missing when the last block was written.
    missing_before: u64,
}

impl Output {
    fn round(
        &mut self,
        recorder: &Recorder,
        pending: &mut Vec<Pending>,
        (at_end, flush): (bool, bool),
    ) -> io::Result<()> {
        // Taken before the buffers are emptied: what comes later is later.
        let due = Clock::System.now().as_micros() - HOLD_MICROS;
        recorder.drain(pending);
        // It is stable: of equal moments the one that was taken first stays first.
        pending.sort_by_key(|pending| pending.at);
        let due = match at_end {
            true => pending.len(),
            false => pending.partition_point(|pending| pending.at.as_micros() <= due),
        };
        let result = pending.drain(..due).try_for_each(|decision| {
            self.builder.add(decision.at, &decision.form);
            match self.builder.is_full() {
                true => self.write(recorder),
                false => Ok(()),
            }
        });
        if result.is_ok() && flush && self.has_news(recorder) {
            return self.write(recorder);
        }
        result
    }

    fn has_news(&self, recorder: &Recorder) -> bool {
        self.builder.decisions() > 0 || recorder.counts().1 > self.missing_before
    }

    /// Writes the block that has grown, whole.
    fn write(&mut self, recorder: &Recorder) -> io::Result<()> {
        let (_, missing) = recorder.counts();
        let decisions = u64::from(self.builder.decisions());
        let block = self.builder.finish(missing - self.missing_before)?;
        self.missing_before = missing;
        if self.written + block.len() as u64 > self.target.max_bytes / 2 {
            self.file = open(&self.target.path)?;
            self.begin()?;
        }
        self.file
            .write_all(&block)
            .inspect_err(|_| recorder.lose(decisions))?;
        self.written += block.len() as u64;
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        self.header.began = Clock::System.now().as_micros();
        let header = serde_json::to_vec(&self.header)?;
        let length = u32::try_from(header.len()).unwrap_or(u32::MAX);
        let bytes = [&MAGIC[..], &[VERSION], &length.to_le_bytes(), &header].concat();
        self.file.write_all(&bytes)?;
        self.written = bytes.len() as u64;
        Ok(())
    }
}

/// Makes a file that only its owner may read, where there is none; what is there makes way.
fn open(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
        fs::rename(path, before(path))?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// `FILE.1`.
pub fn before(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    PathBuf::from(name)
}
