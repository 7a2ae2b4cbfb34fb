//! Waiting for a state, with a bound.

use std::time::{Duration, Instant};

/// How long anything may take.
const BOUND: Duration = Duration::from_secs(20);

/// How long to leave the processor to others between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks until there is an answer; fails saying what was waited for.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::park_timeout(PAUSE);
    }
}

/// The same within a runtime.
pub(crate) async fn until_async<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + BOUND;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        pause().await;
    }
}

/// Leaves the processor to others for a moment between two looks.
pub(crate) async fn pause() {
    // It always times out.
    let _ = tokio::time::timeout(PAUSE, std::future::pending::<()>()).await;
}

/// Lets things be as they are for so long: a fault that is to last.
pub(crate) async fn hold(duration: Duration) {
    // It always times out.
    let _ = tokio::time::timeout(duration, std::future::pending::<()>()).await;
}
