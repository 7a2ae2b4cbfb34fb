//! What is right and yet unwise: rules that can never match, limits that can never refuse, names that nobody has. Said by
//! `tollgate check`; the service takes such files without a word.
//!
//! - `items`: descriptors beside each other, and which take values from others
//! - `texts`: keys and values that cannot be meant as they are written
//! - `limits`, `windows`: limits that are charged together
//! - `plans`: tiers
//! - `domain`: what stands beside the descriptors
//! - `slots`: where the counters lie

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::fields::Scope;
use crate::limit::Hits;
use crate::rules::diagnostic::{Code, did_you_mean};
use crate::rules::file::{Node, Span, Value};
use crate::rules::{Domain, PlanSource, Rule, RuleSet};

mod domain;
mod items;
mod limits;
mod plans;
mod slots;
mod texts;
mod windows;

use items::{Item, Level, Matches};

/// Looks at all files of rules that have no errors.
pub(super) fn look(files: &[(Scope<'_>, Node<'_>)], rules: &RuleSet) {
    let place = |rule: &'_ Rule| (rule.source.file.to_string(), rule.path.clone());
    let by_place = rules.rules.iter().map(|rule| (place(rule), &**rule));
    let by_place = by_place.collect();
    let mut of_domain: HashMap<&str, Vec<&Rule>> = HashMap::new();
    for rule in &rules.rules {
        of_domain.entry(&rule.domain).or_default().push(rule);
    }
    let of = |domain: &Domain| of_domain.get(&*domain.name).map_or(&[][..], Vec::as_slice);
    let names: HashMap<&str, Names> = rules
        .domains
        .values()
        .map(|domain| (&*domain.name, Names::of(domain, of(domain))))
        .collect();
    let mut seen = HashSet::new();
    for (scope, root) in files {
        let name = get(root, "domain").and_then(text).unwrap_or_default();
        let found = rules.domains.get(name).zip(names.get(name));
        let Some((domain, names)) = found else {
            continue;
        };
        let file = File {
            domain,
            rules: of(domain),
            by_place: &by_place,
            names,
        };
        domain::look(&file, scope, root);
        if seen.insert(name) {
            slots::look(&file, scope, root);
        }
        plans::look(&file, &scope.field("plans"), root);
        if let Some(list) = get(root, "descriptors").and_then(list) {
            file.level(&scope.field("descriptors"), list);
        }
    }
}

/// What is known beside the file.
struct File<'r> {
    domain: &'r Domain,
    /// The rules of the domain.
    rules: &'r [&'r Rule],
    /// All rules by file and path.
    by_place: &'r HashMap<(String, String), &'r Rule>,
    names: &'r Names,
}

/// The names of a domain that its rules speak of.
struct Names {
    /// Of limits.
    limits: HashSet<String>,
    /// By the name of a limit those that it replaces.
    replaced: HashMap<String, HashSet<String>>,
    /// Of plans that some descriptor can come by.
    plans: HashSet<String>,
    /// The first rule by its counters, of those whose plan is an entry.
    counters: HashMap<String, (Arc<str>, usize)>,
    /// The most that a hit of a request can cost.
    dearest: Hits,
    /// How many names may still be compared with others, to guess which was meant.
    guesses: Cell<usize>,
}

/// How many names are compared in all.
const MOST_GUESSES: usize = 200_000;

impl Names {
    fn of(domain: &Domain, rules: &[&Rule]) -> Self {
        let of_plans = domain.plans.values().flat_map(|plan| &plan.limits);
        let all = of_plans.chain(rules.iter().flat_map(|rule| &rule.limits));
        let (mut limits, mut replaced) = (HashSet::new(), HashMap::new());
        for limit in all {
            let Some(name) = limit.name.as_deref() else {
                continue;
            };
            limits.insert(name.to_owned());
            if !limit.replaces.is_empty() {
                let names: &mut HashSet<String> = replaced.entry(name.to_owned()).or_default();
                names.extend(limit.replaces.iter().cloned());
            }
        }
        let (mut plans, mut counters) = (HashSet::new(), HashMap::new());
        for (rule, choice) in rules
            .iter()
            .filter_map(|rule| Some((rule, rule.plan.as_ref()?)))
        {
            plans.insert(choice.default.clone());
            let level = match choice.from {
                PlanSource::Entry(level) => rule.levels.get(level),
                PlanSource::Directory => None,
            };
            match level.filter(|level| !level.value.is_empty() && !level.wildcard) {
                Some(level) => plans.extend([level.value.to_string()]),
                None => plans.extend(domain.plans.keys().cloned()),
            }
            if let Some(counter) = counter(rule) {
                let place = (Arc::clone(&rule.source.file), rule.source.line);
                counters.entry(counter).or_insert(place);
            }
        }
        Self {
            limits,
            replaced,
            plans,
            counters,
            dearest: domain.costs.dearest().unwrap_or(Hits::ONE),
            guesses: Cell::new(MOST_GUESSES),
        }
    }

