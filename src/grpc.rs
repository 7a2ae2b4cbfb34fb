//! The gRPC port: the rate limit service, health and reflection.
//!
//! - [`rls`]: the service
//! - [`wire`]: messages to requests, answers to messages; the only file that names generated types
//! - [`listen`]: sockets, and the connections that they accept
//! - `threads`: who serves them
//! - [`bounded`]: connections that end by themselves
//! - [`tls`]: certificates, read again when they change

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::engine::Engine;
use crate::engine::readiness::Readiness;
use crate::telemetry::Tracing;
use crate::telemetry::metrics::Metrics;

pub mod bounded;
pub mod listen;
pub mod rls;
mod threads;
pub mod tls;
pub mod wire;

use listen::Listener;
use threads::Share;

/// The names under which health is asked: the whole, the reference's, and what Envoy's health check sends by convention.
pub const HEALTH_SERVICES: [&str; 3] = [
    "",
    "ratelimit",
    "envoy.service.ratelimit.v3.RateLimitService",
];

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
    let service = rls::Rls::new(engine, metrics, tracing, settings.max_message_size);
    let (health, health_service) = tonic_health::server::health_reporter();
    let now = *readiness.borrow();
    report(&health, &now, settings.needs_domain).await;
    let reporting = tokio::spawn(follow(health, readiness, settings.needs_domain));
    let share = Share {
        service,
        health: health_service,
        tls: listener.tls(),
        settings: settings.clone(),
        shutdown: shutdown.clone(),
    };
    let (threads, ends): (Vec<_>, Vec<_>) = (0..settings.threads.max(1))
        .map(|number| share.clone().spawn(number))
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    let accepting = tokio::spawn(listener.accept_into(threads, shutdown));
    let ended: io::Result<Vec<()>> = join_all(ends).await.into_iter().collect();
    accepting.abort();
    reporting.abort();
    ended.map(|_| ())
}

/// The descriptors of all messages and services, as `proto/` has them.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tollgate.bin"));

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
