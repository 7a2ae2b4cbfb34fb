//! How a request comes to its rules, entry by entry, and what would be answered. Nothing is charged.

use axum::extract::State;
use serde_json::{Value, json};

use super::{Answer, Api, Problem, answer, check, show};
use crate::engine::Request;
use crate::rules::written::{self, Pairs};
use crate::rules::{Descriptor, Domain, Entry, Rule};

/// All parameters in their order, since a request has several descriptors.
type Parameters = axum::extract::Query<Vec<(String, String)>>;

/// As many as a person looks at, and as have room in an address.
const MAX_DESCRIPTORS: usize = 16;

pub(super) async fn explain(State(api): State<Api>, parameters: Parameters) -> Answer {
    let asked = |wanted: &'static str| {
        let named = parameters.iter().filter(move |(name, _)| name == wanted);
        named.map(|(_, value)| value.as_str())
    };
    let domain = asked("domain").next().unwrap_or_default();
    let hits = match asked("hits").next() {
        None => 1,
        Some(text) => text.parse().ok().filter(|hits| *hits > 0).ok_or_else(|| {
            let most = u32::MAX;
            Problem::bad(format!("`hits` is a whole number from 1 to {most}"))
        })?,
    };
    let read = |text: &str| {
        let pairs = written::pairs(text);
        pairs.ok_or_else(|| {
            Problem::bad(format!("`{text}` is not written like key=value,key=value"))
        })
    };
    if asked("descriptor").count() > MAX_DESCRIPTORS {
        return Err(Problem::bad(format!(
            "there are more than {MAX_DESCRIPTORS} descriptors: POST /check takes as many as a request may have"
        )));
    }
    let pairs: Result<Vec<Pairs>, Problem> = asked("descriptor").map(read).collect();
    let pairs = pairs?;
    let descriptors = pairs.iter().map(|pairs| Descriptor {
        entries: written::entries(pairs),
        ..Descriptor::default()
    });
    let request = Request {
        domain,
        hits_addend: hits,
        descriptors: descriptors.collect(),
    };
    let engine = &api.admin.engine;
    let decided = engine.rehearse(&request).await;
    let decided = decided.map_err(|error| Problem::bad(error.to_string()))?;
    let ways = engine.with_rules(|rules| {
        let domain = rules.domains.get(domain);
        let way = |descriptor| way(domain, descriptor);
        request.descriptors.iter().map(way).collect::<Vec<_>>()
    });
    let mut shown = check::shown(&decided);
    shown["descriptors"] = ways.unwrap_or_default().into();
    answer(&shown)
}

/// How a descriptor comes to its rule, or how far it comes.
fn way(domain: Option<&Domain>, descriptor: &Descriptor<'_>) -> Value {
    let entries = &descriptor.entries;
    let rule = domain.and_then(|domain| domain.find(entries));
    let reached = domain.map_or(0, |domain| domain.reach(entries));
    let entry = |(place, entry): (usize, &Entry<'_>)| {
        let level = rule.and_then(|rule| rule.levels.get(place));
        json!({
            "key": entry.key,
            "value": entry.value,
            "found": place < reached,
            "matches": level.map(|level| json!({"key": level.key, "value": level.value})),
        })
    };
    let entries: Vec<Value> = entries.iter().enumerate().map(entry).collect();
    let rule = rule.map(|rule: &std::sync::Arc<Rule>| show::rule(rule));
    json!({"entries": entries, "rule": rule})
}
