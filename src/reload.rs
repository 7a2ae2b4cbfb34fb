//! Directory → compile → swap: the same path at the start and at every change.
//!
//! Changes are found by looking at names, sizes and times every [`LOOK_EVERY`], not by file events: that works on every
//! file system, sees a directory that is replaced or a symbolic link that is swapped (Kubernetes' `..data`, the reference's
//! `RUNTIME_ROOT`), and cannot miss anything. What has changed is loaded once it has stayed the same for one look, so that
//! a file is not read while it is being written; if its text is the same after all, nothing happens.
//!
//! - [`source`]: the files of a directory

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::engine::Engine;
use crate::rules::compile::{self, Options};
use crate::rules::diagnostic::{Report, Severity};
use crate::telemetry::metrics::Metrics;
use crate::time::{Clock, Timestamp};

pub mod source;

pub use source::{Look, Read, Source, SourceError};

/// How often the directory is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Loads rules into an engine.
#[derive(Debug)]
pub struct Reloader {
    source: Source,
    options: Options,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    clock: Clock,
    last: Mutex<Last>,
    loads: Arc<Loads>,
}

/// What came of the loads, for people.
#[derive(Debug, Default)]
pub struct Loads(Mutex<LastLoads>);

/// What came of the last load that succeeded, and of the last one if it failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastLoads {
    /// When the rules that hold were loaded, and how many warnings they have.
    pub loaded: Option<(Timestamp, usize)>,
    /// When the last load failed, and why; none if it did not.
    pub failed: Option<(Timestamp, String)>,
}

impl Loads {
    /// As it is now.
    pub fn last(&self) -> LastLoads {
        self.0.lock().clone()
    }
}

/// How much of the reason of a failure is kept, in bytes.
pub const MAX_REASON: usize = 16 * 1024;

/// What was read last, whether or not it was good.
#[derive(Debug, Default)]
struct Last {
    /// What the directory looked like just before.
    look: Option<Look>,
    /// Which text its files had; none if they could not be read.
    fingerprint: Option<u128>,
}

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// How many files.
    pub files: usize,
    /// How many rules.
    pub rules: usize,
    /// The domains, in order.
    pub domains: Vec<String>,
    /// Twelve hexadecimal digits that differ when the name or the text of any file does.
    pub version: String,
    /// How many warnings.
    pub warnings: usize,
}

/// Why nothing was loaded: the rules before stay.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The directory or a file in it cannot be read.
    #[error("{0}")]
    Unreadable(#[from] SourceError),
    /// The files have errors.
    #[error("{0}")]
    Rejected(Report),
}

impl Reloader {
    /// Rules from `source` for `engine`.
    pub fn new(
        source: Source,
        options: Options,
        engine: Arc<Engine>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            source,
            options,
            engine,
            metrics,
            clock: Clock::System,
            last: Mutex::default(),
            loads: Arc::default(),
        }
    }

    /// What came of the loads, now and later.
    pub fn loads(&self) -> Arc<Loads> {
        Arc::clone(&self.loads)
    }

    /// Reads, compiles and swaps in the rules, all of them or none.
    pub fn load(&self) -> Result<Loaded, Failure> {
        let (read, _) = self.read();
        self.swap(read)
    }

    /// The same, but nothing if the files are still as they were read last.
    pub fn load_changed(&self) -> Option<Result<Loaded, Failure>> {
        let (read, changed) = self.read();
        changed.then(|| self.swap(read))
    }

    /// Loads the rules whenever the directory has changed, or when `asked` to, until the future is dropped.
    pub async fn watch(self: Arc<Self>, asked: Arc<Notify>) {
        let mut before = self.last.lock().look.clone();
        loop {
            let force = tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => false,
                () = asked.notified() => true,
            };
            // Files may be slow, and compiling a hundred thousand rules takes a while: neither may hold up requests.
            let this = Arc::clone(&self);
            let step = tokio::task::spawn_blocking(move || this.step(before, force));
            before = match step.await {
                Ok(look) => Some(look),
                Err(_) => {
                    error!("loading the rules made the service panic, and those before stay");
                    None
                }
            };
        }
    }

    /// Looks at the directory and loads what has changed, once it looks as it did `before`; and frees what was replaced.
    fn step(&self, before: Option<Look>, force: bool) -> Look {
        let now = self.source.look();
        let settled = before.as_ref() == Some(&now);
        let new = self.last.lock().look.as_ref() != Some(&now);
        if force {
            log(self.load());
        } else if settled
            && new
            && let Some(result) = self.load_changed()
        {
            log(result);
        }
        self.engine.free_replaced();
        now
    }

    /// Reads the files; and whether they are other than those read last.
    fn read(&self) -> (Result<Read, SourceError>, bool) {
        // A change between the two is seen at the next look.
        let look = Some(self.source.look());
        let read = self.source.read();
        let fingerprint = read.as_ref().ok().map(Read::fingerprint);
        let last = Last { look, fingerprint };
        let before = std::mem::replace(&mut *self.last.lock(), last);
        (
            read,
            fingerprint.is_none() || fingerprint != before.fingerprint,
        )
    }

    fn swap(&self, read: Result<Read, SourceError>) -> Result<Loaded, Failure> {
        let result = self.try_swap(read);
        let now = self.clock.now();
        let mut loads = self.loads.0.lock();
        match &result {
            Ok(loaded) => {
                let at_secs = now.as_micros() as f64 / 1e6;
                let version = &loaded.version;
                self.metrics.config_loaded(loaded.rules, version, at_secs);
                loads.loaded = Some((now, loaded.warnings));
                loads.failed = None;
            }
            Err(failure) => {
                self.metrics.config_failed();
                loads.failed = Some((now, shortened(failure.to_string())));
            }
        }
        drop(loads);
        result
    }

    fn try_swap(&self, read: Result<Read, SourceError>) -> Result<Loaded, Failure> {
        let read = read?;
        for path in &read.ignored {
            warn!(
                "{} is no rule file: their names end in .yaml or .yml",
                path.display()
            );
        }
        let rules = compile::compile(&read.files, self.options).map_err(Failure::Rejected)?;
        if !rules.warnings.diagnostics.is_empty() {
            warn!("the rules have warnings\n{}", rules.warnings);
        }
        let mut domains: Vec<String> = rules.domains.keys().cloned().collect();
        domains.sort();
        let loaded = Loaded {
            files: read.files.len(),
            rules: rules.rules.len(),
            domains,
            version: format!("{:012x}", read.fingerprint() >> 80),
            warnings: rules.warnings.count(Severity::Warning),
        };
        self.engine.install(rules);
        Ok(loaded)
    }
}

/// As much of a reason as is kept.
fn shortened(mut reason: String) -> String {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

fn log(result: Result<Loaded, Failure>) {
    match result {
        Ok(loaded) => info!(
            rules = loaded.rules,
            files = loaded.files,
            "loaded the rules of {}",
            loaded.domains.join(", ")
        ),
        Err(Failure::Rejected(report)) => {
            error!("the rules have errors, and those before stay\n{report}");
        }
        Err(Failure::Unreadable(problem)) => {
            error!("the rules cannot be read, and those before stay: {problem}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_of_a_reason_is_kept_as_may_be() {
        assert_eq!(shortened("short".to_owned()), "short");
        // Each letter has two bytes, and none is cut in two.
        let long = format!("x{}", "\u{e4}".repeat(MAX_REASON));
        let kept = shortened(long.clone());
        assert_eq!(kept.len(), MAX_REASON - 1);
        assert!(long.starts_with(&kept));
    }
}
