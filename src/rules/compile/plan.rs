//! Plans, and how a descriptor comes by one.

use std::sync::Arc;

use super::fields::{Fields, Scope};
use super::limits::Limits;
use super::table::Table;
use crate::rules::diagnostic::{Code, did_you_mean};
use crate::rules::file::{Node, Value};
use crate::rules::policy::Policy;
use crate::rules::{Domain, Plan, PlanChoice, PlanSource, Segment};

/// Reads the plans of a file into its domain.
pub(super) fn read_all(fields: &Fields<'_, '_>, domain: &mut Domain) {
    let Some((node, scope)) = fields.child("plans") else {
        return;
    };
    let Value::Map(plans) = &node.value else {
        let error = scope.error(
            node.span,
            format!("`plans` is a mapping, not {}", node.kind()),
        );
        let error = error.coded(Code::WrongKind);
        scope.report(error.with_help("each plan is a name and its list of limits, or `unlimited`"));
        return;
    };
    for (name, node) in plans {
        let scope = scope.field(&name.text);
        let mut limits = read(&scope, node, domain);
        for limit in &mut limits.limits {
            // Without a name it is called after the rule that has the plan.
            let name = limit.name.as_deref();
            let policy = name.map(|_| Arc::new(Policy::new(name, None, &limit.limit)));
            limit.policy = policy;
        }
        if domain.plans.contains_key(&*name.text) {
            let message = format!("the plan `{}` stands in two files", name.text);
            let error = scope.error(name.span, message).coded(Code::Duplicate);
            scope.report(error.with_help("keep one of the two"));
        }
        let before = domain.plans.values();
        let first = before.clone().map(|plan| plan.limits.len()).sum();
        let first_candidate = before.map(|plan| plan.candidates.len()).sum();
        let plan = Plan {
            unlimited: limits.unlimited,
            limits: limits.limits.into_vec(),
            candidates: limits.candidates,
            first,
            first_candidate,
        };
        domain.plans.insert(name.text.to_string(), plan);
    }
}

/// A list of limits, or the word `unlimited`.
fn read(scope: &Scope<'_>, node: &Node<'_>, domain: &Domain) -> Limits {
    let mut limits = Limits::default();
    match &node.value {
        Value::Scalar { text, .. } if text.eq_ignore_ascii_case("unlimited") => {
            limits.unlimited = true;
        }
        Value::List(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                limits.read(&scope.item(index), item, domain);
            }
            limits.check_room(scope);
        }
        Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
            let error = scope.error(node.span, "a plan is a list of limits, or `unlimited`");
            let error = error.coded(Code::WrongKind);
            scope.report(error.with_help("such as `- {requests_per_unit: 100, unit: minute}`"));
        }
    }
    limits
}

/// Reads `plan: {from, default}` of a descriptor at the end of `levels`.
pub(super) fn read_choice(
    fields: &Fields<'_, '_>,
    domain: &Domain,
    levels: &[Segment],
) -> Option<PlanChoice> {
    let (node, scope) = fields.child("plan")?;
    let fields = Fields::of(&scope, node, Table::PlanChoice)?;
    for name in ["from", "default"] {
        if fields.get(name).is_none() {
            let error = scope.error(fields.own_span(), format!("the plan has no `{name}`"));
            let error = error.coded(Code::MissingField);
            fields.fail(
                name,
                error.with_help("such as `{from: directory, default: free}`"),
            );
        }
    }
    let source = source(&fields, levels);
    let default = default(&fields, domain);
    Some(PlanChoice {
        from: source?,
        default: default?,
    })
}

fn source(fields: &Fields<'_, '_>, levels: &[Segment]) -> Option<PlanSource> {
    let (name, span) = fields.text("from")?;
    if name == "directory" {
        let by_value = levels.last().is_some_and(|level| level.share_threshold);
        if by_value {
            let message = "with `share_threshold` there is no one subject to look up";
            fields.fail("from", fields.error_at("from", span, message));
            return None;
        }
        return Some(PlanSource::Directory);
    }
    let Some(level) = levels.iter().position(|level| *level.key == *name) else {
        let error = fields
            .error_at(
                "from",
                span,
                format!("no entry `{name}` in this descriptor"),
            )
            .coded(Code::UnknownName);
        let keys = levels.iter().map(|level| &*level.key);
        let help = match did_you_mean(name, keys.chain(["directory"])) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "the key of a level above, or `directory`".to_owned(),
        };
        fields.fail("from", error.with_help(help));
        return None;
    };
    if level + 1 == levels.len() {
        let error = fields.error_at("from", span, format!("`{name}` cannot name its own plan"));
        let help =
            "all who are on a plan would share its counters; add a level below for whom it counts";
        fields.fail("from", error.with_help(help));
        return None;
    }
    if looks_like_a_header(name) {
        let message = format!("the plan comes from `{name}`, which looks like a header");
        let help = "what a client sends it can choose; take the plan from a verified JWT claim, \
                    or from the directory";
        let warning = fields.error_at("from", span, message);
        let warning = warning.coded(Code::ClientPlan);
        fields.scope.report(warning.with_help(help));
    }
    Some(PlanSource::Entry(level))
}

/// The names that people give to entries that are a client's own header, cookie or query.
fn looks_like_a_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let begins = [
        "x-",
        "x_",
        "header",
        "http_",
        "cookie",
        "query",
        "user-agent",
        "user_agent",
    ];
    begins.iter().any(|mark| name.starts_with(mark)) || name.contains("header")
}

fn default(fields: &Fields<'_, '_>, domain: &Domain) -> Option<String> {
    let (name, span) = fields.text("default")?;
    if domain.plans.contains_key(name) {
        return Some(name.to_owned());
    }
    let error = fields.error_at("default", span, format!("no plan `{name}`"));
    let error = error.coded(Code::UnknownName);
    let plans = domain.plans.keys().map(String::as_str);
    let help = match did_you_mean(name, plans.filter(|_| !fields.scope.is_full())) {
        Some(near) => format!("did you mean `{near}`?"),
        None if domain.plans.is_empty() => "define it under `plans`, beside `domain`".to_owned(),
        None => {
            let names: Vec<String> = domain
                .plans
                .keys()
                .map(|name| format!("`{name}`"))
                .collect();
            format!("one of {}", names.join(", "))
        }
    };
    fields.fail("default", error.with_help(help));
    None
}
