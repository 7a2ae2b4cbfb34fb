//! One connection: its HTTP/2, whom its calls go to, and its end.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::Status;
use tonic::service::Routes;
use tower::Service;
use tracing::debug;

use super::Settings;
use super::listen::Accepted;
use super::places::{Place, Places};
use super::preface::Begun;
use super::unary::{self, Method, Reply};

/// The path of the one method that is served here.
const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// The largest head of a call, in bytes.
const MAX_HEAD: u32 = 16 * 1024;

/// What a call is told that there is no place for. Its message is not read.
const FULL: &str = "too many calls are under way";

/// What the calls of a connection go to.
#[derive(Clone)]
pub(super) struct Port<M> {
    pub(super) method: M,
    /// Health and reflection.
    pub(super) others: Routes,
    /// How many calls there may be at once, of all connections of its thread.
    pub(super) calls: Places,
    /// The same for calls of health and reflection, which are answered when there is no place for others.
    pub(super) asides: Places,
    pub(super) settings: Settings,
    pub(super) shutdown: watch::Receiver<bool>,
}

impl<M: Method> Port<M> {
    /// Serves a connection until it ends: by the client, or once it is old or the port is shut down. Then the client is told to go
    /// elsewhere, and the calls under way finish; those of an old connection within the grace.
    pub(super) async fn serve(mut self, stream: Accepted) {
        let stream = tokio::select! {
            begun = Begun::begin(stream) => match begun {
                Ok(stream) => stream,
                Err(error) => return debug!("a connection did not begin: {error}"),
            },
            _ = self.shutdown.wait_for(|down| *down) => return,
        };
        let settings = &self.settings;
        let keepalive = settings.keepalive_interval;
        let (age, grace) = (jittered_age(settings), settings.max_connection_age_grace);
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(settings.max_concurrent_streams)
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval((!keepalive.is_zero()).then_some(keepalive))
            .keep_alive_timeout(settings.keepalive_timeout);
        let most = settings.max_message_size;
        let (method, others) = (self.method, self.others);
        let (calls, asides) = (self.calls, self.asides);
        let answer = service_fn(move |request: Request<Incoming>| {
            let is_decision = request.uri().path() == SHOULD_RATE_LIMIT;
            let called = match is_decision {
                true => calls
                    .take()
                    .map(|place| Called::Decision(method.clone(), place)),
                false => asides
                    .take()
                    .map(|place| Called::Other(others.clone(), place)),
            };
            async move {
                Ok::<_, Infallible>(match called {
                    Some(called) => called.answer(request, most).await,
                    None => unary::refusal(&Status::resource_exhausted(FULL)),
                })
            }
        });
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
        let is_old = tokio::select! {
            ended = &mut connection => return told(ended),
            // A dropped sender is a shutdown too.
            _ = self.shutdown.wait_for(|down| *down) => false,
            () = after(age) => true,
        };
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection => told(ended),
            () = after(is_old.then_some(grace)) => {}
        }
    }
}

/// What a call goes to, and its place.
enum Called<M> {
    Decision(M, Place),
    Other(Routes, Place),
}

impl<M: Method> Called<M> {
    async fn answer(self, request: Request<Incoming>, most: usize) -> http::Response<Reply> {
        match self {
            Called::Decision(method, place) => unary::answer(&method, most, request, place).await,
            // Boxed, as it is larger and rarer than the method that all calls make room for.
            Called::Other(mut others, place) => {
                Box::pin(async move {
                    let request = request.map(tonic::body::Body::new);
                    let Ok(response) = others.call(request).await;
                    response.map(|body| Reply::other(body, Some(place)))
                })
                .await
            }
        }
    }
}

/// Clients that go away are no news.
fn told(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        debug!("a connection ended: {error}");
    }
}

/// How old a connection may be, ±10 %, so that those of a restart do not all end at once; none for ever.
fn jittered_age(settings: &Settings) -> Option<Duration> {
    let age = settings.max_connection_age;
    (!age.is_zero()).then(|| age.mul_f64(rand::rng().random_range(0.9..1.1)))
}

/// Ends after `time`; without one never.
async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}
