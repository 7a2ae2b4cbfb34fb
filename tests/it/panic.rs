//! A panic in one call is that call's alone: it is answered INTERNAL, and the calls beside it and after it as ever.
//!
//! Nothing in the service is known to panic, so a subscriber of the tests does, when it is told the domain of a decision.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use futures::future::{BoxFuture, join_all};
use http::HeaderMap;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prost::Message;
use tollgate::engine::{Engine, Settings};
use tollgate::grpc::rls::Rls;
use tollgate::grpc::unary::{Answered, Answering, Method};
use tollgate::grpc::wire;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::telemetry::Tracing;
use tollgate::telemetry::metrics::Metrics;
use tollgate::telemetry::tracing as spans;
use tollgate::time::Clock;
use tonic::Code;
use tracing::Subscriber;
use tracing::dispatcher::{self, Dispatch};
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber;
use tracing::span::{Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::support::method::Served;
use crate::support::rules::compile;

/// Decisions for this domain panic.
const PANICS: &str = "panics";

/// Calls for this domain panic before there is a decision.
const WORSE: &str = "worse";

/// Calls for this domain panic after they have waited.
const LATER: &str = "later";

const RULES: &str = "
domain: d
descriptors:
  - {key: user, rate_limit: {requests_per_unit: 100, unit: day}}
";

struct Panics;

impl<S: Subscriber> Layer<S> for Panics {
    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        values.record(&mut Panics);
    }
}

impl Visit for Panics {
    fn record_str(&mut self, field: &Field, value: &str) {
        assert!(field.name() != "domain" || value != PANICS, "on purpose");
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

/// The service, under a subscriber that panics; and a method that panics itself.
#[derive(Clone)]
struct Panicky(Rls, Dispatch);

impl Method for Panicky {
    type Soon = <Rls as Method>::Soon;
    type Later = BoxFuture<'static, Answered>;
    type Turn = <Rls as Method>::Turn;

    fn call(
        &self,
        headers: &HeaderMap,
        message: Bytes,
        turn: &Self::Turn,
    ) -> Answering<Self::Soon, Self::Later> {
        let asked = RateLimitRequest::decode(message.clone()).expect("a request");
        assert!(asked.domain != WORSE, "on purpose");
        if asked.domain == LATER {
            return Answering::Later(Box::pin(async {
                tokio::task::yield_now().await;
                panic!("on purpose")
            }));
        }
        let call = || self.0.call(headers, message, turn);
        match dispatcher::with_default(&self.1, call) {
            Answering::Soon(soon) => Answering::Soon(soon),
            Answering::Later(deciding) => Answering::Later(Box::pin(deciding)),
        }
    }

    fn turn(&self, begun: Instant) -> Self::Turn {
        self.0.turn(begun)
    }

    fn answer(&self, soon: Self::Soon, turn: &Self::Turn) -> impl Future<Output = Answered> + Send {
        self.0.answer(soon, turn).with_subscriber(self.1.clone())
    }

    async fn prepare(&self) {}
}

#[tokio::test]
async fn a_call_that_panics_is_answered_internal_and_no_other() {
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(Panics));
    let (clock, metrics) = (Clock::System, Metrics::new());
    let store = Store::Embedded(Embedded::new(100, clock.clone()));
    let engine = Engine::new(store, Settings::default(), clock, Arc::clone(&metrics));
    let files = [("rules.yaml".to_owned(), RULES.to_owned())];
    engine.install(compile(&files, false).expect("the rules are good"));
    let all = spans::Settings {
        sampling_rate: 1.0,
        ..spans::Settings::default()
    };
    let tracing = Tracing::new(&all, Some(&SdkTracerProvider::builder().build()));
    let method = Panicky(Rls::new(Arc::new(engine), metrics, tracing), dispatch);
    let served = Served::by(method).await;
    for _ in 0..3 {
        let domains = ["d", PANICS, "d", WORSE, "d", LATER, "d"];
        let calls = join_all(domains.map(|domain| {
            let mut client = served.client.clone();
            async move {
                let answer = client.should_rate_limit(message(domain)).await;
                answer.map(drop).map_err(|status| status.code())
            }
        }));
        let [one, inside, two, outside, three, later, four] =
            calls.await.try_into().expect("seven");
        assert_eq!([one, two, three, four], [Ok(()); 4]);
        assert_eq!(inside, Err(Code::Internal));
        // Their streams are cut off, which the client reads as it likes.
        assert!(outside.is_err() && later.is_err());
    }
    served.end().await;
}

fn message(domain: &str) -> RateLimitRequest {
    let entry = ("user".to_owned(), "alice".to_owned());
    wire::message(domain, 1, [vec![entry]])
}
