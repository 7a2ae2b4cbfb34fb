//! Messages to requests, answers to messages: the only file that names generated types.
//!
//! - `plain`: messages as nearly all are, read in place; `count`: the others, looked at before they are
//! - `answer`: answers, written straight to bytes; `templates`: those that were written before, but for their numbers

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    RateLimitDescriptor, rate_limit_descriptor,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response as response;
use prost::encoding::WireType;
use prost::{DecodeError, Message};

use crate::engine::{Code, Rejection, Request};
use crate::limit::Unit;
use crate::rules::{Descriptor, Entry, Override};

mod answer;
mod count;
mod plain;
mod templates;

pub use answer::{PREFIX, bytes, framed};
pub use templates::{Templates, framed as framed_draft};

pub use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
pub use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

/// The number of the code of a refusal.
pub const OVER_LIMIT: i32 = response::Code::OverLimit as i32;

/// A message of descriptors, each given by its entries.
pub fn message(
    domain: &str,
    hits_addend: u32,
    descriptors: impl IntoIterator<Item = Vec<(String, String)>>,
) -> RateLimitRequest {
    let entry = |(key, value): (String, String)| rate_limit_descriptor::Entry { key, value };
    let descriptor = |entries: Vec<(String, String)>| RateLimitDescriptor {
        entries: entries.into_iter().map(entry).collect(),
        ..RateLimitDescriptor::default()
    };
    RateLimitRequest {
        domain: domain.to_owned(),
        descriptors: descriptors.into_iter().map(descriptor).collect(),
        hits_addend,
    }
}

/// A message as the engine takes it.
pub fn request(message: &RateLimitRequest) -> Result<Request<'_>, Rejection> {
    let mut request = Request {
        domain: &message.domain,
        hits_addend: message.hits_addend,
        ..Request::default()
    };
    // Filled where they stay, as they are large.
    let count = message.descriptors.len();
    request.descriptors.resize_with(count, Descriptor::default);
    let messages = message.descriptors.iter().enumerate();
    for ((index, message), to) in messages.zip(&mut request.descriptors) {
        descriptor(index, message, to)?;
    }
    Ok(request)
}

/// Why a message is not a request.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// It is no `RateLimitRequest`.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// It is one that nobody may make.
    #[error(transparent)]
    Rejected(#[from] Rejection),
}

/// Reads a message off the wire to where the engine takes it, as it is large. What few messages have is read by way of the generated one, which
/// is put in `room`.
pub fn read<'m>(
    message: &'m [u8],
    room: &'m mut Option<RateLimitRequest>,
    to: &mut Request<'m>,
) -> Result<(), Unread> {
    if plain::request(message, to).is_some() {
        return Ok(());
    }
    count::check(message)?;
    let message = RateLimitRequest::decode(message)?;
    *to = request(room.insert(message))?;
    Ok(())
}

/// The key of a field, whose number is below 16 as all are here: one byte.
const fn key(tag: u8, wire_type: WireType) -> u8 {
    tag << 3 | wire_type as u8
}

fn descriptor<'m>(
    index: usize,
    message: &'m RateLimitDescriptor,
    to: &mut Descriptor<'m>,
) -> Result<(), Rejection> {
    let limit = message.limit.as_ref().map(|limit| match unit(limit.unit) {
        Some(unit) => Ok(Override {
            requests_per_unit: limit.requests_per_unit,
            unit,
        }),
        None => Err(Rejection::OverrideUnit { descriptor: index }),
    });
    to.hits_addend = message.hits_addend.as_ref().map(|hits| hits.value);
    to.is_negative_hits = message.is_negative_hits;
    to.limit = limit.transpose()?;
    to.entries.reserve(message.entries.len());
    for entry in &message.entries {
        to.entries.push(Entry {
            key: &entry.key,
            value: &entry.value,
        });
    }
    Ok(())
}

/// `envoy.type.v3.RateLimitUnit` ends at YEAR; the reference also takes the 7 that Envoy's answers have for WEEK.
fn unit(number: i32) -> Option<Unit> {
    match response::rate_limit::Unit::try_from(number).ok()? {
        response::rate_limit::Unit::Unknown => None,
        response::rate_limit::Unit::Second => Some(Unit::Second),
        response::rate_limit::Unit::Minute => Some(Unit::Minute),
        response::rate_limit::Unit::Hour => Some(Unit::Hour),
        response::rate_limit::Unit::Day => Some(Unit::Day),
        response::rate_limit::Unit::Week => Some(Unit::Week),
        response::rate_limit::Unit::Month => Some(Unit::Month),
        response::rate_limit::Unit::Year => Some(Unit::Year),
    }
}

fn code(code: Code) -> response::Code {
    match code {
        Code::Ok => response::Code::Ok,
        Code::OverLimit => response::Code::OverLimit,
    }
}

fn unit_number(unit: Unit) -> response::rate_limit::Unit {
    match unit {
        Unit::Second => response::rate_limit::Unit::Second,
        Unit::Minute => response::rate_limit::Unit::Minute,
        Unit::Hour => response::rate_limit::Unit::Hour,
        Unit::Day => response::rate_limit::Unit::Day,
        Unit::Week => response::rate_limit::Unit::Week,
        Unit::Month => response::rate_limit::Unit::Month,
        Unit::Year => response::rate_limit::Unit::Year,
    }
}
