//! The headers of an answer. Envoy appends them and replaces none, so each has one source.

use std::borrow::Cow;
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

/// Adds all headers but the body's.
pub fn add(
    headers: &mut SmallVec<[Header; 3]>,
    settings: &Settings,
    domain: &Domain,
    ruling: &Ruling<'_>,
    refused: bool,
) {
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
        ietf(headers, ruling);
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
fn ietf(headers: &mut SmallVec<[Header; 3]>, ruling: &Ruling<'_>) {
    let (mut policy, mut state) = (String::new(), String::new());
    let mut names: SmallVec<[Range<usize>; 4]> = SmallVec::new();
    for spoken in ruling.spoken().filter(|spoken| !spoken.shadow) {
        for said in &spoken.limits {
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
            state.push('"');
            state.push_str(&policy[name.clone()]);
            if before > 0 {
                put_parameter(&mut policy, "-", before + 1);
                put_parameter(&mut state, "-", before + 1);
            }
            put_parameter(&mut policy, "\";q=", said.limit.requests_per_unit());
            put_parameter(&mut policy, ";w=", said.limit.window().ceil_secs());
            put_parameter(&mut state, "\";r=", said.whole_remaining());
            put_parameter(&mut state, ";t=", said.reset.ceil_secs());
            names.push(name);
        }
    }
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        if !value.is_empty() {
            let name = name.into();
            headers.push(Header { name, value });
        }
    }
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
        put_parameter(to, "", said.limit.multiplier());
    }
    to.push_str(said.limit.unit().name());
}

/// Adds a number and what stands before it.
fn put_parameter(to: &mut String, before: &str, number: impl itoa::Integer) {
    to.push_str(before);
    to.push_str(itoa::Buffer::new().format(number));
}

/// Adds what stays inside the quotes of a structured field.
fn put_visible(to: &mut String, text: &str) {
    let kept = |c: char| matches!(c, ' '..='~') && c != '"' && c != '\\';
    if text.bytes().map(char::from).all(kept) {
        to.push_str(text);
    } else {
        to.extend(text.chars().map(|c| if kept(c) { c } else { '_' }));
    }
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
