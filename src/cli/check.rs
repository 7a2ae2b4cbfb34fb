//! `tollgate check`: says what is wrong with rule files.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::reload::Source;
use crate::rules::compile::{Options, compile};
use crate::rules::diagnostic::Severity;

use super::say;

/// What to check.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directories of rules
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Let several files have the same domain, as MERGE_DOMAIN_CONFIG=true does
    #[arg(long)]
    merge_domain_config: bool,
}

/// Exit code 0 if all is well, 1 if rules have errors or cannot be read.
pub fn run(args: &Args) -> ExitCode {
    let mut well = true;
    for dir in &args.dirs {
        let source = Source {
            dir: dir.clone(),
            ignore_dotfiles: false,
        };
        let options = Options {
            merge_domains: args.merge_domain_config,
        };
        match check(&source, options) {
            Ok(summary) => print(&format!("{}: {summary}\n", dir.display())),
            Err((report, summary)) => {
                print(&format!("{report}{}: {summary}\n", dir.display()));
                well = false;
            }
        }
    }
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A line about a directory, and before it the report if there is one.
fn check(source: &Source, options: Options) -> Result<String, (String, String)> {
    let read = source
        .read()
        .map_err(|error| (String::new(), format!("error: {error}")))?;
    for path in &read.ignored {
        say(&format!(
            "{} is no rule file: their names end in .yaml or .yml",
            path.display()
        ));
    }
    match compile(&read.files, options) {
        Ok(rules) => {
            let warnings = &rules.warnings;
            if !warnings.diagnostics.is_empty() {
                print(&format!(
                    "{}\n",
                    warnings.render(io::stdout().is_terminal())
                ));
            }
            let doubts = match warnings.count(Severity::Warning) {
                0 => "no errors".to_owned(),
                some => count(some, "warning"),
            };
            Ok(format!(
                "{}, {}, {doubts}",
                count(rules.domains.len(), "domain"),
                count(rules.rules.len(), "rule")
            ))
        }
        Err(report) => Err((
            format!("{}\n", report.render(io::stdout().is_terminal())),
            count(report.count(Severity::Error), "error"),
        )),
    }
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn print(text: &str) {
    // A reader that has gone away is no reason to fail.
    let _ = io::stdout().write_all(text.as_bytes());
}
