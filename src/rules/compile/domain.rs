//! What a file says beside its descriptors: which domain it is for, and what holds for all of it.

use std::collections::HashMap;

use super::descriptor::Tree;
use super::fields::Fields;
use super::limit;
use super::table::Table;
use super::{Options, SourceFile};
use crate::limit::period::Zone;
use crate::rules::file::{Node, Span};
use crate::rules::matcher::Level;
use crate::rules::{Body, Domain, FailureMode, Response};

/// The domains while their files are read.
pub(super) struct Drafts {
    options: Options,
    list: Vec<Draft>,
    by_name: HashMap<String, usize>,
}

/// A domain while its files are read.
pub(super) struct Draft {
    pub(super) domain: Domain,
    pub(super) tree: Tree,
    /// Where it was begun.
    file: String,
    line: usize,
}

impl Drafts {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            list: Vec::new(),
            by_name: HashMap::new(),
        }
    }

    /// Reads what stands beside the descriptors; the place of the file's draft. A file without a domain of its own has a
    /// draft nevertheless, so that whatever else is wrong with it is found.
    pub(super) fn read(&mut self, fields: &Fields<'_, '_>, root: &Node) -> usize {
        let index = match domain_name(fields, root) {
            Some((name, span)) => self.begin(fields, name, span),
            None => self.add(Draft::new(String::new(), fields.scope.file, 0)),
        };
        if let Some(draft) = self.list.get_mut(index) {
            draft.read(fields);
        }
        index
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Draft> {
        self.list.get_mut(index)
    }

    pub(super) fn finish(self) -> HashMap<String, Domain> {
        let domains = self.list.into_iter().map(|draft| draft.domain);
        domains
            .map(|domain| (domain.name.clone(), domain))
            .collect()
    }

    fn begin(&mut self, fields: &Fields<'_, '_>, name: String, span: Span) -> usize {
        let first = self.by_name.get(&name).copied();
        match first.and_then(|index| Some((index, self.list.get(index)?))) {
            Some((index, _)) if self.options.merge_domains => index,
            Some((_, first)) => {
                let message = format!("the domain `{name}` has two files");
                let help = format!(
                    "it stands first in {}:{}; MERGE_DOMAIN_CONFIG=true makes them one",
                    first.file, first.line
                );
                let error = fields.error_at("domain", span, message);
                fields.scope.report(error.with_help(help));
                self.add(Draft::new(name, fields.scope.file, span.line))
            }
            None => {
                let draft = Draft::new(name.clone(), fields.scope.file, span.line);
                let index = self.add(draft);
                self.by_name.insert(name, index);
                index
            }
        }
    }

    fn add(&mut self, draft: Draft) -> usize {
        self.list.push(draft);
        self.list.len() - 1
    }
}

impl Draft {
    fn new(name: String, source: &SourceFile, line: usize) -> Self {
        Self {
            domain: Domain {
                name,
                time_zone: Zone::utc(),
                partition_by: Vec::new(),
                sensitive: Vec::new(),
                failure_mode: FailureMode::default(),
                response: Response::default(),
                root: Level::default(),
            },
            tree: Tree::default(),
            file: source.name.clone(),
            line,
        }
    }

    /// Of merged files the last that says something counts; what any of them calls sensitive is.
    fn read(&mut self, fields: &Fields<'_, '_>) {
        let domain = &mut self.domain;
        if let Some((name, span)) = fields.text("time_zone") {
            match Zone::named(&name) {
                Some(zone) => domain.time_zone = zone,
                None => {
                    let error =
                        fields.error_at("time_zone", span, format!("unknown time zone `{name}`"));
                    let help = "a name of the IANA database, such as `UTC` or `Europe/Berlin`";
                    fields.scope.report(error.with_help(help));
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
    }
}

fn domain_name(fields: &Fields<'_, '_>, root: &Node) -> Option<(String, Span)> {
    let found = fields.text("domain").filter(|(name, _)| !name.is_empty());
    if found.is_none() && !fields.failed("domain") {
        let span = fields.span("domain").unwrap_or(root.span);
        let error = fields.scope.error(span, "the file has no `domain`");
        let help = "say which domain of Envoy's ratelimit filter the rules are for: `domain: NAME`";
        fields.scope.report(error.with_help(help));
    }
    found
}

fn read_response(fields: &Fields<'_, '_>, response: &mut Response) {
    const HEADERS: [(&str, &str); 3] = [
        ("ratelimit", "ratelimit"),
        ("retry-after", "retry-after"),
        ("x-ratelimit", "x-ratelimit"),
    ];
    const BODIES: [(&str, Body); 3] = [
        ("json", Body::Json),
        ("problem", Body::Problem),
        ("none", Body::None),
    ];
    if let Some(headers) = fields.some_of("headers", &HEADERS) {
        response.ratelimit = headers.contains(&"ratelimit");
        response.retry_after = headers.contains(&"retry-after");
        response.x_ratelimit = headers.contains(&"x-ratelimit");
    }
    if let Some(body) = fields.one_of("body", &BODIES) {
        response.body = body;
    }
}
