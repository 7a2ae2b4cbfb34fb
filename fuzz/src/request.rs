//! The messages of the rate limit service: decoded, decided three times on one engine, and each answer encoded.

use std::time::Instant;

use prost::Message;
use tollgate::engine::charges::check_bounds;
use tollgate::engine::{Code, Engine, Rejection, Request};
use tollgate::grpc::rls;
use tollgate::grpc::wire::{self, RateLimitRequest, RateLimitResponse, Unread};

use super::world;

/// The bytes of a `RateLimitRequest`.
pub fn run(data: &[u8]) {
    let mut room = None;
    let mut request = Request::default();
    let read = wire::read(data, &mut room, &mut request).map(|()| request);
    let Ok(message) = RateLimitRequest::decode(data) else {
        assert!(read.is_err());
        return;
    };
    // However it is read.
    match (read, wire::request(&message)) {
        (Ok(read), Ok(told)) => assert_eq!(format!("{read:?}"), format!("{told:?}")),
        (Err(_), Err(_)) => {}
        // Before it is read.
        (Err(Unread::Rejected(Rejection::TooMany { .. })), Ok(told)) => {
            assert!(check_bounds(&told).is_err());
        }
        (read, told) => panic!("{read:?} and {told:?}"),
    }
    decide(&world::engine(), &message);
}

/// Decides a message, and looks at the answers.
pub fn decide(engine: &Engine, message: &RateLimitRequest) {
    for _ in 0..3 {
        let answer = rls::decide(engine, message, Instant::now(), None, |answer| {
            answer.owned()
        });
        let answer = match world::wait(answer) {
            Ok(answer) => answer,
            Err(rejection) => {
                assert!(!rls::status(&rejection).message().is_empty());
                continue;
            }
        };
        let sent = RateLimitResponse::decode(wire::bytes(&answer)).expect("a message");
        assert_eq!(sent.statuses.len(), message.descriptors.len());
        let is_over = sent.overall_code == wire::OVER_LIMIT;
        assert_eq!(is_over, answer.overall == Code::OverLimit);
        for status in &sent.statuses {
            let reset = status.duration_until_reset.as_ref();
            assert!(reset.is_none_or(|reset| reset.seconds >= 0 && reset.nanos == 0));
            assert!(status.code != wire::OVER_LIMIT || status.limit_remaining == 0);
        }
        for header in &answer.headers {
            assert!(
                header
                    .value
                    .bytes()
                    .all(|byte| (b' '..=b'~').contains(&byte))
            );
        }
    }
}
