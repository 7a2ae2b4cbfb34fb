//! The model of Envoy's configuration against the real Envoy: what it sends for a request is what the model says, entry by entry.

use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tollgate::envoy::{Call, Client, Configuration, HttpRequest, Sent};
use tonic::codegen::tokio_stream::wrappers::TcpListenerStream;

use crate::support::gateway::{Envoy, edited};
use crate::support::http::send;
use crate::support::poll;
use crate::support::redis::free_port;
use crate::support::token::bearer;
use crate::support::upstream::Upstream;

/// A service that lets everything pass and keeps what it was asked.
#[derive(Clone, Default)]
struct Recorder {
    asked: Arc<Mutex<Vec<RateLimitRequest>>>,
}

#[tonic::async_trait]
impl RateLimitService for Recorder {
    async fn should_rate_limit(
        &self,
        request: tonic::Request<RateLimitRequest>,
    ) -> Result<tonic::Response<RateLimitResponse>, tonic::Status> {
        let mut asked = self.asked.lock().expect("no panic");
        asked.push(request.into_inner());
        Ok(tonic::Response::new(RateLimitResponse {
            overall_code: Code::Ok.into(),
            ..RateLimitResponse::default()
        }))
    }
}

/// An Envoy of a file, before a recorder, and the model of the same file.
struct Pair {
    recorder: Recorder,
    envoy: Envoy,
    model: Configuration,
    /// How many calls have been compared.
    seen: usize,
    _upstream: Upstream,
    _runtime: tokio::runtime::Runtime,
}

/// A request, as Envoy and the model get it.
struct Asked<'a> {
    method: &'a str,
    host: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, String)>,
}

fn get<'a>(path: &'a str, headers: &[(&'a str, &str)]) -> Asked<'a> {
    at("localhost", path, headers)
}

fn at<'a>(host: &'a str, path: &'a str, headers: &[(&'a str, &str)]) -> Asked<'a> {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    Asked {
        method: "GET",
        host,
        path,
        headers: headers.collect(),
    }
}

fn with<'a>(method: &'a str, asked: Asked<'a>) -> Asked<'a> {
    Asked { method, ..asked }
}

impl Pair {
    fn start(file: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let recorder = Recorder::default();
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (reporter, health) = tonic_health::server::health_reporter();
        let server = tonic::transport::Server::builder()
            .add_service(RateLimitServiceServer::new(recorder.clone()))
            .add_service(health);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let serving = tonic_health::ServingStatus::Serving;
        runtime.block_on(reporter.set_service_status("ratelimit", serving));

        let upstream = Upstream::start();
        let (gateway, admin) = (free_port(), free_port());
        let place = |port: u16| format!("port_value: {port}}}");
        let ports = [
            (10000, gateway),
            (9901, admin),
            (10080, upstream.port),
            (8081, port),
        ];
        let ports = ports.map(|(from, to)| (place(from), place(to)));
        let edits: Vec<(&str, &str)> = ports
            .iter()
            .map(|(from, to)| (from.as_str(), to.as_str()))
            .collect();
        let text = edited(file, &edits).replace("timeout: 0.05s", "timeout: 5s");
        let dir = TempDir::new().expect("a directory");
        let mut envoy = Envoy::run(&text, dir, gateway, admin);
        assert!(envoy.listens(), "Envoy has its ports");
        let mut pair = Self {
            recorder,
            envoy,
            model: Configuration::read(file, &text).expect("a configuration"),
            seen: 0,
            _upstream: upstream,
            _runtime: runtime,
        };
        // Until its first health check has found the recorder, Envoy lets everything pass.
        poll::until("Envoy to ask", || {
            send(
                pair.envoy.address,
                "GET",
                "/generic",
                &[("x-api-key", "warm-up")],
                "",
            )?;
            (pair.count() > 0).then_some(())
        });
        pair.seen = pair.count();
        pair
    }

    fn count(&self) -> usize {
        self.recorder.asked.lock().expect("no panic").len()
    }

    /// What the model says, after what Envoy sends is found to be the same.
    #[track_caller]
    fn agree(&mut self, asked: &Asked<'_>) -> Sent {
        let Asked {
            method,
            host,
            path,
            headers,
        } = asked;
        let mut http: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let request = HttpRequest {
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            client: Client::Connection([127, 0, 0, 1].into()),
            ..HttpRequest::new(method, &format!("http://{host}{path}")).expect("a URL")
        };
        let sent = self
            .model
            .requests(&request)
            .unwrap_or_else(|why| panic!("{method} {host}{path}: {why}"));
        let wanted: Vec<String> = sent
            .calls
            .iter()
            .filter(|call| asks(call))
            .map(modelled)
            .collect();
        http.push(("host", host));
        send(self.envoy.address, method, path, &http, "").expect("the gateway answers");
        let end = self.seen + wanted.len();
        poll::until("Envoy to have asked", || {
            (self.count() >= end).then_some(())
        });
        let all = self.recorder.asked.lock().expect("no panic");
        let found: Vec<String> = all[self.seen..].iter().map(recorded).collect();
        assert_eq!(
            found, wanted,
            "{method} {host}{path} {headers:?}: Envoy's on the left\n{sent:#?}"
        );
        self.seen = end;
        sent
    }

