//! The command line: one file per subcommand.
//!
//! - [`serve`]: the service; what runs without a subcommand
//! - [`check`]: says what is wrong with rule files
//! - [`health`]: asks a running service whether it is ready
//! - [`mod@bench`]: makes load, and measures it

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub mod bench;
pub mod check;
pub mod health;
pub mod serve;

/// The exit code of a call that cannot be understood.
const USAGE: u8 = 2;

/// A global rate limit service for Envoy.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default): gRPC for Envoy, HTTP for people
    Serve(Box<crate::settings::Settings>),
    /// Say what is wrong with rule files
    Check(check::Args),
    /// Ask the service on this machine whether it is ready
    Health(health::Args),
    /// Make load for a RateLimitService, and measure it
    Bench(Box<bench::Args>),
}

/// Runs the command that the process was called with.
pub fn run() -> ExitCode {
    let matches = command().try_get_matches_from(with_default(std::env::args_os()));
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command {
        Command::Serve(settings) => serve::run(*settings),
        Command::Check(args) => check::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Bench(args) => bench::run(*args),
    }
}

/// The command line, for which a variable that is set to nothing is not set.
fn command() -> clap::Command {
    let of_variables = |command: clap::Command| {
        command.mut_args(|arg| {
            let value = arg.get_env().and_then(std::env::var_os);
            match value.is_some_and(|value| value.is_empty()) {
                true => arg.env(Resettable::Reset),
                false => arg,
            }
        })
    };
    Cli::command()
        .mut_subcommand("serve", of_variables)
        .mut_subcommand("health", of_variables)
}

/// The arguments, with `serve` where no subcommand is named. Its variables are thus read, and may be wrong, only when it
/// is what runs.
fn with_default(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let about_all = ["-h", "--help", "-V", "--version"].map(OsStr::new);
    let is_serve = args.get(1).is_none_or(|first| {
        !about_all.contains(&first.as_os_str()) && first.as_encoded_bytes().starts_with(b"-")
    });
    if is_serve {
        args.insert(args.len().min(1), "serve".into());
    }
    args
}

/// Help goes to standard output; a mistake is one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // A reader that has gone away is no reason to fail.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    say(&match variable(error) {
        Some(variable) => format!("{line} (variable {variable})"),
        None => line,
    });
    ExitCode::from(USAGE)
}

/// The variable of the setting that is wrong: it has the flag's name.
fn variable(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = argument.split(' ').next()?.strip_prefix("--")?;
    Some(flag.replace('-', "_").to_uppercase())
}

/// Writes a line to standard error.
#[expect(
    clippy::print_stderr,
    reason = "a command line speaks to the person who calls it"
)]
fn say(line: &str) {
    eprintln!("{line}");
}
