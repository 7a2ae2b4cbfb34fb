//! The gRPC port: the rate limit service, health and reflection.
//!
//! - [`rls`]: the service
//! - [`wire`]: messages to requests, answers to messages; the only file that names generated types
//! - [`listen`]: sockets, and the connections that they accept
//! - [`bounded`]: connections that end by themselves
//! - [`tls`]: certificates, read again when they change

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use rand::Rng;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::engine::Engine;
use crate::engine::readiness::Readiness;
use crate::telemetry::Tracing;
use crate::telemetry::metrics::Metrics;

pub mod bounded;
pub mod listen;
pub mod rls;
pub mod tls;
pub mod wire;

use bounded::Bounded;
use listen::{Accepted, Listener};

/// The names under which health is asked: the whole, the reference's, and what Envoy's health check sends by convention.
pub const HEALTH_SERVICES: [&str; 3] = [
    "",
    "ratelimit",
    "envoy.service.ratelimit.v3.RateLimitService",
];

/// A connection's age is bounded by one of so many jittered ages, so that those of a restart do not all end at once.
const LANES: usize = 8;

/// Accepted connections that no lane has taken yet.
const WAITING: usize = 64;

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
    /// The most calls of one connection at once.
    pub max_concurrent_streams: u32,
    /// The largest request, in bytes.
    pub max_message_size: usize,
    /// Healthy only while there is a domain.
    pub needs_domain: bool,
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
    let service = rls::service(engine, metrics, tracing, settings.max_message_size);
    let (health, health_service) = tonic_health::server::health_reporter();
    let now = *readiness.borrow();
    report(&health, &now, settings.needs_domain).await;
    let reporting = tokio::spawn(follow(health, readiness, settings.needs_domain));
    let mut lanes = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..LANES {
        let (lane, connections) = mpsc::channel::<io::Result<Accepted>>(WAITING);
        lanes.push(lane);
        let age = jittered_age(&settings);
        let life = age.map(|age| age + settings.max_connection_age_grace);
        let connections = ReceiverStream::new(connections)
            .map(move |accepted| accepted.map(|stream| Bounded::new(stream, life)));
        let server = builder(&settings, age)
            .add_service(service.clone())
            .add_service(health_service.clone())
            .add_service(reflection_v1()?)
            .add_service(reflection_v1alpha()?);
        let mut shutdown = shutdown.clone();
        servers.push(
            server.serve_with_incoming_shutdown(connections, async move {
                // A dropped sender is a shutdown too.
                let _ = shutdown.wait_for(|down| *down).await;
            }),
        );
    }
    let accepting = tokio::spawn(listener.accept_into(lanes, shutdown));
    let ended: Result<Vec<()>, tonic::transport::Error> =
        join_all(servers).await.into_iter().collect();
    accepting.abort();
    reporting.abort();
    ended.map_err(io::Error::other).map(|_| ())
}

/// The descriptors of all messages and services, as `proto/` has them.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tollgate.bin"));

fn builder(settings: &Settings, age: Option<Duration>) -> Server {
    let builder = Server::builder()
        .max_concurrent_streams(settings.max_concurrent_streams)
        .http2_keepalive_interval(Some(settings.keepalive_interval).filter(|i| !i.is_zero()))
        .http2_keepalive_timeout(Some(settings.keepalive_timeout));
    match age {
        Some(age) => builder.max_connection_age(age),
        None => builder,
    }
}

/// How old the connections of one lane may be; none for ever.
fn jittered_age(settings: &Settings) -> Option<Duration> {
    let age = settings.max_connection_age;
    (!age.is_zero()).then(|| age.mul_f64(rand::rng().random_range(0.9..1.1)))
}

/// Tells the health service whatever becomes of readiness.
async fn follow(
    health: HealthReporter,
    mut readiness: watch::Receiver<Readiness>,
    needs_domain: bool,
) {
    while readiness.changed().await.is_ok() {
        let now = *readiness.borrow_and_update();
        report(&health, &now, needs_domain).await;
    }
}

async fn report(health: &HealthReporter, readiness: &Readiness, needs_domain: bool) {
    let status = if readiness.is_ready(needs_domain) {
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
