//! A request that is only supposed: nothing is charged, and the answer says what would be decided and why.

use axum::body::Bytes;
use axum::extract::State;
use serde_json::{Value, json};

use super::{Answer, Api, Problem, answer};
use crate::admin::json as proto_json;
use crate::engine::{self, Code, Status};
use crate::grpc::wire;

/// The body is a `RateLimitRequest` in proto3's JSON, as `/json` takes it.
pub(super) async fn check(State(api): State<Api>, body: Bytes) -> Answer {
    let message = proto_json::request(&body).map_err(Problem::bad)?;
    let request = wire::request(&message).map_err(|error| Problem::bad(error.to_string()))?;
    let decided = api.admin.engine.rehearse(&request).await;
    let decided = decided.map_err(|error| Problem::bad(error.to_string()))?;
    answer(&shown(&decided))
}

/// What would be answered.
pub(super) fn shown(decided: &engine::Answer) -> Value {
    let headers = decided.headers.iter();
    let headers: Vec<Value> = headers
        .map(|header| json!({"name": header.name, "value": header.value}))
        .collect();
    json!({
        "admitted": decided.overall == Code::Ok,
        "reason": decided.reason.name(),
        "statuses": decided.statuses.iter().map(status).collect::<Vec<_>>(),
        "headers": headers,
        "body": decided.body,
        "decision": decided.metadata,
    })
}

fn status(status: &Status<'_>) -> Value {
    let limit = status.limit.as_ref().map(|limit| {
        json!({
            "name": limit.name,
            "requests_per_unit": limit.requests_per_unit,
            "unit": limit.unit.name(),
            "unit_multiplier": limit.unit_multiplier,
        })
    });
    json!({
        "admitted": status.code == Code::Ok,
        "limit": limit,
        "remaining": status.remaining,
        "reset_seconds": status.reset_secs,
    })
}
