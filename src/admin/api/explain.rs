//! How a request comes to its rules, entry by entry, and what would be answered. Nothing is charged.

use axum::extract::State;
use serde_json::{Value, json};

use super::{Answer, Api, Problem, answer, check, show};
use crate::engine::Request;
use crate::rules::{Descriptor, Domain, Entries, Entry, Rule};

/// All parameters in their order, since a request has several descriptors.
type Parameters = axum::extract::Query<Vec<(String, String)>>;

/// An entry as it is written: key and value.
type Pair = (String, String);

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
    let pairs: Result<Vec<Vec<Pair>>, Problem> = asked("descriptor").map(pairs).collect();
    let pairs = pairs?;
    let descriptors = pairs.iter().map(|pairs| Descriptor {
        entries: entries(pairs),
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

fn entries(pairs: &[Pair]) -> Entries<'_> {
    let pairs = pairs.iter();
    pairs.map(|(key, value)| Entry { key, value }).collect()
}

/// `key=value,key=value`; in both, what would be taken for punctuation is percent-encoded, as in the subjects that the API
/// tells. A part without `=` belongs to the value before it.
fn pairs(text: &str) -> Result<Vec<Pair>, Problem> {
    let mut parts: Vec<String> = Vec::new();
    for part in text.split(',') {
        match parts.last_mut() {
            Some(last) if !part.contains('=') => *last = format!("{last},{part}"),
            _ => parts.push(part.to_owned()),
        }
    }
    let pair = |part: String| {
        let (key, value) = part.split_once('=')?;
        let key = decoded(key.trim())?;
        (!key.is_empty()).then_some((key, decoded(value.trim())?))
    };
    let pairs: Option<Vec<Pair>> = parts.into_iter().map(pair).collect();
    pairs.ok_or_else(|| Problem::bad(format!("`{text}` is not written like key=value,key=value")))
}

/// Percent-encoded bytes as they are meant; none if they are no text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%');
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_read_as_they_are_written() {
        let of = |text: &str| pairs(text).ok();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let two = vec![pair("a", "1"), pair("b", "x,y")];
        assert_eq!(of("a=1,b=x,y"), Some(two.clone()));
        assert_eq!(of("a=1,b=x%2Cy"), Some(two));
        assert_eq!(of("a="), Some(vec![pair("a", "")]));
        assert_eq!(of("a=b=c"), Some(vec![pair("a", "b=c")]));
        assert_eq!(of("a=100%"), Some(vec![pair("a", "100%")]));
        for wrong in ["", "a", "=1", "a=%FF"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
