//! The headers of an answer. Envoy appends them and replaces none, so each has one source.

use std::borrow::Cow;
use std::fmt::Write;

use crate::engine::fold::{Judged, Ruling, Said, Spoken};
use crate::engine::{Header, Settings};
use crate::limit::Unit;
use crate::rules::Domain;

/// The names of the reference's three headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceHeaders {
    /// The limit.
    pub limit: String,
    /// Whole hits left.
    pub remaining: String,
    /// Whole seconds.
    pub reset: String,
}

/// All headers but the body's.
pub fn headers(
    settings: &Settings,
    domain: &Domain,
    ruling: &Ruling<'_>,
    refused: bool,
) -> Vec<Header> {
    let mut headers = Vec::new();
    if let Some(names) = &settings.reference_headers
        && let Some(spoken) = reference_choice(ruling)
    {
        let said = spoken.decisive();
        headers.extend([
            header(names.limit.clone(), said.limit.requests_per_unit()),
            header(names.remaining.clone(), said.whole_remaining()),
            header(names.reset.clone(), said.reset.ceil_secs()),
        ]);
    }
    if domain.response.ratelimit {
        headers.extend(ietf(ruling).into_iter().flatten());
    }
    if domain.response.x_ratelimit
        && let Some(spoken) = ruling.deciding()
    {
        let said = spoken.decisive();
        headers.extend([
            header("x-ratelimit-limit", said.limit.requests_per_unit()),
            header("x-ratelimit-remaining", said.whole_remaining()),
            header("x-ratelimit-reset", said.reset.ceil_secs()),
        ]);
    }
    if domain.response.x_quota {
        headers.extend(quota(ruling));
    }
    if domain.response.retry_after && refused {
        let wait = ruling.retry_after();
        headers.extend(wait.map(|wait| header("retry-after", wait.ceil_secs().max(1))));
    }
    headers
}

/// The plan of the first descriptor that has one, and what is left of the month.
fn quota(ruling: &Ruling<'_>) -> impl Iterator<Item = Header> {
    let plan = ruling.items.iter().find_map(|item| match item {
        Judged::Limited(spoken) => spoken.plan,
        Judged::Unlimited(plan) => *plan,
        Judged::Free | Judged::Refused(_) => None,
    });
    let open = ruling.spoken().filter(|spoken| !spoken.shadow);
    let monthly = open.flat_map(|spoken| &spoken.limits);
    let monthly = monthly.filter(|said| said.limit.unit() == Unit::Month);
    // A request that a shorter limit refuses has left the month as it was.
    let left = monthly.map(|said| said.left()).min();
    let tier = plan.map(|plan| header("x-quota-tier", visible(plan)));
    let left = left.map(|left| header("x-quota-monthly-remaining", left.floor()));
    tier.into_iter().chain(left)
}

/// The descriptor that the reference reports: the one with the least remaining, the first of equals; but of those that
/// refuse, quotas apart, the last.
fn reference_choice<'r, 'a>(ruling: &'r Ruling<'a>) -> Option<&'r Spoken<'a>> {
    let last_refusing = ruling
        .spoken()
        .filter(|spoken| spoken.refused && !spoken.shadow && !spoken.quota)
        .last();
    last_refusing.or_else(|| {
        ruling
            .spoken()
            .min_by_key(|spoken| spoken.decisive().whole_remaining())
    })
}

/// `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10: an item per limit that the client can
/// run into.
fn ietf(ruling: &Ruling<'_>) -> Option<[Header; 2]> {
    let open = ruling.spoken().filter(|spoken| !spoken.shadow);
    let all: Vec<(String, &Said<'_>)> = open
        .flat_map(|spoken| {
            spoken
                .limits
                .iter()
                .map(|said| (policy_name(spoken, said), said))
        })
        .collect();
    if all.is_empty() {
        return None;
    }
    let (mut policy, mut state) = (String::new(), String::new());
    for (i, (name, said)) in all.iter().enumerate() {
        let before = all[..i].iter().filter(|(other, _)| other == name).count();
        let nth = if before == 0 {
            String::new()
        } else {
            format!("-{}", before + 1)
        };
        let separator = if i == 0 { "" } else { ", " };
        let (quota, window) = (
            said.limit.requests_per_unit(),
            said.limit.window().ceil_secs(),
        );
        let (remaining, reset) = (said.whole_remaining(), said.reset.ceil_secs());
        // Writing to a String cannot fail.
        let _ = write!(policy, "{separator}\"{name}{nth}\";q={quota};w={window}");
        let _ = write!(state, "{separator}\"{name}{nth}\";r={remaining};t={reset}");
    }
    Some([
        header("ratelimit-policy", policy),
        header("ratelimit", state),
    ])
}

/// The limit's name, or the last key of its rule and the window: what stays inside the quotes of a structured field.
fn policy_name(spoken: &Spoken<'_>, said: &Said<'_>) -> String {
    if !said.name.is_empty() {
        return visible(said.name);
    }
    let key = spoken.rule.and_then(|rule| rule.levels.last());
    let key = key.map_or("limit", |level| level.key.as_str());
    let multiplier = match said.limit.multiplier() {
        1 => String::new(),
        n => n.to_string(),
    };
    visible(&format!("{key}_{multiplier}{}", said.limit.unit().name()))
}

/// What stays inside the quotes of a structured field.
fn visible(text: &str) -> String {
    let kept = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    text.chars()
        .map(|c| if kept(c) || c == ' ' { c } else { '_' })
        .collect()
}

fn header(name: impl Into<Cow<'static, str>>, value: impl ToString) -> Header {
    Header {
        name: name.into(),
        value: value.to_string(),
    }
}
