//! `/json`: a `RateLimitRequest` in, a `RateLimitResponse` out, in proto3's JSON.

use std::sync::LazyLock;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::Admin;
use crate::engine::{Answer, Code};
use crate::grpc::wire::{self, RateLimitRequest};
use crate::grpc::{DESCRIPTORS, rls};

/// The two messages, by name; none if the descriptors are not what `proto/` compiles to.
struct Messages {
    request: MessageDescriptor,
    response: MessageDescriptor,
}

static MESSAGES: LazyLock<Option<Messages>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).ok()?;
    let message =
        |name: &str| pool.get_message_by_name(&format!("envoy.service.ratelimit.v3.{name}"));
    Some(Messages {
        request: message("RateLimitRequest")?,
        response: message("RateLimitResponse")?,
    })
});

pub(super) async fn handle(State(admin): State<Admin>, body: Bytes) -> Response {
    let Some(messages) = MESSAGES.as_ref() else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n");
    };
    let Some(request) = read(messages, &body) else {
        return error(StatusCode::BAD_REQUEST, "Bad Request\n");
    };
    let tell = |answer: &Answer<'_>| (answer.overall, write(messages, answer));
    let told = rls::decide(&admin.engine, &request, Instant::now(), None, tell).await;
    let Ok((overall, text)) = told else {
        return error(StatusCode::BAD_REQUEST, "Bad Request\n");
    };
    let code = match overall {
        Code::OverLimit => StatusCode::TOO_MANY_REQUESTS,
        Code::Ok => StatusCode::OK,
    };
    match text {
        Some(text) => (code, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        None => error(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n"),
    }
}

/// Reads the JSON of a request; the error says what is wrong with it.
pub fn request(body: &[u8]) -> Result<RateLimitRequest, String> {
    let messages = MESSAGES.as_ref().ok_or("there are no descriptors")?;
    read(messages, body).ok_or_else(|| "the body is not the JSON of a RateLimitRequest".to_owned())
}

/// None if it is not the JSON of a request; unknown fields are not.
fn read(messages: &Messages, body: &[u8]) -> Option<RateLimitRequest> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let message = DynamicMessage::deserialize(messages.request.clone(), &mut json).ok()?;
    json.end().ok()?;
    RateLimitRequest::decode(message.encode_to_vec().as_slice()).ok()
}

fn write(messages: &Messages, answer: &Answer<'_>) -> Option<String> {
    let message = DynamicMessage::decode(messages.response.clone(), wire::bytes(answer)).ok()?;
    serde_json::to_string(&message).ok()
}

fn error(code: StatusCode, text: &'static str) -> Response {
    (
        code,
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        text,
    )
        .into_response()
}
