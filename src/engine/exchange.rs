//! What goes into the engine and what comes out.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::Reason;
use super::answer::metadata::Metadata;
use crate::limit::Unit;
use crate::rules::Descriptor;

/// A request, borrowed from the message that brought it.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// The domain whose rules apply.
    pub domain: &'a str,
    /// The hits of descriptors without their own; 0 means 1.
    pub hits_addend: u32,
    /// What the rules are matched against.
    pub descriptors: SmallVec<[Descriptor<'a>; 2]>,
}

/// The answer to a request; what stands in the rules is borrowed from them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer<'r> {
    /// Whether the request may pass.
    pub overall: Code,
    /// One per descriptor, in order.
    pub statuses: SmallVec<[Status<'r>; 2]>,
    /// For the client, appended by Envoy.
    pub headers: SmallVec<[Header<'r>; 3]>,
    /// The body of a refusal.
    pub body: Option<String>,
    /// Why.
    pub reason: Reason,
    /// The decision for Envoy's access log and reply mappers.
    pub metadata: Option<Metadata<'r>>,
}

/// A response header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'r> {
    /// As sent.
    pub name: Cow<'r, str>,
    /// As sent; visible ASCII only.
    pub value: Cow<'r, str>,
    /// The numbers in it that say what is left and until when, in order.
    pub numbers: SmallVec<[Digits; 2]>,
}

/// A number in a text, in decimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digits {
    /// Where it begins, in bytes.
    pub at: usize,
    /// How much.
    pub number: u64,
}

/// The code of a request or a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Code {
    /// May pass.
    #[default]
    Ok,
    /// Refused.
    OverLimit,
}

/// What became of one descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status<'r> {
    /// Whether it refuses.
    pub code: Code,
    /// The limit that decided.
    pub limit: Option<CurrentLimit<'r>>,
    /// Whole hits left; 0 when refused, `u32::MAX` when unlimited.
    pub remaining: u32,
    /// Whole seconds, rounded up.
    pub reset_secs: Option<u64>,
}

/// A limit as a status names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentLimit<'r> {
    /// Hits per window.
    pub requests_per_unit: u32,
    /// The unit.
    pub unit: Unit,
    /// Units per window.
    pub unit_multiplier: u32,
    /// The limit's name, if it has one.
    pub name: Option<Cow<'r, str>>,
}

impl Answer<'_> {
    /// The same, for longer than the rules hold.
    pub fn owned(&self) -> Answer<'static> {
        let text = |text: &Cow<'_, str>| Cow::Owned(text.as_ref().to_owned());
        let limit = |limit: &CurrentLimit<'_>| CurrentLimit {
            name: limit.name.as_ref().map(text),
            ..*limit
        };
        let status = |status: &Status<'_>| Status {
            limit: status.limit.as_ref().map(limit),
            ..*status
        };
        let header = |header: &Header<'_>| Header {
            name: text(&header.name),
            value: text(&header.value),
            numbers: header.numbers.clone(),
        };
        Answer {
            overall: self.overall,
            statuses: self.statuses.iter().map(status).collect(),
            headers: self.headers.iter().map(header).collect(),
            body: self.body.clone(),
            reason: self.reason,
            metadata: self.metadata.as_ref().map(Metadata::owned),
        }
    }
}

/// Why a request is not decided: nothing is charged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No domain.
    #[error("rate limit domain must not be empty")]
    EmptyDomain,
    /// No descriptors.
    #[error("rate limit descriptor list must not be empty")]
    NoDescriptors,
    /// More descriptors than the bound, or entries in one of them.
    #[error("too many {what}: {found}, at most {most}")]
    TooMany {
        /// `descriptors`, or `entries in descriptor N`.
        what: String,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// A domain, key or value longer than the bound.
    #[error("{what} is too long: {found} bytes, at most {most}")]
    TooLong {
        /// Which text.
        what: String,
        /// Its length.
        found: usize,
        /// How long it may be.
        most: usize,
    },
    /// An override without a unit, or with one that is not known.
    #[error("descriptor {descriptor}: the limit must have a unit, from SECOND to YEAR")]
    OverrideUnit {
        /// Counted from 0.
        descriptor: usize,
    },
    /// The hits of one key add up to more than can be counted exactly.
    #[error("too many hits: at most {most} per request and key")]
    TooManyHits {
        /// How many there may be.
        most: u64,
    },
    /// No rules have ever been loaded.
    #[error("no rate limit configuration loaded")]
    NoRules,
}
