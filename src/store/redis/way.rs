//! What calls of one durability go over to a server, and whether they go at all.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{self, Handle};
use tokio::sync::watch;

use super::breaker::Breaker;
use super::pipe::{Confirming, Endpoint, Greeting, Pipe};

/// Between looks at a connection that is being opened.
const OPENING: Duration = Duration::from_millis(1);

/// The pipes of all threads that serve requests, by their runtimes; those that share a runtime share its pipe.
pub(super) struct Way {
    pub(super) breaker: Breaker,
    started: ArcSwap<Vec<(runtime::Id, Arc<Pipe>)>>,
    /// Where the library has found the server.
    at: watch::Receiver<Option<Endpoint>>,
    greeting: Arc<Greeting>,
    confirming: Option<Confirming>,
}

impl Way {
    /// No pipe yet.
    pub(super) fn new(
        at: watch::Receiver<Option<Endpoint>>,
        greeting: Arc<Greeting>,
        confirming: Option<Confirming>,
    ) -> Self {
        Self {
            breaker: Breaker::new(),
            started: ArcSwap::default(),
            at,
            greeting,
            confirming,
        }
    }

    /// The open pipe of this runtime, begun if need be.
    pub(super) fn pipe(&self) -> Option<Arc<Pipe>> {
        let id = Handle::try_current().ok()?.id();
        let started = self.started.load();
        if let Some((_, pipe)) = started.iter().find(|(of, _)| *of == id) {
            return pipe.is_open().then(|| Arc::clone(pipe));
        }
        let pipe = Pipe::start(self.at.clone(), Arc::clone(&self.greeting), self.confirming);
        let pipe = Arc::new(pipe);
        self.started.rcu(|before| {
            if before.iter().any(|(of, _)| *of == id) {
                return before.to_vec();
            }
            let alive = before.iter().filter(|(_, pipe)| !pipe.is_over());
            let new = (id, Arc::clone(&pipe));
            alive.cloned().chain([new]).collect::<Vec<_>>()
        });
        None
    }

    /// The same, as soon as it is open.
    pub(super) async fn opened(&self) -> Arc<Pipe> {
        loop {
            match self.pipe() {
                Some(pipe) => return pipe,
                None => tokio::time::sleep(OPENING).await,
            }
        }
    }
}
