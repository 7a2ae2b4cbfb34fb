//! Takes decisions from the threads that make them. Each thread has a buffer of its own, which the writer empties now and then;
//! what does not fit into it is counted, and not waited for.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{Decision, Sample, form};
use crate::time::Timestamp;

/// How many buffers there are; threads beyond it share.
const SHARDS: usize = 64;

/// How many bytes a thread may be ahead of the writer.
const MOST_AHEAD: usize = 2 << 20;

/// A longer decision is not taken, in bytes.
const LONGEST: usize = 256 << 10;

/// What comes before each decision in a buffer: its moment and its length.
const PREFIX: usize = 8 + 4;

/// Takes decisions, to be written by a [`Writer`](super::writer::Writer).
#[derive(Debug)]
pub struct Recorder {
    shards: Box<[Mutex<Vec<u8>>]>,
    sample: Sample,
    taken: AtomicU64,
    missing: AtomicU64,
    stopped: AtomicBool,
}

impl Recorder {
    /// Takes the decisions of these subjects.
    pub fn new(sample: Sample) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            sample,
            taken: AtomicU64::new(0),
            missing: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    /// Whose decisions are wanted.
    pub fn sample(&self) -> Sample {
        self.sample
    }

    /// Whether any are; not once they cannot be written any more.
    pub fn wants(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// Takes a decision, if there is room.
    pub fn note(&self, decision: &Decision<'_>) {
        let mut buffer = self.shards[place() % SHARDS].lock();
        let begin = buffer.len();
        if begin < MOST_AHEAD {
            buffer.extend_from_slice(&decision.at.as_micros().to_le_bytes());
            buffer.extend_from_slice(&[0; 4]);
            form::write(&mut buffer, decision);
            let length = buffer.len() - begin - PREFIX;
            if length <= LONGEST {
                // It is below `LONGEST`.
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                buffer[begin + 8..begin + PREFIX].copy_from_slice(&length.to_le_bytes());
                self.taken.fetch_add(1, Ordering::Relaxed);
                return;
            }
            buffer.truncate(begin);
        }
        self.missing.fetch_add(1, Ordering::Relaxed);
    }

    /// How many decisions were taken, and how many are missing since the beginning.
    pub fn counts(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.taken), read(&self.missing))
    }

    /// From here on none are wanted.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Counts decisions that were taken and could not be written.
    pub(super) fn lose(&self, count: u64) {
        self.missing.fetch_add(count, Ordering::Relaxed);
    }

    /// Empties the buffers into `pending`.
    pub(super) fn drain(&self, pending: &mut Vec<Pending>) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            if shard.is_empty() {
                continue;
            }
            let bytes = std::mem::take(&mut *shard);
            // The thread goes on with as much room as it has needed.
            shard.reserve(bytes.len().min(MOST_AHEAD));
            drop(shard);
            let mut rest = bytes.as_slice();
            while let Some((prefix, after)) = rest.split_first_chunk::<PREFIX>() {
                let [a, b, c, d, e, f, g, h, length @ ..] = *prefix;
                let at = i64::from_le_bytes([a, b, c, d, e, f, g, h]);
                let length = u32::from_le_bytes(length) as usize;
                let Some((form, after)) = after.split_at_checked(length) else {
                    break;
                };
                pending.push(Pending {
                    at: Timestamp::from_micros(at),
                    form: form.into(),
                });
                rest = after;
            }
        }
    }
}

/// A decision that is not written yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) at: Timestamp,
    pub(super) form: Box<[u8]>,
}

/// The number of this thread.
fn place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PLACE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    PLACE.with(|place| *place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_far_ahead_is_counted_and_not_waited_for() {
        let recorder = Recorder::new(Sample::ALL);
        let rule = "r".repeat(1000);
        let decision = |at| Decision {
            at: Timestamp::from_micros(at),
            rule: &rule,
            ..Decision::default()
        };
        for at in 0..4000 {
            recorder.note(&decision(at));
        }
        let (taken, missing) = recorder.counts();
        assert_eq!(taken + missing, 4000);
        assert!((1900..2200).contains(&taken), "{taken}");
        let mut pending = Vec::new();
        recorder.drain(&mut pending);
        assert_eq!(pending.len() as u64, taken);
        for (at, pending) in (0..).zip(&pending) {
            assert_eq!(form::read(pending.at, &pending.form), Ok(decision(at)));
        }
        let rule = "r".repeat(LONGEST);
        recorder.note(&Decision {
            rule: &rule,
            ..Decision::default()
        });
        assert_eq!(recorder.counts(), (taken, missing + 1), "it is too long");
    }
}
