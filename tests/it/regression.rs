//! What was wrong once, each test named for the cause.

use std::time::{Duration, Instant};

use tollgate::limit::Unit;
use tollgate::limit::ban::{Ban, State};
use tollgate::settings::values::duration;
use tollgate::store::redis::settings::Address;
use tollgate::time::{Micros, Timestamp};

/// The fuzzer: a stored count of 2^32 - 1 refusals wrapped around to none, and the ban did not come.
#[test]
fn one_more_than_all_refusals_was_none() {
    let hour = Micros::from_secs(3600);
    let ban = Ban::new(u32::MAX, Unit::Minute, hour, hour).expect("a ban");
    let now = Timestamp::from_secs(0);
    let mut state = State::fresh(&ban, now);
    state.refusals = u32::MAX;
    state.refuse(&ban, now);
    assert_eq!(state.banned(now), Some(hour));
}

/// A timeout that no clock can reach was taken, and then each request panicked when it was added to the time.
#[test]
fn a_timeout_could_be_longer_than_the_clock() {
    assert!(duration("2562047788015216h").is_err());
    let longest = duration("876000h").expect("100 years");
    let end = Instant::now().checked_add(longest.0);
    assert!(end.is_some_and(|end| end > Instant::now() + Duration::from_secs(1)));
}

/// The fuzzer: half a pair of brackets, spaces and line ends were part of the host.
#[test]
fn a_redis_host_could_be_nonsense() {
    for text in [
        "[\n/:63",
        "[::1:6379",
        "::1]:6379",
        "a b:6379",
        "[[::1]]:6379",
    ] {
        assert!(text.parse::<Address>().is_err(), "{text:?}");
    }
    for (text, host) in [("[::1]:6379", "::1"), ("redis:6379", "redis")] {
        let address: Address = text.parse().expect("an address");
        assert_eq!(address.host, host);
    }
}

/// The review: the decoder calls itself for each array within another, and 5,000 of them overflowed the stack and ended the
/// process.
#[test]
fn an_answer_nested_without_end_overflowed_the_stack() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let said = |text: &[u8]| {
        let answers = tollgate::store::redis::untrusted::answers(text);
        runtime.block_on(answers).expect("a socket")
    };
    assert!(said(&b"*1\r\n".repeat(5_000)).is_empty());
    assert!(said(&b"%1\r\n+a\r\n".repeat(100_000)).is_empty());
    assert!(said(&b"|1\r\n+a\r\n+b\r\n".repeat(100_000)).is_empty());
    // What was answered before stays answered.
    let first = [b"$2\r\nok\r\n".to_vec(), b"*1\r\n".repeat(5_000)].concat();
    assert_eq!(said(&first), ["ok"]);
}
