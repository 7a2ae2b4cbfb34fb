//! Compile → swap, wherever the rules come from.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::SourceError;
use crate::engine::Engine;
use crate::rules::compile::{self, Options};
use crate::rules::diagnostic::Report;
use crate::rules::file::{Parsed, SourceFile};
use crate::telemetry::metrics::Metrics;
use crate::time::Clock;

/// Puts rules into an engine.
#[derive(Debug)]
pub struct Installer {
    options: Options,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    clock: Clock,
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
        }
    }

    /// Compiles and swaps in the rules, all of them or none; counts either.
    pub fn install(&self, written: Result<Written, Failure>) -> Result<Loaded, Failure> {
        let result = written.and_then(|written| self.swap(written));
        match &result {
            Ok(loaded) => {
                let at_secs = self.clock.now().as_micros() as f64 / 1e6;
                let version = &loaded.version;
                self.metrics.config_loaded(loaded.rules, version, at_secs);
            }
            Err(_) => self.metrics.config_failed(),
        }
        result
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
        };
        self.engine.install(rules);
        Ok(loaded)
    }
}

/// Says what came of loading rules.
pub fn log(result: &Result<Loaded, Failure>) {
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
        Err(problem @ (Failure::Unreadable(_) | Failure::Untaken(_))) => {
            error!("the rules cannot be read, and those before stay: {problem}");
        }
    }
}
