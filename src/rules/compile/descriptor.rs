//! The tree of descriptors.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::domain::Draft;
use super::fields::{Fields, Scope, boolean};
use super::hints;
use super::limit;
use super::limits::{self, Limits};
use super::plan;
use super::table::Table;
use crate::limit::ban::{Ban, BanError};
use crate::limit::{Limit, MAX_WINDOW, Unit};
use crate::rules::diagnostic::Code;
use crate::rules::file::{Node as Yaml, Span, Value};
use crate::rules::matcher::{Builder, Duplicate, Level, Matcher};
use crate::rules::policy::Policy;
use crate::rules::{
    Domain, PlanChoice, PlanSource, Rule, RuleId, RuleLimit, RuleSet, Segment, Source,
};
use crate::rules::{name, outline};
use crate::time::Micros;

/// The descriptors of a domain while its files are read.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) builder: Builder,
    /// Where each descriptor stands, in the order in which they were added.
    places: Vec<Source>,
    /// The level that is being read, if descriptors are kept as they were written.
    pub(super) outline: Option<Vec<outline::Node>>,
}

/// Reads the descriptors of one file.
struct Reader<'r> {
    domain: &'r Domain,
    tree: &'r mut Tree,
    rules: &'r mut RuleSet,
    file: Arc<str>,
    /// The keys that have been read, each in memory once.
    keys: HashSet<Arc<str>>,
    /// What clients are told of the limits that have been read, each in memory once.
    policies: HashSet<Arc<Policy>>,
    /// What is above.
    levels: SmallVec<[Segment; 2]>,
    /// How many limits the plans of the domain have.
    of_plans: usize,
}

