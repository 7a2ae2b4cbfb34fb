//! How many instances there are, which is what a limit is shared among while the store does not answer.
//!
//! Each tells the store now and then that it is here, and is told how many are. While the store does not answer, the number it has
//! told last counts.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::Engine;
use crate::store::{Key, StoreError};
use crate::time::Micros;

/// How often an instance tells that it is here.
const EVERY: Duration = Duration::from_secs(2);

/// For how long it is believed.
const KEEP: Micros = Micros::from_secs(10);

/// How long the store may take to count.
const WITHIN: Duration = Duration::from_secs(1);

/// The instances that there are.
#[derive(Debug)]
pub(super) struct Instances {
    /// If they are not counted.
    fixed: Option<u32>,
    counted: AtomicU32,
    /// This one's name among them, which no other has.
    own: String,
    key: Key,
}

impl Instances {
    /// This one, and `fixed` in all; if none is given, those that say that they are here under `prefix`.
    pub(super) fn new(prefix: &str, fixed: Option<u32>) -> Self {
        Self {
            fixed,
            counted: AtomicU32::new(1),
            own: format!("{:016x}", rand::random::<u64>()),
            key: Key::new(prefix, "tollgate", "instances"),
        }
    }

    /// This one's name.
    pub(super) fn own(&self) -> &str {
        &self.own
    }

    /// How many there are, at least one.
    pub(super) fn count(&self) -> u32 {
        let counted = || self.counted.load(Ordering::Relaxed);
        self.fixed.unwrap_or_else(counted).max(1)
    }
}

impl Engine {
    /// How many instances share the limits while the store does not answer.
    pub fn instances(&self) -> u32 {
        self.instances.count()
    }

    /// Tells the store now and then that this instance is here, until the future is dropped.
    pub async fn be_present(&self) {
        loop {
            if let Err(error) = self.tell_presence(KEEP).await {
                tracing::debug!("the instances are not counted: {error}");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Tells the store that this instance leaves.
    pub async fn leave(&self) -> Result<(), StoreError> {
        self.tell_presence(Micros::ZERO).await
    }

    async fn tell_presence(&self, keep: Micros) -> Result<(), StoreError> {
        let Instances { own, key, .. } = &self.instances;
        let count = self.store.present(key, own, keep, WITHIN).await?;
        self.instances.counted.store(count, Ordering::Relaxed);
        Ok(())
    }
}
