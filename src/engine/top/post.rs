//! What instances tell each other of who asks most: each writes its own into the store, and whoever is asked adds up all.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{By, KEPT, MAX_RULES, MAX_SUBJECT, Name, SLICE, Summary, WINDOWS, slice_of};
use crate::engine::Engine;
use crate::engine::bulletin::TELL_EVERY;
use crate::store::StoreError;
use crate::store::posts::MAX_POST;
use crate::time::Timestamp;

/// Who asks most, over all instances that tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Tops {
    /// When the window began.
    pub since: Timestamp,
    /// The rules of which anything was counted: domain, name, and subjects.
    pub rules: Vec<(String, String, Summary)>,
    /// Whose counts are in it; this instance is the first.
    pub instances: Vec<Instance>,
    /// Whether the others could be asked.
    pub is_whole: bool,
}

/// An instance as it describes itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// No other has it.
    pub name: String,
    /// The version that it runs.
    pub version: String,
    /// Requests decided in a second.
    pub decided: f64,
    /// Of these refused.
    pub refused: f64,
}

/// What an instance tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Post {
    version: String,
    decided: f64,
    refused: f64,
    rules: Vec<Told>,
}

/// What it tells of a rule: of each window the hits and the refusals.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Told {
    domain: String,
    rule: String,
    windows: [[Summary; 2]; WINDOWS.len()],
}

impl Engine {
    /// Tells the other instances who asks most here, and what came of the candidates, until the future is dropped.
    pub async fn tell_top(&self) {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            if let Err(error) = self.post_top().await {
                tracing::debug!("the others are not told who asks most: {error}");
            }
            if let Err(error) = self.post_trials().await {
                tracing::debug!("the others are not told what came of the candidates: {error}");
            }
        }
    }

    /// Ends what is over of who asks most; to be called now and then.
    pub fn turn_top(&self) {
        self.top.turn(self.clock.now());
    }

    /// Tells them once.
    pub async fn post_top(&self) -> Result<(), StoreError> {
        let text = self.post_text();
        self.top.bulletin.tell(self, &text).await
    }

    /// Who asks most, or is refused most, in the window of [`WINDOWS`] at this place: here and in all other instances.
    pub async fn top(&self, by: By, window: usize) -> Tops {
        let now = self.clock.now();
        let slices = WINDOWS.get(window).copied().unwrap_or_default();
        let here = self.top.here(now, by, slices);
        let (others, is_whole) = self.top.bulletin.others(self, read).await;
        let mut all: BTreeMap<(&str, &str), Vec<&Summary>> = BTreeMap::new();
        for ((domain, rule), summary) in &here {
            all.entry((domain, rule)).or_default().push(summary);
        }
        for told in others.iter().flat_map(|(_, post)| &post.rules) {
            let summary = told.windows.get(window).map(|window| &window[by as usize]);
            let known = all.entry((&told.domain, &told.rule)).or_default();
            known.extend(summary.filter(|summary| !summary.is_empty()));
        }
        let rules = all.into_iter().filter(|(_, parts)| !parts.is_empty());
        let rules = rules.map(|((domain, rule), parts)| {
            let summary = Summary::merged(parts).truncated(KEPT);
            (domain.to_owned(), rule.to_owned(), summary)
        });
        let mut instances = vec![self.described()];
        instances.extend(others.iter().map(|(name, post)| Instance {
            name: name.clone(),
            version: post.version.clone(),
            decided: post.decided,
            refused: post.refused,
        }));
        Tops {
            since: begin(now, slices),
            rules: rules.collect(),
            instances,
            is_whole,
        }
    }

    /// This instance.
    fn described(&self) -> Instance {
        let [decided, refused] = self.history.latest();
        Instance {
            name: self.instances.own().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            decided,
            refused,
        }
    }

    /// What is told: of the busiest rules as much as there is room for.
    fn post_text(&self) -> Bytes {
        let now = self.clock.now();
        let count = |slices| [By::Hits, By::Refused].map(|by| self.top.here(now, by, slices));
        let mut windows = WINDOWS.map(count);
        // The last window is the longest: no rule is in another that is not in it.
        let [longest, _] = &windows[WINDOWS.len() - 1];
        let mut names: Vec<(u64, Name)> = longest
            .iter()
            .map(|(name, summary)| (summary.total, name.clone()))
            .collect();
        names.sort_by(|a, b| b.cmp(a));
        let mut post = Post {
            rules: Vec::new(),
            ..self.described().into()
        };
        let mut room = MAX_POST - MAX_HEAD;
        for (_, name) in names {
            let mut taken = |by: &mut BTreeMap<Name, Summary>| by.remove(&name).unwrap_or_default();
            let told = Told {
                domain: name.0.to_string(),
                rule: name.1.to_string(),
                windows: windows.each_mut().map(|by| by.each_mut().map(&mut taken)),
            };
            let length = serde_json::to_vec(&told).map_or(usize::MAX, |text| text.len() + 1);
            if length <= room {
                room -= length;
                post.rules.push(told);
            }
        }
        serde_json::to_vec(&post).unwrap_or_default().into()
    }
}

