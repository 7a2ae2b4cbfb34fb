//! The dynamic metadata of an answer, a `google.protobuf.Struct` in JSON's form.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::Reason;
use crate::engine::fold::Ruling;
use crate::engine::{Request, key};
use crate::rules::{Domain, Entry, Rule};

/// The fields of the struct, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(pub Vec<(Cow<'static, str>, Field)>);

/// The value of a field: shared with the rules where it stands there.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// A number.
    Number(u64),
    /// A word of ours.
    Word(&'static str),
    /// A text of the rules.
    Text(Arc<str>),
    /// Anything.
    Json(Value),
}

/// How many fields [`decision`] has at most.
const FIELDS: usize = 7;

/// The decision, for access logs and reply mappers.
pub fn decision(
    domain: &Domain,
    request: &Request<'_>,
    ruling: &Ruling<'_>,
    reason: Reason,
) -> Metadata {
    let mut fields = Vec::with_capacity(FIELDS);
    let mut add = |name: &'static str, field: Field| fields.push((name.into(), field));
    add("domain", Field::Text(Arc::clone(&domain.name)));
    add("reason", Field::Word(reason.name()));
    if let Some(spoken) = ruling.deciding() {
        let said = spoken.decisive();
        add(
            "limit",
            match said.name {
                Some(name) => Field::Text(Arc::clone(name)),
                None => Field::Number(said.limit.requests_per_unit().into()),
            },
        );
        let entries = &request.descriptors[spoken.descriptor].entries;
        add("rule", Field::Text(metric_name(spoken.rule, entries)));
        add("remaining", Field::Number(said.whole_remaining().into()));
        if let Some(plan) = spoken.plan {
            add("plan", Field::Text(plan.into()));
        }
    }
    if let Some(wait) = ruling.retry_after() {
        add("retry_after", Field::Number(wait.ceil_secs().max(1)));
    }
    Metadata(fields)
}

/// The reference's shape (`RESPONSE_DYNAMIC_METADATA`): the request, and the merged metadata of the rules that passed.
/// Sensitive values are hashed: Envoy logs what it is told.
pub fn reference(domain: &Domain, request: &Request<'_>, ruling: &Ruling<'_>) -> Metadata {
    let descriptors = request.descriptors.iter().map(|descriptor| {
        let entries = descriptor.entries.iter();
        let entries: Vec<String> = entries.map(|entry| shown(domain, entry)).collect();
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
    let fields = map.into_iter();
    Metadata(
        fields
            .map(|(name, value)| (name.into(), Field::Json(value)))
            .collect(),
    )
}

/// An entry as people may see it: its value is hashed where the domain says that it is sensitive.
pub fn shown(domain: &Domain, entry: &Entry<'_>) -> String {
    match domain.sensitive.iter().any(|key| key == entry.key) {
        true => key::subject(domain, *entry),
        false => format!("{}={}", entry.key, entry.value),
    }
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
pub fn metric_name(rule: Option<&Rule>, entries: &[Entry<'_>]) -> Arc<str> {
    match rule {
        Some(rule) => rule.metric_name(entries),
        None => "override".into(),
    }
}

impl Metadata {
    /// The field of a name.
    pub fn get(&self, name: &str) -> Option<&Field> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, field)| field)
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, field)| (name, field)))
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Field::Number(number) => serializer.serialize_u64(*number),
            Field::Word(text) => serializer.serialize_str(text),
            Field::Text(text) => serializer.serialize_str(text),
            Field::Json(value) => value.serialize(serializer),
        }
    }
}
