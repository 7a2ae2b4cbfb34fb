//! The body of a refusal: plain JSON, or RFC 9457 problem details.

use serde_json::json;

use crate::engine::Header;
use crate::engine::fold::{Ruling, Said};
use crate::limit::Unit;
use crate::rules::{self, Domain};
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
    pub fn content_type(&self) -> Header {
        Header {
            name: "content-type".into(),
            value: self.media_type.to_owned(),
        }
    }
}

/// The body of a refusal at about `now`; none if the domain wants none.
pub fn body(domain: &Domain, ruling: &Ruling<'_>, now: Timestamp) -> Option<Body> {
    let spoken = ruling.deciding()?;
    let said = spoken.decisive();
    let retry_after = ruling.retry_after();
    let retry_after_secs = retry_after.map(|wait| wait.ceil_secs().max(1));
    match domain.response.body {
        rules::Body::None => None,
        rules::Body::Json => {
            let text = json!({
                "error": error(said),
                "message": message(said, retry_after_secs),
                "limit": said.limit.requests_per_unit(),
                "reset_at": retry_after.and_then(|wait| moment(now + wait)),
                "retry_after": retry_after_secs,
            });
            Some(Body {
                media_type: "application/json",
                text: text.to_string(),
            })
        }
        rules::Body::Problem => {
            let text = json!({
                "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
                "title": "Request cannot be satisfied as assigned quota has been exceeded",
                "status": 429,
                "detail": message(said, retry_after_secs),
                "error": error(said),
                "limit": said.limit.requests_per_unit(),
                "retry_after": retry_after_secs,
            });
            Some(Body {
                media_type: "application/problem+json",
                text: text.to_string(),
            })
        }
    }
}

fn error(said: &Said<'_>) -> &'static str {
    match said.limit.unit() {
        Unit::Month => "monthly_quota_exceeded",
        Unit::Second | Unit::Minute | Unit::Hour | Unit::Day | Unit::Week | Unit::Year => {
            "rate_limit_exceeded"
        }
    }
}

fn message(said: &Said<'_>, retry_after_secs: Option<u64>) -> String {
    let unit = said.limit.unit().name();
    let window = match said.limit.multiplier() {
        1 => unit.to_owned(),
        n => format!("{n} {unit}s"),
    };
    let limit = said.limit.requests_per_unit();
    match retry_after_secs {
        Some(secs) => {
            format!("The limit of {limit} per {window} is reached. Try again in {secs} s.")
        }
        None => format!("The limit of {limit} per {window} can never admit this request."),
    }
}

/// RFC 3339 in whole seconds, rounded up.
fn moment(at: Timestamp) -> Option<String> {
    let secs = at.as_micros().div_euclid(1_000_000) + i64::from(at.as_micros() % 1_000_000 != 0);
    jiff::Timestamp::from_second(secs)
        .ok()
        .map(|at| at.to_string())
}
