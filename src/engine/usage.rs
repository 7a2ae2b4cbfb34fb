//! What subjects use, for billing: each charge of a metered rule tells how much its subject has used in the period by then,
//! and the highest of it is written down a little later.
//!
//! The count itself is charged with the limits, in the same step, and so is exact; what is written down is never more, and
//! as much as soon as the last that was told is written. An instance that is killed may leave the last [`FLUSH_EVERY`]
//! unwritten: they are in the count, and are written with the subject's next hit of the period, or when an instance starts and
//! counts again what is written of current periods.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tracing::debug;

use super::charges::Charges;
use super::{Engine, Request, key};
use crate::directory::follow::LOOK_WITHIN;
use crate::limit::transaction::{Amount, Bound, Demand, Outcome, Role};
use crate::limit::{Hits, Limit, Shape, fixed_window};
use crate::rules::Domain;
use crate::store::usage::{Ledger, MAX_ROWS, Numbered, Row};
use crate::store::{Key, StoreError, Transaction};
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
                "key": key.as_str(),
                "unit": bound.limit.unit().name(),
                "start": start.as_micros(),
                "end": end.as_micros(),
            });
            self.meters.tell(Row {
                id: id(end, key),
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

    /// Asks the counts of all subjects whose period is not over, since an instance that was killed may not have written down
    /// the last of them. Takes its time.
    async fn recount_usage(&self) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let ledger = &self.meters.ledger;
            let rows = self
                .store
                .usage_after(ledger, after, RECOUNT_AT_ONCE, LOOK_WITHIN)
                .await?;
            let Some((last, _, _)) = rows.last() else {
                return Ok(());
            };
            after = *last;
            self.recount(&rows).await?;
            tokio::time::sleep(RECOUNT_PAUSE).await;
        }
    }

    async fn recount(&self, rows: &[Numbered]) -> Result<(), StoreError> {
        let now = self.clock.now();
        let read = |(_, used, text): &Numbered| {
            let written: Written = serde_json::from_slice(text).ok()?;
            let end = Timestamp::from_micros(written.end);
            let key = Key::parse(&written.key)?;
            let unit = written.unit.parse().ok()?;
            let meter = self.with_rules(|rules| {
                let domain = rules.domains.get(&written.domain)?;
                Some(Limit::meter(unit, &domain.time_zone))
            })??;
            (end > now).then(|| (key, meter, *used, end, text.clone()))
        };
        let current: Vec<_> = rows.iter().filter_map(read).collect();
        let keys: Vec<Key> = current.iter().map(|(key, ..)| key.clone()).collect();
        let meters = current.iter().map(|(_, meter, ..)| meter).enumerate();
        let demands: Vec<Demand<'_>> = meters.map(|(key, meter)| peek(key, meter)).collect();
        if demands.is_empty() {
            return Ok(());
        }
        let transaction = Transaction {
            keys: &keys,
            demands: &demands,
            now: self.given_time(),
            timeout: LOOK_WITHIN,
        };
        let outcome = self.store.transact(&transaction).await?;
        for ((key, _, written, end, text), reading) in current.iter().zip(&outcome.readings) {
            if reading.used.thousandths() > *written {
                self.meters.tell(Row {
                    id: id(*end, key),
                    end: *end,
                    used: reading.used.thousandths(),
                    text: text.clone(),
                });
            }
        }
        Ok(())
    }

    /// Writes down what is told, and removes what is past its retention, until the future is dropped.
    pub async fn keep_usage(&self) {
        let mut flushes = 0_u32;
        let mut recounted = false;
        loop {
            tokio::time::sleep(FLUSH_EVERY).await;
            let ready = self.readiness.borrow().is_ready(Some(0));
            if ready && !recounted {
                recounted = self.recount_usage().await.is_ok();
            }
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

/// What recounting reads of a row.
#[derive(Deserialize)]
struct Written {
    domain: String,
    key: String,
    unit: String,
    end: i64,
}

/// What tells the row of a period and a key from others.
fn id(end: Timestamp, key: &Key) -> String {
    format!("{}|{}", end.as_micros(), key.as_str())
}

fn peek(key: usize, meter: &Limit) -> Demand<'_> {
    let bound = Bound {
        limit: meter,
        always: false,
    };
    Demand {
        key,
        amount: Amount::Peek(Hits::ONE),
        role: Role::Shadow,
        limits: std::iter::once(bound).collect(),
        ban: None,
        candidates: Vec::new(),
    }
}

/// How many rows are recounted at once, and the pause after them.
const RECOUNT_AT_ONCE: usize = 64;
const RECOUNT_PAUSE: Duration = Duration::from_millis(20);

/// Clocks are less than this apart, and periods longer: half a day.
const CLOCKS_APART_US: i64 = 43_200_000_000;

/// What a meter is charged: what the request is, never what it gives back.
pub(super) fn metered(amount: Amount) -> Option<Amount> {
    match amount {
        Amount::Charge(hits) if hits > Hits::ZERO => Some(amount),
        Amount::Charge(_) | Amount::Peek(_) | Amount::Refund(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_subjects_wait_than_may_and_the_rest_is_counted() {
        let meters = Meters::new("", RETENTION);
        let tell = |id: usize, used: u64| {
            meters.tell(Row {
                id: id.to_string(),
                end: Timestamp::from_secs(1),
                used,
                text: Default::default(),
            });
        };
        for id in 0..MAX_PENDING {
            tell(id, 1);
        }
        tell(0, 5);
        assert_eq!(meters.late.load(Ordering::Relaxed), 0);
        tell(MAX_PENDING, 1);
        assert_eq!(meters.late.load(Ordering::Relaxed), 1);
        let pending = meters.pending.lock();
        assert_eq!(pending.len(), MAX_PENDING);
        assert_eq!(pending["0"].used, 5);
    }
}
