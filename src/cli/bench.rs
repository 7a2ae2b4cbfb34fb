//! `tollgate bench`: a load generator for any `RateLimitService`.
//!
//! - [`keys`]: which key each request asks for
//! - [`client`]: calls over HTTP/2, as lean as they can be
//! - [`load`]: closed and open loop
//! - [`tally`]: what is counted
//! - [`report`]: what came out

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use clap::ValueEnum;

use super::say;
use crate::settings::values::{Span, duration};

pub mod client;
pub mod keys;
pub mod load;
pub mod report;
pub mod tally;

use keys::Distribution;
use load::Load;
use tally::Tally;

/// What to send, how fast, and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// host:port, or unix:PATH
    #[arg(long, default_value = "127.0.0.1:8081")]
    pub address: client::Address,
    /// How many connections
    #[arg(long, default_value = "4", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// How many calls are under way at once, over all connections
    #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub concurrency: u32,
    /// Open loop: so many requests a second, whatever the answers take; latency counts from when each was due
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rate: Option<u64>,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub duration: Span,
    /// How long to run before that
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub warmup: Span,
    /// How many threads make the load
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Never sleep while answers are waited for: it takes whole processors, and a service on the same machine need not wake who it answers
    #[arg(long)]
    pub spin: bool,
    /// The domain of the requests
    #[arg(long, default_value = "bench")]
    pub domain: String,
    /// The key of the entry that has the subject; several make a nested descriptor, the last has the subject
    #[arg(long, value_name = "KEY", default_values = ["user_id"])]
    pub key: Vec<String>,
    /// How many subjects there are
    #[arg(long, default_value = "1000000", value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// one, uniform or zipf:EXPONENT
    #[arg(long, default_value = "uniform")]
    pub distribution: Distribution,
    /// How many descriptors a request has
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=128))]
    pub descriptors: u32,
    /// Whether the descriptors of a request are of one subject, told apart by a second entry, or of as many
    #[arg(long, value_enum, default_value = "one")]
    pub subjects: Subjects,
    /// The hits of a request
    #[arg(long, default_value = "1")]
    pub hits: u32,
    /// For people, or for machines
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// Of whom the descriptors of a request are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subjects {
    /// All of one subject.
    One,
    /// Each of another.
    Many,
}

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object.
    Json,
}

/// Exit code 0 with a result, also of a run that was interrupted; 1 if the service cannot be reached.
pub fn run(args: Args) -> ExitCode {
    let load = Arc::new(Load::new(args));
    let progress = report::Progress::start(&load);
    let workers: Vec<_> = (0..load.args.threads)
        .map(|number| {
            let load = Arc::clone(&load);
            thread::spawn(move || work(&load, number))
        })
        .collect();
    let mut total = Tally::default();
    let mut problem = None;
    for worker in workers {
        match worker.join() {
            Ok(Ok(tally)) => total.add(&tally),
            Ok(Err(error)) => problem = Some(error.to_string()),
            Err(_) => problem = Some("a thread of the load generator panicked".to_owned()),
        }
    }
    load.end();
    progress.finish();
    if let Some(problem) = problem {
        say(&format!("error: {}: {problem}", load.args.address));
        return ExitCode::FAILURE;
    }
    report::print(&load, &total);
    ExitCode::SUCCESS
}

/// One thread with a runtime of its own.
fn work(load: &Arc<Load>, number: u32) -> Result<Tally, client::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, load::run(Arc::clone(load), number))
}
