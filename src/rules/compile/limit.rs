//! One limit.

use super::candidate::{self, Tried};
use super::fields::{Fields, Scope};
use super::hints;
use super::table::Table;
use crate::limit::lease::Lease;
use crate::limit::period::Zone;
use crate::limit::{Algorithm, Durability, Hits, Limit, LimitError, Unit};
use crate::rules::diagnostic::Code;
use crate::rules::file::{Node, Span, Value};
use crate::rules::{Domain, FailureMode, RuleLimit};

/// The words of `failure_mode`.
pub(super) const FAILURE_MODES: [(&str, FailureMode); 3] = [
    ("allow", FailureMode::Allow),
    ("deny", FailureMode::Deny),
    ("local", FailureMode::Local),
];

/// The words of `charge`: whether a limit is charged even when the request is refused.
pub(super) const CHARGES: [(&str, bool); 2] = [("always", true), ("admitted", false)];

/// The words of `durability`.
pub(super) const DURABILITIES: [(&str, Durability); 2] = [
    ("usual", Durability::Usual),
    ("replicated", Durability::Replicated),
];

/// A limit as read.
pub(super) enum Found {
    /// No limit, what it replaces, and a limit that is tried there.
    Unlimited(Vec<String>, Option<Tried>),
    /// A limit, where it stands, and what is tried in its place.
    Limit(Box<RuleLimit>, Span, Option<Tried>),
}

/// The words of `algorithm`.
pub(super) const KINDS: [(&str, Kind); 3] = [
    ("fixed_window", Kind::FixedWindow),
    ("token_bucket", Kind::TokenBucket),
    ("sliding_window", Kind::SlidingWindow),
];

/// What they stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    FixedWindow,
    TokenBucket,
    SlidingWindow,
}

/// What a limit counts, as it is written: what a candidate has where it says nothing else.
#[derive(Clone, Copy)]
pub(super) struct Numbers {
    requests: u32,
    unit: Unit,
    multiplier: u32,
    kind: Kind,
    burst: Option<Burst>,
    pub(super) charge_always: Option<bool>,
}

/// What a bucket holds, in thousandths.
#[derive(Clone, Copy)]
enum Burst {
    Hits(u64),
    /// Of `requests_per_unit`.
    Times(u64),
}

/// Reads a limit; none if anything is wrong with it.
pub(super) fn read(scope: &Scope<'_>, node: &Node<'_>, domain: &Domain) -> Option<Found> {
    let fields = Fields::of(scope, node, Table::Limit)?;
    let name = fields
        .text("name")
        .map(|(name, _)| name)
        .filter(|name| !name.is_empty());
    let replaces = replaces(&fields, name);
    if fields.flag("unlimited") {
        let candidate = candidate::read(&fields, candidate::Live::Unlimited, domain);
        return unlimited(&fields, replaces, candidate);
    }
    let numbers = Numbers::read(&fields, None);
    let failure_mode = fields.one_of("failure_mode", &FAILURE_MODES);
    let lease = lease(&fields, numbers);
    let durability = fields.one_of("durability", &DURABILITIES);
    let live = match numbers {
        Some(numbers) => candidate::Live::Limit(numbers),
        None => candidate::Live::Unread,
    };
    let candidate = candidate::read(&fields, live, domain);
    if fields.any_failed() {
        return None;
    }
    let numbers = numbers?;
    let limit = numbers.build(&fields, &domain.time_zone)?;
    let limit = RuleLimit {
        limit: limit.leased(lease).durable(durability.unwrap_or_default()),
        name: name.map(Into::into),
        replaces,
        charge_always: numbers.charge_always,
        failure_mode,
        policy: None,
    };
    Some(Found::Limit(Box::new(limit), fields.own_span(), candidate))
}

fn unlimited(
    fields: &Fields<'_, '_>,
    replaces: Vec<String>,
    candidate: Option<Tried>,
) -> Option<Found> {
    no_numbers(fields, "rule");
    (!fields.any_failed()).then_some(Found::Unlimited(replaces, candidate))
}

/// Reports what has no place beside `unlimited`.
pub(super) fn no_numbers(fields: &Fields<'_, '_>, what: &str) {
    for name in [
        "unit",
        "requests_per_unit",
        "unit_multiplier",
        "algorithm",
        "burst",
        "burst_multiplier",
        "charge",
        "lease",
        "durability",
    ] {
        // The reference lets `requests_per_unit` pass beside `unlimited`, and so do its users' files.
        let harmless = name == "requests_per_unit";
        if let Some(span) = fields.span(name).filter(|_| !harmless) {
            let message = format!("an unlimited {what} has no `{name}`");
            let error = fields.error_at(name, span, message);
            let error = error.coded(Code::Conflict);
            fields.fail(
                name,
                error.with_help(format!("remove `{name}`, or `unlimited`")),
            );
        }
    }
}

