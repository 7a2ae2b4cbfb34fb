//! An engine in this process, on a clock that stands where it is put: what `test` and `explain` ask.

use std::time::Duration;

use crate::engine::{self, Engine};
use crate::rules::written;
use crate::rules::{Entry, RuleSet};
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::telemetry::metrics::Metrics;
use crate::time::{Clock, ManualClock, Timestamp};

/// The most keys that it may use.
const MAX_KEYS: usize = 1 << 20;

/// An engine with these rules at a moment.
pub(super) fn start(rules: RuleSet, at: Timestamp) -> (Engine, ManualClock) {
    let (clock, hand) = Clock::manual(at);
    let store = Store::Embedded(Embedded::new(MAX_KEYS, clock.clone()));
    let engine = Engine::new(store, engine::Settings::default(), clock, Metrics::new());
    engine.install(rules);
    (engine, hand)
}

/// A moment as it is written, such as `2026-01-31T12:00:00Z`.
pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    let moment: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("`{text}` is no moment, such as 2026-01-31T12:00:00Z"))?;
    Ok(Timestamp::from_micros(moment.as_microsecond()))
}

/// Puts a subject, `key=value`, on a plan of a domain.
pub(super) async fn assign(
    engine: &Engine,
    domain: &str,
    subject: &str,
    plan: &str,
) -> Result<(), String> {
    let pairs = written::pairs(subject).unwrap_or_default();
    let [(key, value)] = pairs.as_slice() else {
        return Err(format!("`{subject}` is not written like key=value"));
    };
    let known = engine.with_rules(|rules| {
        let domain = rules.domains.get(domain)?;
        let entry = Entry { key, value };
        let place = engine::key::standing("", domain, entry);
        Some((domain.plans.contains_key(plan), place))
    });
    let Some((true, place)) = known.flatten() else {
        return Err(format!("there is no plan `{plan}`"));
    };
    let assigned = |standing| crate::directory::Standing {
        plan: Some(plan.to_owned()),
        ..standing
    };
    let (directory, store) = (engine.directory(), engine.store());
    let change = directory.change(store, &place, Duration::from_secs(1), assigned);
    change.await.map(drop).map_err(|error| error.to_string())
}
