//! How a request comes to its rules, entry by entry, what it would be charged and where, and what would be answered. Nothing is
//! charged. `tollgate explain` says the same, of rules in files.

use axum::body::Bytes;
use axum::extract::State;
use serde_json::{Value, json};

use super::{Answer, Api, Problem, answer, check, show};
use crate::admin::json as proto_json;
use crate::engine::supposed::{Charged, ChargedLimit};
use crate::engine::{Engine, Rejection, Request};
use crate::grpc::wire;
use crate::limit::transaction::Amount;
use crate::rules::diagnostic::did_you_mean;
use crate::rules::matcher::reach::Beside;
use crate::rules::written::{self, Pairs};
use crate::rules::{Descriptor, Domain, Entry};

/// All parameters in their order, since a request has several descriptors.
type Parameters = axum::extract::Query<Vec<(String, String)>>;

/// As many as a person looks at, and as have room in an address.
const MAX_DESCRIPTORS: usize = 16;

/// How many of the others that stand where an entry is looked for are told.
const MAX_BESIDE: usize = 5;

/// As many orders of the entries are tried as four have.
const MAX_REORDERED: usize = 4;

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
            "there are more than {MAX_DESCRIPTORS} descriptors: POST takes as many as a request may have"
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
    told(&api, &request).await
}

/// The body is a `RateLimitRequest` in proto3's JSON, as `/json` takes it.
pub(super) async fn explain_message(State(api): State<Api>, body: Bytes) -> Answer {
    let message = proto_json::request(&body).map_err(Problem::bad)?;
    let request = wire::request(&message).map_err(|error| Problem::bad(error.to_string()))?;
    told(&api, &request).await
}

async fn told(api: &Api, request: &Request<'_>) -> Answer {
    let explained = explained(&api.admin.engine, request).await;
    answer(&explained.map_err(|error| Problem::bad(error.to_string()))?)
}

/// What an engine has to say of a request.
pub async fn explained(engine: &Engine, request: &Request<'_>) -> Result<Value, Rejection> {
    let decided = engine.rehearse(request).await?;
    let supposed = engine.suppose(request).await?;
    let ways = engine.with_rules(|rules| {
        let domain = rules.domains.get(request.domain);
        let way = |descriptor| way(domain, descriptor);
        request.descriptors.iter().map(way).collect::<Vec<_>>()
    });
    let mut ways = ways.unwrap_or_default();
    let charged = supposed.iter().flat_map(|supposed| &supposed.descriptors);
    for (way, charged) in ways.iter_mut().zip(charged) {
        charge(way, charged, engine);
    }
    let mut known: Vec<String> = engine
        .with_rules(|rules| rules.domains.keys().cloned().collect())
        .unwrap_or_default();
    known.sort_unstable();
    let near = did_you_mean(request.domain, known.iter().map(String::as_str));
    let mut shown = check::shown(&decided);
    shown["domain"] = json!({
        "name": request.domain,
        "known": supposed.is_some(),
        "meant": near.filter(|_| supposed.is_none()),
    });
    shown["cost"] = supposed.map_or(json!(1), |supposed| show::hits(supposed.cost));
    shown["descriptors"] = ways.into();
    Ok(shown)
}

/// How a descriptor comes to its rule, or how far it comes.
fn way(domain: Option<&Domain>, descriptor: &Descriptor<'_>) -> Value {
    let entries = &descriptor.entries;
    let rule = domain.and_then(|domain| domain.find(entries));
    let reached = domain.map_or(0, |domain| domain.reach(entries));
    let levels = domain
        .map(|domain| domain.beside(entries))
        .unwrap_or_default();
    let entry = |(place, entry): (usize, &Entry<'_>)| {
        let level = levels.get(place).map_or(&[][..], Vec::as_slice);
        let taken = level.iter().find(|one| one.is_taken);
        // Another value of the same key is more likely to be meant than another key.
        let same = level.iter().any(|one| one.key == entry.key);
        let others = level
            .iter()
            .filter(|one| !one.is_taken && (!same || one.key == entry.key));
        let others: Vec<&Beside> = others.collect();
        let left_out = others.len().saturating_sub(MAX_BESIDE);
        let others = others.into_iter().take(MAX_BESIDE);
        let others: Vec<Value> = others.map(|one| other(one, entry, taken)).collect();
        json!({
            "key": entry.key,
            "value": entry.value,
            "found": place < reached,
            "matches": taken.map(|one| json!({"key": one.key, "value": one.value})),
            "others": others,
            "others_left_out": left_out,
        })
    };
    let shown: Vec<Value> = entries.iter().enumerate().map(entry).collect();
    let ends = Ends::of(rule.is_some(), reached, entries, &levels);
    let hint = domain.and_then(|domain| ends.hint(domain, entries, reached, &levels));
    json!({
        "entries": shown,
        "rule": rule.map(|rule| show::rule(rule)),
        "brought": descriptor.limit.is_some(),
        "ends": ends.name(),
        "hint": hint,
        "limits": [],
        "key": null,
        "hits": null,
        "plan": null,
        "replaced": [],
    })
}

/// One that stands where an entry is looked for, and why it is not the one.
fn other(one: &Beside, entry: &Entry<'_>, taken: Option<&Beside>) -> Value {
    let why = match (one.key == entry.key, one.fits, taken) {
        (_, true, Some(_)) => "less_specific",
        (true, _, _) => "other_value",
        (false, _, _) => "other_key",
    };
    json!({"key": one.key, "value": one.value, "why": why})
}

