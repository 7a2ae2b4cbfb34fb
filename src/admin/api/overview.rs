//! All that the page shows of this instance, in one answer.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Map, Value, json};

use super::{Answer, Api, answer, as_moment, show};
use crate::engine::history::{EVERY, Rates, SAMPLES, Shown};
use crate::rules::{Rule, RuleSet};

/// How many rules are told of: those that are asked for most, and then the first.
const MAX_SHOWN: usize = 500;

pub(super) async fn overview(State(api): State<Api>) -> Answer {
    let engine = &api.admin.engine;
    let history = engine.history().shown();
    let loads = api.admin.loads.last();
    let shown = engine.with_rules(|rules| (domains(rules, &history), self::rules(rules, &history)));
    let count = engine.with_rules(|rules| rules.rules.len());
    let (domains, rules) = shown.unwrap_or_default();
    let loaded = loads.loaded.and_then(|(at, _)| as_moment(at.as_micros()));
    let failed = loads.failed.map(|(at, reason)| {
        json!({
            "at": as_moment(at.as_micros()),
            "reason": reason,
        })
    });
    answer(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now": as_moment(engine.clock().now().as_micros()),
        "health": super::super::health(&api.admin),
        "instances": engine.instances(),
        "shadow_mode": engine.settings().shadow_mode,
        "loads": {
            "loaded_at": loaded,
            "warnings": loads.loaded.map_or(0, |(_, warnings)| warnings),
            "failed": failed,
        },
        "every_seconds": EVERY.as_secs(),
        "samples": SAMPLES,
        "requests": rates(&history.all),
        "without_store": history.without_store.iter().map(|rate| round(*rate)).collect::<Vec<_>>(),
        "domains": domains,
        "rules_counted": count.unwrap_or_default(),
        "rules": rules,
    }))
}

fn domains(rules: &RuleSet, history: &Shown) -> Vec<Value> {
    let mut names: Vec<&str> = rules.domains.keys().map(String::as_str).collect();
    names.sort_unstable();
    let domain = |name: &str| {
        let seen = history.domains.get(name).map(Vec::as_slice);
        json!({"name": name, "requests": rates(seen.unwrap_or_default())})
    };
    names.into_iter().map(domain).collect()
}

/// In the order of the files.
fn rules(rules: &RuleSet, history: &Shown) -> Vec<Value> {
    let seen = |rule: &Rule| {
        let name = (Arc::clone(&rule.domain), Arc::clone(&rule.name));
        history.rules.get(&name)
    };
    let asked = |rule: &Rule| {
        let rates = seen(rule).into_iter().flatten();
        rates.map(|[asked, _]| *asked).sum::<f64>()
    };
    let mut shown: Vec<(usize, &Arc<Rule>)> = rules.rules.iter().enumerate().collect();
    if shown.len() > MAX_SHOWN {
        shown.sort_by(|(_, a), (_, b)| asked(b).total_cmp(&asked(a)));
        shown.truncate(MAX_SHOWN);
        shown.sort_by_key(|(place, _)| *place);
    }
    let rule = |(_, rule): (usize, &Arc<Rule>)| {
        let seen = seen(rule).map(Vec::as_slice);
        json!({
            "rule": show::rule(rule),
            "hits": rates(seen.unwrap_or_default()),
            // Its counters have names of their own for each value.
            "counted": !rule.named_by_values,
        })
    };
    shown.into_iter().map(rule).collect()
}

/// Rates in a second, oldest first.
fn rates(seen: &[Rates]) -> Value {
    let column = |column: usize| {
        let of = |rates: &Rates| round(rates[column]);
        seen.iter().map(of).collect::<Vec<f64>>()
    };
    let columns = [("asked", column(0)), ("refused", column(1))];
    let columns = columns.map(|(name, rates)| (name.to_owned(), rates.into()));
    Value::Object(Map::from_iter(columns))
}

/// To a hundredth, which is enough to look at.
pub(super) fn round(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}
