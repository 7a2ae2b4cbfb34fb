//! What the service is and does.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::{Answer, Api, OPENAPI, answer};
use crate::limit::{Durability, Limit, Shape};
use crate::rules::{Domain, PlanSource, Rule, RuleCandidate, RuleLimit, RuleSet};

pub(super) async fn openapi() -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, OPENAPI).into_response()
}

pub(super) async fn status(State(api): State<Api>) -> Answer {
    let engine = &api.admin.engine;
    let rules = |rules: &RuleSet| (rules.rules.len(), domains(rules).len());
    let (rules, domains) = engine.with_rules(rules).unwrap_or_default();
    let (known, asked) = engine.directory().hits_and_misses();
    answer(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": api.admin.is_ready(),
        "store": engine.store().name(),
        "domains": domains,
        "rules": rules,
        "listed": engine.directory().lists().items().count(),
        "directory": {"known": known, "asked": asked},
    }))
}

pub(super) async fn health(State(api): State<Api>) -> Response {
    super::super::ready_of(&api.admin)
}

pub(super) async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Response {
    super::super::metrics(State(api.admin), headers).await
}

/// The metrics, each with its samples.
pub(super) async fn metrics_json(State(api): State<Api>) -> Answer {
    super::super::update_gauges(&api.admin);
    let mut metrics: Map<String, Value> = Map::new();
    let text = api.admin.metrics.encode();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        let sample = json!({
            "labels": labels_of(labels.trim_end_matches('}')),
            "value": value.parse::<f64>().ok(),
        });
        let samples = metrics.entry(name).or_insert_with(|| json!([]));
        if let Value::Array(samples) = samples {
            samples.push(sample);
        }
    }
    answer(&Value::Object(metrics))
}

/// `name="value",…` as a map; quotes, backslashes and line ends in values are escaped.
fn labels_of(text: &str) -> Map<String, Value> {
    let mut labels = Map::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut characters = after.char_indices();
        let mut end = after.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, other)) => value.push(other),
                    None => {}
                },
                other => value.push(other),
            }
        }
        labels.insert(name.trim_start_matches(',').to_owned(), value.into());
        rest = after.get(end..).unwrap_or_default();
    }
    labels
}

pub(super) async fn tiers(State(api): State<Api>) -> Answer {
    let tiers = api.admin.engine.with_rules(|rules| {
        let of_domain = |domain: &Domain| {
            let plans = domain.plans.iter().map(|(name, plan)| {
                let limits = limits(&plan.limits, &plan.candidates);
                let mut shown =
                    json!({"name": name, "unlimited": plan.unlimited, "limits": limits});
                add_candidate(&mut shown, &plan.candidates);
                shown
            });
            json!({"domain": domain.name, "plans": plans.collect::<Vec<_>>()})
        };
        domains(rules)
            .into_iter()
            .map(of_domain)
            .collect::<Vec<_>>()
    });
    answer(&json!({"domains": tiers.unwrap_or_default()}))
}

pub(super) async fn endpoints(State(api): State<Api>) -> Answer {
    let rules = api.admin.engine.with_rules(|rules| {
        let rule = |rule: &std::sync::Arc<Rule>| self::rule(rule);
        rules.rules.iter().map(rule).collect::<Vec<_>>()
    });
    answer(&json!({"rules": rules.unwrap_or_default()}))
}

/// A rule as it is written.
pub(super) fn rule(rule: &Rule) -> Value {
    let plan = rule.plan.as_ref().map(|plan| {
        let from = match plan.from {
            PlanSource::Entry(level) => &rule.levels[level].key,
            PlanSource::Directory => "directory",
        };
        json!({"from": from, "default": plan.default})
    });
    let ban = rule.ban.as_ref().map(|ban| {
        json!({
            "after": ban.after(),
            "within_seconds": ban.window().ceil_secs(),
            "for_seconds": ban.first().ceil_secs(),
            "max_seconds": ban.longest().ceil_secs(),
        })
    });
    let levels = rule.levels.iter();
    let levels = levels.map(|level| json!({"key": level.key, "value": level.value}));
    let mut shown = json!({
        "domain": *rule.domain,
        "name": rule.name,
        "file": rule.source.file,
        "line": rule.source.line,
        "path": rule.path,
        "descriptor": levels.collect::<Vec<_>>(),
        "unlimited": rule.unlimited,
        "shadow_mode": rule.shadow_mode,
        "quota_mode": rule.quota_mode,
        "limits": limits(&rule.limits, &rule.candidates),
        "plan": plan,
        "ban": ban,
    });
    add_candidate(&mut shown, &rule.candidates);
    shown
}

/// Limits, each with what is tried in its place.
fn limits(limits: &[RuleLimit], candidates: &[RuleCandidate]) -> Vec<Value> {
    let shown = |(place, live): (usize, &RuleLimit)| {
        let mut shown = limit(live.label(), &live.limit);
        let mut of = candidates.iter();
        if let Some(one) = of.find(|one| one.instead_of == Some(place)) {
            shown["candidate"] = candidate(live.label(), &one.limit, one.unlimited);
        }
        shown
    };
    limits.iter().enumerate().map(shown).collect()
}

/// Adds what is tried where nothing limits.
fn add_candidate(shown: &mut Value, candidates: &[RuleCandidate]) {
    if let Some(one) = candidates.iter().find(|one| one.instead_of.is_none()) {
        let label = one.limit.unit().name();
        shown["candidate"] = candidate(label, &one.limit, one.unlimited);
    }
}

/// A limit on trial under the name of its live one.
pub(super) fn candidate(label: &str, limit: &Limit, unlimited: bool) -> Value {
    if unlimited {
        return json!({"name": label, "unlimited": true});
    }
    self::limit(label, limit)
}

/// A limit and its name.
pub(super) fn limit(label: &str, limit: &Limit) -> Value {
    let algorithm = match limit.shape() {
        Shape::FixedWindow(_) => "fixed_window",
        Shape::TokenBucket(_) => "token_bucket",
        Shape::SlidingWindow(_) => "sliding_window",
    };
    let mut shown = json!({
        "name": label,
        "requests_per_unit": limit.requests_per_unit(),
        "unit": limit.unit().name(),
        "unit_multiplier": limit.multiplier(),
        "algorithm": algorithm,
        "capacity": hits(limit.capacity()),
    });
    if let Some(lease) = limit.lease() {
        shown["lease"] = lease.to_string().into();
    }
    if limit.durability() == Durability::Replicated {
        shown["durability"] = "replicated".into();
    }
    shown
}

/// Hits as a number, which may have three decimals.
pub(super) fn hits(hits: crate::limit::Hits) -> Value {
    if hits.thousandths().is_multiple_of(1000) {
        json!(hits.floor())
    } else {
        json!(hits.thousandths() as f64 / 1000.0)
    }
}

fn domains(rules: &RuleSet) -> Vec<&Domain> {
    let mut domains: Vec<&Domain> = rules.domains.values().collect();
    domains.sort_by(|a, b| a.name.cmp(&b.name));
    domains
}
