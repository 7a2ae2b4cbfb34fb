//! `ratelimit_config_check`: checks rule files as the program of envoyproxy/ratelimit does, in its words.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::reload::Source;
use crate::rules::compile::{Options, compile};
use crate::settings::values::boolean;

use super::say;

/// Its flags, with one dash or two.
#[derive(Clone, Debug, clap::Args)]
#[command(rename_all = "snake_case")]
pub struct Args {
    /// The directory of the rules
    #[arg(long, value_name = "DIR", default_value = "")]
    config_dir: PathBuf,
    /// Let several files have the same domain
    #[arg(long, value_name = "BOOL", default_value = "false", value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    merge_domain_configs: bool,
}

/// Exit code 0 if all is well, 1 if rules have errors or cannot be read.
pub fn run(args: &Args) -> ExitCode {
    print("checking rate limit configs...");
    match check(args) {
        Ok(()) => {
            print("all rate limit configs ok");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            print(&problem);
            ExitCode::FAILURE
        }
    }
}

fn check(args: &Args) -> Result<(), String> {
    let dir = args.config_dir.display();
    print(&format!("loading config directory: {dir}"));
    let source = Source {
        dir: args.config_dir.clone(),
        ignore_dotfiles: false,
    };
    let read = source
        .read()
        .map_err(|error| format!("error opening directory {dir}: {error}"))?;
    for path in &read.ignored {
        say(&format!(
            "{} is no rule file: their names end in .yaml or .yml",
            path.display()
        ));
    }
    for file in &read.files {
        let path = args.config_dir.join(&file.name);
        print(&format!("opening config file: {}", path.display()));
    }
    let options = Options {
        merge_domains: args.merge_domain_configs,
        lints: false,
    };
    match compile(&read.files, options) {
        Ok(rules) if rules.warnings.diagnostics.is_empty() => Ok(()),
        Ok(rules) => {
            print(&rules.warnings.render(false));
            Ok(())
        }
        Err(report) => Err(format!(
            "error loading rate limit configs: {}",
            report.render(false)
        )),
    }
}

fn print(line: &str) {
    // A reader that has gone away is no reason to fail.
    let _ = writeln!(io::stdout(), "{line}");
}
