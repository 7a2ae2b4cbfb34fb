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

use super::unary::{Asked, Decided, Method};
use crate::engine::LOOKS;

/// Decides the calls that came in `turn` in their order, and hands them on in that order.
pub(super) fn decide<M: Method>(
    method: &M,
    turn: &M::Turn,
    asked: Vec<Asked<M>>,
    mut then: impl FnMut(Decided),
) {
    if asked.is_empty() {
        return;
    }
    let calls = i64::try_from(asked.len()).unwrap_or(i64::MAX);
    method.under_way(calls);
    let mut asked = asked.into_iter();
    while let Some(first) = asked.next() {
        let (mut one, mut other) = (None, None);
        {
            // In their places at once, and only pointed to from here on, as they are large.
            let first = pin!(alone(first, method, turn, &mut one));
            match asked.next() {
                Some(second) => look(join(first, pin!(alone(second, method, turn, &mut other)))),
                None => look(first),
            }
        }
        one.into_iter().chain(other).for_each(&mut then);
    }
    method.under_way(-calls);
}

/// A panic ends its call and no other.
fn alone<M: Method>(
    call: Asked<M>,
    method: &M,
    turn: &M::Turn,
    decided: &mut Option<Decided>,
) -> impl Future<Output = ()> {
    let deciding = async { *decided = Some(call.decide(method, turn).await) };
    AssertUnwindSafe(deciding).catch_unwind().map(|_| ())
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
