//! `tollgate check`: says what is wrong with rule files, and what is right and yet unwise.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::reload::{Read, Source, SourceError};
use crate::rules::compile::{Options, compile};
use crate::rules::diagnostic::{Report, Severity};

use super::say;

mod envoy;
mod estimate;
mod machine;

use estimate::OfDomain;

/// What to check.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directories of rules, or single files
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Let several files have the same domain, as MERGE_DOMAIN_CONFIG=true does
    #[arg(long)]
    merge_domain_config: bool,
    /// Hold the rules against what an Envoy of this configuration can ask: its bootstrap, or what /config_dump says; again
    /// for each that there is
    #[arg(long, value_name = "FILE")]
    envoy: Vec<PathBuf>,
    /// How to say it: for people, as JSON, or as SARIF for code scanning
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Fail on warnings as well
    #[arg(long)]
    deny_warnings: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
    Sarif,
}

/// What became of a directory, or of an Envoy configuration.
struct Checked {
    /// What the names of its files are relative to.
    dir: PathBuf,
    /// As given.
    shown: PathBuf,
    report: Report,
    /// How much there is; none if it cannot be used.
    what: Option<String>,
    /// Of rules that can be used: how many domains and rules, and what they take.
    rules: Option<(usize, usize, Vec<OfDomain>)>,
}

/// Exit code 0 if all is well, 1 if rules have errors, 2 if they cannot be read.
pub fn run(args: &Args) -> ExitCode {
    let (mut all, mut sets) = (Vec::new(), Vec::new());
    for dir in &args.dirs {
        match check(dir, args.merge_domain_config) {
            Ok((checked, set)) => {
                all.push(checked);
                sets.push(set);
            }
            Err(error) => {
                say(&format!("error: {error}"));
                return ExitCode::from(2);
            }
        }
    }
    if let Err(error) = envoy::hold(&args.envoy, &mut all, &sets) {
        say(&format!("error: {error}"));
        return ExitCode::from(2);
    }
    print(&match args.format {
        Format::Text => all.iter().map(text).collect(),
        Format::Json => machine::json(&all),
        Format::Sarif => machine::sarif(&all),
    });
    let counts = |severity| {
        all.iter()
            .map(move |checked| checked.report.count(severity))
    };
    let errors: usize = counts(Severity::Error).sum();
    let warnings: usize = counts(Severity::Warning).sum();
    match errors > 0 || (args.deny_warnings && warnings > 0) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn check(dir: &Path, merge_domains: bool) -> Result<(Checked, Option<envoy::Set>), SourceError> {
    let options = Options {
        merge_domains,
        lints: true,
    };
    let read = read(dir)?;
    if read.files.is_empty() {
        return Err(SourceError::Empty(dir.to_owned()));
    }
    for path in &read.ignored {
        say(&format!(
            "{} is no rule file: their names end in .yaml or .yml",
            path.display()
        ));
    }
    let (report, set) = match compile(&read.files, options) {
        Ok(mut rules) => (
            std::mem::take(&mut rules.warnings),
            Some((rules, read.files)),
        ),
        Err(report) => (report, None),
    };
    let rules = set.as_ref().map(|(rules, _)| {
        let (domains, count) = (rules.domains.len(), rules.rules.len());
        (domains, count, estimate::of(rules))
    });
    let what = rules.as_ref().map(|(domains, rules, _)| {
        let (domains, rules) = (count(*domains, "domain"), count(*rules, "rule"));
        format!("{domains}, {rules}")
    });
    let checked = Checked {
        dir: dir.to_owned(),
        shown: dir.to_owned(),
        report,
        what,
        rules,
    };
    Ok((checked, set))
}

/// The files of a directory, or the one file that is given in place of it.
fn read(path: &Path) -> Result<Read, SourceError> {
    let source = Source {
        dir: path.to_owned(),
        ignore_dotfiles: false,
    };
    if path.is_file() {
        source.read_file()
    } else {
        source.read()
    }
}

/// The report if there is something in it, and a line about the directory.
fn text(checked: &Checked) -> String {
    let mut text = String::new();
    let report = &checked.report;
    if !report.diagnostics.is_empty() {
        text = report.render(is_colourful()) + "\n";
    }
    let summary = match &checked.what {
        Some(what) => {
            let doubts = match report.count(Severity::Warning) {
                0 => "no errors".to_owned(),
                some => count(some, "warning"),
            };
            format!("{what}, {doubts}")
        }
        None => count(report.count(Severity::Error), "error"),
    };
    let estimates = checked
        .rules
        .iter()
        .map(|(_, _, estimates)| estimate::text(estimates));
    let estimates: String = estimates.collect();
    // The verdict comes last, where one looks for it.
    text + &format!("{estimates}{}: {summary}\n", checked.shown.display())
}

/// Colour is for a terminal whose user has not refused it: <https://no-color.org>.
fn is_colourful() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !refused
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn print(text: &str) {
    // A reader that has gone away is no reason to fail.
    let _ = io::stdout().write_all(text.as_bytes());
}
