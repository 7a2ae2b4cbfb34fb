//! The headers of an answer. Envoy appends them and replaces none, so each has one source.

use std::borrow::Cow;
use std::fmt::Write;
use std::ops::Range;

use smallvec::SmallVec;

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
) -> SmallVec<[Header; 3]> {
    let mut headers = SmallVec::new();
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
    let all = open.flat_map(|spoken| spoken.limits.iter().map(move |said| (spoken, said)));
    let (mut policy, mut state) = (String::new(), String::new());
    let mut names: SmallVec<[Range<usize>; 4]> = SmallVec::new();
    for (spoken, said) in all {
        if policy.is_empty() {
            policy.reserve(USUAL);
            state.reserve(USUAL);
        } else {
            policy.push_str(", ");
            state.push_str(", ");
        }
        policy.push('"');
        let begin = policy.len();
        put_name(&mut policy, spoken, said);
        let name = begin..policy.len();
        let same = |other: &&Range<usize>| policy[(*other).clone()] == policy[name.clone()];
        let before = names.iter().filter(same).count();
        let (quota, window) = (
            said.limit.requests_per_unit(),
            said.limit.window().ceil_secs(),
        );
        let (remaining, reset) = (said.whole_remaining(), said.reset.ceil_secs());
        state.push('"');
        state.push_str(&policy[name.clone()]);
        // Writing to a String cannot fail.
        if before > 0 {
            let _ = write!(policy, "-{}", before + 1);
            let _ = write!(state, "-{}", before + 1);
        }
        let _ = write!(policy, "\";q={quota};w={window}");
        let _ = write!(state, "\";r={remaining};t={reset}");
        names.push(name);
    }
    if policy.is_empty() {
        return None;
    }
    Some([
        Header {
            name: "ratelimit-policy".into(),
            value: policy,
        },
        Header {
            name: "ratelimit".into(),
            value: state,
        },
    ])
}

/// What one limit takes in either header, in bytes.
const USUAL: usize = 64;

/// The limit's name, or the last key of its rule and the window.
fn put_name(to: &mut String, spoken: &Spoken<'_>, said: &Said<'_>) {
    if let Some(name) = said.name {
        put_visible(to, name);
        return;
    }
    let key = spoken.rule.and_then(|rule| rule.levels.last());
    put_visible(to, key.map_or("limit", |level| &*level.key));
    to.push('_');
    if said.limit.multiplier() > 1 {
        let _ = write!(to, "{}", said.limit.multiplier());
    }
    to.push_str(said.limit.unit().name());
}

/// Adds what stays inside the quotes of a structured field.
fn put_visible(to: &mut String, text: &str) {
    let kept = |c: char| (c.is_ascii_graphic() && c != '"' && c != '\\') || c == ' ';
    to.extend(text.chars().map(|c| if kept(c) { c } else { '_' }));
}

fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    put_visible(&mut visible, text);
    visible
}

fn header(name: impl Into<Cow<'static, str>>, value: impl ToString) -> Header {
    Header {
        name: name.into(),
        value: value.to_string(),
    }
}
