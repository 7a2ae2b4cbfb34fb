//! Calls that nothing is waited for are answered two at a time, and nobody can tell.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use futures::FutureExt;
use futures::future::{join, join_all};
use h2::client::SendRequest;
use http::HeaderMap;
use parking_lot::Mutex;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;
use tollgate::engine::{Answer, Caller, LOOKS, Rejection, Request};
use tollgate::grpc::rls::Rls;
use tollgate::grpc::unary::{Answered, Answering, Method};
use tollgate::grpc::wire;
use tollgate::store::Store;
use tollgate::telemetry::Tracing;
use tollgate::telemetry::tracing as spans;
use tollgate::time::Micros;

use crate::support::http2::{connect, try_call};
use crate::support::method::Served;
use crate::support::server::request;
use crate::support::service::Service;

/// Calls for this domain panic at the first look; for the next, at the second; and those for the last take more looks than they may.
const FIRST: &str = "panics at first";
const SECOND: &str = "panics at second";
const SLOW: &str = "slow";

/// Which call has been looked at, and how often.
#[derive(Clone, Copy, Debug)]
struct Look(u32, usize);

/// Answers each call at the second look, and remembers both.
#[derive(Clone, Default)]
struct Twice(Arc<Mutex<Vec<Look>>>);

/// Ends this look.
async fn next_look() {
    let mut has = false;
    poll_fn(|cx| {
        cx.waker().wake_by_ref();
        match std::mem::replace(&mut has, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

impl Method for Twice {
    type Soon = RateLimitRequest;
    type Later = std::future::Pending<Answered>;
    type Turn = ();

    fn turn(&self, _: Instant) {}

    fn call(
        &self,
        _: &HeaderMap,
        message: Bytes,
        (): &(),
    ) -> Answering<RateLimitRequest, Self::Later> {
        Answering::Soon(RateLimitRequest::decode(message).expect("a request"))
    }

    async fn answer(&self, asked: RateLimitRequest, (): &()) -> Answered {
        let domain = asked.domain.as_str();
        assert!(domain != FIRST, "on purpose");
        self.0.lock().push(Look(asked.hits_addend, 1));
        next_look().await;
        assert!(domain != SECOND, "on purpose");
        if domain == SLOW {
            for _ in 1..LOOKS {
                next_look().await;
            }
        }
        self.0.lock().push(Look(asked.hits_addend, 2));
        Ok(wire::framed(&Answer::default()))
    }

    async fn prepare(&self) {}
}

/// Sends calls for these domains at once, and tells which are answered.
async fn answered(client: &SendRequest<Bytes>, domains: &[&str]) -> Vec<bool> {
    let calls = domains.iter().zip(0..).map(|(domain, number)| async move {
        let mut asked = request(domain, &[]);
        asked.hits_addend = number;
        try_call(client, &asked).await.is_ok()
    });
    let answers = timeout(Duration::from_secs(20), join_all(calls)).await;
    answers.expect("all of them end")
}

/// How many come together is the network's, so they are sent until two have.
#[tokio::test]
async fn calls_that_come_together_are_answered_by_twos_and_in_order() {
    let method = Twice::default();
    let served = Served::by(method.clone()).await;
    let client = connect(served.address, 1 << 16).await;
    let mut pairs = 0;
    for _ in 0..1000 {
        assert!(answered(&client, &["d"; 7]).await.iter().all(|ok| *ok));
        let looks = std::mem::take(&mut *method.0.lock());
        let calls = |look: usize| {
            let of_all = looks.iter().filter(move |Look(_, number)| *number == look);
            of_all.map(|Look(call, _)| *call).collect::<Vec<_>>()
        };
        for look in [1, 2] {
            assert_eq!(calls(look), [0, 1, 2, 3, 4, 5, 6], "as they came");
        }
        let mut open = 0;
        for Look(_, number) in &looks {
            match number {
                1 => open += 1,
                _ => open -= 1,
            }
            assert!(open <= 2, "{looks:?}");
            pairs += usize::from(open == 2);
        }
        if pairs > 0 {
            break;
        }
    }
    assert!(pairs > 0, "no two have ever been looked at together");
    drop(client);
    served.end().await;
}

#[tokio::test]
async fn a_call_that_goes_wrong_takes_none_along() {
    let served = Served::by(Twice::default()).await;
    let client = connect(served.address, 1 << 16).await;
    for wrong in [FIRST, SECOND, SLOW] {
        let mut broken = 0;
        // At either place of a pair, and at the end.
        for place in 0..7 {
            let mut domains = ["d"; 7];
            domains[place] = wrong;
            let mut told = answered(&client, &domains).await;
            // A call whose message comes later than its head may take its time, as it is looked at apart.
            let is_answered = told.remove(place);
            assert!(!is_answered || wrong == SLOW, "{wrong} at {place}");
            assert_eq!(told, [true; 6], "beside {wrong} at {place}");
            broken += usize::from(!is_answered);
        }
        assert!(broken > 0, "{wrong}");
    }
    drop(client);
    served.end().await;
}

const RULES: &str = "
domain: d
descriptors:
  - {key: user, rate_limit: {requests_per_unit: 5, unit: second}}
  - key: bucket
    rate_limit: {requests_per_unit: 2, unit: second, algorithm: token_bucket, burst: 4}
  - key: both
    rate_limits:
      - {name: fast, requests_per_unit: 3, unit: second}
      - {name: slow, requests_per_unit: 9, unit: minute}
  - {key: free}
";

async fn ask(
    service: &Service,
    request: &Request<'_>,
    in_turn: bool,
) -> Result<Answer<'static>, Rejection> {
    let turn = in_turn.then(|| service.engine.turn());
    let caller = Caller {
        turn: turn.as_ref(),
        ..Caller::here()
    };
    let answering = service
        .engine
        .check_for(request, caller, |draft| draft.answer().owned());
    answering.await
}

/// The same among so many rules that they are fetched before they are looked at.
fn rules_among_many() -> String {
    let value = |n| {
        format!(
            "  - {{key: user, value: {n}, rate_limit: {{requests_per_unit: 5, unit: second}}}}\n"
        )
    };
    RULES.to_owned() + &(0..5000).map(value).collect::<String>()
}

/// Whatever two ask at a time is decided as if one had come after the other.
#[test]
fn two_at_a_time_are_decided_as_one_after_the_other() {
    for seed in 0..200 {
        decided_as_one_after_the_other(seed, RULES);
    }
    let many = rules_among_many();
    for seed in 0..4 {
        decided_as_one_after_the_other(seed, &many);
    }
}

fn decided_as_one_after_the_other(seed: u64, rules: &str) {
    let mut random = SmallRng::seed_from_u64(seed);
    let (paired, single) = (Service::new(rules), Service::new(rules));
    for step in 0..40 {
        let pair = [(); 2].map(|()| {
            let count = random.random_range(1..4);
            let mut descriptor = || {
                let key = ["user", "bucket", "both", "free", "unknown"];
                let key = key[random.random_range(0..key.len())];
                let hits = ["", " +2", " -1", " ?"][random.random_range(0..4)];
                format!("{key}={}{hits}", random.random_range(0..3))
            };
            (0..count).map(|_| descriptor()).collect::<Vec<_>>()
        });
        let words = pair
            .each_ref()
            .map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        let [first, second] = words.each_ref().map(|words| Service::request(words));
        let together = join(ask(&paired, &first, true), ask(&paired, &second, true));
        let mut together = pin!(together);
        let answers = (0..LOOKS).find_map(|_| together.as_mut().now_or_never());
        let one = ask(&single, &first, false).now_or_never();
        let other = ask(&single, &second, false).now_or_never();
        assert_eq!(
            format!("{answers:?}"),
            format!("{:?}", one.zip(other)),
            "seed {seed}, step {step}: {pair:?}"
        );
        let micros = Micros::new(random.random_range(0..400_000));
        paired.clock.advance(micros);
        single.clock.advance(micros);
    }
}

/// What all of this is for: the service's own method lets another call go on before it touches memory. That is once for the counters, and where
/// there are many rules twice for them.
#[test]
fn the_service_steps_aside_while_memory_comes() {
    let many = rules_among_many();
    for (rules, value, looks) in [
        (RULES, "alice", 2),
        (&many, "4999", LOOKS),
        (&many, "alice", LOOKS),
    ] {
        let Service {
            engine, metrics, ..
        } = Service::new(rules);
        let tracing = Tracing::new(&spans::Settings::default(), None);
        let rls = Rls::new(Arc::new(engine), metrics, tracing);
        let asked = request("d", &[&[("user", value)]]).encode_to_vec();
        let turn = rls.turn(Instant::now());
        let called = rls.call(&HeaderMap::new(), asked.into(), &turn);
        let Answering::Soon(soon) = called else {
            panic!("the embedded store is not waited for");
        };
        let mut answering = pin!(rls.answer(soon, &turn));
        for _ in 1..looks {
            assert!(answering.as_mut().now_or_never().is_none(), "{value}");
        }
        let answered = answering.now_or_never().expect("done");
        assert!(answered.is_ok(), "{answered:?}");
    }
}

#[test]
fn calls_are_counted_while_they_are_under_way_and_when_they_are_answered() {
    let Service {
        engine, metrics, ..
    } = Service::new(RULES);
    let tracing = Tracing::new(&spans::Settings::default(), None);
    let rls = Rls::new(Arc::new(engine), Arc::clone(&metrics), tracing);
    let says = |line: &str| metrics.encode().lines().any(|said| said == line);
    rls.under_way(3);
    assert!(says("tollgate_in_flight 3"));
    rls.under_way(-3);
    assert!(says("tollgate_in_flight 0"));
    rls.answered(3, Duration::from_secs(2));
    let time = "ratelimit_service_response_time_seconds";
    let method = "grpc_method=\"ShouldRateLimit\"";
    for line in [
        format!("ratelimit_service_total_requests{{{method}}} 3"),
        format!("{time}_count{{{method}}} 3"),
        format!("{time}_bucket{{le=\"1.0\",{method}}} 0"),
        format!("{time}_bucket{{le=\"+Inf\",{method}}} 3"),
    ] {
        assert!(says(&line), "{line} in {}", metrics.encode());
    }
}

/// Whatever is put in place meanwhile.
#[test]
fn all_requests_of_a_turn_see_the_same_rules() {
    let service = Service::new(RULES);
    let limit_in = |turn| {
        let caller = Caller {
            turn,
            ..Caller::here()
        };
        let request = Service::request(&["user=1"]);
        let asked = service.engine.check_for(&request, caller, |draft| {
            let answer = draft.answer();
            let limit = answer.statuses[0].limit.as_ref().expect("a limit");
            limit.requests_per_unit
        });
        let mut asked = pin!(asked);
        let looked = asked.as_mut().now_or_never();
        let told = looked.or_else(|| asked.now_or_never()).expect("no waiting");
        told.expect("an answer")
    };
    let turn = service.engine.turn();
    service.install(&RULES.replace("requests_per_unit: 5", "requests_per_unit: 7"));
    assert_eq!(limit_in(Some(&turn)), 5);
    assert_eq!(limit_in(None), 7);
    service.engine.free_replaced();
    assert_eq!(limit_in(Some(&turn)), 5, "they are kept for it");
    assert_eq!(limit_in(Some(&service.engine.turn())), 7);
}

/// Who goes between two looks has been charged nothing, and has left nothing behind.
#[test]
fn a_first_look_charges_nothing() {
    let service = Service::new(RULES);
    let asked = Service::request(&["user=1 +5"]);
    let first = ask(&service, &asked, true).now_or_never();
    assert_eq!(first, None, "memory is fetched");
    let Store::Embedded(store) = service.engine.store() else {
        panic!("an embedded store");
    };
    assert!(store.is_empty());
    let answer = ask(&service, &asked, false).now_or_never();
    let answer = answer.expect("no waiting").expect("an answer");
    assert_eq!(answer.statuses[0].remaining, 0, "nothing was used before");
}
