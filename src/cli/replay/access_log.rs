//! What was asked, from Envoy's access log: lines of JSON.
//!
//! A line is written when its request ends, so lines are put in order by the time they began, as far as `--reorder` says. A log does
//! not say which descriptors Envoy sent: `template` makes them of the line's fields, `gateway` as Envoy itself does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::BufRead;
use std::path::PathBuf;

use serde_json::Value;

use crate::capture::{Asked, Decision};
use crate::envoy::Descriptor;
use crate::rules::Entry;
use crate::settings::values::{Span, duration};
use crate::time::{Micros, Timestamp};

use super::chart::number;

use gateway::Gateway;
pub(super) use template::Template;

mod gateway;
mod template;

/// The longest line, in bytes.
const LONGEST_LINE: usize = 1 << 20;

/// The most lines that are put in order at once.
const MOST_LINES: usize = 1 << 18;

/// Where the time of a line is, if `--time` does not say: the first of these that it has.
const TIMES: [&str; 4] = ["time", "start_time", "timestamp", "@timestamp"];

/// Where the response code is.
const CODES: [&str; 3] = ["code", "response_code", "status"];

/// Where Envoy's flags are.
const FLAGS: [&str; 2] = ["flags", "response_flags"];

/// Where Envoy says what it did.
const DETAILS: [&str; 2] = ["details", "response_code_details"];

/// Where Tollgate's decision is: `%DYNAMIC_METADATA(envoy.filters.http.ratelimit)%`.
const DECISION: &str = "rate_limit";

/// How lines of an access log are read.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Access logs")]
pub(super) struct LogArgs {
    /// The configuration of the Envoy that wrote the log, which says which descriptors it sends
    #[arg(long, value_name = "FILE", conflicts_with = "descriptor")]
    pub(super) envoy: Option<PathBuf>,
    /// Headers that requests had, made of the fields of their lines, for --envoy: x-user-id=%user%
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::parse, requires = "envoy")]
    pub(super) header: Vec<Template>,
    /// A descriptor of each request, made of the fields of its line: user_id=%user%,path=%path%; several of these are several
    /// descriptors. One whose field is not there is not sent
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::parse)]
    pub(super) descriptor: Vec<Template>,
    /// The domain of requests whose line does not say; the rules' own, if there is one
    #[arg(long, value_name = "NAME")]
    pub(super) domain: Option<String>,
    /// The field with the time that a request began at
    #[arg(long, value_name = "FIELD")]
    pub(super) time: Option<String>,
    /// How long a request may take, and its line still be put in its place
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(super) reorder: Span,
}

/// A log that is being read.
pub(super) struct AccessLog<R> {
    from: R,
    args: LogArgs,
    gateway: Option<Gateway>,
    domain: Option<String>,
    /// By time, then by line.
    waiting: BinaryHeap<Reverse<Waiting>>,
    newest: Timestamp,
    at_hand: Option<Line>,
    line: Vec<u8>,
    lines: u64,
    requests: u64,
    at_end: bool,
    left_out: LeftOut,
}

/// What is not replayed, and why.
#[derive(Clone, Debug, Default)]
struct LeftOut {
    unreadable: u64,
    /// The first of them, and what is wrong with it.
    first: Option<(u64, String)>,
    not_asked: u64,
    without_descriptors: u64,
    without_domain: u64,
}

/// A request to Tollgate, as far as a line says.
#[derive(Clone, Debug)]
struct Line {
    at: Timestamp,
    question: Question,
    refused: bool,
    reason: String,
    rule: String,
}

/// What Tollgate was asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    domain: String,
    hits_addend: u32,
    descriptors: Vec<Descriptor>,
}

/// A line that waits for those that began before it.
#[derive(Debug)]
struct Waiting {
    number: u64,
    line: Line,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.line.at, self.number).cmp(&(other.line.at, other.number))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Why a line is not replayed.
enum Without {
    /// It cannot be read.
    Sense(String),
    /// Tollgate was not asked.
    Question,
    /// Nothing would be sent.
    Descriptors,
    /// Whose rules it is for is not known.
    Domain,
}

