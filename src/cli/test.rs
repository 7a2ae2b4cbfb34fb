//! `tollgate test`: runs the tests that stand beside rule files, with the engine that will decide, on a clock of their own.
//!
//! - `file`: tests as written
//! - `play`: a test run
//! - `junit`: what came of them, for machines

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::reload::Source;
use crate::rules::compile::{Options, compile};
use crate::rules::file::SourceFile;

use super::say;

mod file;
mod junit;
mod play;

/// The largest file of tests, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// What to test.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Directories of rules, with their tests in files named NAME.test.yaml
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Let several files have the same domain, as MERGE_DOMAIN_CONFIG=true does
    #[arg(long)]
    merge_domain_config: bool,
    /// Also write what came of the tests as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// A file of tests that was run.
struct Ran {
    path: PathBuf,
    /// The name of each test, and what was other than expected: nothing if it passed.
    tests: Vec<(String, Vec<String>)>,
}

/// Exit code 0 if all tests pass, 1 if one fails or there are none, 2 if rules or tests cannot be read.
pub fn run(args: &Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    let mut all = Vec::new();
    for dir in &args.dirs {
        match runtime.block_on(run_dir(dir, args.merge_domain_config)) {
            Ok(ran) => all.extend(ran),
            Err(error) => {
                say(&format!("error: {error}"));
                return ExitCode::from(2);
            }
        }
    }
    print(&all.iter().map(text).collect::<String>());
    if let Some(path) = &args.junit
        && let Err(error) = fs::write(path, junit::xml(&all))
    {
        say(&format!("error: {}: {error}", path.display()));
        return ExitCode::from(2);
    }
    let count = all.iter().map(|ran| ran.tests.len()).sum::<usize>();
    let failed = all.iter().map(Ran::failed).sum::<usize>();
    print(&format!("{count} tests, {failed} failed\n"));
    if count == 0 {
        say("error: no file's name ends in .test.yaml");
    }
    match failed == 0 && count > 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Runs all tests of a directory.
async fn run_dir(dir: &Path, merge_domains: bool) -> Result<Vec<Ran>, String> {
    let source = Source {
        dir: dir.to_owned(),
        ignore_dotfiles: false,
    };
    let read = source.read().map_err(|error| error.to_string())?;
    let options = Options {
        merge_domains,
        lints: false,
    };
    let mut all = Vec::with_capacity(read.tests.len());
    for path in &read.tests {
        all.push(run_file(path, &read.files, options).await?);
    }
    Ok(all)
}

async fn run_file(path: &Path, rules: &[SourceFile], options: Options) -> Result<Ran, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let size = fs::metadata(path).map_err(|error| failed(&error))?.len();
    if size > MAX_BYTES {
        return Err(failed(&format!("it is larger than {MAX_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    let tests: Vec<file::Test> = serde_yaml::from_str(&text).map_err(|error| failed(&error))?;
    let mut ran = Vec::with_capacity(tests.len());
    for test in tests {
        // Each begins with rules and counters that nobody has used.
        let rules = compile(rules, options).map_err(|report| report.to_string())?;
        let wrong = |error| failed(&format!("`{}`: {error}", test.name));
        let differences = play::play(&test, rules).await.map_err(wrong)?;
        ran.push((test.name, differences));
    }
    Ok(Ran {
        path: path.to_owned(),
        tests: ran,
    })
}

impl Ran {
    fn failed(&self) -> usize {
        let failed = |(_, differences): &&(String, Vec<String>)| !differences.is_empty();
        self.tests.iter().filter(failed).count()
    }
}

fn text(ran: &Ran) -> String {
    let mut text = format!("{}\n", ran.path.display());
    for (name, differences) in &ran.tests {
        let word = if differences.is_empty() {
            "ok  "
        } else {
            "FAIL"
        };
        text += &format!("  {word} {name}\n");
        for difference in differences {
            text += &format!("       {difference}\n");
        }
    }
    text
}

fn print(text: &str) {
    // A reader that has gone away is no reason to fail.
    let _ = io::stdout().write_all(text.as_bytes());
}
