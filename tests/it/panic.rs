//! A panic in one call is that call's alone: it is answered INTERNAL, and the calls beside it and after it as ever.
//!
//! Nothing in the service is known to panic, so a subscriber of the tests does, when it is told the domain of a decision.

use std::fmt::Debug;
use std::sync::Arc;

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use futures::future::join_all;
use tokio_stream::wrappers::TcpListenerStream;
use tollgate::engine::{Engine, Settings};
use tollgate::grpc::rls::Rls;
use tollgate::grpc::wire;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::telemetry::Tracing;
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::Clock;
use tonic::Code;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::support::rules::compile;

/// Decisions for this domain panic.
const DOMAIN: &str = "panics";

const RULES: &str = "
domain: d
descriptors:
  - {key: user, rate_limit: {requests_per_unit: 100, unit: hour}}
";

struct Panics;

impl<S: Subscriber> Layer<S> for Panics {
    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        values.record(&mut Panics);
    }
}

impl Visit for Panics {
    fn record_str(&mut self, field: &Field, value: &str) {
        assert!(field.name() != "domain" || value != DOMAIN, "on purpose");
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

#[tokio::test]
async fn a_call_that_panics_is_answered_internal_and_no_other() {
    let subscriber = tracing_subscriber::registry().with(Panics);
    // All is on this thread: the server, its client, and so the subscriber.
    let _subscribed = tracing::subscriber::set_default(subscriber);
    let (clock, metrics) = (Clock::System, Metrics::new());
    let store = Store::Embedded(Embedded::new(100, clock.clone()));
    let engine = Engine::new(store, Settings::default(), clock, Arc::clone(&metrics));
    let files = [("rules.yaml".to_owned(), RULES.to_owned())];
    engine.install(compile(&files, false).expect("the rules are good"));
    let service = Rls::new(Arc::new(engine), metrics, Tracing::new(true), 1 << 20);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);
    let client = RateLimitServiceClient::connect(format!("http://{address}"))
        .await
        .expect("a connection");
    for _ in 0..3 {
        let domains = ["d", DOMAIN, "d", DOMAIN, "d"];
        let calls = join_all(domains.map(|domain| {
            let mut client = client.clone();
            async move {
                let answer = client.should_rate_limit(message(domain)).await;
                answer.map(drop).map_err(|status| status.code())
            }
        }));
        let internal = Err(Code::Internal);
        assert_eq!(calls.await, [Ok(()), internal, Ok(()), internal, Ok(())]);
    }
    assert!(!server.is_finished());
    server.abort();
}

fn message(domain: &str) -> RateLimitRequest {
    let entry = ("user".to_owned(), "alice".to_owned());
    wire::message(domain, 1, [vec![entry]])
}