impl<R: BufRead> AccessLog<R> {
    /// Reads a log, for rules of these domains. The error says what is missing in the call.
    pub(super) fn new(from: R, args: &LogArgs, domains: &[&str]) -> Result<Self, String> {
        let gateway = match &args.envoy {
            Some(path) => Some(Gateway::read(path)?),
            None if args.descriptor.is_empty() => {
                return Err(
                    "an access log does not say which descriptors Envoy sends: say it with --envoy envoy.yaml, or with \
                     --descriptor, such as --descriptor 'remote_address=%address%'"
                        .to_owned(),
                );
            }
            None => None,
        };
        let only = match domains {
            [only] => Some((*only).to_owned()),
            _ => None,
        };
        Ok(Self {
            from,
            args: args.clone(),
            gateway,
            domain: args.domain.clone().or(only),
            waiting: BinaryHeap::new(),
            newest: Timestamp::default(),
            at_hand: None,
            line: Vec::new(),
            lines: 0,
            requests: 0,
            at_end: false,
            left_out: LeftOut::default(),
        })
    }

    /// Goes on to the next request, and tells its time; none at the end.
    pub(super) fn advance(&mut self) -> Result<Option<Timestamp>, String> {
        let window =
            Micros::new(u64::try_from(self.args.reorder.0.as_micros()).unwrap_or(u64::MAX));
        while !self.at_end && self.waiting.len() < MOST_LINES {
            let first = self.waiting.peek();
            if first.is_some_and(|Reverse(first)| self.newest.since(first.line.at) > window) {
                break;
            }
            self.read()?;
        }
        self.at_hand = self.waiting.pop().map(|Reverse(waiting)| waiting.line);
        Ok(self.at_hand.as_ref().map(|line| line.at))
    }

