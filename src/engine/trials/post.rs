//! What instances tell each other of their candidates, and what all of them together have seen.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Description, Id, MAX_TRIALS, Trial};
use crate::engine::Engine;
use crate::engine::top::KEPT;
use crate::engine::top::summary::Summary;
use crate::store::StoreError;
use crate::store::posts::MAX_POST;
use crate::time::Timestamp;

/// What came of the candidates, over all instances that try the same.
#[derive(Clone, Debug)]
pub struct Tallies {
    /// One for each candidate that holds here.
    pub candidates: Vec<Tally>,
    /// Whose counts are in it; this instance is the first.
    pub instances: Vec<String>,
    /// Whether the others could be asked.
    pub is_whole: bool,
}

/// What came of one candidate.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Which candidate.
    pub of: Description,
    /// Since when it is tried, wherever that began first.
    pub since: Timestamp,
    /// The requests that were seen.
    pub requests: u64,
    /// Those that passed and would be refused.
    pub would_refuse: u64,
    /// Those that were refused and would pass.
    pub would_admit: u64,
    /// Whose requests would be refused, and whose would be admitted, in thousandths.
    pub subjects: [Summary; 2],
}

/// What an instance tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Post {
    candidates: Vec<Told>,
}

/// What it tells of one candidate.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Told {
    domain: String,
    rule: String,
    live: String,
    candidate: String,
    counts: Counts,
}

/// What was counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Counts {
    /// In microseconds since the epoch.
    pub(super) since: i64,
    pub(super) requests: u64,
    pub(super) would_refuse: u64,
    pub(super) would_admit: u64,
    pub(super) subjects: [Summary; 2],
}

/// The longest text that is believed of what names a candidate, in bytes.
const MAX_TEXT: usize = 4096;

/// What a text has beside its candidates, in bytes at most.
const MAX_HEAD: usize = 64;

impl Engine {
    /// What came of the candidates that hold: here, and in all other instances that try the same.
    pub async fn trials(&self) -> Tallies {
        let here = self.known();
        let (others, is_whole) = self.trials.bulletin.others(self, read).await;
        let tally = |(id, trial): &(Id, Arc<Trial>)| {
            let told = others.iter().flat_map(|(_, post)| &post.candidates);
            let same = told.filter(|told| told.is_of(id)).map(|told| &told.counts);
            let own = trial.tally();
            let all: Vec<&Counts> = std::iter::once(&own).chain(same).collect();
            let sum = |of: fn(&Counts) -> u64| {
                let counts = all.iter().map(|counts| of(counts));
                counts.fold(0, u64::saturating_add)
            };
            let merged = |which: usize| {
                let parts = all.iter().map(|counts| &counts.subjects[which]);
                Summary::merged(parts).truncated(KEPT)
            };
            let since = all.iter().map(|counts| counts.since).min();
            Tally {
                of: trial.described.lock().clone(),
                since: Timestamp::from_micros(since.unwrap_or_default()),
                requests: sum(|counts| counts.requests),
                would_refuse: sum(|counts| counts.would_refuse),
                would_admit: sum(|counts| counts.would_admit),
                subjects: [merged(0), merged(1)],
            }
        };
        let names = others.iter().map(|(name, _)| name.clone());
        Tallies {
            candidates: here.iter().map(tally).collect(),
            instances: std::iter::once(self.instances.own().to_owned())
                .chain(names)
                .collect(),
            is_whole,
        }
    }

    /// Tells the others what came of the candidates here; nothing if there are none.
    pub async fn post_trials(&self) -> Result<(), StoreError> {
        match self.trials_text() {
            Some(text) => self.trials.bulletin.tell(self, &text).await,
            None => Ok(()),
        }
    }

    fn known(&self) -> Vec<(Id, Arc<Trial>)> {
        let known = self.trials.known.lock();
        let all = known.iter();
        all.map(|(id, trial)| (id.clone(), Arc::clone(trial)))
            .collect()
    }

    /// What is told: of those that differ most as much as there is room for.
    fn trials_text(&self) -> Option<Bytes> {
        let told = self.known().into_iter().map(|(id, trial)| Told {
            domain: id.domain,
            rule: id.rule,
            live: id.live,
            candidate: id.candidate,
            counts: trial.tally(),
        });
        let mut told: Vec<Told> = told.collect();
        if told.is_empty() {
            return None;
        }
        let differ = |told: &Told| told.counts.would_refuse.max(told.counts.would_admit);
        told.sort_by_key(|told| std::cmp::Reverse(differ(told)));
        let mut room = MAX_POST - MAX_HEAD;
        told.retain(|told| {
            let length = serde_json::to_vec(told).map_or(usize::MAX, |text| text.len() + 1);
            let fits = length <= room;
            room -= if fits { length } else { 0 };
            fits
        });
        let post = Post { candidates: told };
        Some(serde_json::to_vec(&post).unwrap_or_default().into())
    }
}

impl Told {
    fn is_of(&self, id: &Id) -> bool {
        self.domain == id.domain
            && self.rule == id.rule
            && self.live == id.live
            && self.candidate == id.candidate
    }
}

/// What an instance has written; none if no instance would have written it.
fn read(text: &Bytes) -> Option<Post> {
    let post: Post = serde_json::from_slice(text).ok()?;
    let fits = |told: &Told| {
        let names = [&told.domain, &told.rule, &told.live, &told.candidate];
        names.iter().all(|name| name.len() <= MAX_TEXT)
            && told.counts.subjects.iter().all(|of| of.rows.len() <= KEPT)
    };
    let fits = post.candidates.len() <= MAX_TRIALS && post.candidates.iter().all(fits);
    fits.then_some(post)
}
