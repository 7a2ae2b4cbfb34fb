//! A test run: its own engine on the embedded store, and a clock that moves when the test says so.

use std::fmt::Write;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::super::engine::{assign, moment, start};
use super::file::{Step, Test};
use crate::engine::trials::Tally;
use crate::engine::{self, Answer, Code, Engine, Request};
use crate::rules::compile::duration;
use crate::rules::diagnostic::did_you_mean;
use crate::rules::written::{self, Pairs};
use crate::rules::{Descriptor, RuleSet};
use crate::time::ManualClock;

/// The most requests of one step.
const MAX_TIMES: u32 = 1_000_000;

/// After so many differences no more are told.
const MAX_DIFFERENCES: usize = 20;

/// What may be expected of an answer.
const FIELDS: [&str; 12] = [
    "body",
    "candidate",
    "decision",
    "domain",
    "headers",
    "limit",
    "plan",
    "reason",
    "remaining",
    "retry_after",
    "rule",
    "statuses",
];

/// Runs a test; what was other than expected. The error is what is wrong with the test itself.
pub(super) async fn play(test: &Test, rules: RuleSet) -> Result<Vec<String>, String> {
    let domain = domain(test, &rules)?;
    let begin = moment(&test.at).map_err(|error| format!("at: {error}"))?;
    let (engine, hand) = start(rules, begin);
    let player = Player {
        engine,
        hand,
        domain,
    };
    let mut differences = Vec::new();
    for (number, step) in (1..).zip(&test.steps) {
        let found = player
            .step(step)
            .await
            .map_err(|error| format!("step {number}: {error}"))?;
        differences.extend(
            found
                .into_iter()
                .map(|found| format!("step {number}{found}")),
        );
        if differences.len() >= MAX_DIFFERENCES {
            differences.truncate(MAX_DIFFERENCES);
            differences.push("… and perhaps more".to_owned());
            break;
        }
    }
    Ok(differences)
}

/// The domain that a test is about.
fn domain(test: &Test, rules: &RuleSet) -> Result<String, String> {
    let mut known: Vec<&str> = rules.domains.keys().map(String::as_str).collect();
    known.sort_unstable();
    match (&test.domain, known.as_slice()) {
        (Some(named), _) if rules.domains.get(named).is_some() => Ok(named.clone()),
        (Some(named), _) => Err(format!("no rules are for the domain `{named}`")),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(format!("say which `domain` it is: {}", known.join(", "))),
    }
}

struct Player {
    engine: Engine,
    hand: ManualClock,
    domain: String,
}

impl Player {
    async fn step(&self, step: &Step) -> Result<Vec<String>, String> {
        match (&step.request, &step.advance, &step.plan) {
            (Some(descriptors), None, None) => self.request(descriptors.all(), step).await,
            (None, Some(time), None) => {
                let time = duration(time).ok_or_else(|| {
                    format!("`{time}` is no length of time, such as 90s, 15m, 1h or 31d")
                })?;
                self.hand.advance(time);
                Ok(Vec::new())
            }
            (None, None, Some(plans)) => {
                for (subject, plan) in plans {
                    assign(&self.engine, &self.domain, subject, plan).await?;
                }
                Ok(Vec::new())
            }
            _ => Err("a step is one of `request`, `advance` and `plan`".to_owned()),
        }
    }

