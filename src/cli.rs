//! The command line: one file per subcommand.
//!
//! - [`serve`]: the service; what runs without a subcommand
//! - [`check`]: says what is wrong with rule files
//! - [`explain`]: says what would become of a request, and why
//! - [`mod@test`]: tests of rules, in files beside them
//! - [`diff`]: what a change of rules changes, and for whom
//! - [`schema`]: the rule language, for editors
//! - [`replay`]: recorded traffic, decided anew by other rules
//! - [`health`]: asks a running service whether it is ready
//! - [`mod@bench`]: makes load, and measures it
//! - [`compare`]: asks two services the same, and reports where they disagree
//! - [`config_check`], [`client`]: the other programs of envoyproxy/ratelimit, also by their names
//! - [`dial`]: a connection to a service
//! - `engine`: one in this process, on a clock of its own
//! - [`names`]: the names and flags that the process may be called with

use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub mod bench;
pub mod check;
pub mod client;
pub mod compare;
pub mod config_check;
pub mod dial;
pub mod diff;
mod engine;
pub mod explain;
pub mod health;
pub mod names;
pub mod replay;
pub mod schema;
pub mod serve;
pub mod test;

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
    #[command(alias = names::SERVICE)]
    Serve(Box<crate::settings::Settings>),
    /// Say what is wrong with rule files
    Check(check::Args),
    /// Say what would become of a request, entry by entry, and charge nothing
    Explain(Box<explain::Args>),
    /// Run the tests that stand beside rule files
    Test(test::Args),
    /// Say what a change of rules changes, and for whom
    Diff(diff::Args),
    /// Print the JSON Schema of rule files, for editors
    Schema(schema::Args),
    /// Decide recorded traffic anew by other rules, and say what is different
    Replay(Box<replay::Args>),
    /// Ask the service on this machine whether it is ready
    Health(health::Args),
    /// Make load for a RateLimitService, and measure it
    Bench(Box<bench::Args>),
    /// Ask two services the same, and report where they disagree
    Compare(Box<compare::Args>),
    /// As the program of envoyproxy/ratelimit: check rule files
    #[command(name = names::CONFIG_CHECK)]
    ConfigCheck(config_check::Args),
    /// As the program of envoyproxy/ratelimit: ask a service once
    #[command(name = names::CLIENT)]
    Client(client::Args),
}

/// Runs the command that the process was called with.
pub fn run() -> ExitCode {
    let matches = command().try_get_matches_from(names::arguments(std::env::args_os()));
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command {
        Command::Serve(settings) => serve::run(*settings),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Schema(args) => schema::run(args),
        Command::Replay(args) => replay::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Bench(args) => bench::run(*args),
        Command::Compare(args) => compare::run(&args),
        Command::ConfigCheck(args) => config_check::run(&args),
        Command::Client(args) => client::run(&args),
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
    let settings = command();
    let settings = settings.find_subcommand("serve")?;
    settings
        .get_arguments()
        .find(|setting| setting.get_long() == Some(flag))?;
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
