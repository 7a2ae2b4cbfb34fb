//! What is asked of the store, and what it says; or what is said in its place.

use std::pin::pin;
use std::time::Instant;

use tracing::{Instrument, Span};

use super::charges::Charges;
use super::{Call, Engine, Reason, fallback, turn};
use crate::limit::transaction::Outcome;
use crate::store::embedded::When;
use crate::store::redis::Redis;
use crate::store::{Store, StoreError, Transaction};
use crate::telemetry::tracing as spans;
use crate::time::{Clock, Timestamp};

/// An outcome, and how it was come by.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) outcome: Outcome,
    /// Why the store did not decide, if it did not.
    pub(super) fallback: Option<Reason>,
    /// When it did, if it says.
    pub(super) at: Option<Timestamp>,
}

impl Engine {
    /// What the store says, or what is said in its place and why: in `made`, where it stays, and where nothing is yet.
    pub(super) async fn outcome(&self, charges: &Charges<'_>, call: &Call<'_>, made: &mut Made) {
        if charges.demands.is_empty() && charges.meters.is_empty() {
            made.outcome = admitted();
            return;
        }
        let now = self.given_time();
        let with_meters = charges.with_meters();
        let demands = with_meters.as_deref().unwrap_or(&charges.demands);
        if let Store::Embedded(store) = &*self.store {
            let prints = store.prints(&charges.keys);
            if let Some(turn) = call.turn {
                store.fetch(&prints);
                turn.fetch(charges);
                turn::step_aside().await;
            }
            // It need not be waited for, nor kept in a future; nor timed, which would take as long as it does.
            let seen_later = call.traced.unseen.map(|unseen| (unseen, Instant::now()));
            let span = spans::store_call(&call.traced.span, self.store.name(), charges.keys.len());
            let lately = call.turn.and_then(|turn| turn.at);
            let when = now.map_or(When::Now(lately), When::At);
            let outcome = &mut made.outcome;
            let at = span.in_scope(|| store.transact_at(&prints, demands, when, outcome));
            made.at = Some(at);
            if let Some((unseen, begun)) = seen_later {
                unseen.asked(self.store.name(), begun, begun.elapsed(), None);
            }
            return;
        }
        let begun = Instant::now();
        let transaction = Transaction {
            keys: &charges.keys,
            demands,
            now,
            timeout: call.answers_by.saturating_duration_since(begun),
        };
        let result = match &*self.store {
            // In its place at once, as it is large.
            Store::Redis(store) => {
                pin!(self.ask_redis(store, (&transaction, begun), &call.traced.span)).await
            }
            Store::Embedded(_) | Store::Faulty(_) => {
                Box::pin(self.store.transact(&transaction)).await
            }
        };
        let (store, took) = (self.store.name(), begun.elapsed());
        if let Some(unseen) = call.traced.unseen {
            let error = result.as_ref().err().map(StoreError::kind);
            unseen.asked(store, begun, took, error);
        }
        match result {
            Ok(outcome) => {
                self.metrics.store_answered(store, took);
                made.outcome = outcome;
            }
            Err(error) => {
                self.metrics.store_failed(store, error.kind(), took);
                let is_denial = matches!(error, StoreError::Refused(_) | StoreError::Corrupt(_));
                if is_denial && self.denials.is_due() {
                    tracing::warn!("decided without the store: {error}");
                }
                if !charges.limits_anything() {
                    // It was only asked for candidates, which have no part in the decision.
                    made.outcome = admitted();
                    return;
                }
                let count = self.instances.count();
                let (outcome, reason) = fallback::decide(charges, &self.local, count, now);
                // What was sent may be executed yet, and counts as charged.
                if outcome.admitted && !error.was_sent() {
                    self.owed.note(charges, &outcome, count, now);
                }
                self.metrics.fallback(reason.name());
                made.outcome = outcome;
                made.fallback = Some(reason);
            }
        }
    }

    async fn ask_redis(
        &self,
        store: &Redis,
        (transaction, begun): (&Transaction<'_, '_>, Instant),
        decision: &Span,
    ) -> Result<Outcome, StoreError> {
        let span = spans::store_call(decision, self.store.name(), transaction.keys.len());
        if span.is_none() {
            return pin!(store.transact_since(transaction, (begun, &span))).await;
        }
        let answering = store.transact_since(transaction, (begun, &span));
        let result = answering.instrument(span.clone()).await;
        if let Err(error) = &result {
            spans::failed(&span, error.kind());
        }
        result
    }

    /// The time that a manual clock shows; otherwise the store has its own.
    pub(super) fn given_time(&self) -> Option<Timestamp> {
        match &self.clock {
            Clock::System => None,
            clock @ Clock::Manual(_) => Some(clock.now()),
        }
    }
}

/// What a request comes to that nothing limits.
fn admitted() -> Outcome {
    Outcome {
        admitted: true,
        ..Outcome::default()
    }
}
