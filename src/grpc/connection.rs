//! One connection: its HTTP/2, whom its calls go to, and its end.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use h2::{Ping, PingPong};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::service::Routes;
use tracing::debug;

use super::Settings;
use super::listen::Accepted;
use super::places::Places;
use super::preface::Begun;
use super::turns::Turns;
use super::unary::Method;

/// The largest head of a call, in bytes.
const MAX_HEAD: u32 = 16 * 1024;

/// How many bytes a connection and each of its calls may send before they have been read.
const WINDOW: u32 = 1 << 20;

/// What the calls of a connection go to.
#[derive(Clone)]
pub(super) struct Port<M> {
    pub(super) method: M,
    /// Health and reflection.
    pub(super) others: Routes,
    /// How many calls there may be at once, of all connections of its thread.
    pub(super) calls: Arc<Places>,
    /// The same for calls of health and reflection, which are answered when there is no place for others.
    pub(super) asides: Arc<Places>,
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
        let (age, grace) = (jittered_age(settings), settings.max_connection_age_grace);
        let shaking = h2::server::Builder::new()
            .max_concurrent_streams(settings.max_concurrent_streams)
            .max_header_list_size(MAX_HEAD)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(stream);
        let mut http = tokio::select! {
            shaken = shaking => match shaken {
                Ok(http) => http,
                Err(error) => return debug!("a connection did not begin: {error}"),
            },
            _ = self.shutdown.wait_for(|down| *down) => return,
        };
        let heard = AtomicBool::new(false);
        let pings = http.ping_pong();
        let mut shutdown = self.shutdown.clone();
        let mut silence = pin!(silence(pings, &heard, settings));
        let mut turns = Turns::new(http, &self, &heard);
        let is_old = tokio::select! {
            ended = &mut turns => return told(ended),
            // A dropped sender is a shutdown too.
            _ = shutdown.wait_for(|down| *down) => false,
            () = after(age) => true,
            () = &mut silence => return,
        };
        turns.shut_down();
        tokio::select! {
            ended = turns => told(ended),
            () = after(is_old.then_some(grace)) => {}
            () = silence => {}
        }
    }
}

/// Ends when a client that has been silent for an interval gives no sign of life when it is asked for one.
async fn silence(pings: Option<PingPong>, heard: &AtomicBool, settings: &Settings) {
    let interval = settings.keepalive_interval;
    let Some(mut pings) = pings.filter(|_| !interval.is_zero()) else {
        return std::future::pending().await;
    };
    loop {
        sleep(interval).await;
        if heard.swap(false, Ordering::Relaxed) {
            continue;
        }
        let pong = timeout(settings.keepalive_timeout, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return debug!("a silent client gives no sign of life");
        }
    }
}

/// Clients that go away are no news.
fn told(ended: Result<(), h2::Error>) {
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
