//! The gRPC port: the rate limit service, health and reflection.
//!
//! - [`rls`]: the service
//! - [`wire`]: messages to requests, answers to messages; the only file that names generated types
//! - [`listen`]: sockets, and the connections that they accept
//! - `threads`: who serves them
//! - `places`: how many there may be of what
//! - `preface`: what they begin with
//! - `connection`: one of them, until its end
//! - `turns`: when its calls are looked at
//! - `stream`: one call of it, as HTTP/2 has it
//! - [`unary`]: those of the rate limit service; `pairs`: two of them at a time
//! - `desk`: where they wait; `aside`: those of the others
//! - [`tls`]: certificates, read again when they change

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::engine::Engine;
use crate::engine::readiness::Readiness;
use crate::telemetry::Tracing;
use crate::telemetry::metrics::Metrics;

mod aside;
mod connection;
mod desk;
pub mod listen;
mod pairs;
mod places;
pub mod preface;
pub mod rls;
mod stream;
mod threads;
pub mod tls;
mod turns;
pub mod unary;
pub mod wire;

use connection::Port;
use listen::Listener;
use places::Places;
use unary::Method;

/// The names under which health is asked: the whole, the reference's, and what Envoy's health check sends by convention.
pub const HEALTH_SERVICES: [&str; 3] = [
    "",
    "ratelimit",
    "envoy.service.ratelimit.v3.RateLimitService",
];

/// The most calls of health and reflection at once, shared out among the threads; those that watch health stay.
pub const MAX_ASIDES: usize = 4096;

/// How the port is served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How old a connection may be, ±10 %.
    pub max_connection_age: Duration,
    /// How long its calls may then take to finish.
    pub max_connection_age_grace: Duration,
    /// How often a silent client is asked for a sign of life.
    pub keepalive_interval: Duration,
    /// How long it may take to give one.
    pub keepalive_timeout: Duration,
    /// The most connections at once.
    pub max_connections: usize,
    /// The most calls of one connection at once.
    pub max_concurrent_streams: u32,
    /// The most calls of all connections at once, shared out among the threads.
    pub max_calls: usize,
    /// The largest request, in bytes.
    pub max_message_size: usize,
    /// Healthy only while there are so many domains; none if also without rules.
    pub needed_domains: Option<usize>,
    /// How many threads serve it, at least one.
    pub threads: usize,
}

/// Serves `listener` until `shutdown`, and then until the calls under way are done.
pub async fn serve(
    listener: Listener,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    tracing: Tracing,
    settings: Settings,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let readiness = engine.readiness();
    let method = rls::Rls::new(engine, metrics, tracing);
    let (health, health_service) = tonic_health::server::health_reporter();
    let now = *readiness.borrow();
    report(&health, &now, settings.needed_domains).await;
    let reporting = tokio::spawn(follow(health, readiness, settings.needed_domains));
    let others = Routes::new(health_service)
        .add_service(reflection_v1()?)
        .add_service(reflection_v1alpha()?);
    let served = serve_method(listener, method, others, settings, shutdown).await;
    reporting.abort();
    served
}

/// Serves `method`, and beside it `others`.
pub async fn serve_method(
    listener: Listener,
    method: impl Method,
    others: Routes,
    settings: Settings,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let tls = listener.tls();
    let count = settings.threads.max(1);
    let connections = Places::new(settings.max_connections);
    let port = Port {
        method,
        others: others.prepare(),
        calls: Arc::new(Places::new(0)),
        asides: Arc::new(Places::new(0)),
        settings,
        shutdown: shutdown.clone(),
    };
    let (threads, ends): (Vec<_>, Vec<_>) = (0..count)
        .map(|number| {
            let calls = Places::new(port.settings.max_calls.div_ceil(count));
            let port = Port {
                calls: Arc::new(calls),
                asides: Arc::new(Places::new(MAX_ASIDES.div_ceil(count))),
                ..port.clone()
            };
            threads::spawn(number, port, tls.clone())
        })
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    let accepting = tokio::spawn(listener.accept_into(threads, connections, shutdown));
    let ended: io::Result<Vec<()>> = join_all(ends).await.into_iter().collect();
    accepting.abort();
    ended.map(|_| ())
}

/// The descriptors of all messages and services, as `proto/` has them.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tollgate.bin"));

/// Tells the health service whatever becomes of readiness.
async fn follow(
    health: HealthReporter,
    mut readiness: watch::Receiver<Readiness>,
    needed_domains: Option<usize>,
) {
    while readiness.changed().await.is_ok() {
        let now = *readiness.borrow_and_update();
        report(&health, &now, needed_domains).await;
    }
}

async fn report(health: &HealthReporter, readiness: &Readiness, needed_domains: Option<usize>) {
    let status = if readiness.is_ready(needed_domains) {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for service in HEALTH_SERVICES {
        health.set_service_status(service, status).await;
    }
}

macro_rules! reflection {
    ($name:ident, $module:ident, $build:ident) => {
        fn $name() -> io::Result<
            tonic_reflection::server::$module::ServerReflectionServer<
                impl tonic_reflection::server::$module::ServerReflection,
            >,
        > {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .$build()
                .map_err(io::Error::other)
        }
    };
}

reflection!(reflection_v1, v1, build_v1);
reflection!(reflection_v1alpha, v1alpha, build_v1alpha);
