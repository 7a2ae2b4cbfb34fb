//! The dynamic metadata of an answer, a `google.protobuf.Struct` in JSON's form.

use serde_json::{Map, Value, json};

use super::Reason;
use crate::engine::Request;
use crate::engine::fold::Ruling;
use crate::rules::{Domain, Entry, Rule};

/// The decision, for access logs and reply mappers.
pub fn decision(
    domain: &Domain,
    request: &Request<'_>,
    ruling: &Ruling<'_>,
    reason: Reason,
) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("domain".to_owned(), json!(domain.name));
    map.insert("reason".to_owned(), json!(reason.name()));
    if let Some(spoken) = ruling.deciding() {
        let said = spoken.decisive();
        let limit = if said.name.is_empty() {
            json!(said.limit.requests_per_unit())
        } else {
            json!(said.name)
        };
        let entries = &request.descriptors[spoken.descriptor].entries;
        let rule = metric_name(spoken.rule, entries);
        map.insert("limit".to_owned(), limit);
        map.insert("rule".to_owned(), json!(rule));
        map.insert("remaining".to_owned(), json!(said.whole_remaining()));
        if let Some(plan) = spoken.plan {
            map.insert("plan".to_owned(), json!(plan));
        }
    }
    if let Some(wait) = ruling.retry_after() {
        map.insert("retry_after".to_owned(), json!(wait.ceil_secs().max(1)));
    }
    map
}

/// The reference's shape (`RESPONSE_DYNAMIC_METADATA`): the request, and the merged metadata of the rules that passed.
pub fn reference(request: &Request<'_>, ruling: &Ruling<'_>) -> Map<String, Value> {
    let descriptors = request.descriptors.iter().map(|descriptor| {
        let entries = descriptor.entries.iter();
        let entries: Vec<String> = entries.map(|e| format!("{}={}", e.key, e.value)).collect();
        let mut map = Map::new();
        map.insert("entries".to_owned(), json!(entries));
        if let Some(limit) = descriptor.limit {
            let unit = limit.unit.name().to_ascii_uppercase();
            let text = format!("requests_per_unit:{} unit:{unit}", limit.requests_per_unit);
            map.insert("limit".to_owned(), json!(text));
        }
        if let Some(hits) = descriptor.hits_addend {
            map.insert("hitsAddend".to_owned(), json!(hits));
        }
        Value::Object(map)
    });
    let mut map = Map::new();
    map.insert("domain".to_owned(), json!(request.domain));
    map.insert("descriptors".to_owned(), descriptors.collect());
    if request.hits_addend != 0 {
        map.insert("hitsAddend".to_owned(), json!(request.hits_addend));
    }
    let mut merged = Value::Null;
    for spoken in ruling
        .spoken()
        .filter(|spoken| spoken.code() == crate::engine::Code::Ok)
    {
        if let Some(metadata) = spoken.rule.and_then(|rule| rule.metadata.as_ref()) {
            merge(&mut merged, metadata);
        }
    }
    if !merged.is_null() {
        map.insert("metadata".to_owned(), merged);
    }
    map
}

/// Adds to `into` what it does not have; the first of two values stays.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into @ Value::Null, from) => *into = from.clone(),
        _ => {}
    }
}

/// The rule's name in metrics, traces and metadata.
pub fn metric_name(rule: Option<&Rule>, entries: &[Entry<'_>]) -> String {
    match rule {
        Some(rule) => rule.metric_name(entries).into_owned(),
        None => "override".to_owned(),
    }
}