impl Numbers {
    /// Reads what a limit counts; a candidate has what it does not say from its live limit.
    pub(super) fn read(fields: &Fields<'_, '_>, live: Option<&Self>) -> Option<Self> {
        let inherited = live.filter(|_| fields.get("unit").is_none());
        let unit = match inherited {
            Some(live) => Some(live.unit),
            None => unit(fields, "unit"),
        };
        let or = |name: &'static str, otherwise: u32| {
            fields.number(name).map_or(otherwise, |(number, _)| number)
        };
        let requests = or("requests_per_unit", live.map_or(0, |live| live.requests));
        let multiplier = or("unit_multiplier", live.map_or(1, |live| live.multiplier));
        let (kind, burst) = algorithm(fields, live);
        let charge_always = fields.one_of("charge", &[("always", true), ("admitted", false)]);
        (!fields.any_failed()).then_some(Self {
            requests,
            unit: unit?,
            multiplier,
            kind,
            burst,
            charge_always: charge_always.or(live.and_then(|live| live.charge_always)),
        })
    }

    /// Whether both are one limit, however they are written.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let said = |of: &Self| (of.requests, of.unit, of.multiplier, of.charge_always);
        said(self) == said(other) && self.algorithm() == other.algorithm()
    }

    /// The unit.
    pub(super) fn unit(&self) -> Unit {
        self.unit
    }

    fn algorithm(&self) -> Algorithm {
        match self.kind {
            Kind::FixedWindow => Algorithm::FixedWindow,
            Kind::SlidingWindow => Algorithm::SlidingWindow,
            Kind::TokenBucket => Algorithm::TokenBucket {
                burst: match self.burst {
                    Some(Burst::Hits(thousandths)) => Hits::from_thousandths(thousandths),
                    Some(Burst::Times(thousandths)) => {
                        let of_requests = u64::from(self.requests);
                        Hits::from_thousandths(thousandths.saturating_mul(of_requests))
                    }
                    None => Hits::whole(self.requests),
                },
            },
        }
    }

    /// The limit of these numbers; what they cannot be is reported at the fields.
    pub(super) fn build(&self, fields: &Fields<'_, '_>, zone: &Zone) -> Option<Limit> {
        let (requests, multiplier) = (self.requests, self.multiplier);
        let built = Limit::new(requests, self.unit, multiplier, self.algorithm(), zone);
        built.map_err(|error| impossible(fields, &error)).ok()
    }
}

/// A unit of time under `name`, without which there is no limit.
pub(super) fn unit(fields: &Fields<'_, '_>, name: &'static str) -> Option<Unit> {
    let Some((text, span)) = fields.text(name).filter(|(text, _)| !text.is_empty()) else {
        if !fields.failed(name) {
            let span = fields.span(name).unwrap_or(fields.own_span());
            let error = fields.error_at(name, span, format!("the rate limit has no `{name}`"));
            let error = error.coded(Code::MissingField);
            fields.fail(name, error.with_help(format!("one of {}", units())));
        }
        return None;
    };
    let found = text.parse::<Unit>().ok();
    if found.is_none() {
        let error = fields.error_at(name, span, format!("unknown unit `{text}`"));
        let help = hints::unit(text, name == "unit");
        let help = help.unwrap_or_else(|| format!("one of {}", units()));
        fields.fail(name, error.with_help(help));
    }
    found
}

fn units() -> String {
    Unit::ALL
        .map(|unit| format!("`{}`", unit.name()))
        .join(", ")
}

