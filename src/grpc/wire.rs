//! Messages to requests, answers to messages: the only file that names generated types.

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    RateLimitDescriptor, rate_limit_descriptor,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response as response;
use envoy_types::pb::google::protobuf::{self, value::Kind};
use serde_json::{Map, Value};

use crate::engine::{Answer, Code, CurrentLimit, Header, Rejection, Request, Status};
use crate::limit::Unit;
use crate::rules::{Descriptor, Entry, Override};

pub use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server as server;
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
    let descriptors = message.descriptors.iter().enumerate();
    Ok(Request {
        domain: &message.domain,
        hits_addend: message.hits_addend,
        descriptors: descriptors.map(descriptor).collect::<Result<_, _>>()?,
    })
}

/// An answer as it is sent.
pub fn response(answer: Answer) -> RateLimitResponse {
    RateLimitResponse {
        overall_code: code(answer.overall).into(),
        statuses: answer.statuses.into_iter().map(status).collect(),
        response_headers_to_add: answer.headers.into_iter().map(header).collect(),
        request_headers_to_add: Vec::new(),
        raw_body: answer.body.map(String::into_bytes).unwrap_or_default(),
        dynamic_metadata: answer.metadata.map(structure),
        quota: None,
    }
}

fn descriptor(
    (index, message): (usize, &RateLimitDescriptor),
) -> Result<Descriptor<'_>, Rejection> {
    let entries = message.entries.iter().map(|entry| Entry {
        key: &entry.key,
        value: &entry.value,
    });
    let limit = message.limit.as_ref().map(|limit| match unit(limit.unit) {
        Some(unit) => Ok(Override {
            requests_per_unit: limit.requests_per_unit,
            unit,
        }),
        None => Err(Rejection::OverrideUnit { descriptor: index }),
    });
    Ok(Descriptor {
        entries: entries.collect(),
        hits_addend: message.hits_addend.as_ref().map(|hits| hits.value),
        is_negative_hits: message.is_negative_hits,
        limit: limit.transpose()?,
    })
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

fn status(status: Status) -> response::DescriptorStatus {
    response::DescriptorStatus {
        code: code(status.code).into(),
        current_limit: status.limit.map(current_limit),
        limit_remaining: status.remaining,
        duration_until_reset: status.reset_secs.map(|secs| protobuf::Duration {
            seconds: i64::try_from(secs).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        ..response::DescriptorStatus::default()
    }
}

fn current_limit(limit: CurrentLimit) -> response::RateLimit {
    let unit = match limit.unit {
        Unit::Second => response::rate_limit::Unit::Second,
        Unit::Minute => response::rate_limit::Unit::Minute,
        Unit::Hour => response::rate_limit::Unit::Hour,
        Unit::Day => response::rate_limit::Unit::Day,
        Unit::Week => response::rate_limit::Unit::Week,
        Unit::Month => response::rate_limit::Unit::Month,
        Unit::Year => response::rate_limit::Unit::Year,
    };
    response::RateLimit {
        name: limit.name,
        requests_per_unit: limit.requests_per_unit,
        unit: unit.into(),
    }
}

fn header(header: Header) -> HeaderValue {
    HeaderValue {
        key: header.name.into_owned(),
        value: header.value,
        ..HeaderValue::default()
    }
}

fn structure(map: Map<String, Value>) -> protobuf::Struct {
    protobuf::Struct {
        fields: map
            .into_iter()
            .map(|(key, value)| (key, self::value(value)))
            .collect(),
    }
}

fn value(value: Value) -> protobuf::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(values) => Kind::ListValue(protobuf::ListValue {
            values: values.into_iter().map(self::value).collect(),
        }),
        Value::Object(map) => Kind::StructValue(structure(map)),
    };
    protobuf::Value { kind: Some(kind) }
}
