//! Directory → compile → swap: the same path at the start and at every change.
//!
//! Changes are found by looking at names, sizes and times every [`LOOK_EVERY`], not by file events: that works on every
//! file system, sees a directory that is replaced or a symbolic link that is swapped (Kubernetes' `..data`, the reference's
//! `RUNTIME_ROOT`), and cannot miss anything. What has changed is loaded once it has stayed the same for one look, so that
//! a file is not read while it is being written.
//!
//! - [`source`]: the files of a directory

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::engine::Engine;
use crate::rules::compile::{self, Options};
use crate::rules::diagnostic::Report;
use crate::telemetry::metrics::Metrics;
use crate::time::Clock;

pub mod source;

pub use source::{Source, SourceError};

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
        }
    }

    /// Reads, compiles and swaps in the rules, all of them or none.
    pub fn load(&self) -> Result<Loaded, Failure> {
        let result = self.try_load();
        match &result {
            Ok(loaded) => {
                let at_secs = self.clock.now().as_micros() as f64 / 1e6;
                self.metrics.config_loaded(loaded.rules, at_secs);
            }
            Err(_) => self.metrics.config_failed(),
        }
        result
    }

    /// Loads the rules whenever the directory has changed, or when `asked` to, until the future is dropped.
    pub async fn watch(self: Arc<Self>, asked: Arc<Notify>) {
        let mut loaded = self.source.look();
        let mut before = loaded.clone();
        loop {
            let changed = tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let now = self.source.look();
                    let settled = now == before;
                    before = now;
                    settled && before != loaded
                }
                () = asked.notified() => {
                    before = self.source.look();
                    true
                }
            };
            if changed {
                loaded = before.clone();
                // Compiling a hundred thousand rules takes a while: it must not hold up requests.
                let this = Arc::clone(&self);
                let load = tokio::task::spawn_blocking(move || this.load_and_log());
                if load.await.is_err() {
                    error!("loading the rules made the service panic, and those before stay");
                }
            }
        }
    }

    fn load_and_log(&self) {
        match self.load() {
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

    fn try_load(&self) -> Result<Loaded, Failure> {
        let read = self.source.read()?;
        for path in &read.ignored {
            warn!(
                "{} is no rule file: their names end in .yaml or .yml",
                path.display()
            );
        }
        let rules = compile::compile(&read.files, self.options).map_err(Failure::Rejected)?;
        let mut domains: Vec<String> = rules.domains.keys().cloned().collect();
        domains.sort();
        let loaded = Loaded {
            files: read.files.len(),
            rules: rules.rules.len(),
            domains,
        };
        self.engine.install(rules);
        Ok(loaded)
    }
}
