//! What is right and yet unwise: rules that can never match, limits that can never refuse, names that nobody has. Said by
//! `tollgate check`; the service takes such files without a word.

use std::collections::{HashMap, HashSet};

use super::fields::Scope;
use crate::limit::Hits;
use crate::rules::diagnostic::did_you_mean;
use crate::rules::file::{Node, Span, Value};
use crate::rules::glob::covers;
use crate::rules::{Domain, PlanSource, Rule, RuleLimit, RuleSet};

mod windows;

/// Looks at all files of rules that have no errors.
pub(super) fn look(files: &[(Scope<'_>, Node<'_>)], rules: &RuleSet) {
    let place = |rule: &'_ Rule| (rule.source.file.to_string(), rule.path.clone());
    let by_place = rules
        .rules
        .iter()
        .map(|rule| (place(rule), &**rule))
        .collect();
    for (scope, root) in files {
        let name = get(root, "domain").and_then(text).unwrap_or_default();
        let Some(domain) = rules.domains.get(name) else {
            continue;
        };
        let file = File {
            domain,
            by_place: &by_place,
            names: Names::of(domain, &rules.rules),
        };
        file.plans(&scope.field("plans"), root);
        if let Some(list) = get(root, "descriptors").and_then(list) {
            file.level(&scope.field("descriptors"), list);
        }
    }
}

/// With how many patterns of a key, the first in the file, the others are compared.
const MOST_PATTERNS: usize = 1000;

/// What is known beside the file.
struct File<'r> {
    domain: &'r Domain,
    /// The rules by file and path.
    by_place: &'r HashMap<(String, String), &'r Rule>,
    names: Names,
}

/// A descriptor among those beside it.
struct Item<'n> {
    /// Its place in the list.
    index: usize,
    node: &'n Node<'n>,
    span: Span,
    key: &'n str,
    matches: Matches<'n>,
    /// It says what holds for descriptors that end here.
    limits: bool,
    /// It says that nothing does.
    unlimited: bool,
    below: Option<&'n [Node<'n>]>,
}

