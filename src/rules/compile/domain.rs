//! What a file says beside its descriptors: which domain it is for, and what holds for all of it.

use std::collections::HashMap;

use super::descriptor::Tree;
use super::fields::Fields;
use super::limit;
use super::table::Table;
use super::{Options, SourceFile, hints, plan};
use crate::limit::Hits;
use crate::limit::period::Zone;
use crate::rules::costs::Costs;
use crate::rules::diagnostic::Code;
use crate::rules::file::{Node, Span};
use crate::rules::matcher::Matcher;
use crate::rules::outline::Outline;
use crate::rules::{Body, Domain, Domains, Messages, Response, Source};

/// The domains while their files are read.
pub(super) struct Drafts {
    options: Options,
    /// Whether descriptors are kept as they were written.
    outlined: bool,
    list: Vec<Draft>,
    by_name: HashMap<String, usize>,
}

/// A domain while its files are read.
pub(super) struct Draft {
    pub(super) domain: Domain,
    pub(super) tree: Tree,
    /// Where it was begun.
    first: Source,
}

impl Drafts {
    pub(super) fn new(options: Options, outlined: bool) -> Self {
        Self {
            options,
            outlined,
            list: Vec::new(),
            by_name: HashMap::new(),
        }
    }

    /// Reads what stands beside the descriptors; the place of the file's draft. A file without a domain of its own has a
    /// draft nevertheless, so that whatever else is wrong with it is found.
    pub(super) fn read(&mut self, fields: &Fields<'_, '_>, root: &Node<'_>) -> usize {
        let index = match domain_name(fields, root) {
            Some((name, span)) => self.begin(fields, name, span),
            None => self.add(Draft::new("", fields.scope.file, 0)),
        };
        if let Some(draft) = self.list.get_mut(index) {
            draft.read(fields);
        }
        index
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Draft> {
        self.list.get_mut(index)
    }

    pub(super) fn finish(self) -> (Domains, Outline) {
        let drafts = self.list.into_iter().enumerate();
        let domains = drafts.map(|(place, draft)| {
            let name = draft.domain.name.to_string();
            let outline = draft.tree.outline.unwrap_or_default();
            let domain = Domain {
                place,
                tree: draft.tree.builder.build(),
                ..draft.domain
            };
            ((name.clone(), domain), (name, outline))
        });
        domains.unzip()
    }

    fn begin(&mut self, fields: &Fields<'_, '_>, name: &str, span: Span) -> usize {
        let first = self.by_name.get(name).copied();
        match first.and_then(|index| Some((index, self.list.get(index)?))) {
            Some((index, _)) if self.options.merge_domains => index,
            Some((_, first)) => {
                let message = format!("the domain `{name}` has two files");
                let help = format!(
                    "it stands first in {}; give one of them another name, or make them one with MERGE_DOMAIN_CONFIG=true (here: --merge-domain-config)",
                    first.first
                );
                let error = fields.error_at("domain", span, message);
                let error = error.coded(Code::Duplicate);
                fields.scope.report(error.with_help(help));
                self.add(Draft::new(name, fields.scope.file, span.line))
            }
            None => {
                let draft = Draft::new(name, fields.scope.file, span.line);
                let index = self.add(draft);
                self.by_name.insert(name.to_owned(), index);
                index
            }
        }
    }

    fn add(&mut self, mut draft: Draft) -> usize {
        draft.tree.outline = self.outlined.then(Vec::new);
        self.list.push(draft);
        self.list.len() - 1
    }
}

impl Draft {
    fn new(name: &str, source: &SourceFile, line: usize) -> Self {
        Self {
            domain: Domain::named(name),
            tree: Tree::default(),
            first: Source {
                file: source.name.as_str().into(),
                line,
            },
        }
    }