/// Reads the first level of a domain, and all below.
pub(super) fn read_level(
    scope: &Scope<'_>,
    list: &[Yaml<'_>],
    draft: &mut Draft,
    rules: &mut RuleSet,
) {
    let Draft { domain, tree, .. } = draft;
    let mut reader = Reader {
        domain,
        tree,
        rules,
        file: scope.file.name.as_str().into(),
        keys: HashSet::new(),
        policies: HashSet::new(),
        levels: SmallVec::new(),
        of_plans: domain.plans.values().map(|plan| plan.limits.len()).sum(),
    };
    reader.level(scope, list, Level::ROOT);
}

impl Reader<'_> {
    fn level(&mut self, scope: &Scope<'_>, list: &[Yaml<'_>], level: Level) {
        for (index, item) in list.iter().enumerate() {
            self.descriptor(&scope.item(index), item, level);
        }
    }

    fn descriptor(&mut self, scope: &Scope<'_>, yaml: &Yaml<'_>, level: Level) {
        let Some(fields) = Fields::of(scope, yaml, Table::Descriptor) else {
            return;
        };
        let key = key(&fields).unwrap_or_default();
        let matcher = matcher(&fields, key).unwrap_or(Matcher::Bare);
        // What could not be read is no second one of another.
        let is_read = !fields.failed("key") && !fields.failed("value") && !fields.failed("cidr");
        let value: Cow<'_, str> = match matcher {
            Matcher::Bare => "".into(),
            Matcher::Exact(value) | Matcher::Pattern(value) => value.into(),
            Matcher::Cidr(net) => net.to_string().into(),
        };
        let written = self.key(key);
        self.levels.push(Segment {
            wildcard: value.contains('*') || key.contains('*'),
            share_threshold: share_threshold(&fields, key, &value),
            value_to_metric: fields.flag("value_to_metric"),
            key: written,
            value: (&*value).into(),
        });
        let rule = self.rule(&fields);
        let beside = self.tree.outline.as_mut().map(std::mem::take);
        let mut below = Level::NONE;
        if let Some((list, scope)) = fields.list("descriptors") {
            below = self.tree.builder.level();
            self.level(&scope, list, below);
        }
        if let (Some(mut beside), Some(below)) = (beside, self.tree.outline.take()) {
            beside.push(outline::Node {
                key: self.key(key),
                matches: matcher.into(),
                rule: rule.clone(),
                below,
            });
            self.tree.outline = Some(beside);
        }
        self.levels.pop();
        if !is_read {
            return;
        }
        let added = self.tree.builder.add(level, key, matcher, rule, below);
        if let Err(Duplicate { first }) = added
            && !key.is_empty()
        {
            duplicate(&fields, key, &value, self.tree.places.get(first));
        }
        self.tree.places.push(Source {
            file: Arc::clone(&self.file),
            line: fields.own_span().line,
        });
    }

    fn key(&mut self, key: &str) -> Arc<str> {
        if let Some(known) = self.keys.get(key) {
            return Arc::clone(known);
        }
        let key = Arc::from(key);
        self.keys.insert(Arc::clone(&key));
        key
    }

    fn policy(&mut self, limit: &RuleLimit) -> Arc<Policy> {
        let key = self.levels.last().map(|level| &*level.key);
        let policy = Arc::new(Policy::new(limit.name.as_deref(), key, &limit.limit));
        if let Some(known) = self.policies.get(&policy) {
            return Arc::clone(known);
        }
        self.policies.insert(Arc::clone(&policy));
        policy
    }

    fn rule(&mut self, fields: &Fields<'_, '_>) -> Option<Arc<Rule>> {
        let found = self.limits(fields);
        let plan = plan::read_choice(fields, self.domain, &self.levels);
        let ban = ban(fields);
        let meter = meter(fields, self.domain);
        let shadow_mode = fields.flag("shadow_mode");
        let quota_mode = fields.flag("quota_mode");
        let detailed_metric = fields.flag("detailed_metric");
        let metadata = metadata(fields);
        let by_values = detailed_metric || self.levels.iter().any(|level| level.value_to_metric);
        if by_values {
            self.check_sensitive(fields, detailed_metric);
        }
        if let (Some(_), Some(_)) = (&found, &plan) {
            let span = fields.span("plan").unwrap_or(fields.own_span());
            let message = "a descriptor has a plan or limits of its own, not both";
            let error = fields.error_at("plan", span, message).coded(Code::Conflict);
            fields.fail(
                "plan",
                error.with_help("remove one of them; a limit for everybody goes into each plan"),
            );
        }
        if let (None, None, Some(_)) = (&found, &plan, &ban) {
            let span = fields.span("ban").unwrap_or(fields.own_span());
            let error = fields.error_at("ban", span, "a ban without limits bans nobody");
            let error = error.coded(Code::MissingField);
            let help = "it counts the refusals of the `rate_limit` or `plan` beside it";
            fields.fail("ban", error.with_help(help));
        }
        self.check_leases(fields, found.as_ref(), plan.is_some());
        let none = || (plan.is_some() || meter.is_some()).then(Limits::default);
        let Limits {
            unlimited,
            mut limits,
            replaces,
            candidates,
            ..
        } = found.or_else(none)?;
        for limit in &mut limits {
            limit.policy = Some(self.policy(limit));
        }
        let first = self.rules.limits;
        self.rules.limits += plan.as_ref().map_or(limits.len(), |_| self.of_plans);
        let id = RuleId(u32::try_from(self.rules.rules.len()).unwrap_or(u32::MAX));
        let names_plan = |plan: &PlanChoice| matches!(plan.from, PlanSource::Entry(_));
        let shares = self.levels.iter().any(|level| level.share_threshold);
        let rule = Arc::new(Rule {
            id,
            unlimited,
            shadow_mode,
            quota_mode,
            named_by_values: by_values,
            first,
            name: name::written(&self.levels).into(),
            alters_keys: shares || plan.as_ref().is_some_and(names_plan),
            plan: plan.map(Box::new),
            ban: ban.map(Box::new),
            meter: meter.map(Box::new),
            limits,
            candidates,
            replaces,
            detailed_metric,
            levels: self.levels.clone(),
            domain: Arc::clone(&self.domain.name),
            source: Source {
                file: Arc::clone(&self.file),
                line: fields.own_span().line,
            },
            path: fields.scope.path(),
            metadata,
        });
        self.rules.rules.push(Arc::clone(&rule));
        Some(rule)
    }

    /// The limits of a descriptor; none if it has none.
    fn limits(&self, fields: &Fields<'_, '_>) -> Option<Limits> {
        let single = fields.child("rate_limit");
        let several = fields.list("rate_limits");
        if let (Some((_, scope)), Some((_, _))) = (&single, &several) {
            let span = fields.span("rate_limits").unwrap_or_default();
            let error = scope.error(
                span,
                "a descriptor has `rate_limit` or `rate_limits`, not both",
            );
            let error = error.coded(Code::Conflict);
            fields.fail(
                "rate_limits",
                error.with_help("move the single limit into the list"),
            );
        }
        let mut limits = Limits::default();
        if let Some((node, scope)) = &single {
            limits.read(scope, node, self.domain);
        }
        for (index, node) in several
            .iter()
            .flat_map(|(items, _)| items.iter())
            .enumerate()
        {
            let list = fields.scope.field("rate_limits");
            limits.read(&list.item(index), node, self.domain);
        }
        limits.check_room(fields.scope);
        let any = limits.unlimited || !limits.limits.is_empty();
        (any || single.is_some()).then_some(limits)
    }

    /// What a descriptor counts beside its limits is counted with each hit, and not with a batch of them.
    fn check_leases(&self, fields: &Fields<'_, '_>, found: Option<&Limits>, has_plan: bool) {
        let mut plans = self.domain.plans.values();
        let leased = found.is_some_and(Limits::have_leases)
            || has_plan && plans.any(|plan| limits::leased(&plan.limits));
        for (name, what) in [("ban", "refusals"), ("usage", "hits")] {
            if let Some(span) = fields.span(name).filter(|_| leased) {
                let message = format!("a descriptor with `{name}` has no limits with a `lease`");
                let error = fields.error_at(name, span, message).coded(Code::Conflict);
                let help = format!("its {what} are counted one by one, in the store");
                if has_plan {
                    // The plan may have its leases for other descriptors.
                    let warning = error.coded(Code::IdleLease);
                    let help = format!("{help}: the `lease` of a plan has no effect here");
                    fields.scope.report(warning.with_help(help));
                } else {
                    fields.fail(name, error.with_help(help + "; remove either"));
                }
            }
        }
    }

    /// Values that are secret would stand in a metric's name.
    fn check_sensitive(&self, fields: &Fields<'_, '_>, detailed: bool) {
        let seen = self
            .levels
            .iter()
            .filter(|level| detailed || level.value_to_metric);
        for level in
            seen.filter(|level| self.domain.sensitive.iter().any(|key| **key == *level.key))
        {
            let name = if detailed {
                "detailed_metric"
            } else {
                "value_to_metric"
            };
            let span = fields.span(name).unwrap_or(fields.own_span());
            let message = format!(
                "`{name}` would show the sensitive values of `{}`",
                level.key
            );
            let error = fields.error_at(name, span, message).coded(Code::Conflict);
            fields.fail(
                name,
                error.with_help("take the key off `sensitive`, or the value out of the metric"),
            );
        }
    }
}