/// What of a key's values a descriptor matches.
#[derive(Clone, Copy)]
enum Matches<'n> {
    /// Those that no other does.
    Rest,
    Value(&'n str),
    Pattern(&'n str),
    Network(&'n str),
}

/// The names of a domain that its rules speak of.
struct Names {
    /// Of limits.
    limits: HashSet<String>,
    /// Of plans that some descriptor can come by.
    plans: HashSet<String>,
}

impl Names {
    fn of(domain: &Domain, rules: &[std::sync::Arc<Rule>]) -> Self {
        let rules = || rules.iter().filter(|rule| rule.domain == domain.name);
        let of_plans = domain.plans.values().flat_map(|plan| &plan.limits);
        let limits = of_plans.chain(rules().flat_map(|rule| &rule.limits));
        let limits = limits.filter_map(|limit| limit.name.as_deref().map(str::to_owned));
        let mut plans = HashSet::new();
        for (rule, choice) in rules().filter_map(|rule| Some((rule, rule.plan.as_ref()?))) {
            plans.insert(choice.default.clone());
            let level = match choice.from {
                PlanSource::Entry(level) => rule.levels.get(level),
                PlanSource::Directory => None,
            };
            match level.filter(|level| !level.value.is_empty() && !level.wildcard) {
                Some(level) => plans.extend([level.value.to_string()]),
                None => plans.extend(domain.plans.keys().cloned()),
            }
        }
        Self {
            limits: limits.collect(),
            plans,
        }
    }
}

impl File<'_> {
    fn level(&self, scope: &Scope<'_>, list: &[Node<'_>]) {
        let items: Vec<Item<'_>> = list.iter().enumerate().filter_map(item).collect();
        let wide = wide(&items);
        for item in &items {
            let scope = scope.item(item.index);
            self.limits_of(&scope, item.node);
            let beside = || wide.get(item.key).into_iter().flatten().copied();
            if let Some(before) = beside().find(|other| takes_all(other, item)) {
                never_matches(&scope, item, before);
            } else if !item.unlimited {
                let hidden = beside().filter(|other| is_hidden(item, other));
                hides(&scope, item, hidden);
            }
            if let Some(below) = item.below {
                self.level(&scope.field("descriptors"), below);
            }
        }
    }

    fn limits_of(&self, scope: &Scope<'_>, node: &Node<'_>) {
        let single = get(node, "rate_limit");
        let several = get(node, "rate_limits").and_then(list).unwrap_or_default();
        for (index, limit) in several.iter().enumerate() {
            self.replaces(&scope.field("rate_limits").item(index), limit);
        }
        if let Some(limit) = single {
            self.replaces(&scope.field("rate_limit"), limit);
        }
        let place = (scope.file.name.clone(), scope.path());
        if let Some(rule) = self.by_place.get(&place) {
            let limits = single.into_iter().chain(several);
            let spans: Vec<Span> = limits.map(|limit| at(limit, &REQUESTS)).collect();
            self.limits(scope, &rule.limits, &spans);
        }
    }

    /// Names under `replaces` that no limit has.
    fn replaces(&self, scope: &Scope<'_>, limit: &Node<'_>) {
        let entries = get(limit, "replaces").and_then(list).unwrap_or_default();
        for name in entries.iter().filter_map(|entry| get(entry, "name")) {
            let known = &self.names.limits;
            let Some(written) = text(name).filter(|name| !known.contains(*name)) else {
                continue;
            };
            let message = format!("no limit of this domain is named `{written}`");
            let near = did_you_mean(written, known.iter().map(String::as_str));
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "so it replaces nothing".to_owned(),
            };
            advise(&scope.field("replaces"), name.span, &message, &help);
        }
    }

    /// Plans that nobody can have, and the limits of all.
    fn plans(&self, scope: &Scope<'_>, root: &Node<'_>) {
        let Some(Value::Map(plans)) = get(root, "plans").map(|plans| &plans.value) else {
            return;
        };
        for (name, node) in plans {
            let scope = scope.field(&name.text);
            if !self.names.plans.contains(&*name.text) {
                let message = format!("nobody can have the plan `{}`", name.text);
                let help = "no descriptor has a `plan` that may choose it, such as `plan: {from: directory, default: free}`";
                advise(&scope, name.span, &message, help);
            }
            if let (Some(plan), Some(items)) = (self.domain.plans.get(&*name.text), list(node)) {
                let spans: Vec<Span> = items.iter().map(|limit| at(limit, &REQUESTS)).collect();
                self.limits(&scope, &plan.limits, &spans);
            }
        }
    }

    /// Limits that are charged together.
    fn limits(&self, scope: &Scope<'_>, limits: &[RuleLimit], spans: &[Span]) {
        let all = || {
            limits
                .iter()
                .map(|limit| &limit.limit)
                .zip(spans)
                .enumerate()
        };
        for (place, (limit, span)) in all() {
            let holds = limit.capacity();
            let dear = self.domain.costs.dearest().filter(|cost| *cost > holds);
            if holds == Hits::ZERO {
                let help = "`requests_per_unit` is 0, as it is where it is left out";
                advise(scope, *span, "this limit refuses every request", help);
            } else if let Some(cost) = dear {
                let message =
                    format!("a request that costs {cost} never fits: this limit holds {holds}");
                let help = "lower that cost, or raise `requests_per_unit` or the burst";
                advise(scope, *span, &message, help);
            }
            let stricter = all().find_map(|(other, (by, at))| {
                let most = windows::most(by, limit)
                    .filter(|_| other != place && by.capacity() > Hits::ZERO)?;
                // Of two that are as strict, the second is too much.
                let is_less = most < holds || (most == holds && other < place);
                is_less.then_some((by, at, most))
            });
            if let Some((by, at, most)) = stricter {
                let message = format!(
                    "{limit} can never refuse: {by} lets no more than {} pass in that time",
                    most.floor()
                );
                let help = format!("remove it, or change it or the one in line {}", at.line);
                advise(scope, *span, &message, &help);
            }
        }
    }
}

fn never_matches(scope: &Scope<'_>, item: &Item<'_>, before: &Item<'_>) {
    let message = format!(
        "`{}` can never match: `{}` takes all of it",
        item.written(),
        before.written()
    );
    let why = match item.matches {
        Matches::Pattern(_) => {
            "of patterns the first in the file counts, so the narrower one goes first"
        }
        Matches::Rest | Matches::Value(_) | Matches::Network(_) => {
            "a key without a value is for what no pattern takes"
        }
    };
    let help = format!("{why}; the other stands in line {}", before.span.line);
    advise(scope, item.span, &message, &help);
}

