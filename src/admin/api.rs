//! The management API under [`PREFIX`]: what subjects have left, and what is changed of them at run time.
//!
//! [`ROUTES`] lists it; `openapi.json` beside this file describes it, and is served. Errors are RFC 9457 problem details.
//!
//! - [`access`]: who may do what, and the line that each change leaves behind
//! - `show`: what the service is and does
//! - `quota`: what a subject has left, and what it is given
//! - `lists`: who is let through, refused or banned
//! - `usage`: what was used, for billing
//! - `check`: a request that is only supposed; `explain`: the same, and how it comes to its rules
//! - `candidates`: what comes of limits on trial
//! - `top`: who asks most; `overview`: what the page shows

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Admin;
use crate::engine::quota::QuotaError;
use crate::store::StoreError;
use access::Access;

pub mod access;
mod candidates;
mod check;
pub mod explain;
mod lists;
mod overview;
mod quota;
mod show;
mod top;
mod usage;

/// What every route begins with.
pub const PREFIX: &str = "/api/v1/rate-limit";

/// The longest note, in bytes.
pub const MAX_NOTE: usize = 1024;

/// Every route: its method, and its path after [`PREFIX`].
pub const ROUTES: [(&str, &str); 29] = [
    ("GET", "/openapi.json"),
    ("GET", "/status"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/metrics/json"),
    ("GET", "/tiers"),
    ("GET", "/endpoints"),
    ("GET", "/quota/{subject}"),
    ("GET", "/quota/{subject}/remaining"),
    ("POST", "/quota/{subject}/reset"),
    ("POST", "/quota/{subject}/grant"),
    ("GET", "/quota/{subject}/plan"),
    ("PUT", "/quota/{subject}/plan"),
    ("DELETE", "/quota/{subject}/plan"),
    ("GET", "/lists"),
    ("GET", "/lists/{list}"),
    ("PUT", "/lists/{list}/{entry}"),
    ("DELETE", "/lists/{list}/{entry}"),
    ("GET", "/bans"),
    ("GET", "/bans/{entry}"),
    ("PUT", "/bans/{entry}"),
    ("DELETE", "/bans/{entry}"),
    ("GET", "/usage"),
    ("POST", "/check"),
    ("GET", "/explain"),
    ("POST", "/explain"),
    ("GET", "/top"),
    ("GET", "/candidates"),
    ("GET", "/overview"),
];

/// The document that describes the routes.
pub const OPENAPI: &str = include_str!("api/openapi.json");

/// What the routes ask.
#[derive(Clone, Debug)]
pub(super) struct Api {
    admin: Admin,
    access: Arc<Access>,
}

/// Why a call was not done, as RFC 9457 says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
}

type Answer = Result<Response, Problem>;
type Query = axum::extract::Query<HashMap<String, String>>;

/// The routes.
pub(super) fn routes(admin: Admin, access: Arc<Access>) -> Router {
    let api = Api { admin, access };
    let plan = put(quota::put_plan)
        .get(quota::plan)
        .delete(quota::delete_plan);
    let item = put(lists::put_item).delete(lists::delete_item);
    let ban = put(lists::put_ban)
        .get(lists::ban)
        .delete(lists::delete_ban);
    let routes = Router::new()
        .route("/openapi.json", get(show::openapi))
        .route("/status", get(show::status))
        .route("/health", get(show::health))
        .route("/metrics", get(show::metrics))
        .route("/metrics/json", get(show::metrics_json))
        .route("/tiers", get(show::tiers))
        .route("/endpoints", get(show::endpoints))
        .route("/quota/{subject}", get(quota::quota))
        .route("/quota/{subject}/remaining", get(quota::remaining))
        .route("/quota/{subject}/reset", post(quota::reset))
        .route("/quota/{subject}/grant", post(quota::grant))
        .route("/quota/{subject}/plan", plan)
        .route("/lists", get(lists::all))
        .route("/lists/{list}", get(lists::list))
        .route("/lists/{list}/{entry}", item)
        .route("/bans", get(lists::bans))
        .route("/bans/{entry}", ban)
        .route("/usage", get(usage::usage))
        .route("/check", post(check::check))
        .route(
            "/explain",
            get(explain::explain).post(explain::explain_message),
        )
        .route("/top", get(top::top))
        .route("/candidates", get(candidates::candidates))
        .route("/overview", get(overview::overview))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
        })
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "no such route"))
        .layer(middleware::from_fn_with_state(api.clone(), guard))
        .layer(middleware::map_response(as_problem))
        .with_state(api);
    Router::new().nest(PREFIX, routes)
}

/// Lets a call through to whom it is allowed.
async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    match api.access.check(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// What the framework refuses by itself is a problem too.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let plain = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if (status.is_client_error() || status.is_server_error()) && plain {
        let detail = status.canonical_reason().unwrap_or_default().to_lowercase();
        let mut problem = Problem::new(status, detail).into_response();
        for name in [header::ALLOW] {
            if let Some(value) = response.headers().get(&name) {
                problem.headers_mut().insert(name, value.clone());
            }
        }
        return problem;
    }
    response
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { status, detail }
    }

    fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// It could be done at another time, or with other rules.
    fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    fn absent(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail } = self;
        let body = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": detail,
        });
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, body.to_string()).into_response()
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(reason) => Self::new(StatusCode::CONFLICT, reason),
            StoreError::Unreachable(_)
            | StoreError::Open(_)
            | StoreError::Timeout
            | StoreError::Unconfirmed(_)
            | StoreError::Corrupt(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        }
    }
}

impl From<QuotaError> for Problem {
    fn from(error: QuotaError) -> Self {
        match error {
            QuotaError::NoDomain(_) => Self::absent(error.to_string()),
            QuotaError::Rejected(rejection) => Self::bad(rejection.to_string()),
            QuotaError::Store(error) => error.into(),
        }
    }
}

fn answer(value: &Value) -> Answer {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((kind, value.to_string()).into_response())
}

/// The body of a call; an empty one says nothing.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text).map_err(|error| Problem::bad(format!("the body: {error}")))
}

/// A moment of RFC 3339, in microseconds since the epoch; it must be to come.
fn moment(text: &str, now: crate::time::Timestamp) -> Result<i64, Problem> {
    let at: jiff::Timestamp = text.parse().map_err(|_| {
        Problem::bad(format!(
            "`{text}` is no moment such as 2027-01-31T12:00:00Z"
        ))
    })?;
    let at = at.as_microsecond();
    if at <= now.as_micros() {
        return Err(Problem::conflict(format!("`{text}` has passed")));
    }
    Ok(at)
}

fn as_moment(micros: i64) -> Option<String> {
    let at = jiff::Timestamp::from_microsecond(micros).ok()?;
    Some(at.to_string())
}
