//! What stands under a key in Redis: read, and decided upon by the twins of the scripts with every kind of limit.

use std::sync::LazyLock;

use bytes::Bytes;
use tollgate::limit::ban::Ban;
use tollgate::limit::period::Zone;
use tollgate::limit::transaction::{
    Amount, Bound, Demand, MAX_SLOTS, Record, Role, give_back, transact,
};
use tollgate::limit::{Algorithm, Hits, Limit, MAX_WINDOW, Receipt, Unit, Verdict};
use tollgate::store::redis::untrusted;
use tollgate::time::{Micros, Timestamp};

/// What limits a key.
struct Limits {
    limits: Vec<Limit>,
    ban: Ban,
}

static LIMITS: LazyLock<Limits> = LazyLock::new(|| {
    let zone = Zone::named("America/Santiago").expect("a zone");
    let burst = Hits::from_thousandths(1500);
    let algorithms = [
        Algorithm::FixedWindow,
        Algorithm::TokenBucket { burst },
        Algorithm::SlidingWindow,
    ];
    let mut limits = Vec::new();
    for algorithm in algorithms {
        for (requests, unit, multiplier) in [
            (0, Unit::Hour, 1),
            (7, Unit::Second, 1),
            (3, Unit::Minute, 5),
            (2, Unit::Month, 3),
            (u32::MAX, Unit::Year, 100),
        ] {
            // Some cannot be built: a bucket of nothing, or one that is too fine.
            limits.extend(Limit::new(requests, unit, multiplier, algorithm, &zone));
        }
    }
    let first = Micros::from_secs(1);
    let ban = Ban::new(2, Unit::Minute, first, MAX_WINDOW).expect("a ban");
    Limits { limits, ban }
});

/// The number of bytes that say when and how much, before the value.
pub const HEAD: usize = 16;

/// A moment and a number of hits, and then the value.
pub fn run(data: &[u8]) {
    let Some((head, value)) = data.split_first_chunk::<HEAD>() else {
        return;
    };
    let numbers = u128::from_le_bytes(*head);
    // Redis tells the time and hits in seven bytes.
    let at = |shift: u32| (numbers >> shift) as u64 & ((1 << 56) - 1);
    let now = Timestamp::from_micros(i64::try_from(at(0)).unwrap_or(i64::MAX));
    let hits = Hits::from_thousandths(at(64).min(Hits::MAX.thousandths()));
    let Some(record) = untrusted::record(Bytes::copy_from_slice(value)) else {
        return;
    };
    assert!(record.slots.len() <= MAX_SLOTS);
    for limit in &LIMITS.limits {
        for amount in [
            Amount::Peek(hits),
            Amount::Charge(hits),
            Amount::Refund(hits),
        ] {
            for always in [false, true] {
                decide(&record, limit, amount, always, now);
            }
        }
        let mut copy = record.clone();
        let receipt = Receipt {
            at: now,
            used_before: hits,
            hits,
        };
        give_back(&mut copy, limit, now, &receipt);
    }
    let mut copy = record;
    for _ in 0..3 {
        copy.refuse(&LIMITS.ban, now);
    }
}

fn decide(record: &Record, limit: &Limit, amount: Amount, always: bool, now: Timestamp) {
    let demand = Demand {
        key: 0,
        amount,
        role: Role::Enforced,
        limits: [Bound { limit, always }].into_iter().collect(),
        ban: Some(&LIMITS.ban),
        candidates: Vec::new(),
    };
    let mut records = [(record.clone(), false)];
    let outcome = transact(&mut records, std::slice::from_ref(&demand), now);
    assert_eq!(outcome.readings.len(), 1);
    let [reading] = outcome.readings.as_slice() else {
        return;
    };
    assert_eq!(outcome.admitted, reading.verdict == Verdict::Allowed);
    let (after, changed) = &records[0];
    assert!(after.slots.len() <= MAX_SLOTS);
    assert!(after.seen >= record.seen.max(now));
    assert!(!changed || !matches!(amount, Amount::Peek(_)));
    // The same once more has no more room than before.
    if outcome.admitted && matches!(amount, Amount::Charge(_)) {
        let again = transact(&mut records, &[demand], now);
        assert!(again.readings[0].used >= reading.used);
    }
}
