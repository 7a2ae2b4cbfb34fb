//! What was used, for billing: one row for each subject and period, with the most that was ever said of it.
//!
//! Whoever changes a row gives it the next number, so reading what comes after a number is reading what has changed since; a
//! row is read again when it has grown, and the last one read is the truth. Rows stay for the retention after their
//! period has ended, read or not.

use std::time::Duration;

use bytes::Bytes;

use super::{Key, Store, StoreError};
use crate::time::Timestamp;

/// The most rows that are set or read at once.
pub const MAX_ROWS: usize = 1000;

/// About how many of the last changes Redis also keeps as a stream, for those who would rather follow it there.
pub const MAX_STREAM: usize = 100_000;

/// The keys of the rows, of their order, of the ends of their periods, of the last number, and of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// In the order in which the scripts take them.
    pub keys: [Key; 5],
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What tells it from others.
    pub id: String,
    /// The end of its period.
    pub end: Timestamp,
    /// What was used, in thousandths of a hit.
    pub used: u64,
    /// What else there is to say of it; does not change.
    pub text: Bytes,
}

/// A row as it is read: its number, what was used, and its text.
pub type Numbered = (u64, u64, Bytes);

impl Ledger {
    /// The keys, in one slot, with the service's prefix.
    pub fn new(prefix: &str) -> Self {
        let names = [
            "usage",
            "usage:order",
            "usage:ends",
            "usage:number",
            "usage:stream",
        ];
        Self {
            keys: names.map(|name| Key::new(prefix, "tollgate", name)),
        }
    }
}

impl Store {
    /// Sets rows, at most [`MAX_ROWS`]; those that say no more than is known are left as they are.
    pub async fn set_usage(
        &self,
        ledger: &Ledger,
        rows: &[Row],
        timeout: Duration,
    ) -> Result<(), StoreError> {
        match self {
            Store::Embedded(store) => {
                store.rows().set(rows);
                Ok(())
            }
            Store::Redis(store) => store.set_usage(ledger, rows, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().set_usage(ledger, rows, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }

    /// At most `most` rows that have changed after the change of the number `after`, in the order of their numbers.
    pub async fn usage_after(
        &self,
        ledger: &Ledger,
        after: u64,
        most: usize,
        timeout: Duration,
    ) -> Result<Vec<Numbered>, StoreError> {
        let most = most.min(MAX_ROWS);
        match self {
            Store::Embedded(store) => Ok(store.rows().after(after, most)),
            Store::Redis(store) => store.usage_after(ledger, after, most, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().usage_after(ledger, after, most, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }

    /// Removes some rows whose period has ended before a moment.
    pub async fn tidy_usage(
        &self,
        ledger: &Ledger,
        before: Timestamp,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        match self {
            Store::Embedded(store) => {
                store.rows().tidy(before);
                Ok(())
            }
            Store::Redis(store) => store.tidy_usage(ledger, before, timeout).await,
            Store::Faulty(link) => {
                let call = link.store().tidy_usage(ledger, before, timeout);
                link.send(Box::pin(call)).await
            }
        }
    }
}
