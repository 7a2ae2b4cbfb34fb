//! Calls of a Redis Cluster say in which slot they were.

use std::collections::HashSet;

use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::Request;

use super::CALLER;
use crate::support::otlp::{Received, attribute};
use crate::support::poll;
use crate::support::redis::cluster::Cluster;
use crate::support::server::{Setup, request};

const RULES: &str = "
domain: d
partition_by: [user]
descriptors:
  - {key: user, rate_limit: {requests_per_unit: 1000, unit: day}}
";

/// The slots of all calls of these traces, and the servers they were at, once `users` have theirs.
async fn calls(received: &Received, traces: &[String]) -> Vec<Span> {
    poll::until_async("a store call in each trace", || async {
        let spans = traces.iter().flat_map(|trace| received.spans(trace));
        let spans: Vec<Span> = spans.collect();
        let stores = spans.iter().filter(|span| span.name == "store.transact");
        let all = stores.count() == traces.len();
        all.then(|| {
            spans
                .into_iter()
                .filter(|span| span.name == "EVALSHA")
                .collect()
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_names_its_slot_and_so_does_one_that_is_combined() {
    let cluster = Cluster::start(false).await;
    let (received, address) = Received::start().await;
    let server = Setup::rules(RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("REDIS_TYPE", "cluster")
        .env("REDIS_URL", &cluster.addresses())
        .env("STORE_TIMEOUT", "5s")
        .env("GRPC_THREADS", "1")
        .start_ready();
    let client = server.client().await;
    let ask = |user: String, trace: &str| {
        let mut client = client.clone();
        let mut message = Request::new(request("d", &[&[("user", &user)]]));
        let parent = format!("00-{trace}-{CALLER}-01").parse().expect("ASCII");
        message.metadata_mut().insert("traceparent", parent);
        async move { client.should_rate_limit(message).await.map(|_| ()) }
    };

    // Each user on its own: slots all over the cluster, each the same for both of its requests.
    let mut seen = HashSet::new();
    for user in 0..8 {
        let mut slots = HashSet::new();
        for turn in 0..2 {
            let trace = format!("{:032x}", 16 + user * 2 + turn);
            ask(format!("u{user}"), &trace).await.expect("an answer");
            for call in calls(&received, &[trace]).await {
                let slot = attribute(&call, "tollgate.redis.slot").expect("a slot");
                let slot: u16 = slot.parse().expect("a number");
                let port = attribute(&call, "server.port").expect("a port");
                let master = &cluster.servers[Cluster::first_master(slot)];
                assert_eq!(port, master.port.to_string(), "of slot {slot}");
                let digest = attribute(&call, "db.stored_procedure.name");
                assert_eq!(digest.map(|digest| digest.len()), Some(40));
                slots.insert(slot);
            }
        }
        assert_eq!(slots.len(), 1, "{slots:?}");
        seen.extend(slots);
    }
    assert!(seen.len() > 4, "{seen:?}");

    // All at once, for one of them: fewer calls than requests.
    let traces: Vec<String> = (0..40).map(|n| format!("{:032x}", 4096 + n)).collect();
    let asked = traces.iter().map(|trace| ask("u0".to_owned(), trace));
    for answer in futures::future::join_all(asked).await {
        answer.expect("an answer");
    }
    let calls = calls(&received, &traces).await;
    assert!(
        !calls.is_empty() && calls.len() < traces.len() / 2,
        "{}",
        calls.len()
    );
    let slot = |call: &Span| attribute(call, "tollgate.redis.slot");
    let slots: HashSet<Option<String>> = calls.iter().map(slot).collect();
    assert_eq!(slots.len(), 1, "{slots:?}");
    assert!(slots.iter().all(Option::is_some));
}
