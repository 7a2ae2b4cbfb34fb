//! The threads that serve the port: each has a runtime of its own, and all of a request happens on one of them.
//!
//! A request is a few microseconds of work. To hand it from thread to thread costs as much again, and the wake-ups that go with
//! it are what a tail is made of.

use std::io;
use std::sync::Arc;
use std::thread;

use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::connection::Port;
use super::listen::{Handshakes, Loose};
use super::tls::Tls;
use super::unary::Method;

/// Accepted connections that a thread has not taken yet.
const WAITING: usize = 64;

/// Where a thread takes its connections from.
type Inbox = mpsc::Sender<Loose>;

/// Starts a thread that serves `port`: where it takes its connections from, and how it ends.
pub(super) fn spawn<M: Method>(
    number: usize,
    port: Port<M>,
    tls: Option<Arc<Tls>>,
) -> io::Result<(Inbox, impl Future<Output = io::Result<()>>)> {
    let (inbox, connections) = mpsc::channel(WAITING);
    let (end, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name(format!("grpc-{number}"))
        .spawn(move || {
            runtime.block_on(serve(port, tls, connections));
            // Nobody waits any longer for the end of a thread whose process is ending.
            let _ = end.send(());
        })?;
    let ended = async {
        let panicked = |_| io::Error::other("a thread of the gRPC port has panicked");
        ended.await.map_err(panicked)
    };
    Ok((inbox, ended))
}

/// Serves connections until no more come and all have ended.
async fn serve<M: Method>(
    port: Port<M>,
    tls: Option<Arc<Tls>>,
    mut connections: mpsc::Receiver<Loose>,
) {
    let method = port.method.clone();
    let preparing = tokio::spawn(async move { method.prepare().await });
    let handshakes = Handshakes::new(tls);
    let served = TaskTracker::new();
    while let Some(connection) = connections.recv().await {
        match connection.settle() {
            Ok((stream, place)) => {
                let (handshakes, port) = (handshakes.clone(), port.clone());
                served.spawn(async move {
                    if let Some(stream) = handshakes.shake(stream).await {
                        port.serve(stream).await;
                    }
                    drop(place);
                });
            }
            Err(error) => warn!("a connection cannot be taken over: {error}"),
        }
    }
    served.close();
    served.wait().await;
    preparing.abort();
}