/// Where the search for a rule ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Rule,
    NoEntries,
    /// What the last entry found has no limit, and nothing below it.
    NoLimit,
    /// What the last entry found has no limit, and others below it.
    TooShort,
    /// Nothing is below what the entry before found.
    TooLong,
    OtherValue,
    OtherKey,
}

impl Ends {
    fn of(is_found: bool, reached: usize, entries: &[Entry<'_>], levels: &[Vec<Beside>]) -> Self {
        let level = levels.get(reached).map_or(&[][..], Vec::as_slice);
        match entries.get(reached) {
            _ if is_found => Ends::Rule,
            _ if entries.is_empty() => Ends::NoEntries,
            None if level.is_empty() => Ends::NoLimit,
            None => Ends::TooShort,
            Some(_) if level.is_empty() => Ends::TooLong,
            Some(entry) if level.iter().any(|one| one.key == entry.key) => Ends::OtherValue,
            Some(_) => Ends::OtherKey,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Ends::Rule => "rule",
            Ends::NoEntries => "no_entries",
            Ends::NoLimit => "no_limit",
            Ends::TooShort => "too_short",
            Ends::TooLong => "too_long",
            Ends::OtherValue => "other_value",
            Ends::OtherKey => "other_key",
        }
    }

    /// What to do about it, if something can be said.
    fn hint(
        self,
        domain: &Domain,
        entries: &[Entry<'_>],
        reached: usize,
        levels: &[Vec<Beside>],
    ) -> Option<String> {
        let level = levels.get(reached).map_or(&[][..], Vec::as_slice);
        let entry = entries.get(reached);
        let meant = |text: &str, known: Vec<&str>| {
            let known: Vec<&str> = known
                .into_iter()
                .filter(|known| !known.is_empty())
                .collect();
            let small: Vec<String> = known.iter().map(|known| known.to_lowercase()).collect();
            let near = did_you_mean(text, small.iter().map(String::as_str))?;
            let (near, _) = known.iter().zip(&small).find(|(_, small)| *small == near)?;
            Some(format!("did you mean `{near}`?"))
        };
        let hint = match (self, entry) {
            (Ends::TooShort, None) => Some(format!("it goes on with {}", names(level))),
            (Ends::Rule | Ends::NoEntries | Ends::NoLimit | Ends::TooLong, _) | (_, None) => None,
            (Ends::OtherValue, Some(entry)) => {
                let same = level.iter().filter(|one| one.key == entry.key);
                meant(entry.value, same.map(|one| one.value.as_str()).collect())
            }
            (Ends::OtherKey | Ends::TooShort, Some(entry)) => meant(
                entry.key,
                level.iter().map(|one| one.key.as_str()).collect(),
            ),
        };
        let looks = self != Ends::Rule && self != Ends::NoEntries;
        hint.or_else(|| {
            if looks {
                reordered(domain, entries)
            } else {
                None
            }
        })
    }
}

/// The first of what stands in a level.
fn names(level: &[Beside]) -> String {
    let named = level
        .iter()
        .take(MAX_BESIDE)
        .map(|one| match one.value.is_empty() {
            true => format!("`{}`", one.key),
            false => format!("`{}={}`", one.key, one.value),
        });
    let more = if level.len() > MAX_BESIDE {
        " and others"
    } else {
        ""
    };
    named.collect::<Vec<_>>().join(", ") + more
}

/// The order in which the same entries would find a rule.
fn reordered(domain: &Domain, entries: &[Entry<'_>]) -> Option<String> {
    if entries.len() > MAX_REORDERED {
        return None;
    }
    let found = orders(entries.to_vec())
        .into_iter()
        .find(|order| domain.find(order).is_some())?;
    let order: Vec<&str> = found.iter().map(|entry| entry.key).collect();
    Some(format!(
        "the order of entries matters: `{}` has a rule",
        order.join(", ")
    ))
}

fn orders<T: Clone>(items: Vec<T>) -> Vec<Vec<T>> {
    if items.len() < 2 {
        return vec![items];
    }
    let mut all = Vec::new();
    for place in 0..items.len() {
        let mut rest = items.clone();
        let first = rest.remove(place);
        for mut order in orders(rest) {
            order.insert(0, first.clone());
            all.push(order);
        }
    }
    all
}

/// Adds what a descriptor would be charged, and where.
fn charge(way: &mut Value, charged: &Charged, engine: &Engine) {
    let (kind, hits) = match charged.amount {
        Amount::Charge(hits) => ("charge", hits),
        Amount::Peek(hits) => ("peek", hits),
        Amount::Refund(hits) => ("refund", hits),
    };
    way["hits"] = json!({"kind": kind, "number": show::hits(hits)});
    way["plan"] = json!(charged.plan);
    way["replaced"] = json!(charged.replaced);
    way["limits"] = charged.limits.iter().map(limit).collect();
    way["key"] = charged.key.as_ref().map_or(Value::Null, |key| {
        let slot = key.slot();
        json!({
            "text": key.as_str(),
            "tag": key.tag(),
            "slot": slot,
            "server": engine.store().server_of(slot),
        })
    });
}

fn limit(charged: &ChargedLimit) -> Value {
    let mut shown = show::limit(&charged.label, &charged.limit);
    shown["always"] = charged.always.into();
    shown["failure_mode"] = charged.failure_mode.name().into();
    shown
}