    /// Nothing came late.
    fn end(&self) {
        assert_eq!(
            self.count(),
            self.seen,
            "Envoy asked more than the model said"
        );
    }
}

fn asks(call: &Call) -> bool {
    assert_eq!(call.unknown, [], "all is known");
    !call.descriptors.is_empty()
}

fn modelled(call: &Call) -> String {
    let descriptors = call.descriptors.iter().map(|descriptor| {
        let limit = descriptor
            .limit
            .map(|limit| (limit.requests_per_unit, limit.unit.name().to_uppercase()));
        shown(
            &descriptor.entries,
            descriptor.hits_addend,
            descriptor.is_negative_hits,
            limit,
        )
    });
    let descriptors: Vec<String> = descriptors.collect();
    format!(
        "{} {} {}",
        call.domain,
        call.hits_addend,
        descriptors.join(" ")
    )
}

fn recorded(request: &RateLimitRequest) -> String {
    let descriptor = |descriptor: &RateLimitDescriptor| {
        let entries = descriptor.entries.iter();
        let entries: Vec<_> = entries
            .map(|entry| (entry.key.clone(), entry.value.clone()))
            .collect();
        let limit = descriptor.limit.as_ref();
        let limit = limit.map(|limit| {
            (
                limit.requests_per_unit,
                limit.unit().as_str_name().to_owned(),
            )
        });
        shown(
            &entries,
            descriptor.hits_addend.map(|hits| hits.value),
            descriptor.is_negative_hits,
            limit,
        )
    };
    let descriptors: Vec<String> = request.descriptors.iter().map(descriptor).collect();
    format!(
        "{} {} {}",
        request.domain,
        request.hits_addend,
        descriptors.join(" ")
    )
}

fn shown(
    entries: &[(String, String)],
    hits: Option<u64>,
    is_negative: bool,
    limit: Option<(u32, String)>,
) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let mut text = format!("[{}]", entries.join(", "));
    if let Some(hits) = hits {
        text += &format!("{}{hits}", if is_negative { '-' } else { '+' });
    }
    if let Some((requests, unit)) = limit {
        text += &format!(" limit {requests} {unit}");
    }
    text
}

#[test]
fn every_action_makes_what_envoy_sends() {
    let mut pair = Pair::start("tests/it/envoy_model/actions.yaml");
    let key = [("x-api-key", "k1")];
    let from = |address| [("x-forwarded-for", address)];
    let grpc = [("content-type", "application/grpc+proto")];
    let cases = [
        get("/header", &key),
        with("POST", get("/header?a=1", &[])),
        get(
            "/header",
            &[("x-api-key", "first"), ("x-api-key", "second")],
        ),
        get("/header", &[("x-api-key", "")]),
        get("/address", &[]),
        get("/address", &from("203.0.113.7, 10.1.2.3, 192.0.2.1")),
        get("/address", &from("2001:db8:1:2:3::4, 192.0.2.1")),
        get("/address", &from("192.0.2.1")),
        get("/generic?key=a%20b%2Fc+d", &[]),
        get("/generic", &key),
        get("/generic", &[("authorization", "Basic x")]),
        get("/match", &key),
        with("POST", get("/match", &[("x-many", "a"), ("x-many", "b")])),
        get("/query?key=a%20b&key=c&limit=10000", &[]),
        get("/query?limit=20", &[]),
        get("/query?key", &[]),
        get("/metadata", &[]),
        get("/clusters", &[]),
        get("/hits/classic", &[]),
        get("/hits", &[("x-cost", "321")]),
        get("/hits", &[("x-cost", "2.9")]),
        get("/hits", &[("x-cost", "1e3")]),
        get("/hits", &[("x-cost", "0x10")]),
        get("/hits", &[("x-cost", "-1")]),
        get("/hits", &[("x-cost", "abc")]),
        get("/hits", &[("x-cost", "1000000001")]),
        get("/hits", &[]),
        get("/done", &key),
        get("/done", &[]),
        get("/limit", &[]),
        get("/stage", &[]),
        get("/state", &[("x-cost", "6")]),
        get("/state", &[("x-cost", "six")]),
        get("/state", &[]),
        get(
            "/changed?secret=1&key=2&b=%20",
            &[("x-caller", "spoofed"), ("x-added", "own"), ("x-gone", "1")],
        ),
        get("/changed", &key),
        with("GET", get("/grpc", &grpc)),
    ];
    for case in &cases {
        pair.agree(case);
    }
    pair.end();
}

