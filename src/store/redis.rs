//! Redis.

use super::{StoreError, Transaction};
use crate::limit::transaction::Outcome;

/// A store in Redis.
#[derive(Debug)]
pub struct Redis {}

impl Redis {
    /// See [`Store::transact`](super::Store::transact).
    pub async fn transact(
        &self,
        _transaction: &Transaction<'_, '_>,
    ) -> Result<Outcome, StoreError> {
        Err(StoreError::Unreachable("not connected".to_owned()))
    }

    /// See [`Store::ping`](super::Store::ping).
    pub async fn ping(&self) -> Result<(), StoreError> {
        Err(StoreError::Unreachable("not connected".to_owned()))
    }
}
