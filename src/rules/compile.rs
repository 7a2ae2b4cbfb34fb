//! Files to a rule set, or to everything that is wrong with all of them.
//!
//! - `fields`: reading typed fields out of the tree, and saying what is wrong with them
//! - `descriptor`: the tree of descriptors
//! - `limit`: one limit

use std::cell::RefCell;
use std::collections::HashMap;

use super::diagnostic::{Diagnostic, Report};
use super::file::{self, Node, SourceFile, Span};
use super::matcher::Level;
use super::{Body, Domain, FailureMode, Response, RuleSet};
use crate::limit::period::Zone;

mod descriptor;
mod fields;
mod limit;

use descriptor::Tree;
use fields::{Fields, Scope, Table};

/// How files are compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Files of one domain are one; otherwise the second is an error.
    pub merge_domains: bool,
}

/// After so many diagnostics no more are collected.
pub const MAX_DIAGNOSTICS: usize = 1000;

/// A domain while its files are read.
struct Draft {
    domain: Domain,
    tree: Tree,
    /// Where it was begun.
    file: String,
    line: usize,
}

/// Compiles all files, in their order. Everything wrong with all of them is in the report.
pub fn compile(files: &[SourceFile], options: Options) -> Result<RuleSet, Report> {
    let sink = RefCell::new(Vec::new());
    let mut rules = RuleSet::default();
    let mut drafts: HashMap<String, Draft> = HashMap::new();
    for source in files {
        read_file(source, options, &sink, &mut drafts, &mut rules);
    }
    let mut diagnostics = sink.into_inner();
    let place = |name: &str| files.iter().position(|file| file.name == name);
    diagnostics.sort_by_key(|found| (place(&found.file), found.span.line, found.span.column));
    let report = Report { diagnostics };
    if report.has_errors() {
        return Err(report);
    }
    rules.domains = drafts
        .into_iter()
        .map(|(name, draft)| (name, draft.domain))
        .collect();
    Ok(rules)
}

fn read_file(
    source: &SourceFile,
    options: Options,
    sink: &RefCell<Vec<Diagnostic>>,
    drafts: &mut HashMap<String, Draft>,
    rules: &mut RuleSet,
) {
    let scope = Scope::new(source, sink);
    let root = match file::parse(&source.text) {
        Ok(root) => root.filter(|root| !root.is_null()),
        Err(error) => {
            let diagnostic = scope.error(error.span, error.message);
            scope.report(match error.help {
                Some(help) => diagnostic.with_help(help),
                None => diagnostic,
            });
            return;
        }
    };
    let Some(root) = root else {
        let error = scope.error(Span::default(), "the file is empty");
        scope.report(error.with_help("a rule file begins with `domain: NAME`"));
        return;
    };
    let Some(fields) = Fields::of(&scope, &root, Table::Domain) else {
        return;
    };
    let mut unnamed = None;
    let draft = match domain_name(&fields, &root) {
        Some((name, span)) => match begun(&fields, name, span, options, drafts) {
            Some(draft) => draft,
            None => return,
        },
        // Go on, to find what else is wrong.
        None => unnamed.insert(Draft::new(String::new(), source, 0)),
    };
    draft.read(&fields);
    if let Some((list, scope)) = fields.list("descriptors") {
        let Draft { domain, tree, .. } = draft;
        descriptor::read_level(&scope, list, tree, domain, rules);
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

/// The draft of the domain that a file is for; none if the domain is taken.
fn begun<'d>(
    fields: &Fields<'_, '_>,
    name: String,
    span: Span,
    options: Options,
    drafts: &'d mut HashMap<String, Draft>,
) -> Option<&'d mut Draft> {
    if let Some(first) = drafts.get(&name)
        && !options.merge_domains
    {
        let error = fields
            .scope
            .error(span, format!("the domain `{name}` has two files"));
        let help = format!(
            "it stands first in {}:{}; MERGE_DOMAIN_CONFIG=true makes them one",
            first.file, first.line
        );
        fields.scope.report(error.with_help(help));
        return None;
    }
    let draft = || Draft::new(name.clone(), fields.scope.file, span.line);
    Some(drafts.entry(name.clone()).or_insert_with(draft))
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

    /// Reads what stands beside the descriptors; of merged files the last that says it counts.
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
            domain.sensitive = keys;
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