#[test]
fn a_request_takes_the_route_that_envoy_takes() {
    let mut pair = Pair::start("tests/it/envoy_model/actions.yaml");
    let cases = [
        at("api.example.com", "/", &[]),
        at("API.example.com", "/", &[]),
        at("api.example.com:8080", "/", &[]),
        at("a.api.example.com", "/", &[]),
        at("a.example.com", "/", &[]),
        at("my-shop.example.com", "/", &[]),
        at("api.other.org", "/", &[]),
        at("limits.example.com", "/bare", &[]),
        at("limits.example.com", "/own", &[]),
        at("limits.example.com", "/flag", &[]),
        at("limits.example.com", "/include", &[]),
        at("limits.example.com", "/ignore", &[]),
        at("limits.example.com", "/domain", &[]),
        at("limits.example.com", "/off", &[]),
        at("limits.example.com", "/staged", &[]),
        at("limits.example.com", "/none", &[]),
        at("typed.example.com", "/inherit", &[]),
        at("typed.example.com", "/own", &[]),
        get("/exact", &[]),
        get("/exact/", &[]),
        get("/exact?q=1", &[]),
        get("/lOuD", &[]),
        get("/re/17", &[]),
        get("/re/17/x", &[]),
        get("/sep", &[]),
        get("/sep/a", &[]),
        get("/separate", &[]),
        get("/a/..//sep/./b", &[]),
        get("/%73ep/%2e%2e/exact", &[]),
        get("/if?q=a%20b", &[("x-kind", "a")]),
        get("/if?q=a", &[("x-kind", "b")]),
        get("/if", &[("x-number", "7")]),
        get("/if", &[("x-number", "10")]),
        get("/if", &[]),
        get("/if?q=1", &[("x-kind", "a")]),
        get("/if", &[("x-kind", "a")]),
        get("/grpc", &[("content-type", "application/grpc")]),
        get("/grpc", &[("content-type", "application/grpc-web")]),
        get("/moved", &[]),
        get("/direct", &[]),
    ];
    for case in &cases {
        pair.agree(case);
    }
    pair.end();
}

#[test]
fn the_sample_gateway_is_modelled() {
    let mut pair = Pair::start("envoy/envoy.yaml");
    for case in [
        get("/", &[]),
        get("/health", &[]),
        get("/search?api_key=q&page=2", &[]),
        get("/a/../b//c?x=1", &[("x-api-key", "k")]),
        get("/", &[("authorization", "Bearer t")]),
        get("/", &[("x-user-id", "spoofed")]),
        with("POST", get("/", &[("x-forwarded-for", "1.2.3.4")])),
    ] {
        pair.agree(&case);
    }
    pair.end();
}

#[test]
fn the_gateway_with_tokens_is_modelled() {
    let mut pair = Pair::start("envoy/product.yaml");
    let token = |claims| bearer(&claims);
    let alice = token(json!({"sub": "alice", "tier": "pro"}));
    let app = token(json!({"app_id": "a-7", "n": 42}));
    let broken = token(json!({"sub": 42}));
    let batch = [("x-batch-items", "25")];
    for mut case in [
        get("/compare/../docs", &[]),
        get("/docs/..%2fcompare", &[]),
        get("/batch/x", &batch),
        get("/batch", &[("x-batch-items", "0")]),
        get("/batch", &[("x-batch-items", "2"), ("x-batch-items", "3")]),
        with("OPTIONS", get("/", &[])),
        with(
            "OPTIONS",
            get(
                "/",
                &[
                    ("origin", "https://app.example.com"),
                    ("access-control-request-method", "PUT"),
                ],
            ),
        ),
        with(
            "OPTIONS",
            get(
                "/",
                &[
                    ("origin", "https://other.example.com"),
                    ("access-control-request-method", "PUT"),
                ],
            ),
        ),
        get("/", &[("x-caller", "spoofed"), ("x_user_id", "spoofed")]),
    ] {
        pair.agree(&case);
        for token in [&alice, &app] {
            case.headers.push(("authorization", token.clone()));
            let sent = pair.agree(&case);
            let taken = sent
                .notes
                .iter()
                .any(|note| note.contains("the token is taken for good"));
            assert!(taken || sent.ends.is_some(), "{sent:#?}");
            case.headers.pop();
        }
        case.headers.push(("authorization", broken.clone()));
        let sent = pair.agree(&case);
        assert_eq!(sent.calls, [], "{sent:#?}");
        assert!(sent.ends.is_some());
    }
    pair.end();
}
