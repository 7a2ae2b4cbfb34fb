//! `tollgate replay`: recorded traffic, decided anew by other rules, with the engine that decides live, on a clock of its own.
//!
//! - `traffic`: what was asked and answered, in the order of time; `access_log`: the same from Envoy's log
//! - `run`: the traffic through an engine
//! - `tally`: what came of it, in bounded memory; `line`: when
//! - `suggest`: which limits would refuse so much and no more
//! - `text`, `machine`, `picture`: the report, for people, machines, and both; `chart`: numbers as blocks
//! - `progress`: how far it is

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::reload::Source;
use crate::rules::RuleSet;
use crate::rules::compile::{Options, compile};
use crate::settings::values::{Span, duration};

use super::say;

mod access_log;
mod chart;
mod line;
mod machine;
mod picture;
mod progress;
mod run;
mod suggest;
mod tally;
mod text;
mod traffic;

/// The exit code where rules or traffic cannot be read.
const UNREADABLE: u8 = 2;

/// What to replay, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The rules that decide
    #[arg(long, value_name = "DIR")]
    rules: PathBuf,
    /// Captures of `serve --record`, and access logs of Envoy as lines of JSON; - is standard input
    #[arg(required = true, value_name = "TRAFFIC")]
    traffic: Vec<PathBuf>,
    /// Let several files have the same domain, as MERGE_DOMAIN_CONFIG=true does
    #[arg(long)]
    merge_domain_config: bool,
    /// The most counters in memory
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Only fill the counters for so long; compare from there on
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    warm_up: Span,
    /// Suggest limits that refuse at most this share of what they are asked, such as 0.1% or 0.001
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    target: Option<f64>,
    /// Draw when what was refused
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write each decision that differs, a line of JSON
    #[arg(long, value_name = "FILE")]
    differences: Option<PathBuf>,
    /// How many rules and subjects to name
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u16).range(1..=64))]
    top: u16,
    /// Exit with 1 if more than this share of the requests is newly refused, such as 1% or 0.01
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    fail_if_newly_refused: Option<f64>,
    /// For people, or as JSON
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    log: access_log::LogArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Exit code 0 if the traffic was replayed, 1 if more was newly refused than may be, 2 if rules or traffic cannot be read.
pub fn run(args: &Args) -> ExitCode {
    match replay(args) {
        Ok(code) => code,
        Err(problem) => {
            say(&format!("error: {problem}"));
            ExitCode::from(UNREADABLE)
        }
    }
}

fn replay(args: &Args) -> Result<ExitCode, String> {
    let outcome = run::outcome(args)?;
    let suggested = match args.target {
        Some(target) => Some(suggest::limits(args, target)?),
        None => None,
    };
    if let Some(path) = &args.svg {
        let picture = picture::svg(&outcome);
        std::fs::write(path, picture).map_err(|error| failed(path, &error))?;
    }
    print(&match args.format {
        Format::Text => text::report(args, &outcome, suggested.as_deref(), colour()),
        Format::Json => machine::report(args, &outcome, suggested.as_deref()),
    });
    let most = args.fail_if_newly_refused;
    let share = outcome.tally.total.newly_refused_share();
    Ok(match most.is_some_and(|most| share > most) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// The rules; the error is what `check` says of them.
fn rules(args: &Args) -> Result<RuleSet, String> {
    let source = Source {
        dir: args.rules.clone(),
        ignore_dotfiles: false,
    };
    let options = Options {
        merge_domains: args.merge_domain_config,
        lints: false,
    };
    let read = source.read().map_err(|error| error.to_string())?;
    let dir = args.rules.display();
    let rules = compile(&read.files, options).map_err(|report| {
        let report = report.render(io::stderr().is_terminal());
        format!("the rules in {dir} have errors\n{report}")
    })?;
    match rules.domains.is_empty() {
        true => Err(format!("there are no rules in {dir}")),
        false => Ok(rules),
    }
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

/// Reads a share: `0.1%`, or `0.001`.
fn ratio(text: &str) -> Result<f64, String> {
    let (number, whole) = match text.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (text, 1.0),
    };
    match number.trim().parse::<f64>() {
        Ok(number) if (0.0..=whole).contains(&number) => Ok(number / whole),
        _ => Err("not a share such as 0.1% or 0.001".to_owned()),
    }
}

fn colour() -> bool {
    io::stdout().is_terminal()
}

fn print(text: &str) {
    // A reader that has gone away is no reason to fail.
    let _ = io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::ratio;

    #[test]
    fn shares_are_read_as_people_write_them() {
        assert_eq!(ratio("0.1%"), Ok(0.001));
        assert_eq!(ratio("0.25"), Ok(0.25));
        assert_eq!(ratio("100 %"), Ok(1.0));
        for wrong in ["", "%", "1.5", "101%", "-1%", "x"] {
            assert!(ratio(wrong).is_err(), "{wrong}");
        }
    }
}