/// By key those that match many values, in the order in which they are asked: patterns, then the bare key. Only these take
/// anything from others or are hidden by them.
fn wide<'i, 'n>(items: &'i [Item<'n>]) -> HashMap<&'n str, Vec<&'i Item<'n>>> {
    let mut wide: HashMap<&str, Vec<&Item<'_>>> = HashMap::new();
    for item in items {
        if let Matches::Pattern(_) = item.matches {
            let of_key = wide.entry(item.key).or_default();
            if of_key.len() < MOST_PATTERNS {
                of_key.push(item);
            }
        }
    }
    let bare = items
        .iter()
        .filter(|item| matches!(item.matches, Matches::Rest));
    for item in bare {
        wide.entry(item.key).or_default().push(item);
    }
    wide
}

/// There is no way back from a descriptor that matches to one that would have.
fn hides<'n>(scope: &Scope<'_>, item: &Item<'_>, hidden: impl Iterator<Item = &'n Item<'n>>) {
    let (mut limit, mut below) = (None, None);
    for other in hidden {
        limit = limit.or(Some(other).filter(|other| other.limits || other.unlimited));
        below = below.or(Some(other).filter(|other| other.below.is_some()));
    }
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
        advise(scope, item.span, &message, &help);
    } else if let Some(other) = below.filter(|_| item.below.is_none()) {
        let message = format!(
            "`{what}` ends here, and hides what stands below `{}`",
            other.written()
        );
        let help = format!(
            "there is no way back to line {}: repeat its `descriptors` here if they are to hold",
            other.span.line
        );
        advise(scope, item.span, &message, &help);
    } else if !item.limits && item.below.is_none() {
        let message = format!("`{what}` limits nothing");
        let help = "it has neither a limit nor a plan nor descriptors below";
        advise(scope, item.span, &message, help);
    }
}

fn advise(scope: &Scope<'_>, span: Span, message: &str, help: &str) {
    scope.report(scope.error(span, message).as_warning().with_help(help));
}

fn item<'n>((index, node): (usize, &'n Node<'n>)) -> Option<Item<'n>> {
    let key = text(get(node, "key")?)?;
    let value = get(node, "value")
        .and_then(text)
        .filter(|value| !value.is_empty());
    let network = get(node, "cidr")
        .and_then(text)
        .filter(|cidr| !cidr.is_empty());
    let flat = key.contains('*');
    let matches = match (value, network) {
        (None, None) if !flat => Matches::Rest,
        (None, Some(network)) => Matches::Network(network),
        (Some(value), None) if !flat && value.contains('*') => Matches::Pattern(value),
        (Some(value), None) if !flat => Matches::Value(value),
        // Patterns within keys are the reference's, and seldom.
        _ => return None,
    };
    let limit = get(node, "rate_limit");
    let below = get(node, "descriptors")
        .and_then(list)
        .filter(|below| !below.is_empty());
    let unlimited = limit
        .and_then(|limit| get(limit, "unlimited"))
        .and_then(text);
    let limiting = ["rate_limit", "rate_limits", "plan", "usage"];
    Some(Item {
        index,
        node,
        span: at(node, &["value", "cidr", "key"]),
        key,
        matches,
        limits: limiting.into_iter().any(|name| get(node, name).is_some()),
        unlimited: unlimited == Some("true"),
        below,
    })
}

impl Item<'_> {
    /// `key`, or `key=value`.
    fn written(&self) -> String {
        match self.matches {
            Matches::Rest => self.key.to_owned(),
            Matches::Value(value) | Matches::Pattern(value) | Matches::Network(value) => {
                format!("{}={value}", self.key)
            }
        }
    }
}

/// Whether nothing is left for `item` of what it would match.
fn takes_all(before: &Item<'_>, item: &Item<'_>) -> bool {
    match (before.matches, item.matches) {
        (Matches::Pattern(wide), Matches::Pattern(narrow)) => {
            before.index < item.index && covers(wide, narrow)
        }
        (Matches::Pattern(wide), Matches::Rest) => wide.bytes().all(|byte| byte == b'*'),
        _ => false,
    }
}

/// Whether some of what `item` matches would else be for `other`.
fn is_hidden(item: &Item<'_>, other: &Item<'_>) -> bool {
    match (item.matches, other.matches) {
        (Matches::Rest, _) | (_, Matches::Value(_) | Matches::Network(_)) => false,
        (Matches::Value(_) | Matches::Pattern(_) | Matches::Network(_), Matches::Rest) => true,
        (Matches::Value(value), Matches::Pattern(pattern)) => covers(pattern, value),
        (Matches::Pattern(narrow), Matches::Pattern(wide)) => {
            item.index < other.index && covers(wide, narrow)
        }
        (Matches::Network(_), Matches::Pattern(_)) => false,
    }
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