fn ban(fields: &Fields<'_, '_>) -> Option<Ban> {
    let (node, scope) = fields.child("ban")?;
    let fields = Fields::of(&scope, node, Table::Ban)?;
    for name in ["after", "within", "for"] {
        if fields.get(name).is_none() {
            let error = scope.error(fields.own_span(), format!("the ban has no `{name}`"));
            let error = error.coded(Code::MissingField);
            fields.fail(
                name,
                error.with_help("such as `{after: 10000, within: minute, for: 1h, max: 24h}`"),
            );
        }
    }
    let after = fields.number("after");
    let within = limit::unit(&fields, "within");
    let first = fields.duration("for");
    let longest = fields.duration("max");
    if fields.any_failed() {
        return None;
    }
    let (first, _) = first?;
    let by_default = Micros::new(first.get().saturating_mul(DEFAULT_LONGEST)).min(MAX_WINDOW);
    let longest = longest.map_or(by_default, |(longest, _)| longest);
    let ((after, _), within) = after.zip(within)?;
    Ban::new(after, within, first, longest)
        .map_err(|error| {
            let name = match error {
                BanError::After => "after",
                BanError::First => "for",
                BanError::Longest => "max",
            };
            let span = fields.span(name).unwrap_or(fields.own_span());
            fields.fail(name, fields.error_at(name, span, error.to_string()));
        })
        .ok()
}

/// The words of `usage`.
pub(super) const PERIODS: [(&str, Unit); 4] = [
    ("day", Unit::Day),
    ("week", Unit::Week),
    ("month", Unit::Month),
    ("year", Unit::Year),
];

/// `usage: month`, or another calendar period.
fn meter(fields: &Fields<'_, '_>, domain: &Domain) -> Option<Limit> {
    let unit = fields.one_of("usage", &PERIODS)?;
    Some(Limit::meter(unit, &domain.time_zone))
}

/// The longest ban, in first bans, where the rule says none.
const DEFAULT_LONGEST: u64 = 24;

fn key<'s>(fields: &Fields<'s, '_>) -> Option<&'s str> {
    let found = fields
        .text("key")
        .map(|(key, _)| key)
        .filter(|key| !key.is_empty());
    if found.is_none() && !fields.failed("key") {
        let span = fields.span("key").unwrap_or(fields.own_span());
        let error = fields.scope.error(span, "the descriptor has no `key`");
        let error = error.coded(Code::MissingField);
        fields.fail(
            "key",
            error.with_help("the key of an entry that Envoy sends, such as `remote_address`"),
        );
    }
    found
}

