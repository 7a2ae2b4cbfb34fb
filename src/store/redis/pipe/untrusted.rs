//! A pipe over a socket that somebody else holds the other end of: see [`untrusted`](crate::store::redis::untrusted).

use std::sync::Arc;

use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::socket::Stream;
use super::{Carrying, Closing, Pipe, Queue};
use crate::store::redis::refusals::Refusals;

impl Pipe {
    /// An open pipe that ends with `stream`.
    pub(in crate::store::redis) fn over(stream: UnixStream) -> Self {
        let queue = Arc::new(Queue::default());
        let refusals = Arc::new(Refusals::new());
        queue.open();
        let shared = Arc::clone(&queue);
        let task = tokio::spawn(async move {
            let _closing = Closing(Arc::clone(&shared), Arc::clone(&refusals));
            Carrying::new(Stream::Unix(stream), shared, refusals, None).await;
        });
        Self {
            queue,
            task: AbortOnDropHandle::new(task),
        }
    }
}