    /// The request at hand.
    pub(super) fn decision(&self) -> Option<Decision<'_>> {
        let line = self.at_hand.as_ref()?;
        let question = &line.question;
        let asked = question.descriptors.iter().map(|descriptor| {
            let entries = descriptor.entries.iter();
            Asked {
                entries: entries.map(|(key, value)| Entry { key, value }).collect(),
                hits_addend: descriptor.hits_addend,
                is_negative_hits: descriptor.is_negative_hits,
                limit: descriptor.limit,
                sampled: true,
                ..Asked::default()
            }
        });
        Some(Decision {
            at: line.at,
            domain: &question.domain,
            hits_addend: question.hits_addend,
            refused: line.refused,
            reason: &line.reason,
            rule: &line.rule,
            asked: asked.collect(),
        })
    }

    /// What people should know of the log.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        let left_out = &self.left_out;
        let guessed = self.gateway.as_ref().and_then(Gateway::note);
        let note =
            |count: u64, what: &str| (count > 0).then(|| format!("{} {what}", number(count)));
        let unreadable = left_out.first.as_ref().map(|(line, problem)| {
            let count = number(left_out.unreadable);
            format!("{count} lines cannot be read; the first is line {line}: {problem}")
        });
        [
            unreadable,
            guessed,
            note(
                left_out.not_asked,
                "lines are of requests that Tollgate was not asked about (`rate_limit` is null)",
            ),
            note(
                left_out.without_descriptors,
                "lines have none of the fields that the descriptors are made of",
            ),
            note(
                left_out.without_domain,
                "lines do not say whose rules they are for; say it with --domain",
            ),
        ]
        .into_iter()
        .flatten()
    }

    /// Reads one line.
    fn read(&mut self) -> Result<(), String> {
        self.line.clear();
        let mut bounded = std::io::Read::take(&mut self.from, LONGEST_LINE as u64 + 1);
        let read = bounded.read_until(b'\n', &mut self.line);
        if read.map_err(|error| error.to_string())? == 0 {
            self.at_end = true;
            return Ok(());
        }
        self.lines += 1;
        if self.line.len() > LONGEST_LINE {
            let lines = self.lines;
            return Err(format!("line {lines} is longer than {LONGEST_LINE} bytes"));
        }
        if self.line.trim_ascii().is_empty() {
            return Ok(());
        }
        let value = serde_json::from_slice(&self.line);
        let line = value
            .map_err(|error| Without::Sense(format!("it is no JSON: {error}")))
            .and_then(|value| self.requests(&value));
        match line {
            Ok(lines) => {
                for line in lines {
                    self.newest = self.newest.max(line.at);
                    self.requests += 1;
                    let number = self.requests;
                    self.waiting.push(Reverse(Waiting { number, line }));
                }
            }
            Err(Without::Sense(problem)) => {
                self.left_out.unreadable += 1;
                self.left_out.first.get_or_insert((self.lines, problem));
            }
            Err(Without::Question) => self.left_out.not_asked += 1,
            Err(Without::Descriptors) => self.left_out.without_descriptors += 1,
            Err(Without::Domain) => self.left_out.without_domain += 1,
        }
        Ok(())
    }

    /// What Tollgate was asked for the request of a line, and what it answered.
    fn requests(&mut self, value: &Value) -> Result<Vec<Line>, Without> {
        let decision = field(value, DECISION);
        if decision.is_some_and(Value::is_null) {
            return Err(Without::Question);
        }
        let of_decision = |name: &str| decision.and_then(|decision| decision.get(name)?.as_str());
        let at = self.moment(value)?;
        let questions = match &mut self.gateway {
            Some(gateway) => gateway.questions(value, &self.args.header)?,
            None => vec![self.question(value, of_decision("domain"))?],
        };
        // Of several the one that the line is about refused it, else the last: those after it are not asked.
        let of_line = |question: &Question| of_decision("domain") == Some(&question.domain);
        let deciding = questions.iter().position(of_line);
        let deciding = deciding.unwrap_or(questions.len().saturating_sub(1));
        let refused = is_refused(value);
        let questions = questions.into_iter().enumerate();
        let lines = questions.map(|(place, question)| Line {
            at,
            question,
            refused: refused && place == deciding,
            reason: of_decision("reason").unwrap_or_default().to_owned(),
            rule: of_decision("rule").unwrap_or_default().to_owned(),
        });
        Ok(lines.collect())
    }

    /// What the templates make of a line.
    fn question(&self, value: &Value, domain: Option<&str>) -> Result<Question, Without> {
        let domain = domain.or(self.domain.as_deref());
        let domain = domain.ok_or(Without::Domain)?.to_owned();
        let made = self.args.descriptor.iter();
        let made = made.filter_map(|template| template.of(value));
        let descriptors: Vec<Descriptor> = made
            .map(|entries| Descriptor {
                entries,
                hits_addend: None,
                is_negative_hits: false,
                limit: None,
                line: 0,
            })
            .collect();
        match descriptors.is_empty() {
            true => Err(Without::Descriptors),
            false => Ok(Question {
                domain,
                hits_addend: 0,
                descriptors,
            }),
        }
    }

    fn moment(&self, value: &Value) -> Result<Timestamp, Without> {
        let names = match &self.args.time {
            Some(name) => std::slice::from_ref(name)
                .iter()
                .map(String::as_str)
                .collect(),
            None => TIMES.to_vec(),
        };
        let found = names.iter().find_map(|name| field(value, name));
        let found = found.ok_or_else(|| {
            let names = names.join(", ");
            Without::Sense(format!(
                "it has no time: none of {names} is there (see --time)"
            ))
        })?;
        let at = match found {
            Value::String(text) => text.parse().ok().map(jiff::Timestamp::as_microsecond),
            Value::Number(secs) => secs.as_f64().map(|secs| (secs * 1e6) as i64),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let at = at.ok_or_else(|| {
            Without::Sense(format!(
                "{found} is no time such as 2026-03-06T12:00:00.123Z"
            ))
        })?;
        Ok(Timestamp::from_micros(at))
    }
}

