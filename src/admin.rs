//! The HTTP port and the debug port.
//!
//! | port | route | answers |
//! |---|---|---|
//! | HTTP | `/` | a page to look at |
//! | HTTP | `/json` | a decision in proto3 JSON: 200, or 429 when refused |
//! | HTTP | `/healthcheck` | 200 `OK`, or 500 |
//! | HTTP | `/health/live` | 200 as long as the process runs |
//! | HTTP | `/health/ready` | 200 or 503, and why |
//! | HTTP | `/metrics` | Prometheus's format, or OpenMetrics with exemplars for who accepts it |
//! | HTTP | `/api/v1/rate-limit/…` | the management API |
//! | debug | `/` | the routes of this port |
//! | debug | `/rlconfig` | the limits that hold, one a line |
//! | debug | `/stats` | the same as `/metrics` |
//!
//! - [`api`] is the management API
//! - [`mod@json`] answers `/json`
//! - [`page`] is the page, which asks the management API
//! - [`listen`] accepts connections, and bounds them

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde_json::json;

use crate::engine::Engine;
use crate::reload::Loads;
use crate::rules::RuleSet;
use crate::store::Store;
use crate::store::redis::ServerState;
use crate::telemetry::metrics::{self, Metrics};

pub mod api;
pub mod json;
pub mod listen;
pub mod page;

pub use api::access::Access;
pub use listen::serve;

/// The largest body that is read, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// What the routes ask.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Decides.
    pub engine: Arc<Engine>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// What came of the loads of the rules.
    pub loads: Arc<Loads>,
    /// Healthy only while there are so many domains; none if also without rules.
    pub needed_domains: Option<usize>,
}

impl Admin {
    /// The routes of the HTTP port.
    pub fn http(self, access: Arc<Access>) -> Router {
        let api = api::routes(self.clone(), access);
        Router::new()
            .route("/json", any(json::handle))
            .route("/healthcheck", any(healthcheck))
            .route("/health/live", get(async || "OK"))
            .route("/health/ready", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self)
            .merge(api)
            .merge(page::routes())
            .layer(DefaultBodyLimit::max(MAX_BODY))
    }

    /// The metrics alone, at `path`.
    pub fn metrics_at(self, path: &str) -> Router {
        Router::new().route(path, get(metrics)).with_state(self)
    }

    /// The routes of the debug port.
    pub fn debug(self) -> Router {
        Router::new()
            .route(
                "/",
                get(async || "/rlconfig: the limits that hold\n/stats: all metrics\n"),
            )
            .route("/rlconfig", get(rlconfig))
            .route("/stats", get(metrics))
            .with_state(self)
    }

    fn is_ready(&self) -> bool {
        self.engine
            .readiness()
            .borrow()
            .is_ready(self.needed_domains)
    }
}

/// The limits of a rule set as the reference prints them, in order.
pub fn rlconfig_lines(rules: &RuleSet) -> Vec<String> {
    let mut lines = Vec::new();
    for rule in &rules.rules {
        let name = format!("{}.{}", rule.domain, rule.name);
        let modes = format!(
            "shadow_mode: {}, quota_mode: {}",
            rule.shadow_mode, rule.quota_mode
        );
        if rule.unlimited {
            lines.push(format!("{name}: unit=UNKNOWN requests_per_unit=0, {modes}"));
        }
        for limit in &rule.limits {
            let limit = &limit.limit;
            let unit = limit.unit().name().to_ascii_uppercase();
            let multiplier = match limit.multiplier() {
                1 => String::new(),
                n => format!(" unit_multiplier={n}"),
            };
            let requests = limit.requests_per_unit();
            lines.push(format!(
                "{name}: unit={unit}{multiplier} requests_per_unit={requests}, {modes}"
            ));
        }
    }
    lines.sort();
    lines
}

async fn healthcheck(State(admin): State<Admin>) -> Response {
    if admin.is_ready() {
        "OK".into_response()
    } else {
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    ready_of(&admin)
}

fn ready_of(admin: &Admin) -> Response {
    let ready = admin.is_ready();
    let body = health(admin);
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        code,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

/// Whether requests should be sent here, and why.
fn health(admin: &Admin) -> serde_json::Value {
    let readiness = *admin.engine.readiness().borrow();
    json!({
        "ready": admin.is_ready(),
        "rules": { "loaded": readiness.domains.is_some(), "domains": readiness.domains.unwrap_or(0) },
        "store": {
            "type": admin.engine.store().name(),
            "answered": readiness.store_answered,
            "servers": servers(admin.engine.store()),
        },
        "draining": readiness.draining,
    })
}

/// How each server of the store does. That one does not answer is no reason to leave: requests are decided without it.
fn servers(store: &Store) -> Vec<serde_json::Value> {
    let states = match store {
        Store::Embedded(_) | Store::Faulty(_) => Vec::new(),
        Store::Redis(store) => store.servers(),
    };
    let breaker = |is_open: bool| if is_open { "open" } else { "closed" };
    let told = |server: ServerState| {
        json!({
            "name": server.name,
            "connected": server.is_connected,
            "breaker": breaker(server.is_open),
            "replicated_breaker": breaker(server.is_unconfirmed),
        })
    };
    states.into_iter().map(told).collect()
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    update_gauges(&admin);
    let accepted = headers.get_all(header::ACCEPT).into_iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    let (kind, text) = match accepted.any(|value| value.contains("application/openmetrics-text")) {
        true => (metrics::OPEN_CONTENT_TYPE, admin.metrics.encode_open()),
        false => (metrics::CONTENT_TYPE, admin.metrics.encode()),
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// What is counted elsewhere is looked at when the metrics are.
fn update_gauges(admin: &Admin) {
    match admin.engine.store() {
        Store::Embedded(store) => admin.metrics.embedded_keys(store.len()),
        Store::Redis(store) => {
            admin.metrics.lost_give_backs(store.lost_give_backs());
            admin.metrics.spared(store.spared());
            let servers = store.servers().into_iter();
            let breakers = servers.flat_map(|server| {
                let replicated = (server.name.clone(), "replicated", server.is_unconfirmed);
                [(server.name, "usual", server.is_open), replicated]
            });
            admin.metrics.breakers(breakers);
            admin.metrics.leased(store.leased());
            admin.metrics.failovers(store.failovers());
        }
        Store::Faulty(_) => {}
    }
    admin.metrics.instances(admin.engine.instances());
    let unknown = admin.engine.owed_unknown();
    admin.metrics.owed(admin.engine.owed(), unknown);
    admin.metrics.recorded(admin.engine.recorded());
    let directory = admin.engine.directory().hits_and_misses();
    admin.metrics.directory(directory);
    admin.metrics.usage_late(admin.engine.late_usage());
}

async fn rlconfig(State(admin): State<Admin>) -> String {
    let lines = admin.engine.with_rules(rlconfig_lines).unwrap_or_default();
    lines.into_iter().map(|line| line + "\n").collect()
}