fn algorithm(fields: &Fields<'_, '_>, live: Option<&Numbers>) -> (Kind, Option<Burst>) {
    let kind = fields
        .one_of("algorithm", &KINDS)
        .unwrap_or(live.map_or(Kind::FixedWindow, |live| live.kind));
    let burst = fields.thousandths("burst");
    let multiplier = fields.thousandths("burst_multiplier");
    for (name, span) in [
        ("burst", burst.map(|b| b.1)),
        ("burst_multiplier", multiplier.map(|m| m.1)),
    ] {
        if let Some(span) = span.filter(|_| kind != Kind::TokenBucket) {
            let error = fields.error_at(name, span, format!("only a token bucket has a `{name}`"));
            let error = error.coded(Code::Conflict);
            fields.fail(name, error.with_help("add `algorithm: token_bucket`"));
        }
    }
    if let (Some(_), Some((_, span))) = (burst, multiplier) {
        let message = "`burst` and `burst_multiplier` say the same thing twice";
        fields.fail(
            "burst_multiplier",
            fields
                .error_at("burst_multiplier", span, message)
                .coded(Code::Conflict)
                .with_help("keep one of the two"),
        );
    }
    let burst = burst.map(|(thousandths, _)| Burst::Hits(thousandths));
    let burst = burst.or(multiplier.map(|(thousandths, _)| Burst::Times(thousandths)));
    (kind, burst.or(live.and_then(|live| live.burst)))
}

/// The share that may be taken in advance, where that can be.
fn lease(fields: &Fields<'_, '_>, numbers: Option<Numbers>) -> Option<Lease> {
    let node = fields.get("lease")?;
    let span = fields.span("lease").unwrap_or(node.span);
    let charge_always = numbers.and_then(|numbers| numbers.charge_always);
    let conflict = match numbers.map(|numbers| numbers.kind) {
        Some(Kind::SlidingWindow) => Some((
            "a sliding window has no `lease`",
            "hits that are taken in advance and admitted later would move within the window",
        )),
        _ if charge_always == Some(true) => Some((
            "what is charged always has no `lease`",
            "refused requests are charged too, which only the store can do",
        )),
        Some(Kind::FixedWindow | Kind::TokenBucket) | None => None,
    };
    if let Some((message, help)) = conflict {
        fields.fail(
            "lease",
            fields
                .error_at("lease", span, message)
                .coded(Code::Conflict)
                .with_help(help),
        );
        return None;
    }
    let text = match &node.value {
        Value::Scalar { text, .. } => &**text,
        Value::List(_) | Value::Map(_) => node.kind(),
    };
    let found = Lease::parse(text);
    if found.is_none() {
        let message = format!("`{text}` is no share that can be leased");
        let error = fields.error_at("lease", node.span, message);
        let help = format!(
            "above 0% and at most {}, such as `1%` or `0.25%`: each instance takes so much in advance",
            Lease::MAX
        );
        fields.fail("lease", error.with_help(help));
    }
    found
}

/// Reports why there is no such limit.
fn impossible(fields: &Fields<'_, '_>, error: &LimitError) {
    let (name, help) = match error {
        LimitError::Multiplier => (
            "unit_multiplier",
            Some("leave it out for a window of one unit"),
        ),
        LimitError::WindowTooLong => ("unit_multiplier", Some("use a smaller `unit_multiplier`")),
        LimitError::EmptyBucket => (
            "requests_per_unit",
            Some("a limit that always refuses is a fixed window with `requests_per_unit: 0`"),
        ),
        LimitError::Inexact => (
            "requests_per_unit",
            Some("use a rounder number, a smaller burst or a shorter unit"),
        ),
    };
    let span = fields.span(name).unwrap_or(fields.own_span());
    let diagnostic = fields.error_at(name, span, error.to_string());
    fields.fail(
        name,
        match help {
            Some(help) => diagnostic.with_help(help),
            None => diagnostic,
        },
    );
}

fn replaces(fields: &Fields<'_, '_>, own: Option<&str>) -> Vec<String> {
    let Some((items, scope)) = fields.list("replaces") else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let scope = scope.item(index);
        let name = match &item.value {
            Value::Map(_) => {
                let entry = Fields::of(&scope, item, Table::Replaces);
                entry
                    .and_then(|entry| entry.text("name"))
                    .map(|(name, _)| name)
            }
            Value::Scalar { .. } | Value::List(_) => None,
        };
        match name.filter(|name| !name.is_empty()) {
            Some(name) if Some(name) == own => {
                let error = scope.error(item.span, format!("the limit `{name}` replaces itself"));
                let error = error.coded(Code::Conflict);
                fields.fail(
                    "replaces",
                    error.with_help("name the limit of another descriptor"),
                );
            }
            Some(name) => names.push(name.to_owned()),
            None => {
                let error = scope.error(item.span, "an entry of `replaces` has no name");
                let error = error.coded(Code::MissingField);
                let help = match &item.value {
                    Value::Scalar { text, .. } if !text.is_empty() => {
                        format!("write `{{name: {text}}}`")
                    }
                    Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                        "write `- name: NAME` of another rate limit".to_owned()
                    }
                };
                fields.fail("replaces", error.with_help(help));
            }
        }
    }
    names
}
