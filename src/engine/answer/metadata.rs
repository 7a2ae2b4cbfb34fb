//! The dynamic metadata of an answer, a `google.protobuf.Struct` in JSON's form.

use std::borrow::Cow;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::Reason;
use crate::engine::fold::Ruling;
use crate::engine::{Request, key};
use crate::rules::{Domain, Entry, Rule};

/// The fields of the struct.
#[derive(Clone, Debug, PartialEq)]
pub enum Metadata<'r> {
    /// Tollgate's own.
    Decision(Decision<'r>),
    /// The reference's.
    Reference(Map<String, Value>),
}

/// A decision, for access logs and reply mappers.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<'r> {
    /// The request's domain.
    pub domain: Cow<'r, str>,
    /// Why it was decided so.
    pub reason: Reason,
    /// What decided; none if no limit had a part in it.
    pub decisive: Option<Decisive<'r>>,
    /// Seconds, rounded up; at least 1.
    pub retry_after: Option<u64>,
}

/// The limit that decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decisive<'r> {
    /// Its name, if it has one.
    pub name: Option<Cow<'r, str>>,
    /// Hits per window.
    pub requests_per_unit: u32,
    /// Its rule's name in metrics.
    pub rule: Cow<'r, str>,
    /// Whole hits left.
    pub remaining: u32,
    /// The name of the plan that has it.
    pub plan: Option<Cow<'r, str>>,
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field<'f> {
    /// A number.
    Number(u64),
    /// A number that says what is left.
    Counted(u64),
    /// A text.
    Text(&'f str),
    /// Anything.
    Json(&'f Value),
}

/// The decision, for access logs and reply mappers.
pub fn decision<'r>(
    domain: &'r Domain,
    request: &Request<'_>,
    ruling: &Ruling<'r>,
    reason: Reason,
) -> Decision<'r> {
    let decisive = ruling.deciding().map(|spoken| {
        let said = spoken.decisive();
        Decisive {
            name: said.name.map(Cow::Borrowed),
            requests_per_unit: said.limit.requests_per_unit(),
            rule: metric_name(spoken.rule, &request.descriptors[spoken.descriptor].entries),
            remaining: said.whole_remaining(),
            plan: spoken.plan.map(Cow::Borrowed),
        }
    });
    let wait = ruling.retry_after();
    Decision {
        domain: Cow::Borrowed(&domain.name),
        reason,
        decisive,
        retry_after: wait.map(|wait| wait.ceil_secs().max(1)),
    }
}

/// The reference's shape (`RESPONSE_DYNAMIC_METADATA`): the request, and the merged metadata of the rules that passed.
/// Sensitive values are hashed: Envoy logs what it is told.
pub fn reference(
    domain: &Domain,
    request: &Request<'_>,
    ruling: &Ruling<'_>,
) -> Map<String, Value> {
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
    map
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
pub fn metric_name<'r>(rule: Option<&'r Rule>, entries: &[Entry<'_>]) -> Cow<'r, str> {
    match rule {
        Some(rule) => rule.metric_name(entries),
        None => "override".into(),
    }
}

impl Metadata<'_> {
    /// Tells each field, in order.
    pub fn each(&self, mut tell: impl FnMut(&str, Field<'_>)) {
        let decision = match self {
            Metadata::Decision(decision) => decision,
            Metadata::Reference(map) => {
                map.iter()
                    .for_each(|(name, value)| tell(name, Field::Json(value)));
                return;
            }
        };
        tell("domain", Field::Text(&decision.domain));
        tell("reason", Field::Text(decision.reason.name()));
        if let Some(decisive) = &decision.decisive {
            let number = || Field::Number(decisive.requests_per_unit.into());
            let name = decisive.name.as_deref();
            tell("limit", name.map_or_else(number, Field::Text));
            tell("rule", Field::Text(&decisive.rule));
            tell("remaining", Field::Counted(decisive.remaining.into()));
            if let Some(plan) = &decisive.plan {
                tell("plan", Field::Text(plan));
            }
        }
        if let Some(wait) = decision.retry_after {
            tell("retry_after", Field::Number(wait));
        }
    }

    /// The same, for longer than the rules hold.
    pub fn owned(&self) -> Metadata<'static> {
        let text = |text: &Cow<'_, str>| Cow::Owned(text.as_ref().to_owned());
        let decision = match self {
            Metadata::Decision(decision) => decision,
            Metadata::Reference(map) => return Metadata::Reference(map.clone()),
        };
        let decisive = decision.decisive.as_ref().map(|decisive| Decisive {
            name: decisive.name.as_ref().map(text),
            rule: text(&decisive.rule),
            plan: decisive.plan.as_ref().map(text),
            ..*decisive
        });
        Metadata::Decision(Decision {
            domain: text(&decision.domain),
            decisive,
            ..*decision
        })
    }
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut result = Ok(());
        self.each(|name, field| {
            if result.is_ok() {
                result = map.serialize_entry(name, &field);
            }
        });
        result?;
        map.end()
    }
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Field::Number(number) | Field::Counted(number) => serializer.serialize_u64(*number),
            Field::Text(text) => serializer.serialize_str(text),
            Field::Json(value) => value.serialize(serializer),
        }
    }
}
