//! A store that several instances share, with faults to order: for simulations of what goes wrong between an instance and its
//! store.
//!
//! Each instance has a link of its own, and a fault lies on one link until another order is given: so one instance may be cut
//! off while another goes on. What gets through the link meets the contract of the store behind it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Store, StoreError};

/// One instance's link to a store.
#[derive(Debug)]
pub struct Faulty {
    store: Arc<Store>,
    fault: Mutex<Option<Fault>>,
    is_held: watch::Sender<bool>,
}

/// What becomes of a call on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is sent.
    Unreachable,
    /// It does not arrive, and is not answered in time.
    LostCall,
    /// It is done, and its answer does not arrive in time.
    LostAnswer,
}

impl Faulty {
    /// A link without faults.
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            fault: Mutex::default(),
            is_held: watch::Sender::default(),
        }
    }

    /// The store behind the link.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What becomes of calls from here on; none for what should.
    pub fn order(&self, fault: Option<Fault>) {
        *self.fault.lock() = fault;
    }

    /// Calls wait on their way from here on, or those that wait go on.
    pub fn hold(&self, held: bool) {
        self.is_held.send_replace(held);
    }

    /// Sends a call over the link.
    pub(super) async fn send<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = *self.fault.lock();
        // The sender is in `self`, so it is not gone.
        let _ = self.is_held.subscribe().wait_for(|held| !held).await;
        match fault {
            None => call.await,
            Some(Fault::Unreachable) => Err(StoreError::Unreachable("it is cut off".to_owned())),
            Some(Fault::LostCall) => Err(StoreError::Timeout),
            Some(Fault::LostAnswer) => call.await.and(Err(StoreError::Timeout)),
        }
    }
}
