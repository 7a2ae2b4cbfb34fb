//! Calls that nothing is waited for but memory, two at a time: while that comes for the one, the other is begun with.
//!
//! As in G. Psaropoulos et al., "Interleaving with Coroutines: A Practical Approach for Robust Index Joins", PVLDB 11(2), 2017. Where a key is
//! one of a million, a core would otherwise stand still for a third of the decision.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::{Context, Waker};

use futures::FutureExt;
use futures::future::join;
use tracing::error;

use super::unary::{Asked, LOOKS, Method};

/// Answers calls in the order in which they come.
pub(super) struct Pairs<'m, M: Method> {
    method: &'m M,
    /// The first of a pair, which waits for the other.
    first: Option<Asked<M>>,
}

impl<'m, M: Method> Pairs<'m, M> {
    pub(super) fn new(method: &'m M) -> Self {
        Self {
            method,
            first: None,
        }
    }

    /// Answers a call, now or with the next one.
    pub(super) fn answer(&mut self, second: Asked<M>) {
        let Some(first) = self.first.take() else {
            self.first = Some(second);
            return;
        };
        // In their places at once, and only pointed to from here on, as they are large.
        let first = pin!(first.answer(self.method));
        let second = pin!(second.answer(self.method));
        look(join(alone(first), alone(second)));
    }

    /// Answers the one that is left.
    pub(super) fn end(self) {
        if let Some(last) = self.first {
            look(alone(pin!(last.answer(self.method))));
        }
    }
}

/// A panic ends its call and no other.
fn alone(call: impl Future<Output = ()>) -> impl Future<Output = ()> {
    AssertUnwindSafe(call).catch_unwind().map(|_| ())
}

/// Looks as often as it takes.
fn look<T>(calls: impl Future<Output = T>) {
    let mut calls = pin!(calls);
    let mut nobody = Context::from_waker(Waker::noop());
    let is_done = (0..LOOKS).any(|_| calls.as_mut().poll(&mut nobody).is_ready());
    if !is_done {
        error!(
            "a call waits where nothing is to be waited for, and its stream is reset: this is a bug of Tollgate, please report it"
        );
    }
}
