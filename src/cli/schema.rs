//! `tollgate schema`: prints the JSON Schema of rule files, for editors.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::rules::compile::schema::schema;

/// It has no arguments.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Args {}

/// Exit code 0.
pub fn run(Args {}: Args) -> ExitCode {
    // A reader that has gone away is no reason to fail.
    let _ = writeln!(io::stdout(), "{:#}", schema());
    ExitCode::SUCCESS
}
