//! Desks: where calls are answered that must wait, at each of them one after the other.
//!
//! What a call keeps while it waits is some thousand bytes. Asked for anew with every call these take the allocator's long way, and all of
//! them are written only to be put in their place. A desk is a future that goes on with the next call, so they stay where they are. What goes
//! to it and comes from it lies on the thread's tray while it is looked at: that needs no lock, of which a call would take six.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use super::unary::Answered;

/// The most desks that a thread keeps for calls to come: some megabytes, once so many have waited at a time.
const MOST_FREE: usize = 512;

/// What is done at a desk.
pub(super) trait Job: Send + Sized + 'static {
    /// Does it.
    fn answer(self) -> impl Future<Output = Answered> + Send;

    /// Calls `with` with the office of this thread.
    fn office<T>(with: impl FnOnce(&Office<Self>) -> T) -> T;
}

/// The desks of a thread at which nobody is, and its tray.
pub(super) struct Office<J> {
    free: RefCell<Vec<Desk>>,
    /// A job on its way to a desk that is looked at.
    job: Cell<Option<J>>,
    /// What has come from that desk.
    answered: Cell<Option<Answered>>,
}

/// One desk.
type Desk = BoxFuture<'static, Infallible>;

/// A job at its desk; dropped midway, it takes the desk with it.
pub(super) struct Seated<J> {
    /// None once it has begun.
    job: Option<J>,
    /// None once it is done.
    desk: Option<Desk>,
}

impl<J> Office<J> {
    pub(super) const fn new() -> Self {
        Self {
            free: RefCell::new(Vec::new()),
            job: Cell::new(None),
            answered: Cell::new(None),
        }
    }
}

impl<J: Job> Seated<J> {
    /// Sits down at a desk that is free, or at a new one.
    pub(super) fn new(job: J) -> Self {
        let free = J::office(|office| office.free.borrow_mut().pop());
        Self {
            job: Some(job),
            desk: Some(free.unwrap_or_else(|| Box::pin(work::<J>()))),
        }
    }
}

/// Where its job is, nothing points to it.
impl<J> Unpin for Seated<J> {}

impl<J: Job> Future for Seated<J> {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        let Some(mut desk) = self.desk.take() else {
            return Poll::Pending;
        };
        if let Some(job) = self.job.take() {
            J::office(|office| office.job.set(Some(job)));
        }
        let Poll::Pending = desk.as_mut().poll(cx);
        let Some(answered) = J::office(|office| office.answered.take()) else {
            self.desk = Some(desk);
            return Poll::Pending;
        };
        J::office(|office| {
            let mut free = office.free.borrow_mut();
            if free.len() < MOST_FREE {
                free.push(desk);
            }
        });
        Poll::Ready(answered)
    }
}

async fn work<J: Job>() -> Infallible {
    loop {
        let job = || J::office(|office| office.job.take());
        let job = poll_fn(|_| job().map_or(Poll::Pending, Poll::Ready)).await;
        // In its place at once, as it is large.
        let answered = pin!(job.answer()).await;
        J::office(|office| office.answered.set(Some(answered)));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;
    use tokio::sync::oneshot;
    use tonic::Status;

    use super::*;

    /// Answers what it is told.
    struct Told(oneshot::Receiver<Bytes>);

    thread_local! {
        static OFFICE: Office<Told> = const { Office::new() };
    }

    impl Job for Told {
        async fn answer(self) -> Answered {
            self.0.await.map_err(|_| Status::internal("nobody tells"))
        }

        fn office<T>(with: impl FnOnce(&Office<Self>) -> T) -> T {
            OFFICE.with(with)
        }
    }

    fn ask() -> (oneshot::Sender<Bytes>, Seated<Told>) {
        let (tell, told) = oneshot::channel();
        (tell, Seated::new(Told(told)))
    }

    fn look(call: &mut Seated<Told>) -> Option<Bytes> {
        call.now_or_never().map(|answered| answered.expect("told"))
    }

    fn free() -> usize {
        Told::office(|office| office.free.borrow().len())
    }

    #[test]
    fn each_call_gets_its_own_answer_and_its_desk_is_used_again() {
        for _ in 0..3 {
            let mut calls = [ask(), ask(), ask()];
            assert_eq!(free(), 0, "all of them are taken");
            assert!(calls.iter_mut().all(|(_, call)| look(call).is_none()));
            let words = ["first", "second", "third"];
            let answers = calls.into_iter().zip(words).rev().map(|(call, word)| {
                let (tell, mut call) = call;
                tell.send(Bytes::from(word)).expect("it is waited for");
                look(&mut call).expect("an answer")
            });
            assert_eq!(answers.collect::<Vec<_>>(), ["third", "second", "first"]);
            assert_eq!(free(), 3, "no call has made a new one");
        }
    }

    #[test]
    fn who_gives_up_takes_the_desk_along_and_nobody_else_hears_the_answer() {
        let (tell, mut call) = ask();
        assert_eq!(look(&mut call), None);
        drop(call);
        assert!(tell.is_closed(), "what was waited for is let go of");
        // Nor is what was never looked at left for the next one.
        let (tell, call) = ask();
        drop(call);
        assert!(tell.is_closed());
        assert_eq!(free(), 0);
        let (tell, mut call) = ask();
        assert_eq!(look(&mut call), None);
        tell.send(Bytes::from("own")).expect("it is waited for");
        assert_eq!(look(&mut call).expect("an answer"), "own");
        assert_eq!(look(&mut call), None, "once");
    }

    #[test]
    fn a_thread_keeps_so_many_desks_and_no_more() {
        let calls: Vec<_> = (0..MOST_FREE + 5).map(|_| ask()).collect();
        for (tell, mut call) in calls {
            tell.send(Bytes::new()).expect("it is waited for");
            assert!(look(&mut call).is_some());
        }
        assert_eq!(free(), MOST_FREE);
    }
}
