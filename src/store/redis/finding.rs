//! Where the library has found a server, and how often it was found elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fred::types::config::Server;
use tokio::sync::watch;

use super::pipe::Endpoint;
use super::settings::Address;

/// Tells where the library has found the server.
pub(super) struct Finding {
    fixed: Option<Endpoint>,
    found: watch::Sender<Option<Endpoint>>,
    moves: Arc<AtomicU64>,
}

impl Finding {
    /// Tells it to `found`: always `fixed`, if that is known; and counts what is returned.
    pub(super) fn new(
        fixed: Option<Endpoint>,
        found: watch::Sender<Option<Endpoint>>,
    ) -> (Self, Arc<AtomicU64>) {
        let moves = Arc::<AtomicU64>::default();
        let finding = Self {
            fixed,
            found,
            moves: Arc::clone(&moves),
        };
        (finding, moves)
    }

    pub(super) fn tell(&self, server: &Server) {
        let address = || Address {
            host: server.host.to_string(),
            port: server.port,
        };
        let at = self.fixed.clone();
        let at = at.unwrap_or_else(|| Endpoint::Tcp(address()));
        self.found.send_if_modified(|before| {
            let is_new = before.as_ref() != Some(&at);
            if is_new && before.is_some() {
                self.moves.fetch_add(1, Ordering::Relaxed);
            }
            *before = Some(at);
            is_new
        });
    }
}
