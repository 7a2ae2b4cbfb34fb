//! What is asked during a fault, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::STORE_TIMEOUT;
use crate::support::caller::{Called, Caller, reason};
use crate::support::poll;
use crate::support::server::is_over;

/// How many subjects there are.
pub(super) const HOLDERS: usize = 8;

/// A limit that is never reached, and one that is.
pub(super) const BIG: &str = "big";
pub(super) const SMALL: &str = "small";

const BIG_LIMIT: u64 = 1_000_000;

/// What many calls came to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By key, subject and reason: those that may pass, and those that may not.
    counts: BTreeMap<(&'static str, usize, String), (u64, u64)>,
    /// How much later than they should be the late answers came, in order.
    pub(super) late: Vec<Duration>,
    /// What should not be.
    pub(super) troubles: Vec<String>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        for (what, (passed, refused)) in other.counts {
            let count = self.counts.entry(what).or_default();
            *count = (count.0 + passed, count.1 + refused);
        }
        self.late.extend(other.late);
        self.late.sort_unstable();
        self.troubles.extend(other.troubles);
        self.troubles.truncate(10);
    }

    /// How many were answered for this reason.
    pub(super) fn because(&self, reason: &str) -> u64 {
        let of = self.counts.iter().filter(|((.., why), _)| why == reason);
        of.map(|(_, (passed, refused))| passed + refused).sum()
    }

    pub(super) fn admitted(&self, key: &str, holder: usize) -> u64 {
        self.sum(key, holder, |_| true)
    }

    pub(super) fn admitted_locally(&self, key: &str, holder: usize) -> u64 {
        self.sum(key, holder, |why| why.starts_with("fallback"))
    }

    fn sum(&self, key: &str, holder: usize, counts: impl Fn(&str) -> bool) -> u64 {
        let of = self.counts.iter();
        let of = of.filter(|((of_key, of, why), _)| *of_key == key && *of == holder && counts(why));
        of.map(|(_, (passed, _))| passed).sum()
    }

    fn note(&mut self, key: &'static str, holder: usize, timeout: Duration, called: &Called) {
        let why = reason_of(called);
        let over = is_over(&called.response);
        let is_right = match (key, why.as_str()) {
            ("deny", "fallback_deny") => over,
            ("allow", "fallback_allow") | ("big" | "pair", "fallback_local") => !over,
            ("small", "fallback_local" | "over_limit") => true,
            (_, "within_limit") => !over,
            _ => false,
        };
        if !is_right {
            self.troubles.push(format!("{key}: {why}, over: {over}"));
        }
        let count = self.counts.entry((key, holder, why)).or_default();
        if over {
            count.1 += 1;
        } else {
            count.0 += 1;
        }
        self.late.push(called.took.saturating_sub(timeout));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut by_reason = BTreeMap::<&str, u64>::new();
        for ((.., why), (passed, refused)) in &self.counts {
            *by_reason.entry(why).or_default() += passed + refused;
        }
        let at = |share: f64| {
            let place = (self.late.len() as f64 * share) as usize;
            self.late.get(place.min(self.late.len().saturating_sub(1)))
        };
        write!(
            f,
            "{} calls: {by_reason:?}; late: p99 {:?}, p99.9 {:?}, at most {:?}",
            self.late.len(),
            at(0.99).copied().unwrap_or_default(),
            at(0.999).copied().unwrap_or_default(),
            self.late.last().copied().unwrap_or_default(),
        )
    }
}

/// A request of one hit for each of these.
pub(super) fn request(of: &[(&str, usize)]) -> RateLimitRequest {
    let values: Vec<String> = of.iter().map(|(_, holder)| holder.to_string()).collect();
    let entries: Vec<[(&str, &str); 1]> = of
        .iter()
        .zip(&values)
        .map(|((key, _), value)| [(*key, value.as_str())])
        .collect();
    let descriptors: Vec<&[(&str, &str)]> = entries.iter().map(|entry| entry.as_slice()).collect();
    crate::support::server::request("d", &descriptors)
}

pub(super) fn reason_of(called: &Called) -> String {
    reason(&called.response).to_owned()
}

/// What the store knows of the big limit of a subject.
pub(super) async fn used(caller: &Caller, holder: usize) -> u64 {
    poll::until_async("an answer of the store", || async {
        let called = caller.ask(&request(&[(BIG, holder)]), None).await;
        let called = called.expect("an answer");
        let left = u64::from(called.response.statuses[0].limit_remaining);
        // This one is not among those that are counted.
        (reason_of(&called) == "within_limit").then_some(BIG_LIMIT - left - 1)
    })
    .await
}

/// Asks until it is told to stop, what the seed says.
pub(super) async fn keep_asking(caller: Caller, seed: u64, done: Arc<AtomicBool>) -> Tally {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    while !done.load(Ordering::Relaxed) {
        let keys = ["big", "big", "small", "allow", "deny", "pair"];
        let key = *keys.choose(&mut random).expect("a key");
        let holder = random.random_range(0..HOLDERS);
        let timeouts = [None, None, Some(30), Some(200), Some(2000)];
        let timeout = *timeouts.choose(&mut random).expect("a timeout");
        let timeout = timeout.map(Duration::from_millis);
        let request = match key {
            "pair" => request(&[(key, holder), (key, (holder + 1) % HOLDERS)]),
            _ => request(&[(key, holder)]),
        };
        match caller.ask(&request, timeout).await {
            Ok(called) => {
                let within = timeout.map_or(STORE_TIMEOUT, |timeout| timeout.min(STORE_TIMEOUT));
                tally.note(key, holder, within, &called);
            }
            Err(error) => tally.troubles.push(format!("{key}: {error}")),
        }
        poll::pause().await;
    }
    tally
}