    /// Whether a name may be compared with so many others.
    fn may_guess(&self, among: usize) -> bool {
        let left = self.guesses.get().checked_sub(among);
        self.guesses.set(left.unwrap_or(0));
        left.is_some()
    }
}

/// What the counters of a rule have in common whose plan is an entry: all but that entry's value.
fn counter(rule: &Rule) -> Option<String> {
    let PlanSource::Entry(of_plan) = rule.plan.as_ref()?.from else {
        return None;
    };
    let levels = rule.levels.iter().enumerate().map(|(place, level)| {
        let value = if place == of_plan { "" } else { &*level.value };
        format!("{:?}={value:?}", level.key)
    });
    Some(levels.collect::<Vec<_>>().join(","))
}

impl File<'_> {
    fn level(&self, scope: &Scope<'_>, list: &[Node<'_>]) {
        let items: Vec<Item<'_>> = list.iter().enumerate().filter_map(Item::of).collect();
        let level = Level::of(&items);
        for item in &items {
            if scope.is_full() {
                return;
            }
            let scope = scope.item(item.index);
            texts::look(&scope, item);
            self.rule(&scope, item);
            if let Some(before) = level.takes_all(item) {
                never_matches(&scope, item, before);
            } else if !(item.unlimited || item.limits && item.below.is_some()) {
                hides(&scope, item, &level.hidden_by(item));
            }
            if let Some(below) = item.below {
                self.level(&scope.field("descriptors"), below);
            }
        }
    }

    /// What a descriptor says for those that end there.
    fn rule(&self, scope: &Scope<'_>, item: &Item<'_>) {
        let single = get(item.node, "rate_limit");
        let several = get(item.node, "rate_limits")
            .and_then(list)
            .unwrap_or_default();
        for (index, limit) in several.iter().enumerate() {
            self.replaces(&scope.field("rate_limits").item(index), limit);
        }
        if let Some(limit) = single {
            self.replaces(&scope.field("rate_limit"), limit);
        }
        let place = (scope.file.name.clone(), scope.path());
        let Some(rule) = self.by_place.get(&place) else {
            return;
        };
        let nodes: Vec<&Node<'_>> = single.into_iter().chain(several).collect();
        let of_one_value = !matches!(item.matches, Matches::Rest);
        limits::look(self, scope, &rule.limits, &nodes, of_one_value);
        plans::unknown(self, scope, item.node, rule);
        self.shares(scope, item, rule);
        idle_ban(scope, item.node, rule);
    }

    /// Names under `replaces` that no limit has, and limits that replace each other.
    fn replaces(&self, scope: &Scope<'_>, limit: &Node<'_>) {
        let entries = get(limit, "replaces").and_then(list).unwrap_or_default();
        let own = get(limit, "name").and_then(text);
        for name in entries.iter().filter_map(|entry| get(entry, "name")) {
            let known = &self.names.limits;
            let Some(written) = text(name).filter(|_| !scope.is_full()) else {
                continue;
            };
            let scope = scope.field("replaces");
            if !known.contains(written) {
                let message = format!("no limit of this domain is named `{written}`");
                let may_guess = self.names.may_guess(known.len());
                let known = known.iter().filter(|_| may_guess).map(String::as_str);
                let near = did_you_mean(written, known);
                let help = match near {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "so it replaces nothing: give that limit this `name`".to_owned(),
                };
                advise(&scope, Code::UnknownReplaced, name.span, &message, &help);
            }
            let back = self.names.replaced.get(written).zip(own);
            if let Some((_, own)) =
                back.filter(|(names, own)| names.contains(*own) && *own > written)
            {
                let message = format!(
                    "`{own}` and `{written}` replace each other: a request with both is charged on neither"
                );
                let help = "leave `replaces` to the one that is to count";
                advise(&scope, Code::ReplacesEachOther, name.span, &message, help);
            }
        }
    }

    /// A rule whose plan is an entry has the counters of those that differ in that entry's value alone.
    fn shares(&self, scope: &Scope<'_>, item: &Item<'_>, rule: &Rule) {
        let Some((file, line)) =
            counter(rule).and_then(|counter| self.names.counters.get(&counter))
        else {
            return;
        };
        if (file, *line) == (&rule.source.file, rule.source.line) {
            return;
        }
        let place = if *file == rule.source.file {
            format!("line {line}")
        } else {
            format!("{file}:{line}")
        };
        let message = format!(
            "`{}` has the counters of the rule in {place}",
            item.written()
        );
        let help = "the value of the entry that names the plan is no part of the key, so that who moves keeps what was used: one descriptor without that value says the same";
        advise(scope, Code::SharedCounter, item.span, &message, help);
    }
}