/// Whether Tollgate refused it: Envoy's own limiter says so in the details, where a log has them.
fn is_refused(value: &Value) -> bool {
    let first = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| field(value, name))
            .map(text_of)
    };
    if first(&DETAILS)
        .flatten()
        .is_some_and(|details| details == "local_rate_limited")
    {
        return false;
    }
    match first(&FLAGS).flatten() {
        Some(flags) => flags
            .split(',')
            .any(|flag| flag == "RL" || flag == "RateLimited"),
        None => first(&CODES).flatten().is_some_and(|code| code == "429"),
    }
}

/// A field by its name, or by the names on the way to it with dots between.
pub(super) fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    if let Some(found) = value.get(name) {
        return Some(found);
    }
    let (first, rest) = name.split_once('.')?;
    field(value.get(first)?, rest)
}

/// A field as Envoy would send it; none for nothing.
pub(super) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text == "-" => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn log<'t>(text: &'t str, templates: &[&str], domains: &[&str]) -> AccessLog<&'t [u8]> {
        let parse = |template: &&str| Template::parse(template).expect("a template");
        let args = LogArgs {
            envoy: None,
            header: Vec::new(),
            descriptor: templates.iter().map(parse).collect(),
            domain: None,
            time: None,
            reorder: Span(Duration::from_secs(10)),
        };
        AccessLog::new(text.as_bytes(), &args, domains).expect("a log")
    }

    #[test]
    fn lines_are_put_in_order_and_what_cannot_be_used_is_counted() {
        let text = r#"{"time":"2026-03-06T12:00:05.5Z","user":"b","flags":"-","code":"200"}
{"time":"2026-03-06T12:00:01Z","user":"a","flags":"RL","code":"429"}
{"time":"yesterday","user":"c"}
{"user":"d"}
not JSON

{"time":"2026-03-06T12:00:02Z","user":null}
{"time":"2026-03-06T12:00:03Z","user":"e","rate_limit":null}
{"start_time":1772798404.25,"user":"f","code":429}
{"time":"2026-03-06T12:00:30Z","user":"g","rate_limit":{"domain":"other","reason":"over_limit","rule":"r"},"flags":"UAEX,RL"}
{"time":"2026-03-06T12:00:31Z","user":"h","flags":"RL","details":"local_rate_limited"}
"#;
        let mut log = log(text, &["user=%user%"], &["edge"]);
        let mut found = Vec::new();
        while let Some(at) = log.advance().expect("readable") {
            let decision = log.decision().expect("a decision");
            let entry = decision.asked[0].entries[0];
            found.push((
                at.as_micros() / 1000 - 1_772_798_400_000,
                format!(
                    "{} {}={} {}",
                    decision.domain, entry.key, entry.value, decision.refused
                ),
            ));
        }
        let wanted = [
            (1000, "edge user=a true"),
            (4250, "edge user=f true"),
            (5500, "edge user=b false"),
            (30_000, "other user=g true"),
            (31_000, "edge user=h false"),
        ];
        let wanted = wanted.map(|(at, text)| (at, text.to_owned()));
        assert_eq!(found, wanted);
        let notes: Vec<String> = log.notes().collect();
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(
            notes[0].starts_with("3 lines cannot be read; the first is line 3: \"yesterday\""),
            "{notes:?}"
        );
        assert!(
            notes[1].starts_with("1 lines are of requests that Tollgate was not asked"),
            "{notes:?}"
        );
        assert!(
            notes[2].starts_with("1 lines have none of the fields"),
            "{notes:?}"
        );
    }

    #[test]
    fn what_is_later_than_it_may_be_is_not_waited_for() {
        let text = r#"{"time":"2026-03-06T12:00:00Z","user":"a"}
{"time":"2026-03-06T12:00:20Z","user":"b"}
{"time":"2026-03-06T12:00:01Z","user":"c"}
"#;
        let mut log = log(text, &["user=%user%"], &["edge"]);
        let mut users = String::new();
        while log.advance().expect("readable").is_some() {
            users += log.decision().expect("a decision").asked[0].entries[0].value;
        }
        assert_eq!(
            users, "acb",
            "ten seconds are waited for; b still waits when c comes"
        );
    }
}
