//! The file of the embedded store: read at the start, written on a period and at the end.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{info, warn};

use crate::engine::Engine;
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::store::embedded::snapshot::SnapshotError;
use crate::telemetry::metrics::Metrics;
use crate::time::Clock;

/// Writes the file.
pub(super) struct Snapshots {
    path: PathBuf,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    /// One at a time.
    writing: Mutex<()>,
}

/// Held until the process ends, so that no other writes to the same file.
static LOCK: OnceLock<File> = OnceLock::new();

/// The store as the file has it, or an empty one if there is none.
pub(super) fn restore(path: &Path, max_keys: usize) -> Result<Embedded, String> {
    lock(path)?;
    let store = match Embedded::load(path, max_keys, Clock::System) {
        Ok(store) => {
            info!("restored {} keys from {}", store.len(), path.display());
            store
        }
        Err(SnapshotError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            info!("no snapshot in {} yet: beginning empty", path.display());
            Embedded::new(max_keys, Clock::System)
        }
        Err(error) => {
            return Err(format!(
                "the snapshot {} cannot be used: {error}; move it away to begin empty, or put another in its place",
                path.display()
            ));
        }
    };
    // What cannot be written is better known now than at the end.
    let written = store.save(path);
    written.map_err(|error| {
        format!(
            "EMBEDDED_SNAPSHOT={} cannot be written: {error}",
            path.display()
        )
    })?;
    Ok(store)
}

/// A file beside it is locked, since the file itself is replaced at each write.
fn lock(path: &Path) -> Result<(), String> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let shown = path.display();
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(name)
        .map_err(|error| format!("EMBEDDED_SNAPSHOT={shown} cannot be written: {error}"))?;
    match file.try_lock() {
        Ok(()) => {
            // A process has one such file, and locks it once.
            let _ = LOCK.set(file);
            Ok(())
        }
        Err(TryLockError::WouldBlock) => Err(format!(
            "EMBEDDED_SNAPSHOT={shown} is another service's; give each a file of its own, or let them share a Redis"
        )),
        Err(TryLockError::Error(error)) => Err(format!(
            "EMBEDDED_SNAPSHOT={shown} cannot be locked: {error}"
        )),
    }
}

impl Snapshots {
    pub(super) fn new(path: &Path, engine: &Arc<Engine>, metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            engine: Arc::clone(engine),
            metrics: Arc::clone(metrics),
            writing: Mutex::default(),
        })
    }

    /// Writes the file on a period, until the future is dropped.
    pub(super) async fn keep(self: Arc<Self>, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            self.write().await;
        }
    }

    /// Writes the file.
    pub(super) async fn write(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || this.save()).await;
        if written.is_err() {
            warn!("writing the snapshot made the service panic");
        }
    }

    fn save(&self) {
        let Store::Embedded(store) = self.engine.store() else {
            return;
        };
        let _one = self.writing.lock();
        match store.save(&self.path) {
            Ok(_) => {
                let now = Clock::System.now().as_micros() as f64 / 1e6;
                self.metrics.snapshot(Some(now));
            }
            Err(error) => {
                warn!(
                    "the snapshot {} cannot be written: {error}",
                    self.path.display()
                );
                self.metrics.snapshot(None);
            }
        }
    }
}
