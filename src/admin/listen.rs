//! Connections of the HTTP ports: how many there may be, and how long a client may take to say what it wants.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::grpc::listen::Accepted;
use crate::grpc::tls::Tls;

/// How long a client may take to send the head of a request; an idle connection is closed after as long.
pub const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long a request may take from its head to the answer, its body included.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The most connections of a port at once; more wait in the kernel.
pub const MAX_CONNECTIONS: usize = 1024;
/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// How long to wait when no connection can be accepted, for want of file descriptors as a rule.
const PAUSE: Duration = Duration::from_millis(50);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Serves routes, within TLS if there is any, until `shutdown`, and then until the calls under way are done.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    routes: Router,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let routes = routes.layer(middleware::from_fn(in_time));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD);
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            // A dropped sender is a shutdown too.
            _ = shutdown.wait_for(|down| *down) => break,
        };
        let Some((stream, peer, place)) = accepted else {
            continue;
        };
        let named = routes.clone().map_request(move |mut request: Request<_>| {
            request.extensions_mut().insert(Peer(peer));
            request
        });
        let service = TowerToHyperService::new(named);
        let (http, tls) = (http.clone(), tls.clone());
        let (watcher, mut down) = (connections.watcher(), shutdown.clone());
        tokio::spawn(async move {
            let shaking = shake(tls.as_deref(), stream);
            let shaken = tokio::select! {
                shaken = shaking => shaken,
                _ = down.wait_for(|down| *down) => None,
            };
            if let Some(stream) = shaken {
                let connection = http.serve_connection(TokioIo::new(stream), service);
                if let Err(error) = watcher.watch(connection).await {
                    debug!("an HTTP connection ended: {error}");
                }
            }
            drop(place);
        });
    }
    drop(listener);
    connections.shutdown().await;
    Ok(())
}

/// The next connection and its place, which is free again when dropped; none if it was lost.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            warn!("a connection cannot be accepted: {error}");
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

/// The connection after its handshake, if it has one; none if that fails.
async fn shake(tls: Option<&Tls>, stream: TcpStream) -> Option<Accepted> {
    let Some(tls) = tls else {
        return Some(Accepted::Tcp(stream));
    };
    let stream = tls.shake(stream).await?;
    Some(Accepted::Tls(Box::new(stream)))
}

/// Answers 408 to a request whose body does not come.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}
