//! What a simulated client asks, and what the rules make of it.

use std::collections::HashMap;
use std::fmt;

use smallvec::SmallVec;
use tollgate::engine::Request;
use tollgate::limit::ban::Ban;
use tollgate::limit::candidate::Candidate;
use tollgate::limit::period::Zone;
use tollgate::limit::transaction::{Amount, Bound, Demand, Role};
use tollgate::limit::{Algorithm, Hits, Limit, Unit};
use tollgate::rules::{Descriptor, Entry, FailureMode, Override};
use tollgate::store::Key;

use super::rules::{COSTS, PLANNED, PLANS, Rule, Rules, SHAPES, Spec};

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) hits: u32,
    pub(super) parts: Vec<Part>,
}

/// A descriptor of it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Which of [`SHAPES`].
    pub(super) shape: usize,
    pub(super) values: Vec<String>,
    pub(super) hits: Asked,
    /// A limit that the request brings along.
    pub(super) brings: Option<(u32, Unit)>,
}

/// The hits of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Asked {
    OfRequest,
    Own(u64),
    Peek,
    Refund(u64),
}

/// What is known of a subject, as far as the simulation gives any.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Standing {
    pub(super) plan: Option<&'static str>,
    /// A number of its own for the limit of this name.
    pub(super) number: Option<(String, u32)>,
    /// More hits for the limit of this name, until then.
    pub(super) grant: Option<(String, u32, i64)>,
}

/// A request under one version of the rules.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) zone: Zone,
    pub(super) keys: Vec<Key>,
    /// One for each descriptor; none for one without limits.
    pub(super) items: Vec<Option<Item>>,
}

/// A descriptor with limits.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) key: usize,
    pub(super) amount: Amount,
    pub(super) role: Role,
    pub(super) terms: Vec<Term>,
    pub(super) ban: Option<Ban>,
}

/// A limit of a descriptor.
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub(super) spec: Spec,
    pub(super) limit: Limit,
    pub(super) mode: FailureMode,
    /// What is tried in its place.
    candidate: Option<Limit>,
}

impl Ask {
    pub(super) fn request(&self) -> Request<'_> {
        Request {
            domain: "d",
            hits_addend: self.hits,
            descriptors: self.parts.iter().map(Part::descriptor).collect(),
        }
    }

    /// Reads the request under `rules`, with what is known of its subjects at `now`.
    pub(super) fn read(
        &self,
        rules: &Rules,
        standings: &HashMap<String, Option<Standing>>,
        now: i64,
    ) -> Reading {
        let cost = self.cost();
        let mut reading = Reading {
            zone: rules.place.clone(),
            keys: Vec::new(),
            items: Vec::new(),
        };
        for part in &self.parts {
            let standing = standings.get(&part.values[0]).and_then(Option::as_ref);
            let item = part.item(rules, standing, now).map(|mut item| {
                let key = part.key();
                let known = reading.keys.iter().position(|other| *other == key);
                item.key = known.unwrap_or_else(|| {
                    reading.keys.push(key);
                    reading.keys.len() - 1
                });
                item.amount = self.amount(part, cost);
                item
            });
            reading.items.push(item);
        }
        reading
    }

    pub(super) fn only_peeks(&self) -> bool {
        self.parts.iter().all(|part| part.hits == Asked::Peek)
    }

    pub(super) fn has_refunds(&self) -> bool {
        let is_refund = |part: &Part| matches!(part.hits, Asked::Refund(_));
        self.parts.iter().any(is_refund)
    }

    /// The first entry of the list that any descriptor has.
    fn cost(&self) -> u64 {
        let has = |path: &str| {
            let mut entries = self.parts.iter().flat_map(Part::entries);
            entries.any(|(key, value)| key == "path" && value == path)
        };
        let found = COSTS.iter().find(|(path, _)| has(path));
        found.map_or(1000, |(_, cost)| *cost)
    }

    fn amount(&self, part: &Part, cost: u64) -> Amount {
        let hits = |hits: u64| Hits::from_thousandths(hits * cost);
        match part.hits {
            Asked::OfRequest => Amount::Charge(hits(u64::from(self.hits.max(1)))),
            Asked::Own(own) => Amount::Charge(hits(own)),
            Asked::Peek => Amount::Peek(hits(1)),
            Asked::Refund(back) => Amount::Refund(hits(back)),
        }
    }
}

impl Part {
    /// A look at what one more hit would be told.
    pub(super) fn peek(shape: usize, values: Vec<String>) -> Self {
        Self {
            shape,
            values,
            hits: Asked::Peek,
            brings: None,
        }
    }

    /// The user whose standing counts.
    pub(super) fn user(&self) -> Option<&str> {
        (self.shape == PLANNED && self.brings.is_none()).then(|| self.values[0].as_str())
    }

    fn entries(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let keys = SHAPES[self.shape].iter().copied();
        keys.zip(self.values.iter().map(String::as_str))
    }

