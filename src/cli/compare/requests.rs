//! The requests of a comparison: from a file, or made of descriptors.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Args, MAX_REQUESTS};
use crate::admin::{MAX_BODY, json};
use crate::grpc::wire::{self, RateLimitRequest};

/// How many requests are made if nobody says.
const MADE: u64 = 1000;

/// What stands for a random subject.
const SUBJECT: &str = "{}";

/// Requests, one after the other.
pub struct Requests {
    source: Source,
    /// How many there may still be.
    left: u64,
}

enum Source {
    /// A request on each line.
    Lines {
        from: Box<dyn BufRead>,
        name: String,
        line: u64,
    },
    /// Of these descriptors.
    Made {
        domain: String,
        descriptors: Vec<Vec<(String, String)>>,
        keys: u64,
        random: SmallRng,
    },
}

impl Requests {
    /// Requests as the arguments say; the error is what to tell.
    pub fn new(args: &Args) -> Result<Self, String> {
        let Some(path) = &args.file else {
            let descriptors = args.descriptors.iter().map(|entries| entries.0.clone());
            return Ok(Self {
                source: Source::Made {
                    domain: args.domain.clone().unwrap_or_default(),
                    descriptors: descriptors.collect(),
                    keys: args.keys,
                    random: SmallRng::seed_from_u64(args.seed),
                },
                left: args.requests.unwrap_or(MADE),
            });
        };
        let name = path.display().to_string();
        let from: Box<dyn BufRead> = match name.as_str() {
            "-" => Box::new(BufReader::new(io::stdin())),
            _ => {
                let file = File::open(path).map_err(|error| format!("{name}: {error}"))?;
                Box::new(BufReader::new(file))
            }
        };
        Ok(Self {
            source: Source::Lines {
                from,
                name,
                line: 0,
            },
            left: args.requests.unwrap_or(MAX_REQUESTS),
        })
    }

    /// The next; none after the last. Empty lines are skipped.
    pub fn take(&mut self) -> Result<Option<RateLimitRequest>, String> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        match &mut self.source {
            Source::Lines { from, name, line } => loop {
                *line += 1;
                let said = |problem: String| format!("{name}:{line}: {problem}");
                let mut text = Vec::new();
                let most = MAX_BODY as u64 + 1;
                let read = from.by_ref().take(most).read_until(b'\n', &mut text);
                if read.map_err(|error| said(error.to_string()))? == 0 {
                    return Ok(None);
                }
                if text.len() > MAX_BODY {
                    return Err(said(format!("longer than {MAX_BODY} bytes")));
                }
                if !text.trim_ascii().is_empty() {
                    return json::request(text.trim_ascii())
                        .map(Some)
                        .map_err(|_| said("not the JSON of a RateLimitRequest".to_owned()));
                }
            },
            Source::Made {
                domain,
                descriptors,
                keys,
                random,
            } => {
                // One subject in all descriptors, as requests have one caller.
                let subject = random.random_range(0..*keys).to_string();
                let entry = |(key, value): &(String, String)| {
                    (key.clone(), value.replace(SUBJECT, &subject))
                };
                let descriptors = descriptors
                    .iter()
                    .map(|entries| entries.iter().map(entry).collect());
                Ok(Some(wire::message(domain, 1, descriptors)))
            }
        }
    }
}
