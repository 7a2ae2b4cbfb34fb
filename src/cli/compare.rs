//! `tollgate compare`: the same requests to two services, and where their answers differ.
//!
//! A request goes to both at the same time, the next when both have answered: what they count stays the same, and each
//! answer can be held against the other.
//!
//! - [`requests`]: from a file, or made
//! - [`difference`]: what it means that two answers differ

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tonic::transport::Channel;

use super::client::Entries;
use super::dial::{self, Tls};
use super::say;
use crate::grpc::wire::{RateLimitRequest, RateLimitServiceClient};
use crate::settings::values::{Span, period};
use difference::{Asked, Kind, differences};
use requests::Requests;

pub mod difference;
pub mod requests;

/// The most requests of a run.
pub const MAX_REQUESTS: u64 = 10_000_000;

/// Whom to ask, and what.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["file", "descriptors"]))]
pub struct Args {
    /// The service whose answers are right: host:port, or https://host:port
    #[arg(long, value_name = "ADDRESS")]
    pub old: String,
    /// The one that is to answer alike
    #[arg(long, value_name = "ADDRESS")]
    pub new: String,
    /// A file with a request on each line, in JSON as `/json` takes it; - for standard input
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The domain of requests that are made
    #[arg(long, value_name = "DOMAIN", requires = "descriptors")]
    pub domain: Option<String>,
    /// A descriptor of each, as key=value,key=value, `{}` in a value being a random subject; several make several descriptors
    #[arg(long, value_name = "ENTRIES", requires = "domain")]
    pub descriptors: Vec<Entries>,
    /// How many subjects there are
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Which random subjects: the same number makes the same requests
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// The most requests; of those that are made 1000 if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_REQUESTS))]
    pub requests: Option<u64>,
    /// By how much what remains may differ: a window may end between the two answers
    #[arg(long, value_name = "HITS", default_value = "1")]
    pub tolerance: u32,
    /// How many disagreements are shown; all are counted
    #[arg(long, value_name = "N", default_value = "20")]
    pub show: u64,
    /// How long an answer may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = period)]
    pub timeout: Span,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its fields say what they are")]
    pub tls: Tls,
}

/// What came of all requests.
#[derive(Debug, Default)]
struct Tally {
    asked: u64,
    disagree: u64,
    /// Neither service answered any of these.
    failed_both: u64,
    /// Of these the old service told nothing but whether they pass.
    wholes: u64,
    /// How many requests differ in each way, in the order of [`Kind::ALL`].
    kinds: [u64; Kind::ALL.len()],
}

/// Exit code 0 if all answers agree, 1 if any do not, 2 if the services could not be compared.
pub fn run(args: &Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let compared = match runtime {
        Ok(runtime) => runtime.block_on(compare(args)),
        Err(error) => Err(error.to_string()),
    };
    match compared {
        Ok(tally) if tally.disagree > 0 => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&format!("error: {problem}"));
            ExitCode::from(super::USAGE)
        }
    }
}

async fn compare(args: &Args) -> Result<Tally, String> {
    let (mut old, mut new) = tokio::try_join!(
        dial::open(&args.old, &args.tls),
        dial::open(&args.new, &args.tls)
    )?;
    let mut requests = Requests::new(args)?;
    let mut tally = Tally::default();
    while let Some(request) = requests.take()? {
        let (of_old, of_new) = tokio::join!(
            ask(&mut old, &request, args.timeout.0),
            ask(&mut new, &request, args.timeout.0)
        );
        tally.add(args, &request, &of_old, &of_new);
    }
    print(&tally.summary());
    match tally.asked {
        0 => Err("there are no requests".to_owned()),
        asked if asked == tally.failed_both => Err("neither service answered any".to_owned()),
        _ => Ok(tally),
    }
}

async fn ask(
    client: &mut RateLimitServiceClient<Channel>,
    request: &RateLimitRequest,
    timeout: Duration,
) -> Asked {
    let answer = tokio::time::timeout(timeout, client.should_rate_limit(request.clone())).await;
    match answer {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
        Err(_) => Err(format!("no answer within {timeout:?}")),
    }
}

impl Tally {
    fn add(&mut self, args: &Args, request: &RateLimitRequest, old: &Asked, new: &Asked) {
        self.asked += 1;
        if old.is_err() && new.is_err() {
            // Both say that it cannot be decided, each in its own words.
            self.failed_both += 1;
            return;
        }
        self.wholes += u64::from(old.as_ref().is_ok_and(difference::tells_the_whole_only));
        let differences = differences(old, new, args.tolerance);
        if differences.is_empty() {
            return;
        }
        self.disagree += 1;
        for (kind, count) in Kind::ALL.into_iter().zip(&mut self.kinds) {
            *count += u64::from(differences.iter().any(|(of, _)| *of == kind));
        }
        if self.disagree <= args.show {
            let mut text = format!("request {}: {}", self.asked, difference::short(request));
            for (kind, said) in &differences {
                text.push_str(&format!("\n  {}: {said}", kind.name()));
            }
            print(&text);
        }
    }

    fn summary(&self) -> String {
        let agree = self.asked - self.disagree - self.failed_both;
        let (asked, disagree) = (self.asked, self.disagree);
        let mut text = format!("{asked} requests: {agree} agree, {disagree} disagree");
        if disagree > 0 {
            let kinds = Kind::ALL.into_iter().zip(self.kinds);
            let kinds = kinds.filter(|(_, count)| *count > 0);
            let kinds = kinds.map(|(kind, count)| format!("{} {count}", kind.name()));
            text.push_str(&format!(" ({})", kinds.collect::<Vec<_>>().join(", ")));
        }
        if self.failed_both > 0 {
            text.push_str(&format!(", {} failed on both", self.failed_both));
        }
        if self.wholes > 0 {
            let wholes = self.wholes;
            text.push_str(&format!(
                "; of {wholes} the old service says only whether they pass"
            ));
        }
        text
    }
}

fn print(line: &str) {
    // A reader that has gone away is no reason to fail.
    let _ = writeln!(io::stdout(), "{line}");
}
