//! Compile → swap, wherever the rules come from.

use std::sync::Arc;

use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::SourceError;
use crate::engine::Engine;
use crate::rules::compile::{self, Options};
use crate::rules::diagnostic::{Report, Severity};
use crate::rules::file::{Parsed, SourceFile};
use crate::telemetry::metrics::Metrics;
use crate::time::{Clock, Timestamp};

/// Puts rules into an engine.
#[derive(Debug)]
pub struct Installer {
    options: Options,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    clock: Clock,
    loads: Arc<Loads>,
}

/// Rules as their source has them.
#[derive(Debug)]
pub struct Written {
    /// What they say.
    pub form: Form,
    /// Differs when they do.
    pub fingerprint: u128,
}

/// How rules are written.
#[derive(Debug)]
pub enum Form {
    /// In YAML.
    Files(Vec<SourceFile>),
    /// In something else, read already: each with the name that it has in messages.
    Trees(Vec<(String, Parsed<'static>)>),
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

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// How many files, or resources of a management server.
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
    /// What the management server sends cannot be taken as a whole.
    #[error("{0}")]
    Untaken(String),
    /// The rules have errors.
    #[error("{0}")]
    Rejected(Report),
}

impl Installer {
    /// For `engine`.
    pub fn new(options: Options, engine: Arc<Engine>, metrics: Arc<Metrics>) -> Self {
        Self {
            options,
            engine,
            metrics,
            clock: Clock::System,
            loads: Arc::default(),
        }
    }

    /// Compiles and swaps in the rules, all of them or none; counts either.
    pub fn install(&self, written: Result<Written, Failure>) -> Result<Loaded, Failure> {
        let result = written.and_then(|written| self.swap(written));
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
                let reason = shortened(failure.to_string(), MAX_REASON);
                loads.failed = Some((now, reason));
            }
        }
        drop(loads);
        result
    }

    /// What came of the loads, now and later.
    pub fn loads(&self) -> Arc<Loads> {
        Arc::clone(&self.loads)
    }

    /// Counts whether a management server is connected.
    pub fn connected(&self, connected: bool) {
        self.metrics.management_server(connected);
    }

    /// Frees the rules before that no request sees any more; to be called now and then.
    pub fn free_replaced(&self) {
        self.engine.free_replaced();
    }

    fn swap(&self, written: Written) -> Result<Loaded, Failure> {
        let (files, rules) = match written.form {
            Form::Files(files) => (files.len(), compile::compile(&files, self.options)),
            Form::Trees(trees) => (trees.len(), compile::compile_trees(trees, self.options)),
        };
        let rules = rules.map_err(Failure::Rejected)?;
        if !rules.warnings.diagnostics.is_empty() {
            warn!("the rules have warnings\n{}", rules.warnings);
        }
        let mut domains: Vec<String> = rules.domains.keys().cloned().collect();
        domains.sort();
        let loaded = Loaded {
            files,
            rules: rules.rules.len(),
            domains,
            version: format!("{:012x}", written.fingerprint >> 80),
            warnings: rules.warnings.count(Severity::Warning),
        };
        self.engine.install(rules);
        Ok(loaded)
    }
}

/// As much of a text as fits into so many bytes.
pub fn shortened(mut text: String, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Says what came of loading rules.
pub fn log(result: &Result<Loaded, Failure>) {
    match result {
        Ok(loaded) => info!(
            rules = loaded.rules,
            files = loaded.files,
            "loaded the rules of {}",
            loaded.domains.join(", ").escape_debug()
        ),
        Err(Failure::Rejected(report)) => {
            error!("the rules have errors, and those before stay\n{report}");
        }
        Err(problem @ (Failure::Unreadable(_) | Failure::Untaken(_))) => {
            error!("the rules cannot be read, and those before stay: {problem}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_of_a_reason_is_kept_as_may_be() {
        assert_eq!(shortened("short".to_owned(), MAX_REASON), "short");
        // Each letter has two bytes, and none is cut in two.
        let long = format!("x{}", "\u{e4}".repeat(MAX_REASON));
        let kept = shortened(long.clone(), MAX_REASON);
        assert_eq!(kept.len(), MAX_REASON - 1);
        assert!(long.starts_with(&kept));
    }
}
