//! What a capture keeps of a decision, and how a decision that was kept is made again.

use std::sync::Arc;

use smallvec::SmallVec;

use super::charges::{Charges, Found};
use super::fold::{Ruling, Spoken};
use super::{Answer, Caller, Code, Draft, Engine, Reason, Rejection, Request, Settings, key};
use crate::capture::{Asked, Decision, Recorder, Sample};
use crate::directory::Standing;
use crate::rules::{Descriptor, Domain, Entries, Entry};
use crate::time::Timestamp;

/// All that is known of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Told<'t, 'r, 'c> {
    /// What is answered.
    pub answer: &'t Answer<'r>,
    /// What the limits said; none for a domain without rules.
    pub ruling: Option<&'t Ruling<'r>>,
    /// What was asked of the store; none if no limit had a part in it.
    pub charges: Option<&'t Charges<'c>>,
}

/// What the directory says of the subject of each descriptor; none for those of whom it says nothing.
pub type Standings<'s> = &'s [Option<Arc<Standing>>];

/// A decision, as the engine has it.
pub(super) struct Made<'m, 'q, 'r> {
    pub(super) settings: &'m Settings,
    pub(super) domain: &'m Domain,
    pub(super) request: &'m Request<'q>,
    pub(super) found: &'m [Found<'r>],
    pub(super) ruling: &'m Ruling<'r>,
    pub(super) reason: Reason,
    /// None if the store was not asked, or does not say.
    pub(super) at: Option<Timestamp>,
}

impl Engine {
    /// From here on decisions are also told to `recorder`. There is one, and it stays.
    pub fn record(&self, recorder: Arc<Recorder>) {
        // A second one would be a mistake of the caller's, and is not heard.
        let _ = self.recorder.set(recorder);
    }

    /// How many decisions were recorded, and how many are missing in the capture.
    pub fn recorded(&self) -> (u64, u64) {
        self.recorder
            .get()
            .map_or((0, 0), |recorder| recorder.counts())
    }

    /// Decides as [`Engine::check`] does, but takes what the directory says of the subjects from `standings`, and tells more.
    pub async fn replay<T>(
        &self,
        request: &Request<'_>,
        standings: Standings<'_>,
        tell: impl FnOnce(Told<'_, '_, '_>) -> T,
    ) -> Result<T, Rejection> {
        let mut call = self.call(Caller::here(), false);
        call.standings = Some(standings);
        let tell = |draft: &Draft<'_, '_, '_>, charges: Option<&Charges<'_>>| {
            tell(Told {
                answer: &draft.answer(),
                ruling: draft.ruled.as_ref().map(|ruled| ruled.ruling),
                charges,
            })
        };
        self.decide(request, &call, tell).await
    }

    /// Keeps a decision, if it is recorded.
    pub(super) fn keep<'m, 'q: 'm, 'r: 'm>(&self, made: impl FnOnce() -> Made<'m, 'q, 'r>) {
        if let Some(recorder) = self.recorder.get().filter(|recorder| recorder.wants()) {
            let made = made();
            let at = made.at.unwrap_or_else(|| self.clock.now());
            note(recorder, &made, at);
        }
    }

    /// The same for a domain without rules. Which of its values are sensitive is not known, so all are hashed.
    pub(super) fn keep_unruled(&self, request: &Request<'_>) {
        let Some(recorder) = self.recorder.get().filter(|recorder| recorder.wants()) else {
            return;
        };
        let mut domain = Domain::named(request.domain);
        for descriptor in &request.descriptors {
            let keys = descriptor.entries.iter().map(|entry| entry.key.to_owned());
            domain.sensitive.extend(keys);
        }
        let made = Made {
            settings: &self.settings,
            domain: &domain,
            request,
            found: &[],
            ruling: &Ruling::free(request.descriptors.len()),
            reason: Reason::NoRule,
            at: None,
        };
        note(recorder, &made, self.clock.now());
    }
}

fn note(recorder: &Recorder, made: &Made<'_, '_, '_>, at: Timestamp) {
    let sample = recorder.sample();
    let in_sample: SmallVec<[bool; 4]> = (0..made.request.descriptors.len())
        .map(|place| is_sampled(made, place, sample))
        .collect();
    if !in_sample.contains(&true) {
        return;
    }
    let hidden = hidden(made);
    let standings: SmallVec<[String; 2]> = (0..made.request.descriptors.len())
        .map(|place| standing(made.found.get(place)))
        .collect();
    let rule = made.ruling.deciding().map_or("", |spoken| name(spoken));
    let asked = made.request.descriptors.iter().enumerate();
    let asked = asked.map(|(place, descriptor)| {
        let status = made.ruling.status(place);
        Asked {
            entries: entries(descriptor, place, &hidden),
            hits_addend: descriptor.hits_addend,
            is_negative_hits: descriptor.is_negative_hits,
            limit: descriptor.limit,
            standing: &standings[place],
            sampled: in_sample[place],
            refused: status.code == Code::OverLimit,
            remaining: status.remaining,
        }
    });
    recorder.note(&Decision {
        at,
        domain: made.request.domain,
        hits_addend: made.request.hits_addend,
        refused: !made.ruling.admitted && !made.settings.shadow_mode,
        reason: made.reason.name(),
        rule,
        asked: asked.collect(),
    });
}

/// The name of the rule of a descriptor; no value of the request is in it.
pub fn name<'s>(spoken: &'s Spoken<'_>) -> &'s str {
    spoken.rule.map_or("override", |rule| &rule.name)
}

/// Whether all requests on a descriptor's counters are in the sample: what one key's tag names is whole or not there.
fn is_sampled(made: &Made<'_, '_, '_>, place: usize, sample: Sample) -> bool {
    if sample.is_all() {
        return true;
    }
    let rule = made.found.get(place).and_then(|found| found.rule);
    let entries = &made.request.descriptors[place].entries;
    sample.has(key::key("", made.domain, entries, rule).tag())
}

/// The sensitive values, hashed as keys have them: by descriptor and entry.
fn hidden(made: &Made<'_, '_, '_>) -> Vec<(usize, usize, String)> {
    let mut hidden = Vec::new();
    let sensitive = &made.domain.sensitive;
    if sensitive.is_empty() {
        return hidden;
    }
    for (place, descriptor) in made.request.descriptors.iter().enumerate() {
        for (level, entry) in descriptor.entries.iter().enumerate() {
            if sensitive.iter().any(|key| key == entry.key) {
                hidden.push((place, level, hashed_value(made.domain, *entry)));
            }
        }
    }
    hidden
}

/// A sensitive value as captures have it: `#` and its hash.
pub fn hashed_value(domain: &Domain, entry: Entry<'_>) -> String {
    let mut value = String::new();
    key::hashed(&mut value, domain, entry.key, entry.value);
    value
}

fn entries<'a>(
    descriptor: &'a Descriptor<'_>,
    place: usize,
    hidden: &'a [(usize, usize, String)],
) -> Entries<'a> {
    let mut entries: Entries<'a> = descriptor.entries.iter().copied().collect();
    for (_, level, value) in hidden.iter().filter(|(of, _, _)| *of == place) {
        if let Some(entry) = entries.get_mut(*level) {
            entry.value = value;
        }
    }
    entries
}

fn standing(found: Option<&Found<'_>>) -> String {
    let standing = found.and_then(|found| found.standing.as_deref());
    let text = standing.map(|standing| serde_json::to_string(standing).unwrap_or_default());
    text.unwrap_or_default()
}
