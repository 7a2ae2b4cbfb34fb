//! The headers of an answer. Envoy appends them and replaces none, so each has one source.

use std::borrow::Cow;

use smallvec::{SmallVec, smallvec};

use crate::engine::exchange::Digits;
use crate::engine::fold::{Judged, Ruling, Said, Spoken};
use crate::engine::{Header, Settings};
use crate::limit::Unit;
use crate::rules::Domain;
use crate::rules::policy::{Policy, put_number, put_visible};

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
pub fn add<'r>(
    headers: &mut SmallVec<[Header<'r>; 3]>,
    settings: &'r Settings,
    domain: &Domain,
    ruling: &Ruling<'r>,
    refused: bool,
) {
    if let Some(names) = &settings.reference_headers
        && let Some(spoken) = reference_choice(ruling)
    {
        let said = spoken.decisive();
        headers.extend([
            header(names.limit.as_str(), said.limit.requests_per_unit()),
            counted(names.remaining.as_str(), said.whole_remaining().into()),
            counted(names.reset.as_str(), said.reset.ceil_secs()),
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
            counted("x-ratelimit-remaining", said.whole_remaining().into()),
            counted("x-ratelimit-reset", said.reset.ceil_secs()),
        ]);
    }
    if domain.response.x_quota {
        headers.extend(quota(ruling).into_iter().flatten());
    }
    if domain.response.retry_after && refused {
        let wait = ruling.retry_after();
        headers.extend(wait.map(|wait| header("retry-after", wait.ceil_secs().max(1))));
    }
}

/// The plan of the first descriptor that has one, and what is left of the month.
fn quota(ruling: &Ruling<'_>) -> [Option<Header<'static>>; 2] {
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
    [tier, left]
}

/// The descriptor that the reference reports: the one with the least remaining, the first of equals; but of those that
/// refuse, quotas apart, the last.
pub(super) fn reference_choice<'r, 'a>(ruling: &'r Ruling<'a>) -> Option<&'r Spoken<'a>> {
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
fn ietf<'r>(headers: &mut SmallVec<[Header<'r>; 3]>, ruling: &Ruling<'r>) {
    let mut policies: SmallVec<[Numbered<'r>; 2]> = SmallVec::new();
    let mut state = String::new();
    let mut numbers = SmallVec::new();
    for spoken in ruling.spoken().filter(|spoken| !spoken.shadow) {
        for said in &spoken.limits {
            let policy = policy(spoken, said);
            let number = number(&policies, policy.name());
            if policies.is_empty() {
                state = String::with_capacity(USUAL * ruling.items.len());
            } else {
                state.push_str(", ");
            }
            put_numbered(&mut state, policy.name(), number);
            for (parameter, number) in [
                ("\";r=", said.whole_remaining().into()),
                (";t=", said.reset.ceil_secs()),
            ] {
                state.push_str(parameter);
                numbers.push(Digits {
                    at: state.len(),
                    number,
                });
                put_number(&mut state, number);
            }
            policies.push((policy, number));
        }
    }
    let value = match policies.as_slice() {
        [] => return,
        // As most are: it stands in the rules.
        [(Cow::Borrowed(policy), _)] => Cow::Borrowed(policy.text()),
        several => Cow::Owned(list(several)),
    };
    headers.push(Header {
        name: "ratelimit-policy".into(),
        value,
        numbers: SmallVec::new(),
    });
    headers.push(Header {
        name: "ratelimit".into(),
        value: state.into(),
        numbers,
    });
}

/// A policy, and the how manieth of its name it is.
type Numbered<'r> = (Cow<'r, Policy>, usize);

/// What one limit takes in `RateLimit`, in bytes.
const USUAL: usize = 64;

/// What clients are told of a limit.
fn policy<'r>(spoken: &Spoken<'r>, said: &Said<'r>) -> Cow<'r, Policy> {
    let compose = || {
        let key = spoken.rule.and_then(|rule| rule.levels.last());
        let key = key.map(|level| &*level.key);
        Cow::Owned(Policy::new(said.name, key, said.limit))
    };
    said.policy.map_or_else(compose, Cow::Borrowed)
}

/// The how manieth of this name a policy is that comes behind these.
fn number(policies: &[Numbered<'_>], name: &str) -> usize {
    let mut before = policies.iter().rev();
    let last = before.find(|(policy, _)| policy.name() == name);
    last.map_or(1, |(_, number)| number + 1)
}

fn list(policies: &[Numbered<'_>]) -> String {
    let mut list = String::with_capacity(USUAL * policies.len());
    for (place, (policy, number)) in policies.iter().enumerate() {
        if place > 0 {
            list.push_str(", ");
        }
        put_numbered(&mut list, policy.name(), *number);
        list.push_str(policy.parameters());
    }
    list
}

/// Begins an item: a quote, and a name that no item before has.
fn put_numbered(to: &mut String, name: &str, number: usize) {
    to.push('"');
    to.push_str(name);
    if number > 1 {
        to.push('-');
        put_number(to, number);
    }
}

fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    put_visible(&mut visible, text);
    visible
}

fn header<'r>(name: impl Into<Cow<'r, str>>, value: impl ToString) -> Header<'r> {
    Header {
        name: name.into(),
        value: value.to_string().into(),
        numbers: SmallVec::new(),
    }
}

/// A header that is a number, which says what is left or until when.
fn counted<'r>(name: &'r str, number: u64) -> Header<'r> {
    let digits = Digits { at: 0, number };
    Header {
        numbers: smallvec![digits],
        ..header(name, number)
    }
}