    fn descriptor(&self) -> Descriptor<'_> {
        let entries = self.entries().map(|(key, value)| Entry { key, value });
        Descriptor {
            entries: entries.collect(),
            hits_addend: match self.hits {
                Asked::OfRequest => None,
                Asked::Own(hits) | Asked::Refund(hits) => Some(hits),
                Asked::Peek => Some(0),
            },
            is_negative_hits: matches!(self.hits, Asked::Refund(_)),
            limit: self.brings.map(|(requests_per_unit, unit)| Override {
                requests_per_unit,
                unit,
            }),
        }
    }

    pub(super) fn key(&self) -> Key {
        key(self.shape, &self.values)
    }

    fn item(&self, rules: &Rules, standing: Option<&Standing>, now: i64) -> Option<Item> {
        if let Some((requests, unit)) = self.brings {
            let spec = Spec::brought(requests, unit);
            let terms = vec![Term::new(rules, spec, rules.default_mode())];
            return Some(Item::new(terms, Role::Enforced, None));
        }
        let rule = &rules.rules[self.shape];
        let specs = match self.shape {
            PLANNED => standing_limits(rules, standing, now)?,
            _ => rule.limits.clone(),
        };
        let term = |spec: Spec| {
            let mode = rules.mode_of(&spec);
            Term::new(rules, spec, mode)
        };
        let terms = specs.into_iter().map(term).collect();
        Some(Item::new(terms, role(rule), rule.ban()))
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts.iter().map(Part::to_string).collect();
        write!(f, "{}", parts.join(" and "))?;
        match self.hits {
            0 => Ok(()),
            hits => write!(f, ", {hits} hits each"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<String> = self.entries().map(|(k, v)| format!("{k}={v}")).collect();
        write!(f, "{}", entries.join(","))?;
        match self.hits {
            Asked::OfRequest => {}
            Asked::Own(hits) => write!(f, " +{hits}")?,
            Asked::Refund(hits) => write!(f, " -{hits}")?,
            Asked::Peek => f.write_str(" ?")?,
        }
        match self.brings {
            Some((requests, unit)) => write!(f, " within {requests}/{}", unit.name()),
            None => Ok(()),
        }
    }
}

/// The key of a descriptor, as `engine/key.rs` says it.
pub(super) fn key(shape: usize, values: &[String]) -> Key {
    match SHAPES[shape] {
        ["user", rest @ ..] => {
            let rest = rest.iter().zip(&values[1..]);
            let rest: String = rest.map(|(key, value)| format!("|{key}={value}")).collect();
            Key::new("", &format!("d|user={}", values[0]), &format!("|^{rest}"))
        }
        [key] => Key::new("", &format!("d|{key}={}", values[0]), ""),
        _ => unreachable!("no such shape"),
    }
}

/// The limits of a subject's plan; none if it has no limit.
fn standing_limits(rules: &Rules, standing: Option<&Standing>, now: i64) -> Option<Vec<Spec>> {
    let plan = standing
        .and_then(|standing| standing.plan)
        .unwrap_or("free");
    let place = PLANS.iter().position(|name| *name == plan).unwrap_or(0);
    let mut specs = rules.plans.get(place)?.clone();
    for spec in &mut specs {
        let name = spec.name();
        let number = standing.and_then(|standing| standing.number.clone());
        if let Some((_, number)) = number.filter(|(of, _)| *of == name) {
            *spec = spec.with_requests(number);
        }
        let grant = standing.and_then(|standing| standing.grant.clone());
        if let Some((_, extra, _)) = grant.filter(|(of, _, until)| *of == name && now < *until) {
            *spec = spec.with_extra(extra);
        }
    }
    Some(specs)
}

fn role(rule: &Rule) -> Role {
    match (rule.shadow, rule.quota) {
        (true, _) => Role::Shadow,
        (false, true) => Role::Quota,
        (false, false) => Role::Enforced,
    }
}

impl Spec {
    pub(super) fn brought(requests: u32, unit: Unit) -> Self {
        Self {
            requests,
            unit,
            multiplier: 1,
            algorithm: Algorithm::FixedWindow,
            always: false,
            mode: None,
            candidate: None,
        }
    }
}

impl Item {
    fn new(terms: Vec<Term>, role: Role, ban: Option<Ban>) -> Self {
        Self {
            key: 0,
            amount: Amount::Peek(Hits::ZERO),
            role,
            terms,
            ban,
        }
    }

    /// What the store is asked, with only the limits that `choose` makes something of.
    pub(super) fn demand<'a>(&'a self, bounds: SmallVec<[Bound<'a>; 2]>) -> Demand<'a> {
        Demand {
            key: self.key,
            amount: self.amount,
            role: self.role,
            limits: bounds,
            ban: self.ban.as_ref(),
            candidates: Vec::new(),
        }
    }

    /// What is tried, each in the place of its limit.
    pub(super) fn candidates(&self) -> Vec<Candidate<'_>> {
        let terms = self.terms.iter().enumerate();
        let tried = terms.filter_map(|(place, term)| {
            Some(Candidate {
                limit: term.candidate.as_ref()?,
                instead_of: Some(place),
                role: self.role,
                always: term.spec.always,
            })
        });
        tried.collect()
    }

    pub(super) fn bounds(&self) -> SmallVec<[Bound<'_>; 2]> {
        self.terms.iter().map(Term::bound).collect()
    }
}

impl Term {
    fn new(rules: &Rules, spec: Spec, mode: FailureMode) -> Self {
        let limit = spec.limit(&rules.place);
        let candidate = spec.candidate.as_ref();
        let candidate = candidate.map(|candidate| candidate.limit(&rules.place).on_trial());
        Self {
            spec,
            limit,
            mode,
            candidate,
        }
    }

    fn bound(&self) -> Bound<'_> {
        Bound {
            limit: &self.limit,
            always: self.spec.always,
        }
    }
}

impl Reading {
    pub(super) fn demands(&self) -> Vec<Demand<'_>> {
        let items = self.items.iter().flatten();
        items
            .map(|item| Demand {
                candidates: item.candidates(),
                ..item.demand(item.bounds())
            })
            .collect()
    }
}
