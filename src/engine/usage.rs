//! What subjects use, for billing: each charge of a metered rule tells how much its subject has used in the period by then,
//! and the highest of it is written down a little later.
//!
//! The count itself is charged with the limits, in the same step, and so is exact; what is written down is never more, and
//! as much as soon as the last that was told is written. An instance that is killed may leave the last [`FLUSH_EVERY`]
//! unwritten: they are in the count, and are written with the subject's next hit of the period.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tracing::debug;

use super::charges::Charges;
use super::{Engine, Request, key};
use crate::directory::follow::LOOK_WITHIN;
use crate::limit::transaction::{Amount, Outcome};
use crate::limit::{Hits, Limit, Shape, fixed_window};
use crate::rules::Domain;
use crate::store::StoreError;
use crate::store::usage::{Ledger, MAX_ROWS, Numbered, Row};
use crate::time::{Micros, Timestamp};

/// How often what was told is written down.
pub const FLUSH_EVERY: Duration = Duration::from_millis(250);

/// The most subjects that wait to be written down; what is told of others meanwhile is counted as late.
pub const MAX_PENDING: usize = 1 << 18;

/// How long rows are kept after their period, if the settings do not say.
pub const RETENTION: Duration = Duration::from_secs(90 * 86_400);

/// How often rows that are past their retention are looked for, in flushes.
const TIDY_EVERY: u32 = 4 * 60;

/// What was told and is not written down yet.
#[derive(Debug)]
pub struct Meters {
    ledger: Ledger,
    pending: Mutex<HashMap<String, Row>>,
    late: AtomicU64,
    retention: Micros,
}

impl Meters {
    /// Nothing told yet.
    pub fn new(prefix: &str, retention: Duration) -> Self {
        let retention = u64::try_from(retention.as_micros()).unwrap_or(u64::MAX);
        Self {
            ledger: Ledger::new(prefix),
            pending: Mutex::default(),
            late: AtomicU64::default(),
            retention: Micros::new(retention),
        }
    }

    fn tell(&self, row: Row) {
        let mut pending = self.pending.lock();
        if let Some(known) = pending.get_mut(&row.id) {
            known.used = known.used.max(row.used);
        } else if pending.len() < MAX_PENDING {
            pending.insert(row.id.clone(), row);
        } else {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Engine {
    /// Takes note of what the meters of an admitted request have said.
    pub(super) fn meter(
        &self,
        domain: &Domain,
        request: &Request<'_>,
        charges: &Charges<'_>,
        outcome: &Outcome,
    ) {
        let first = outcome.readings.len().saturating_sub(charges.meters.len());
        let said = outcome.readings.iter().skip(first);
        for (meter, reading) in charges.meters.iter().zip(said) {
            let (Amount::Charge(hits), Some(bound)) =
                (meter.demand.amount, meter.demand.limits.first())
            else {
                continue;
            };
            let Some(subject) = request.descriptors[meter.descriptor].entries.last() else {
                continue;
            };
            let (start, end) = self.period(bound.limit, reading.reset);
            let key = &charges.keys[meter.demand.key];
            let text = json!({
                "domain": domain.name,
                "subject": key::subject(domain, *subject),
                "rule": meter.rule.name,
                "unit": bound.limit.unit().name(),
                "start": start.as_micros(),
                "end": end.as_micros(),
            });
            self.meters.tell(Row {
                id: format!("{}|{}", end.as_micros(), key.as_str()),
                end,
                used: reading.used.plus(hits).thousandths(),
                text: text.to_string().into(),
            });
        }
    }

    /// The period that ends in `reset` by the store's clock, which may be a little apart from this one.
    fn period(&self, meter: &Limit, reset: Micros) -> (Timestamp, Timestamp) {
        let end = self.clock.now() + reset;
        let within = Timestamp::from_micros(end.as_micros() - CLOCKS_APART_US);
        match meter.shape() {
            Shape::FixedWindow(fixed_window::Windows::Calendar(calendar)) => {
                let period = calendar.period(within);
                (period.start, period.end)
            }
            Shape::FixedWindow(fixed_window::Windows::Even(length)) => {
                let start = within.floor_to(*length);
                (start, start + *length)
            }
            Shape::TokenBucket(_) | Shape::SlidingWindow(_) => (within, end),
        }
    }

    /// Writes down what was told so far.
    pub async fn flush_usage(&self) -> Result<(), StoreError> {
        let told = std::mem::take(&mut *self.meters.pending.lock());
        let mut rows: Vec<Row> = told.into_values().collect();
        while !rows.is_empty() {
            let batch = rows.split_off(rows.len().saturating_sub(MAX_ROWS));
            let ledger = &self.meters.ledger;
            let written = self.store.set_usage(ledger, &batch, LOOK_WITHIN).await;
            if let Err(error) = written {
                // It may have been written, and is then written again, which changes nothing.
                rows.extend(batch);
                rows.into_iter().for_each(|row| self.meters.tell(row));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes down what is told, and removes what is past its retention, until the future is dropped.
    pub async fn keep_usage(&self) {
        let mut flushes = 0_u32;
        loop {
            tokio::time::sleep(FLUSH_EVERY).await;
            if let Err(error) = self.flush_usage().await {
                debug!("usage is not written down yet: {error}");
            }
            flushes = flushes.wrapping_add(1);
            if flushes.is_multiple_of(TIDY_EVERY) {
                let retention = i64::try_from(self.meters.retention.get()).unwrap_or(i64::MAX);
                let before = self.clock.now().as_micros().saturating_sub(retention);
                let before = Timestamp::from_micros(before);
                let ledger = &self.meters.ledger;
                // What is not removed now is at the next turn.
                let _ = self.store.tidy_usage(ledger, before, LOOK_WITHIN).await;
            }
        }
    }

    /// At most `most` rows that have changed since the number `after`.
    pub async fn usage_after(&self, after: u64, most: usize) -> Result<Vec<Numbered>, StoreError> {
        self.flush_usage().await?;
        let ledger = &self.meters.ledger;
        self.store
            .usage_after(ledger, after, most, LOOK_WITHIN)
            .await
    }

    /// How many hits were told of while too many subjects waited to be written down.
    pub fn late_usage(&self) -> u64 {
        self.meters.late.load(Ordering::Relaxed)
    }
}

/// Clocks are less than this apart, and periods longer: half a day.
const CLOCKS_APART_US: i64 = 43_200_000_000;

/// What a meter is charged: what the request is, never what it gives back.
pub(super) fn metered(amount: Amount) -> Option<Amount> {
    match amount {
        Amount::Charge(hits) if hits > Hits::ZERO => Some(amount),
        Amount::Charge(_) | Amount::Peek(_) | Amount::Refund(_) => None,
    }
}
