//! What was used, in Redis; see [`usage`](crate::store::usage).

use std::time::Duration;

use bytes::Bytes;

use super::frames::unreadable;
use super::{Redis, script};
use crate::store::StoreError;
use crate::store::usage::{Ledger, MAX_ROWS, MAX_STREAM, Numbered, Row};
use crate::time::Timestamp;

impl Redis {
    pub(in crate::store) async fn set_usage(
        &self,
        ledger: &Ledger,
        rows: &[Row],
        timeout: Duration,
    ) -> Result<(), StoreError> {
        let mut arguments = vec![Bytes::from_static(b"set"), text(MAX_STREAM)];
        for row in rows {
            arguments.extend([
                row.id.clone().into(),
                text(row.end.as_micros()),
                text(row.used),
                row.text.clone(),
            ]);
        }
        self.ask_ledger(ledger, &arguments, timeout)
            .await
            .map(|_| ())
    }

    pub(in crate::store) async fn usage_after(
        &self,
        ledger: &Ledger,
        after: u64,
        most: usize,
        timeout: Duration,
    ) -> Result<Vec<Numbered>, StoreError> {
        let arguments = [Bytes::from_static(b"after"), text(after), text(most)];
        let reply = self.ask_ledger(ledger, &arguments, timeout).await?;
        rows(&reply).ok_or_else(unreadable)
    }

    pub(in crate::store) async fn tidy_usage(
        &self,
        ledger: &Ledger,
        before: Timestamp,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        let arguments = [
            Bytes::from_static(b"tidy"),
            text(before.as_micros()),
            text(MAX_ROWS),
        ];
        self.ask_ledger(ledger, &arguments, timeout)
            .await
            .map(|_| ())
    }

    async fn ask_ledger(
        &self,
        ledger: &Ledger,
        arguments: &[Bytes],
        timeout: Duration,
    ) -> Result<Vec<Bytes>, StoreError> {
        let keys: Vec<_> = ledger.keys.iter().collect();
        let arguments: Vec<&[u8]> = arguments.iter().map(AsRef::as_ref).collect();
        self.ask(&script::USAGE, &keys, &arguments, timeout).await
    }
}

fn text(number: impl ToString) -> Bytes {
    number.to_string().into()
}

/// The rows of a reply: of each its number, and then itself.
pub(super) fn rows(reply: &[Bytes]) -> Option<Vec<Numbered>> {
    let rows = reply.chunks_exact(2).map(|pair| row(&pair[0], &pair[1]));
    rows.collect()
}

fn row(number: &Bytes, row: &Bytes) -> Option<Numbered> {
    let number = std::str::from_utf8(number).ok()?.parse().ok()?;
    let space = row.iter().position(|byte| *byte == b' ')?;
    let used = std::str::from_utf8(&row[..space]).ok()?.parse().ok()?;
    Some((number, used, row.slice(space + 1..)))
}
