//! Ruling to answer: statuses, headers, body and metadata.
//!
//! - [`headers`]: the IETF's, the reference's, `X-RateLimit-*` and `Retry-After`
//! - [`body`]: the body of a refusal
//! - [`metadata`]: what Envoy's access log and reply mappers can read
//! - [`draft`]: an answer that is not written yet; [`shape`]: what answers have in common

pub mod body;
pub mod draft;
pub mod headers;
pub mod metadata;
pub mod shape;

use self::metadata::Metadata;
use super::fold::{Apart, Judged, Ruling};
use super::{Answer, Code, Request, Settings, Status};
use crate::directory::List;
use crate::rules::Domain;
use crate::time::Timestamp;

/// Why a request was answered as it was: a closed set, for metrics and traces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// No descriptor has a rule.
    #[default]
    NoRule,
    /// Every descriptor with a rule is unlimited.
    Unlimited,
    /// All limits have room.
    WithinLimit,
    /// A limit has no room, but is in shadow mode.
    Shadowed,
    /// Its cost is none.
    Exempt,
    /// It is on the list of those who are let through.
    Allowed,
    /// It is on the list of those who are refused.
    Denied,
    /// It is banned.
    Banned,
    /// A limit has no room now.
    OverLimit,
    /// A limit can never hold that many hits.
    NeverFits,
    /// The store did not answer, and the rules say to admit.
    FallbackAllow,
    /// The store did not answer, and the rules say to refuse.
    FallbackDeny,
    /// The store did not answer, and this instance decided alone.
    FallbackLocal,
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Reason::FallbackLocal as usize + 1;

    /// As it stands in metrics, traces and metadata.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::NoRule => "no_rule",
            Reason::Unlimited => "unlimited",
            Reason::WithinLimit => "within_limit",
            Reason::Shadowed => "shadowed",
            Reason::Exempt => "exempt",
            Reason::Allowed => "allowed",
            Reason::Denied => "denied",
            Reason::Banned => "banned",
            Reason::OverLimit => "over_limit",
            Reason::NeverFits => "never_fits",
            Reason::FallbackAllow => "fallback_allow",
            Reason::FallbackDeny => "fallback_deny",
            Reason::FallbackLocal => "fallback_local",
        }
    }

    /// The reason of a ruling that the store made.
    pub fn of(ruling: &Ruling<'_>, globally_shadowed: bool) -> Self {
        if let Some(apart) = ruling.apart
            && (ruling.admitted || !globally_shadowed)
        {
            return Self::apart(apart);
        }
        let refused = ruling.spoken().any(|spoken| spoken.refused);
        match ruling.deciding() {
            _ if !ruling.admitted && globally_shadowed => Reason::Shadowed,
            Some(spoken) if !ruling.admitted && spoken.decisive().is_banned() => Reason::Banned,
            Some(spoken) if !ruling.admitted => match spoken.decisive().wait() {
                super::fold::Wait::For(_) => Reason::OverLimit,
                super::fold::Wait::Forever => Reason::NeverFits,
            },
            Some(_) if refused && ruling.spoken().any(|s| s.shadow && s.refused) => {
                Reason::Shadowed
            }
            Some(_) => Reason::WithinLimit,
            None if ruling
                .items
                .iter()
                .any(|item| matches!(item, Judged::Unlimited(_))) =>
            {
                Reason::Unlimited
            }
            None => Reason::NoRule,
        }
    }

    fn apart(apart: Apart) -> Self {
        match apart {
            Apart::Exempt => Reason::Exempt,
            Apart::Listed(listed) => match listed.list {
                List::Allow => Reason::Allowed,
                List::Deny => Reason::Denied,
                List::Ban => Reason::Banned,
            },
        }
    }
}

/// Writes the answer to `request`, decided at about `now()`, which is only asked where it is told.
fn write<'r>(
    answer: &mut Answer<'r>,
    settings: &'r Settings,
    domain: &'r Domain,
    request: &Request<'_>,
    ruling: &Ruling<'r>,
    reason: Reason,
    now: impl FnOnce() -> Timestamp,
) {
    let refused = !ruling.admitted && !settings.shadow_mode;
    answer.overall = if refused { Code::OverLimit } else { Code::Ok };
    answer.reason = reason;
    answer.statuses.reserve(ruling.items.len());
    for place in 0..ruling.items.len() {
        answer.statuses.push(ruling.status(place));
    }
    headers::add(&mut answer.headers, settings, domain, ruling, refused);
    if refused {
        let body = body::body(domain, ruling, now());
        answer
            .headers
            .extend(body.as_ref().map(|body| body.content_type()));
        answer.body = body.map(|body| body.text);
    }
    answer.metadata = Some(if settings.reference_metadata {
        Metadata::Reference(metadata::reference(domain, request, ruling))
    } else {
        Metadata::Decision(metadata::decision(domain, request, ruling, reason))
    });
}

/// The statuses of a request without rules.
fn unruled<'r>(request: &Request<'_>) -> Answer<'r> {
    Answer {
        statuses: smallvec::smallvec![Status::default(); request.descriptors.len()],
        ..Answer::default()
    }
}
