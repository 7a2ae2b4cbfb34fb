//! An engine with a hand-moved clock, asked in a few words.

use std::sync::Arc;
use std::time::Instant;

use tollgate::engine::{Answer, Code, Engine, Rejection, Request, Settings};
use tollgate::rules::{Descriptor, Entry};
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::{Clock, ManualClock, Micros, Timestamp};

use super::rules::compile;

/// An engine and its clock.
pub(crate) struct Service {
    pub(crate) engine: Engine,
    pub(crate) clock: ManualClock,
    pub(crate) metrics: Arc<Metrics>,
}

/// One descriptor, as `key=value,key=value`, optionally with ` +N` hits, ` -N` given back, or ` ?` for a peek.
fn descriptor(text: &str) -> Descriptor<'_> {
    let (entries, hits) = text.split_once(' ').unwrap_or((text, ""));
    let entry = |pair: &'_ str| -> (usize, usize) {
        let at = pair.find('=').expect("key=value");
        (at, pair.len())
    };
    let entries = entries
        .split(',')
        .map(|pair| {
            let (at, end) = entry(pair);
            Entry {
                key: &pair[..at],
                value: &pair[at + 1..end],
            }
        })
        .collect();
    let number = |text: &str| text[1..].parse().expect("a number");
    let (hits_addend, is_negative_hits) = match hits.chars().next() {
        None => (None, false),
        Some('?') => (Some(0), false),
        Some('+') => (Some(number(hits)), false),
        Some('-') => (Some(number(hits)), true),
        Some(other) => panic!("{other} in {text}"),
    };
    Descriptor {
        entries,
        hits_addend,
        is_negative_hits,
        limit: None,
    }
}

impl Service {
    /// On the embedded store, at 12:00:00 on Friday, 6 March 2026, UTC.
    pub(crate) fn new(rules: &str) -> Self {
        Self::with(rules, Settings::default(), |clock| {
            Store::Embedded(Embedded::new(1 << 16, clock))
        })
    }

    /// On any store.
    pub(crate) fn with(
        rules: &str,
        settings: Settings,
        store: impl FnOnce(Clock) -> Store,
    ) -> Self {
        let (clock, handle) = Clock::manual(Timestamp::from_secs(1_772_798_400));
        let metrics = Metrics::new();
        let engine = Engine::new(store(clock.clone()), settings, clock, Arc::clone(&metrics));
        let service = Self {
            engine,
            clock: handle,
            metrics,
        };
        service.install(rules);
        service
    }

    /// Puts other rules in place.
    pub(crate) fn install(&self, rules: &str) {
        let files = [("rules.yaml".to_owned(), rules.to_owned())];
        self.engine
            .install(compile(&files, false).expect("the rules are good"));
    }

    /// Asks for the domain `d`.
    pub(crate) async fn ask(&self, descriptors: &[&str]) -> Answer<'static> {
        self.try_ask(descriptors).await.expect("an answer")
    }

    /// The request that is asked so.
    pub(crate) fn request<'a>(descriptors: &[&'a str]) -> Request<'a> {
        Request {
            domain: "d",
            hits_addend: 0,
            descriptors: descriptors.iter().map(|text| descriptor(text)).collect(),
        }
    }

    pub(crate) async fn try_ask(&self, descriptors: &[&str]) -> Result<Answer<'static>, Rejection> {
        self.engine
            .check(
                &Self::request(descriptors),
                Instant::now(),
                None,
                |answer| answer.owned(),
            )
            .await
    }

    /// What the statuses say in short: `ok 3` or `over 60`, the remaining of those that pass and the wait of those that
    /// do not.
    pub(crate) async fn say(&self, descriptors: &[&str]) -> String {
        let answer = self.ask(descriptors).await;
        let status = |status: &tollgate::engine::Status<'_>| match status.code {
            Code::Ok => format!("ok {}", status.remaining),
            Code::OverLimit => format!("over {}", status.reset_secs.unwrap_or(0)),
        };
        answer
            .statuses
            .iter()
            .map(status)
            .collect::<Vec<_>>()
            .join(", ")
    }

    pub(crate) fn advance(&self, secs: u64) {
        self.clock.advance(Micros::from_secs(secs));
    }
}

/// The value of a header; none if it is not there.
pub(crate) fn header<'a>(answer: &'a Answer<'_>, name: &str) -> Option<&'a str> {
    let found = answer.headers.iter().find(|header| header.name == name)?;
    Some(&found.value)
}
