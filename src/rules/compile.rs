//! Files to a rule set, or to everything that is wrong with all of them.
//!
//! - `table`: which fields may stand where; [`schema`]: the same for editors
//! - `fields`: reading typed fields out of the tree, and saying what is wrong with them
//! - `domain`: what stands beside the descriptors
//! - `plan`: plans, and how a descriptor comes by one
//! - `limits`: the limits of a descriptor or a plan
//! - `descriptor`: the tree of descriptors
//! - `limit`: one limit; `candidate`: one that is tried beside it
//! - `hints`: what was most likely meant
//! - `unknown`: fields and files that are not known
//! - `lint`: what is right and yet unwise

use std::cell::RefCell;

use super::RuleSet;
use super::diagnostic::{Code, Diagnostic, Report, Severity};
use super::file::{self, Node, Parsed, SourceFile, Span};
use super::outline::Outline;

mod candidate;
mod descriptor;
mod domain;
mod fields;
mod hints;
mod limit;
mod limits;
mod lint;
mod plan;
pub mod schema;
mod table;
mod unknown;

use domain::Drafts;
pub use fields::duration;
use fields::{Fields, Scope};
use table::Table;

/// How files are compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Files of one domain are one; otherwise the second is an error.
    pub merge_domains: bool,
    /// What is right and yet unwise is warned of.
    pub lints: bool,
}

/// After so many diagnostics no more are collected.
pub const MAX_DIAGNOSTICS: usize = 1000;

/// Compiles all files, in their order. Everything wrong with all of them is in the report.
pub fn compile(files: &[SourceFile], options: Options) -> Result<RuleSet, Report> {
    let parsed = files.iter().map(|file| file::parse(&file.text)).collect();
    read(files, parsed, options, false).map(|(rules, _)| rules)
}

/// The same, and all descriptors as they were written.
pub fn compile_outlined(
    files: &[SourceFile],
    options: Options,
) -> Result<(RuleSet, Outline), Report> {
    let parsed = files.iter().map(|file| file::parse(&file.text)).collect();
    read(files, parsed, options, true)
}

/// The same of trees that were not written in YAML; each stands in the report under its name, without a line.
pub fn compile_trees(
    trees: Vec<(String, Parsed<'_>)>,
    options: Options,
) -> Result<RuleSet, Report> {
    let (files, parsed): (Vec<_>, Vec<_>) = trees
        .into_iter()
        .map(|(name, parsed)| {
            let text = String::new();
            (SourceFile { name, text }, parsed)
        })
        .unzip();
    read(&files, parsed, options, false).map(|(rules, _)| rules)
}

fn read(
    files: &[SourceFile],
    parsed: Vec<Parsed<'_>>,
    options: Options,
    outlined: bool,
) -> Result<(RuleSet, Outline), Report> {
    let sink = RefCell::new(Vec::new());
    let (mut rules, outline) = build(files, parsed, options, outlined, &sink);
    let report = Report::new(sink.into_inner(), files);
    if report.has_errors() {
        return Err(report);
    }
    rules.warnings = report;
    Ok((rules, outline))
}

/// Every field of the language, with what it is a field of: what a reference has to explain.
pub fn fields() -> impl Iterator<Item = (&'static str, &'static str)> {
    let tables = Table::ALL.into_iter();
    tables.flat_map(|table| table.names().map(move |field| (table.name(), field)))
}

fn build<'f>(
    files: &'f [SourceFile],
    parsed: Vec<Parsed<'f>>,
    options: Options,
    outlined: bool,
    sink: &'f RefCell<Vec<Diagnostic>>,
) -> (RuleSet, Outline) {
    let trees: Vec<(Scope<'_>, Node<'_>)> = files
        .iter()
        .zip(parsed)
        .filter_map(|(source, parsed)| tree(Scope::new(source, options.lints, sink), parsed))
        .collect();
    let mut drafts = Drafts::new(options, outlined);
    // What one file says of a domain holds for the descriptors of all its files, so it is read before any of them.
    let mut tops = Vec::with_capacity(trees.len());
    for (scope, root) in &trees {
        if let Some(fields) = Fields::of(scope, root, Table::Domain) {
            let draft = drafts.read(&fields, root);
            tops.push((fields, draft));
        }
    }
    let mut rules = RuleSet::default();
    for (fields, draft) in &tops {
        if let Some((list, scope)) = fields.list("descriptors")
            && let Some(draft) = drafts.get_mut(*draft)
        {
            descriptor::read_level(&scope, list, draft, &mut rules);
        }
    }
    let outline;
    (rules.domains, outline) = drafts.finish();
    drop(tops);
    let is_error = |found: &Diagnostic| found.severity == Severity::Error;
    if options.lints && !sink.borrow().iter().any(is_error) {
        lint::look(&trees, &rules);
    }
    (rules, outline)
}

/// The tree of a file; what is wrong with its YAML is reported.
fn tree<'f>(scope: Scope<'f>, (root, errors): Parsed<'f>) -> Option<(Scope<'f>, Node<'f>)> {
    let unreadable = root.is_none() && !errors.is_empty();
    for error in errors {
        let diagnostic = scope.error(error.span, error.message).coded(error.code);
        scope.report(match error.help {
            Some(help) => diagnostic.with_help(help),
            None => diagnostic,
        });
    }
    if unreadable {
        return None;
    }
    let root = root.filter(|root| !root.is_null());
    if root.is_none() {
        let error = scope.error(Span::default(), "the file is empty");
        let error = error.coded(Code::MissingField);
        scope.report(error.with_help("a rule file begins with `domain: NAME`"));
    }
    let root = root?;
    if let Some((message, help)) = unknown::foreign(&root) {
        let error = scope.error(root.span, message).coded(Code::NotRules);
        scope.report(error.with_help(help));
        return None;
    }
    Some((scope, root))
}
