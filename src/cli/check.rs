//! `tollgate check`: says what is wrong with rule files, and what is right and yet unwise.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::reload::{Read, Source, SourceError};
use crate::rules::compile::{Options, compile};
use crate::rules::diagnostic::{Report, Severity};

use super::say;

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

/// What became of a directory.
struct Checked {
    /// As given.
    dir: PathBuf,
    report: Report,
    /// How much there is, and what it takes; none if it cannot be used.
    rules: Option<(usize, usize, Vec<OfDomain>)>,
}

/// Exit code 0 if all is well, 1 if rules have errors, 2 if they cannot be read.
pub fn run(args: &Args) -> ExitCode {
    let mut all = Vec::new();
    for dir in &args.dirs {
        match check(dir, args.merge_domain_config) {
            Ok(checked) => all.push(checked),
            Err(error) => {
                say(&format!("error: {error}"));
                return ExitCode::from(2);
            }
        }
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

fn check(dir: &Path, merge_domains: bool) -> Result<Checked, SourceError> {
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
    let (report, rules) = match compile(&read.files, options) {
        Ok(rules) => {
            let found = (rules.domains.len(), rules.rules.len(), estimate::of(&rules));
            (rules.warnings, Some(found))
        }
        Err(report) => (report, None),
    };
    let dir = dir.to_owned();
    Ok(Checked { dir, report, rules })
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
    let Checked { dir, report, rules } = checked;
    let mut text = String::new();
    if !report.diagnostics.is_empty() {
        text = report.render(is_colourful()) + "\n";
    }
    let summary = match rules {
        Some((domains, rules, _)) => {
            let doubts = match report.count(Severity::Warning) {
                0 => "no errors".to_owned(),
                some => count(some, "warning"),
            };
            let (domains, rules) = (count(*domains, "domain"), count(*rules, "rule"));
            format!("{domains}, {rules}, {doubts}")
        }
        None => count(report.count(Severity::Error), "error"),
    };
    let estimates = rules
        .iter()
        .map(|(_, _, estimates)| estimate::text(estimates));
    let estimates: String = estimates.collect();
    // The verdict comes last, where one looks for it.
    text + &format!("{estimates}{}: {summary}\n", dir.display())
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
