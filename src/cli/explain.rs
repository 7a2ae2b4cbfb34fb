//! `tollgate explain`: what would become of a request, entry by entry, and why. Nothing is charged.
//!
//! - `asked`: the command line to requests
//! - `http`: an HTTP request, of which an Envoy configuration makes them
//! - `offline`: rules in files, asked in this process
//! - `live`: a running service
//! - `text`: what is said, for people

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::say;

mod asked;
mod http;
mod live;
mod offline;
mod text;

/// What to explain.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Descriptors, as key=value,key=value; with --envoy an HTTP request, such as `GET https://api.example.com/search`
    #[arg(value_name = "DESCRIPTOR")]
    what: Vec<String>,
    /// Directories of rules
    #[arg(long, value_name = "DIR", conflicts_with = "live")]
    rules: Vec<PathBuf>,
    /// Let several files have the same domain, as MERGE_DOMAIN_CONFIG=true does
    #[arg(long)]
    merge_domain_config: bool,
    /// The domain; not needed if the rules have only one
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// The hits of descriptors
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    hits: Option<u32>,
    /// A request as JSON, as /json takes it; `-` reads it from standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["what", "domain", "hits", "envoy"])]
    request: Option<PathBuf>,
    #[command(flatten)]
    http: http::HttpFlags,
    /// The moment to ask at, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "live")]
    at: Option<String>,
    /// Puts a subject on a plan beforehand, as user_id=alice=pro; again for each
    #[arg(long, value_name = "KEY=VALUE=PLAN", conflicts_with = "live")]
    plan: Vec<String>,
    #[command(flatten)]
    live: live::LiveFlags,
    /// How to say it: for people, or as JSON
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Exit code 0 if the request is explained, 2 if it cannot be.
pub fn run(args: &Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let explained = match runtime {
        Ok(runtime) => runtime.block_on(explain(args)),
        Err(error) => Err(error.to_string()),
    };
    let explained = match explained {
        Ok(explained) => explained,
        Err(error) => {
            say(&format!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    let said = match args.format {
        Format::Json => format!("{explained:#}\n"),
        Format::Text => text::of(&explained, io::stdout().is_terminal()),
    };
    // A reader that has gone away is no reason to fail.
    let _ = io::stdout().write_all(said.as_bytes());
    ExitCode::SUCCESS
}

/// All that is said, as JSON. The error is what keeps it from being said.
async fn explain(args: &Args) -> Result<Value, String> {
    let service = match &args.live.live {
        Some(_) => Service::Live(Box::new(live::Live::new(&args.live)?)),
        None => Service::Offline(Box::new(offline::Offline::start(args).await?)),
    };
    let asked = asked::of(args, &service)?;
    let mut explained = Vec::new();
    for request in &asked.requests {
        let one = match &service {
            Service::Live(live) => live.explain(request).await?,
            Service::Offline(offline) => offline.explain(request).await?,
        };
        explained.push(one);
    }
    let whence = match &service {
        Service::Live(live) => json!({"live": live.url()}),
        Service::Offline(offline) => json!({"rules": offline.dirs(), "at": offline.at()}),
    };
    Ok(json!({"asked": whence, "envoy": asked.envoy, "requests": explained}))
}

/// Who is asked.
enum Service {
    Live(Box<live::Live>),
    Offline(Box<offline::Offline>),
}