    async fn request(&self, descriptors: &[String], step: &Step) -> Result<Vec<String>, String> {
        let nothing = Map::new();
        let expect = step.expect.as_ref().unwrap_or(&nothing);
        if let Some(unknown) = expect.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            let near = did_you_mean(unknown, FIELDS);
            let near = near.map(|near| format!("; did you mean `{near}`?"));
            return Err(format!(
                "nothing of an answer is named `{unknown}`{}",
                near.unwrap_or_default()
            ));
        }
        let times = step.times.unwrap_or(1);
        if !(1..=MAX_TIMES).contains(&times) {
            return Err(format!("`times` is a number from 1 to {MAX_TIMES}"));
        }
        let read = |text: &String| {
            let pairs = written::pairs(text);
            pairs.ok_or_else(|| format!("`{text}` is not written like key=value,key=value"))
        };
        let pairs: Vec<Pairs> = descriptors.iter().map(read).collect::<Result<_, _>>()?;
        let mut found = Vec::new();
        for time in 1..=times {
            let tried = expect.contains_key("candidate");
            let answer = self.ask(&pairs, step.hits.unwrap_or(1), tried).await?;
            let mut place = String::new();
            if times > 1 {
                // Writing to a String cannot fail.
                let _ = write!(place, ", {time} of {times}");
            }
            let _ = write!(place, ", {}", descriptors.join("; "));
            let wanted = Value::Object(expect.clone());
            compare(&wanted, &answer, "", &mut |path, wanted, answer| {
                found.push(format!("{place}: {path} is {answer}, not {wanted}"));
            });
            if found.len() >= MAX_DIFFERENCES {
                break;
            }
        }
        Ok(found)
    }

    /// What is answered now, and what would be under the candidates if that is to be told.
    async fn ask(&self, pairs: &[Pairs], hits: u32, tried: bool) -> Result<Value, String> {
        let descriptors = pairs.iter().map(|pairs| Descriptor {
            entries: written::entries(pairs),
            ..Descriptor::default()
        });
        let request = Request {
            domain: &self.domain,
            hits_addend: hits,
            descriptors: descriptors.collect(),
        };
        let before = if tried {
            self.tallies().await
        } else {
            Vec::new()
        };
        let told = self.engine.check(&request, Instant::now(), None, shown);
        let mut told = told.await.map_err(|rejection| rejection.to_string())?;
        if tried {
            let passes = told["decision"] == "ok";
            told["candidate"] = under(&before, &self.tallies().await, passes);
        }
        Ok(told)
    }

    /// Of each candidate: how many requests it was tried on, and how many of them would have gone the other way.
    async fn tallies(&self) -> Vec<[u64; 2]> {
        let tallies = self.engine.trials().await.candidates;
        let tally = |one: &Tally| [one.requests, one.would_refuse + one.would_admit];
        tallies.iter().map(tally).collect()
    }
}

/// What candidates say of a request that `passes`, from what was counted before and after it: `refused` if any of them would
/// refuse it, nothing if none was tried.
fn under(before: &[[u64; 2]], after: &[[u64; 2]], passes: bool) -> Value {
    let all = before.iter().zip(after);
    let tried = all.filter(|(before, after)| before[0] != after[0]);
    let mut passes = tried.map(|(before, after)| (before[1] == after[1]) == passes);
    match passes.next() {
        None => Value::Null,
        Some(first) if first && passes.all(|passes| passes) => "ok".into(),
        Some(_) => "refused".into(),
    }
}

/// An answer as tests name its parts: those of the decision's metadata, and the rest beside them.
fn shown(answer: &Answer<'_>) -> Value {
    let word = |code| match code {
        Code::Ok => "ok",
        Code::OverLimit => "over_limit",
    };
    let mut shown = json!(answer.metadata);
    if !shown.is_object() {
        shown = json!({});
    }
    let headers = answer.headers.iter();
    let headers = headers.map(|header| (header.name.to_string(), json!(header.value)));
    let status = |status: &engine::Status<'_>| {
        json!({
            "decision": word(status.code),
            "remaining": status.remaining,
            "reset": status.reset_secs,
            "limit": status.limit.as_ref().and_then(|limit| limit.name.as_deref()),
        })
    };
    let body = answer.body.as_deref().unwrap_or_default();
    shown["decision"] = word(answer.overall).into();
    shown["headers"] = Value::Object(headers.collect());
    shown["statuses"] = answer.statuses.iter().map(status).collect();
    shown["body"] = serde_json::from_str(body).unwrap_or_else(|_| body.into());
    shown
}

/// Tells where `found` is other than `wanted`. Of an object only what is wanted counts; a list is the same as a whole.
fn compare(
    wanted: &Value,
    found: &Value,
    path: &str,
    differ: &mut impl FnMut(&str, &Value, &Value),
) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(_)) => {
            for (name, wanted) in wanted {
                let path = match path {
                    "" => name.clone(),
                    above => format!("{above}.{name}"),
                };
                compare(wanted, &found[name], &path, differ);
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (place, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                compare(wanted, found, &format!("{path}[{place}]"), differ);
            }
        }
        (wanted, found) if wanted == found => {}
        (wanted, found) => differ(path, wanted, found),
    }
}