    /// Of merged files the last that says something counts; what any of them calls sensitive is.
    fn read(&mut self, fields: &Fields<'_, '_>) {
        let domain = &mut self.domain;
        if let Some((name, span)) = fields.text("time_zone") {
            match Zone::named(name) {
                Some(zone) => domain.time_zone = zone,
                None => {
                    let error =
                        fields.error_at("time_zone", span, format!("unknown time zone `{name}`"));
                    fields.scope.report(error.with_help(hints::zone(name)));
                }
            }
        }
        if let Some(keys) = fields.texts("partition_by") {
            domain.partition_by = keys;
        }
        if let Some(keys) = fields.texts("sensitive") {
            domain.sensitive.extend(keys);
        }
        if let Some(mode) = fields.one_of("failure_mode", &limit::FAILURE_MODES) {
            domain.failure_mode = mode;
        }
        if let Some((node, scope)) = fields.child("response")
            && let Some(fields) = Fields::of(&scope, node, Table::Response)
        {
            read_response(&fields, &mut domain.response);
        }
        read_costs(fields, &mut domain.costs);
        plan::read_all(fields, domain);
    }
}

fn domain_name<'s>(fields: &Fields<'s, '_>, root: &Node<'_>) -> Option<(&'s str, Span)> {
    let found = fields.text("domain").filter(|(name, _)| !name.is_empty());
    if found.is_none() && !fields.failed("domain") {
        let span = fields.span("domain").unwrap_or(root.span);
        let error = fields.scope.error(span, "the file has no `domain`");
        let error = error.coded(Code::MissingField);
        let help = "say which domain of Envoy's ratelimit filter the rules are for: `domain: NAME`";
        fields.scope.report(error.with_help(help));
    }
    found
}

/// The words of `headers`.
pub(super) const HEADERS: [(&str, &str); 4] = [
    ("ratelimit", "ratelimit"),
    ("retry-after", "retry-after"),
    ("x-ratelimit", "x-ratelimit"),
    ("x-quota", "x-quota"),
];

/// The words of `body`.
pub(super) const BODIES: [(&str, Body); 3] = [
    ("json", Body::Json),
    ("problem", Body::Problem),
    ("none", Body::None),
];

fn read_response(fields: &Fields<'_, '_>, response: &mut Response) {
    if let Some(headers) = fields.some_of("headers", &HEADERS) {
        response.ratelimit = headers.contains(&"ratelimit");
        response.retry_after = headers.contains(&"retry-after");
        response.x_ratelimit = headers.contains(&"x-ratelimit");
        response.x_quota = headers.contains(&"x-quota");
    }
    if let Some(body) = fields.one_of("body", &BODIES) {
        response.body = body;
    }
    if let Some((node, scope)) = fields.child("messages")
        && let Some(fields) = Fields::of(&scope, node, Table::Messages)
    {
        read_messages(&fields, &mut response.messages);
    }
}

fn read_messages(fields: &Fields<'_, '_>, messages: &mut Messages) {
    let read = |name: &'static str| {
        let (text, span) = fields.text(name)?;
        if let Some(unknown) = unknown_place(text) {
            let error =
                fields.error_at(name, span, format!("unknown `{{{unknown}}}` in a message"));
            let names: Vec<String> = PLACES.iter().map(|name| format!("`{{{name}}}`")).collect();
            fields.fail(
                name,
                error.with_help(format!("one of {}", names.join(", "))),
            );
        }
        Some(text.to_owned())
    };
    *messages = Messages {
        rate_limit_exceeded: read("rate_limit_exceeded"),
        monthly_quota_exceeded: read("monthly_quota_exceeded"),
        banned: read("banned"),
    };
}

/// What a message may name.
const PLACES: [&str; 5] = ["limit", "window", "plan", "retry_after", "reset_at"];

/// The first name in braces that means nothing.
fn unknown_place(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        if !PLACES.contains(&name) {
            return Some(name);
        }
        rest = after;
    }
    None
}

fn read_costs(fields: &Fields<'_, '_>, costs: &mut Costs) {
    let Some((items, scope)) = fields.list("costs") else {
        return;
    };
    for (index, item) in items.iter().enumerate() {
        let scope = scope.item(index);
        let Some(fields) = Fields::of(&scope, item, Table::Cost) else {
            continue;
        };
        let value = fields.text("value").map(|(value, _)| value);
        let cost = fields.decimal("cost", 0).map(|(cost, _)| cost);
        for name in ["key", "cost"] {
            if fields.get(name).is_none() {
                let error = scope.error(fields.own_span(), format!("the cost has no `{name}`"));
                let error = error.coded(Code::MissingField);
                fields.fail(
                    name,
                    error.with_help("such as `{key: path, value: /compare, cost: 2}`"),
                );
            }
        }
        if let (Some((key, _)), Some(cost)) = (fields.text("key"), cost) {
            let matcher = match value.filter(|value| !value.is_empty()) {
                None => Matcher::Bare,
                Some(value) if value.contains('*') => Matcher::Pattern(value),
                Some(value) => Matcher::Exact(value),
            };
            costs.add(key, matcher, Hits::from_thousandths(cost));
        }
    }
}