/// What the descriptor matches.
fn matcher<'s>(fields: &Fields<'s, '_>, key: &str) -> Option<Matcher<'s>> {
    let value = fields
        .text("value")
        .map(|(value, _)| value)
        .filter(|value| !value.is_empty());
    let cidr = fields.text("cidr").filter(|(cidr, _)| !cidr.is_empty());
    if let (Some(_), Some((_, span))) = (&value, &cidr) {
        let error = fields.error_at(
            "cidr",
            *span,
            "a descriptor has `value` or `cidr`, not both",
        );
        let error = error.coded(Code::Conflict);
        fields.fail(
            "cidr",
            error.with_help("`cidr` for addresses, `value` for other text"),
        );
    }
    if let Some((text, span)) = cidr {
        if key.contains('*') {
            let message = "a `cidr` needs a `key` without `*`";
            let error = fields.error_at("cidr", span, message).coded(Code::Conflict);
            fields.fail(
                "cidr",
                error.with_help("write the whole key, such as `remote_address`"),
            );
        }
        return network(fields, text, span).map(Matcher::Cidr);
    }
    let value = value?;
    if value.contains('*') {
        Some(Matcher::Pattern(value))
    } else {
        Some(Matcher::Exact(value))
    }
}

fn network(fields: &Fields<'_, '_>, text: &str, span: Span) -> Option<IpNet> {
    let found = text
        .parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let Some(net) = found else {
        let error = fields.error_at("cidr", span, format!("`{text}` is not a network"));
        fields.fail("cidr", error.with_help(hints::network(text)));
        return None;
    };
    if net.addr() != net.network() {
        let error = fields.error_at(
            "cidr",
            span,
            format!("`{text}` has bits set beyond its prefix"),
        );
        fields.fail(
            "cidr",
            error.with_help(format!(
                "did you mean `{}`, or `{}` alone?",
                net.trunc(),
                net.addr()
            )),
        );
    }
    if let Some(net) = as_ipv4(net) {
        let message = format!("`{text}` is a network of IPv4 addresses, written as IPv6");
        let error = fields.error_at("cidr", span, message);
        fields.fail("cidr", error.with_help(format!("did you mean `{net}`?")));
    }
    Some(net.trunc())
}

/// The same network in IPv4, if it is one of IPv4-mapped addresses: those are matched as the IPv4 addresses that they are.
fn as_ipv4(net: IpNet) -> Option<IpNet> {
    let IpNet::V6(net) = net else { return None };
    let address = net.network().to_ipv4_mapped()?;
    IpNet::new(address.into(), net.prefix_len().checked_sub(96)?).ok()
}

fn share_threshold(fields: &Fields<'_, '_>, key: &str, value: &str) -> bool {
    let shared = fields.flag("share_threshold");
    if shared && !value.contains('*') {
        let span = fields.span("share_threshold").unwrap_or_default();
        let written = if value.is_empty() {
            key.to_owned()
        } else {
            format!("{key}_{value}")
        };
        let message = format!("`share_threshold` needs a value with `*`, and `{written}` has none");
        let error = fields.error_at("share_threshold", span, message);
        fields.fail(
            "share_threshold",
            error.with_help("one value has one counter anyway"),
        );
    }
    shared
}

fn duplicate(fields: &Fields<'_, '_>, key: &str, value: &str, first: Option<&Source>) {
    let what = if value.is_empty() {
        format!("`{key}`")
    } else {
        format!("`{key}: {value}`")
    };
    let error = fields.scope.error(
        fields.own_span(),
        format!("the descriptor {what} stands here twice"),
    );
    let error = error.coded(Code::Duplicate);
    // A `value` that says nothing is none.
    let is_empty =
        value.is_empty() && (fields.span("value").is_some() || fields.span("cidr").is_some());
    fields.scope.report(match first {
        Some(_) if is_empty => error.with_help(
            "its `value` says nothing, so that it matches every one; the word null goes in quotes",
        ),
        Some(first) => error.with_help(format!("it stands first in {first}; make them one")),
        None => error,
    });
}

/// Any mapping; it becomes a `google.protobuf.Struct`.
fn metadata(fields: &Fields<'_, '_>) -> Option<serde_json::Value> {
    let node = fields.get("metadata")?;
    if let Value::Map(_) = &node.value {
        return Some(json(node));
    }
    let message = format!("`metadata` is a mapping, not {}", node.kind());
    let error = fields.error_at("metadata", node.span, message);
    fields.fail("metadata", error.coded(Code::WrongKind));
    None
}

fn json(node: &Yaml<'_>) -> serde_json::Value {
    match &node.value {
        _ if node.is_null() => serde_json::Value::Null,
        Value::Scalar { text, plain: true } => match boolean(text) {
            Some(flag) => flag.into(),
            None => serde_json::from_str::<serde_json::Number>(text)
                .map_or_else(|_| (&**text).into(), Into::into),
        },
        Value::Scalar { text, .. } => (&**text).into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|(key, node)| (key.text.to_string(), json(node)))
            .collect(),
    }
}
