//! Directory → compile → swap: the same path at the start and at every change.
//!
//! Changes are found by looking at names, sizes and times every [`LOOK_EVERY`], not by file events: that works on every
//! file system, sees a directory that is replaced or a symbolic link that is swapped (Kubernetes' `..data`, the reference's
//! `RUNTIME_ROOT`), and cannot miss anything. What has changed is loaded once it has stayed the same for one look, so that
//! a file is not read while it is being written; if its text is the same after all, nothing happens.
//!
//! - [`source`]: the files of a directory
//! - [`install`]: compile → swap, which is also the path of rules from a management server

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{error, warn};

use crate::engine::Engine;
use crate::rules::compile::Options;
use crate::telemetry::metrics::Metrics;

pub mod install;
pub mod source;

pub use install::{
    Failure, Form, Installer, LastLoads, Loaded, Loads, MAX_REASON, Written, log, shortened,
};
pub use source::{Look, Read, Source, SourceError};

/// How often the directory is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Loads rules into an engine.
#[derive(Debug)]
pub struct Reloader {
    source: Source,
    installer: Installer,
    last: Mutex<Last>,
}

/// What was read last, whether or not it was good.
#[derive(Debug, Default)]
struct Last {
    /// What the directory looked like just before.
    look: Option<Look>,
    /// Which text its files had; none if they could not be read.
    fingerprint: Option<u128>,
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
            installer: Installer::new(options, engine, metrics),
            last: Mutex::default(),
        }
    }

    /// What came of the loads, now and later.
    pub fn loads(&self) -> Arc<Loads> {
        self.installer.loads()
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
            log(&self.load());
        } else if settled
            && new
            && let Some(result) = self.load_changed()
        {
            log(&result);
        }
        self.installer.free_replaced();
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
        let written = read.map(|read| {
            for path in &read.ignored {
                warn!(
                    "{} is no rule file: their names end in .yaml or .yml",
                    path.display()
                );
            }
            let fingerprint = read.fingerprint();
            let form = Form::Files(read.files);
            Written { form, fingerprint }
        });
        self.installer.install(written.map_err(Failure::from))
    }
}
