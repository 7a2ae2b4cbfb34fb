//! The body of a refusal: plain JSON, or RFC 9457 problem details.

use serde::Serialize;
use smallvec::SmallVec;

use crate::engine::Header;
use crate::engine::fold::{Ruling, Said, Spoken};
use crate::limit::Unit;
use crate::rules::{self, Domain, Messages};
use crate::time::Timestamp;

/// A body and its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The media type.
    pub media_type: &'static str,
    /// The text.
    pub text: String,
}

impl Body {
    /// The header that says what the body is: Envoy adds none of its own.
    pub fn content_type(&self) -> Header<'static> {
        Header {
            name: "content-type".into(),
            value: self.media_type.into(),
            numbers: SmallVec::new(),
        }
    }
}

/// [`rules::Body::Json`].
#[derive(Serialize)]
struct Plain<'b> {
    error: &'b str,
    limit: Option<u32>,
    message: &'b str,
    reset_at: Option<&'b str>,
    retry_after: Option<u64>,
}

/// [`rules::Body::Problem`], as RFC 9457 has it and draft-ietf-httpapi-ratelimit-headers-10 names it.
#[derive(Serialize)]
struct Problem<'b> {
    detail: &'b str,
    error: &'b str,
    limit: Option<u32>,
    retry_after: Option<u64>,
    status: u16,
    title: &'b str,
    #[serde(rename = "type")]
    kind: &'b str,
}

/// What a refusal tells its client.
struct Told<'a> {
    error: &'static str,
    limit: Option<u32>,
    window: String,
    plan: &'a str,
    retry_after: Option<u64>,
    reset_at: Option<String>,
}

/// The body of a refusal at about `now`; none if the domain wants none.
pub fn body(domain: &Domain, ruling: &Ruling<'_>, now: Timestamp) -> Option<Body> {
    let response = &domain.response;
    if response.body == rules::Body::None {
        return None;
    }
    let told = Told::new(ruling, now);
    let message = told.message(&response.messages);
    let Told {
        error,
        limit,
        retry_after,
        reset_at,
        ..
    } = told;
    let (media_type, text) = match response.body {
        rules::Body::None => return None,
        rules::Body::Json => (
            "application/json",
            serde_json::to_string(&Plain {
                error,
                limit,
                message: &message,
                reset_at: reset_at.as_deref(),
                retry_after,
            }),
        ),
        rules::Body::Problem => (
            "application/problem+json",
            serde_json::to_string(&Problem {
                detail: &message,
                error,
                limit,
                retry_after,
                status: 429,
                title: "Request cannot be satisfied as assigned quota has been exceeded",
                kind: "https://iana.org/assignments/http-problem-types#quota-exceeded",
            }),
        ),
    };
    // Texts and numbers always can be told in JSON.
    let text = text.ok()?;
    Some(Body { media_type, text })
}

impl<'a> Told<'a> {
    fn new(ruling: &Ruling<'a>, now: Timestamp) -> Self {
        let spoken = ruling.deciding();
        let said = spoken.map(Spoken::decisive);
        let wait = ruling.retry_after();
        Self {
            error: said.map_or(BANNED, error),
            limit: said.map(|said| said.limit.requests_per_unit()),
            window: said.map(window).unwrap_or_default(),
            plan: spoken.and_then(|spoken| spoken.plan).unwrap_or_default(),
            retry_after: wait.map(|wait| wait.ceil_secs().max(1)),
            reset_at: wait.and_then(|wait| moment(now + wait)),
        }
    }

    fn message(&self, templates: &Messages) -> String {
        let template = match self.error {
            BANNED => &templates.banned,
            MONTHLY => &templates.monthly_quota_exceeded,
            _ => &templates.rate_limit_exceeded,
        };
        let filled = template.as_ref().and_then(|template| self.fill(template));
        filled.unwrap_or_else(|| self.own_message())
    }

    /// None if the template names what this refusal does not have: a time, when waiting does not help.
    fn fill(&self, template: &str) -> Option<String> {
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let mut text = String::with_capacity(template.len() + 32);
        let mut rest = template;
        while let Some((before, (name, after))) = rest
            .split_once('{')
            .and_then(|(before, from)| Some((before, from.split_once('}')?)))
        {
            text.push_str(before);
            text.push_str(&match name {
                "limit" => number(self.limit.map(u64::from))?,
                "window" => known(&self.window)?,
                "plan" => known(self.plan)?,
                "retry_after" => number(self.retry_after)?,
                "reset_at" => self.reset_at.clone()?,
                _ => String::new(),
            });
            rest = after;
        }
        Some(text + rest)
    }

    fn own_message(&self) -> String {
        let Self { window, .. } = self;
        let again = match self.retry_after {
            Some(secs) => format!(" Try again in {secs} s."),
            None => String::new(),
        };
        match (self.error, self.limit, self.retry_after) {
            (BANNED, _, _) | (_, None, _) => format!("Requests are refused for now.{again}"),
            (_, Some(limit), Some(_)) => {
                format!("The limit of {limit} per {window} is reached.{again}")
            }
            (_, Some(limit), None) => {
                format!("The limit of {limit} per {window} can never admit this request.")
            }
        }
    }
}

const BANNED: &str = "banned";
const MONTHLY: &str = "monthly_quota_exceeded";

fn error(said: &Said<'_>) -> &'static str {
    if said.is_banned() {
        return BANNED;
    }
    match said.limit.unit() {
        Unit::Month => MONTHLY,
        Unit::Second | Unit::Minute | Unit::Hour | Unit::Day | Unit::Week | Unit::Year => {
            "rate_limit_exceeded"
        }
    }
}

fn window(said: &Said<'_>) -> String {
    let unit = said.limit.unit().name();
    match said.limit.multiplier() {
        1 => unit.to_owned(),
        n => format!("{n} {unit}s"),
    }
}

/// RFC 3339 in whole seconds.
fn moment(at: Timestamp) -> Option<String> {
    let at = jiff::Timestamp::from_microsecond(at.whole_second().as_micros());
    at.ok().map(|at| at.to_string())
}