impl From<Instance> for Post {
    fn from(of: Instance) -> Self {
        Self {
            version: of.version,
            decided: of.decided,
            refused: of.refused,
            rules: Vec::new(),
        }
    }
}

/// What a text has beside its rules, in bytes at most.
const MAX_HEAD: usize = 512;

/// The longest name that is believed of an instance, a version, a domain or a rule, in bytes.
const MAX_TEXT: usize = 4096;

/// What an instance has written; none if no instance would have written it.
fn read(text: &Bytes) -> Option<Post> {
    let post: Post = serde_json::from_slice(text).ok()?;
    let fits = |told: &Told| {
        let mut summaries = told.windows.iter().flatten();
        told.domain.len() <= MAX_TEXT
            && told.rule.len() <= MAX_TEXT
            && summaries.all(|summary| summary.rows.len() <= KEPT)
    };
    let fits = post.version.len() <= MAX_SUBJECT
        && post.rules.len() <= MAX_RULES
        && post.rules.iter().all(fits);
    fits.then_some(post)
}

/// When a window of so many slices began.
fn begin(now: Timestamp, slices: usize) -> Timestamp {
    let slices = i64::try_from(slices).unwrap_or_default();
    let length = i64::try_from(SLICE.get()).unwrap_or_default();
    Timestamp::from_micros((slice_of(now) - slices).saturating_mul(length))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::Settings;
    use crate::engine::top::summary::Row;
    use crate::store::Store;
    use crate::store::embedded::Embedded;
    use crate::telemetry::metrics::Metrics;
    use crate::time::Clock;

    /// As many rules as may be, each with as many subjects as are kept, and these as long as they may be.
    fn crowded() -> Engine {
        let (clock, _) = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let store = Store::Embedded(Embedded::new(16, clock.clone()));
        let engine = Engine::new(store, Settings::default(), clock, Metrics::new());
        for (at, slot) in engine.top.slots.iter().enumerate() {
            let name: Name = ("d".into(), format!("rule{at}").into());
            let mut tally = slot.tally.lock();
            tally.owner = Some((Arc::clone(&name.0), Arc::clone(&name.1)));
            for subject in 0..KEPT as u64 {
                let name = format!("{subject:0>width$}", width = MAX_SUBJECT);
                tally
                    .hits
                    .add(subject, 1 + at as u64, |to| to.push_str(&name));
            }
            let at = u16::try_from(at).expect("few slots");
            engine.top.owners.lock().insert(name, at);
        }
        engine
    }

    #[test]
    fn what_is_told_is_bounded_and_has_the_busiest() {
        let text = crowded().post_text();
        assert!(text.len() <= MAX_POST && text.len() > MAX_POST / 2);
        let post = read(&text).expect("it is what instances write");
        let names: Vec<&str> = post.rules.iter().map(|told| &*told.rule).collect();
        let busiest = format!("rule{}", MAX_RULES - 1);
        assert_eq!(names[0], busiest);
        assert!(names.len() < MAX_RULES && !names.contains(&"rule0"));
    }

    #[test]
    fn what_no_instance_would_write_is_not_believed() {
        let row = |at: usize| Row {
            subject: at.to_string(),
            hits: 1,
            error: 0,
        };
        let text = |rules: usize, rows: usize, name: usize| {
            let told = |_| Told {
                domain: "d".to_owned(),
                rule: "x".repeat(name),
                windows: [(); WINDOWS.len()].map(|()| {
                    let rows = (0..rows).map(row).collect();
                    let all = Summary {
                        total: 1,
                        floor: 0,
                        rows,
                    };
                    [all, Summary::default()]
                }),
            };
            let post = Post {
                version: "1".to_owned(),
                decided: 1.0,
                refused: 0.0,
                rules: (0..rules).map(told).collect(),
            };
            Bytes::from(serde_json::to_vec(&post).expect("JSON"))
        };
        let believed = |text: &Bytes| read(text).is_some();
        assert!(believed(&text(MAX_RULES, 1, 8)));
        assert!(believed(&text(1, KEPT, MAX_TEXT)));
        assert!(!believed(&text(MAX_RULES + 1, 1, 8)));
        assert!(!believed(&text(1, KEPT + 1, 8)));
        assert!(!believed(&text(1, 1, MAX_TEXT + 1)));
        assert!(!believed(&Bytes::from_static(b"{}")));
    }
}