fn idle_ban(scope: &Scope<'_>, node: &Node<'_>, rule: &Rule) {
    if rule.ban.is_none() {
        return;
    }
    let (what, why) = if rule.shadow_mode {
        (
            "shadow_mode",
            "with it nothing is refused, and refusals are what a ban counts",
        )
    } else if rule.quota_mode {
        ("quota_mode", "its refusals do not count for a ban")
    } else if rule.unlimited {
        (
            "unlimited",
            "nothing is refused, and refusals are what a ban counts",
        )
    } else {
        return;
    };
    let message = format!("with `{what}` this ban bans nobody");
    let help = format!("{why}: remove either");
    advise(
        &scope.field("ban"),
        Code::IdleBan,
        at(node, &["ban"]),
        &message,
        &help,
    );
}

fn never_matches(scope: &Scope<'_>, item: &Item<'_>, before: &Item<'_>) {
    let (what, by) = (item.written(), before.written());
    let (message, why) = match (item.matches, before.matches) {
        (Matches::Rest, Matches::Network(_)) => (
            format!("`{what}` can never match an address: `0.0.0.0/0` and `::/0` take all of them"),
            "a key without a value is for what no network takes",
        ),
        (_, Matches::Network(_)) => (
            format!("`{what}` can never match an address: `{by}` takes all of them"),
            "networks are asked before patterns",
        ),
        (Matches::Pattern(_) | Matches::Flat(_), _) => (
            format!("`{what}` can never match: `{by}` takes all of it"),
            "of patterns the first in the file counts, so the narrower one goes first",
        ),
        (Matches::Rest | Matches::Value(_) | Matches::Network(_), _) => (
            format!("`{what}` can never match: `{by}` takes all of it"),
            "a key without a value is for what no pattern takes",
        ),
    };
    let help = format!("{why}; the other stands in line {}", before.span.line);
    advise(scope, Code::NeverMatches, item.span, &message, &help);
}

/// There is no way back from a descriptor that matches to one that would have.
fn hides(scope: &Scope<'_>, item: &Item<'_>, hidden: &[&Item<'_>]) {
    let limit = hidden.iter().find(|other| other.limits || other.unlimited);
    let below = hidden.iter().find(|other| other.below.is_some());
    let what = item.written();
    if let Some(other) = limit.filter(|other| !item.limits && !other.unlimited) {
        let message = format!(
            "`{what}` has no limit, and hides the one of `{}`",
            other.written()
        );
        let help = format!(
            "there is no way back to line {}: give it a limit, or say `rate_limit: {{unlimited: true}}`",
            other.span.line
        );
        advise(scope, Code::HidesRule, item.span, &message, &help);
    } else if let Some(other) = below.filter(|_| item.below.is_none()) {
        let message = format!(
            "`{what}` ends here, and hides what stands below `{}`",
            other.written()
        );
        let help = format!(
            "there is no way back to line {}: repeat its `descriptors` here if they are to hold",
            other.span.line
        );
        advise(scope, Code::HidesRule, item.span, &message, &help);
    } else if !item.limits && item.below.is_none() {
        let message = format!("`{what}` limits nothing");
        let help = "it has neither a limit nor a plan nor descriptors below: add one, or remove it";
        advise(scope, Code::LimitsNothing, item.span, &message, help);
    }
}

fn advise(scope: &Scope<'_>, code: Code, span: Span, message: &str, help: &str) {
    scope.report(scope.error(span, message).coded(code).with_help(help));
}

/// What a limit is about.
const REQUESTS: [&str; 1] = ["requests_per_unit"];

/// Where the first of these fields says something that is there, or else where the mapping begins.
fn at(node: &Node<'_>, fields: &[&str]) -> Span {
    if let Some(field) = fields.iter().find_map(|name| get(node, name)) {
        return field.span;
    }
    match &node.value {
        Value::Map(fields) => fields.first().map_or(node.span, |(key, _)| key.span),
        Value::Scalar { .. } | Value::List(_) => node.span,
    }
}

fn get<'n>(node: &'n Node<'n>, name: &str) -> Option<&'n Node<'n>> {
    let Value::Map(fields) = &node.value else {
        return None;
    };
    let (_, node) = fields.iter().find(|(key, _)| key.text == name)?;
    (!node.is_null()).then_some(node)
}

fn text<'n>(node: &'n Node<'n>) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        Value::List(_) | Value::Map(_) => None,
    }
}

fn list<'n>(node: &'n Node<'n>) -> Option<&'n [Node<'n>]> {
    match &node.value {
        Value::List(items) => Some(items),
        Value::Scalar { .. } | Value::Map(_) => None,
    }
}
