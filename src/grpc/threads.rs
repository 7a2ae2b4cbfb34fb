//! The threads that serve the port: each has a runtime of its own, and all of a request happens on one of them.
//!
//! A request is a few microseconds of work. To hand it from thread to thread costs as much again, and the wake-ups that go with
//! it are what a tail is made of.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures::future::join_all;
use rand::Rng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::bounded::Bounded;
use super::listen::{Accepted, Loose, settle};
use super::rls::Rls;
use super::tls::Tls;
use super::{DESCRIPTORS, Settings};

/// A connection's age is bounded by one of at least so many jittered ages, so that those of a restart do not all end at once.
const LANES: usize = 8;

/// Accepted connections that no thread, or no lane of it, has taken yet.
const WAITING: usize = 64;

/// What each thread serves.
pub(super) struct Share<H: Health> {
    pub(super) service: Rls,
    pub(super) health: HealthServer<H>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) settings: Settings,
    pub(super) shutdown: watch::Receiver<bool>,
}

/// Where a thread takes its connections from.
type Inbox = mpsc::Sender<Loose>;

impl<H: Health> Clone for Share<H> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            health: self.health.clone(),
            tls: self.tls.clone(),
            settings: self.settings.clone(),
            shutdown: self.shutdown.clone(),
        }
    }
}

impl<H: Health> Share<H> {
    /// Starts a thread: where it takes its connections from, and how it ends.
    pub(super) fn spawn(
        self,
        number: usize,
    ) -> io::Result<(Inbox, impl Future<Output = io::Result<()>>)> {
        let (inbox, connections) = mpsc::channel(WAITING);
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        thread::Builder::new()
            .name(format!("grpc-{number}"))
            .spawn(move || {
                // Nobody waits any longer for the end of a thread whose process is ending.
                let _ = end.send(runtime.block_on(self.serve(connections)));
            })?;
        let ended = async {
            let panicked = |_| Err(io::Error::other("a thread of the gRPC port has panicked"));
            ended.await.unwrap_or_else(panicked)
        };
        Ok((inbox, ended))
    }

    async fn serve(self, connections: mpsc::Receiver<Loose>) -> io::Result<()> {
        let mut lanes = Vec::new();
        let mut servers = Vec::new();
        for _ in 0..LANES.div_ceil(self.settings.threads.max(1)) {
            let (lane, accepted) = mpsc::channel::<io::Result<Accepted>>(WAITING);
            lanes.push(lane);
            let age = jittered_age(&self.settings);
            let life = age.map(|age| age + self.settings.max_connection_age_grace);
            let accepted = ReceiverStream::new(accepted)
                .map(move |accepted| accepted.map(|stream| Bounded::new(stream, life)));
            let server = builder(&self.settings, age)
                .add_service(self.service.clone())
                .add_service(self.health.clone())
                .add_service(reflection_v1()?)
                .add_service(reflection_v1alpha()?);
            let mut shutdown = self.shutdown.clone();
            servers.push(server.serve_with_incoming_shutdown(accepted, async move {
                // A dropped sender is a shutdown too.
                let _ = shutdown.wait_for(|down| *down).await;
            }));
        }
        let engine = Arc::clone(self.service.engine());
        let preparing = tokio::spawn(async move { engine.prepare().await });
        let settling = tokio::spawn(settle(connections, lanes, self.tls));
        let ended: Result<Vec<()>, tonic::transport::Error> =
            join_all(servers).await.into_iter().collect();
        settling.abort();
        preparing.abort();
        ended.map_err(io::Error::other).map(|_| ())
    }
}

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
