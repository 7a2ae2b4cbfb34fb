//! The command line: one file per subcommand.
//!
//! - [`serve`]: the service; what runs without a subcommand
//! - [`check`]: says what is wrong with rule files

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub mod check;
pub mod serve;

/// The exit code of a call that cannot be understood.
const USAGE: u8 = 2;

/// A global rate limit service for Envoy.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    max_term_width = 120,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: crate::settings::Settings,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve (the default): gRPC for Envoy, HTTP for people
    Serve(Box<crate::settings::Settings>),
    /// Say what is wrong with rule files
    Check(check::Args),
}

/// Runs the command that the process was called with.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command {
        Some(Command::Serve(settings)) => serve::run(*settings),
        Some(Command::Check(args)) => check::run(&args),
        None => serve::run(cli.serve),
    }
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
    say(&lines.collect::<Vec<_>>().join(" "));
    ExitCode::from(USAGE)
}

/// Writes a line to standard error.
#[expect(
    clippy::print_stderr,
    reason = "a command line speaks to the person who calls it"
)]
fn say(line: &str) {
    eprintln!("{line}");
}
