//! What is owed to a store: all that was admitted and not sent, once, and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::poll;
use tollgate::engine::{Code, Reason, Settings};
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::store::faulty::{Fault, Faulty};

use super::RULES;
use crate::support::poll::until_async;
use crate::support::service::Service;

/// A service and its link to a store.
fn linked() -> (Service, Arc<Faulty>) {
    let mut link = None;
    let service = Service::with(RULES, Settings::default(), |clock| {
        let store = Arc::new(Store::Embedded(Embedded::new(1 << 10, clock)));
        let faulty = Arc::new(Faulty::new(store));
        link = Some(Arc::clone(&faulty));
        Store::Faulty(faulty)
    });
    (service, link.expect("a link"))
}

/// What is left of `local=1` as the store has it.
async fn left(service: &Service) -> u32 {
    let answer = service.ask(&["local=1 ?"]).await;
    assert_eq!(answer.reason, Reason::WithinLimit);
    answer.statuses[0].remaining
}

#[tokio::test]
async fn what_was_sent_and_not_answered_is_not_owed() {
    let (service, link) = linked();
    for fault in [Fault::LostCall, Fault::LostAnswer] {
        link.order(Some(fault));
        let answer = service.ask(&["local=1"]).await;
        assert_eq!(answer.reason, Reason::FallbackLocal);
        assert_eq!(service.engine.owed(), (0, 0), "{fault:?}");
    }
    link.order(None);
    assert_eq!(left(&service).await, 3, "one of them was executed");
}

#[tokio::test]
async fn what_was_refused_is_not_owed_nor_what_was_allowed_anyhow() {
    let (service, link) = linked();
    link.order(Some(Fault::Unreachable));
    for refused in [&["local=1", "deny=1"][..], &["local=1 +5"]] {
        assert_eq!(service.ask(refused).await.overall, Code::OverLimit);
    }
    assert_eq!(service.ask(&["allow=1"]).await.overall, Code::Ok);
    assert_eq!(service.engine.owed(), (0, 0));
    assert_eq!(service.ask(&["local=1"]).await.overall, Code::Ok);
    assert_eq!(service.engine.owed(), (1, 0));
}

#[tokio::test]
async fn what_is_owed_is_paid_once() {
    let (service, link) = linked();
    link.order(Some(Fault::Unreachable));
    assert_eq!(service.ask(&["local=1 +3"]).await.overall, Code::Ok);
    let mut paying = std::pin::pin!(service.engine.pay_owed());
    assert!(poll!(paying.as_mut()).is_pending());
    assert_eq!(service.engine.owed(), (1, 0), "the store does not answer");
    link.order(None);
    let paid = until_async("it to be paid", async || {
        (service.engine.owed() == (0, 1)).then_some(())
    });
    tokio::select! {
        () = &mut paying => unreachable!("it never ends"),
        () = paid => {}
    }
    assert_eq!(left(&service).await, 1);
}

/// All that was owed was paid at once: a store that had just come back kept requests waiting for a quarter of a second.
#[tokio::test]
async fn what_is_owed_is_paid_in_a_fifth_of_the_time() {
    let (service, link) = linked();
    link.order(Some(Fault::Unreachable));
    for n in 0..20 {
        let local = format!("local={n}");
        assert_eq!(service.ask(&[&local]).await.overall, Code::Ok);
    }
    link.order(None);
    link.hold(true);
    let takes = Duration::from_millis(20);
    let mut paying = std::pin::pin!(service.engine.pay_owed());
    assert!(poll!(paying.as_mut()).is_pending());
    crate::support::poll::hold(takes).await;
    link.hold(false);
    let answered = Instant::now();
    assert!(poll!(paying.as_mut()).is_pending());
    assert_eq!(service.engine.owed(), (4, 16), "the rest is for later");
    let all = until_async("all to be paid", async || {
        (service.engine.owed() == (0, 20)).then_some(())
    });
    tokio::select! {
        () = &mut paying => unreachable!("it never ends"),
        () = all => {}
    }
    assert!(answered.elapsed() >= 4 * takes);
}

/// The store answers a look, and then not the charge: it may have been made.
#[tokio::test]
async fn what_was_paid_and_not_acknowledged_is_not_paid_again() {
    let (service, link) = linked();
    link.order(Some(Fault::Unreachable));
    assert_eq!(service.ask(&["local=1 +1"]).await.overall, Code::Ok);
    link.order(None);
    link.hold(true);
    let mut paying = std::pin::pin!(service.engine.pay_owed());
    assert!(poll!(paying.as_mut()).is_pending(), "the look is held");
    link.order(Some(Fault::LostAnswer));
    link.hold(false);
    assert!(poll!(paying.as_mut()).is_pending());
    assert_eq!(service.engine.owed(), (0, 0));
    link.order(None);
    assert_eq!(left(&service).await, 3);
}
