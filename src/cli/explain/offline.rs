//! Rules in files, asked in this process: as for subjects that have used nothing yet.

use serde_json::Value;

use super::Args;
use crate::admin::{api, json};
use crate::cli::engine;
use crate::engine::Engine;
use crate::grpc::wire;
use crate::reload::Source;
use crate::rules::compile::{Options, compile};
use crate::time::Clock;

/// An engine with the rules of the directories.
pub(super) struct Offline {
    engine: Engine,
    dirs: Vec<String>,
    at: String,
}

impl Offline {
    pub(super) async fn start(args: &Args) -> Result<Self, String> {
        if args.rules.is_empty() {
            return Err(
                "say where the rules are: --rules DIR, or --live URL for a running service"
                    .to_owned(),
            );
        }
        let mut files = Vec::new();
        for dir in &args.rules {
            let source = Source {
                dir: dir.clone(),
                ignore_dotfiles: false,
            };
            let read = source.read().map_err(|error| error.to_string())?;
            // Where a rule stands is told from here, and two directories may have files of one name.
            files.extend(read.files.into_iter().map(|mut file| {
                file.name = dir.join(&file.name).display().to_string();
                file
            }));
        }
        let options = Options {
            merge_domains: args.merge_domain_config,
            lints: false,
        };
        let rules = compile(&files, options).map_err(|report| {
            format!("the rules cannot be used\n{report}")
                .trim_end()
                .to_owned()
        })?;
        let at = match &args.at {
            Some(text) => engine::moment(text).map_err(|error| format!("--at: {error}"))?,
            None => Clock::System.now(),
        };
        let (engine, _) = engine::start(rules, at);
        let offline = Self {
            engine,
            dirs: args
                .rules
                .iter()
                .map(|dir| dir.display().to_string())
                .collect(),
            at: jiff::Timestamp::from_microsecond(at.as_micros())
                .map_or_else(|_| String::new(), |at| at.to_string()),
        };
        for one in &args.plan {
            let wrong = || format!("--plan: `{one}` is not written like key=value=plan");
            let (subject, plan) = one.rsplit_once('=').ok_or_else(wrong)?;
            let domain = match &args.domain {
                Some(domain) => domain.clone(),
                None => offline.only_domain()?,
            };
            engine::assign(&offline.engine, &domain, subject, plan)
                .await
                .map_err(|error| format!("--plan: {error}"))?;
        }
        Ok(offline)
    }

    pub(super) async fn explain(&self, request: &Value) -> Result<Value, String> {
        let message = json::request(request.to_string().as_bytes())
            .map_err(|_| "the request is not the JSON of a RateLimitRequest: `domain`, and `descriptors` with `entries` of `key` and `value`".to_owned())?;
        let request = wire::request(&message).map_err(|error| error.to_string())?;
        let explained = api::explain::explained(&self.engine, &request).await;
        explained.map_err(|error| error.to_string())
    }

    /// The domain of the rules, if there is but one.
    pub(super) fn only_domain(&self) -> Result<String, String> {
        let known = self.engine.with_rules(|rules| {
            let mut known: Vec<String> = rules.domains.keys().cloned().collect();
            known.sort_unstable();
            known
        });
        match known.unwrap_or_default().as_slice() {
            [only] => Ok(only.clone()),
            [] => Err("the rules have no domain".to_owned()),
            known => Err(format!("say which --domain it is: {}", known.join(", "))),
        }
    }

    pub(super) fn dirs(&self) -> &[String] {
        &self.dirs
    }

    pub(super) fn at(&self) -> &str {
        &self.at
    }
}
