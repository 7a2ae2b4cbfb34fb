//! `tollgate diff`: what a change of rules changes, and for whom: not by lines, but by what requests would be told.
//!
//! - `source`: the rules of a side
//! - `domain`: what is said beside descriptors
//! - `walk`: all descriptors that requests may bring
//! - `level`, `patterns`: which of two levels' descriptors an entry finds
//! - `rule`, `limits`, `candidates`: two rules, two lists of limits, and of those on trial
//! - `change`: what changes, put together
//! - `text`: how it is said

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::rules::compile::{Options, compile_outlined};
use crate::rules::diagnostic::Report;
use crate::rules::file::SourceFile;
use crate::rules::outline::Node;

use super::say;
use change::{Changes, Found};
use domain::Side;

mod candidates;
mod change;
mod domain;
mod level;
mod limits;
mod patterns;
mod rule;
mod source;
mod text;
mod walk;

/// What to compare.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The rules before: a directory, a file, or either as git has it, such as origin/main:config/rules
    #[arg(value_name = "OLD")]
    old: String,
    /// The rules after
    #[arg(value_name = "NEW")]
    new: String,
    /// Let several files have the same domain, as MERGE_DOMAIN_CONFIG=true does
    #[arg(long)]
    merge_domain_config: bool,
    /// How to say it: for people, as a table for a pull request, or for machines
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Exit with 1 if anything changes, as `git diff` does
    #[arg(long)]
    exit_code: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Markdown,
    Json,
}

/// So many changes are told to machines.
const MOST_JSON: usize = 10_000;

/// What changes from some rules to others.
#[derive(Debug)]
pub struct Difference(Changes);

/// What changes from the rules of some files to those of others; the error is what is wrong with either.
pub fn difference(
    old: &[SourceFile],
    new: &[SourceFile],
    options: Options,
) -> Result<Difference, Report> {
    let side = |files| -> Result<Side, Report> {
        let (rules, outline) = compile_outlined(files, options)?;
        Ok(Side { rules, outline })
    };
    Ok(Difference(domain::compare(&side(old)?, &side(new)?)))
}

/// Exit code 0 if the rules could be compared, with `--exit-code` 1 if they differ, 2 if they cannot be read or have errors.
pub fn run(args: &Args) -> ExitCode {
    let sides = [&args.old, &args.new].map(|side| read(side, args.merge_domain_config));
    let [Some(old), Some(new)] = sides else {
        return ExitCode::from(2);
    };
    let difference = Difference(domain::compare(&old, &new));
    print(&match args.format {
        Format::Text => difference.text(io::stdout().is_terminal()),
        Format::Markdown => difference.markdown(),
        Format::Json => difference.json(),
    });
    match args.exit_code && !difference.is_empty() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// The rules of a side; what is wrong with them is said.
fn read(side: &str, merge_domains: bool) -> Option<Side> {
    let files = match source::read(side) {
        Ok(files) => files,
        Err(error) => {
            say(&format!("error: {error}"));
            return None;
        }
    };
    let options = Options {
        merge_domains,
        lints: false,
    };
    match compile_outlined(&files, options) {
        Ok((rules, outline)) => Some(Side { rules, outline }),
        Err(report) => {
            let report = report.render(io::stderr().is_terminal());
            say(&format!(
                "{report}\nerror: the rules of {side} cannot be used"
            ));
            None
        }
    }
}

impl Difference {
    /// No request is decided otherwise.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For a terminal.
    pub fn text(&self, colour: bool) -> String {
        text::text(&self.0, colour)
    }

    /// For a pull request.
    pub fn markdown(&self) -> String {
        text::markdown(&self.0)
    }

    /// For machines.
    pub fn json(&self) -> String {
        let sorted = self.0.sorted();
        let told: Vec<Value> = sorted.iter().take(MOST_JSON).map(one).collect();
        let all = json!({
            "summary": text::summary(&self.0),
            "count": sorted.len(),
            "incomplete": self.0.incomplete,
            "changes": told,
        });
        format!("{all:#}\n")
    }
}

/// Where a descriptor stands: by the first rule in it.
fn line(node: Option<&Node>) -> usize {
    let Some(node) = node else { return 0 };
    match &node.rule {
        Some(rule) => rule.source.line,
        None => line(node.below.first()),
    }
}

fn one((domain, change, subjects): &Found<'_>) -> Value {
    let first = subjects.first.iter();
    let first: Vec<Value> = first
        .map(|one| json!({"name": one.name, "place": one.place}))
        .collect();
    json!({
        "effect": change.effect.word(),
        "domain": domain,
        "what": change.what,
        "before": change.before,
        "after": change.after,
        "notes": change.notes,
        "counters_start_anew": change.anew,
        "count": subjects.count,
        "for": first,
    })
}

fn print(text: &str) {
    // A reader that has gone away is no reason to fail.
    let _ = io::stdout().write_all(text.as_bytes());
}
