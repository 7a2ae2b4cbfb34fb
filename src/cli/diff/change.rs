//! What changes, put together: the same change of many descriptors is one.

use indexmap::IndexMap;

/// For whom it gets better or worse; what gets stricter comes first, since somebody will be refused who is not today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Effect {
    /// Less passes.
    Stricter,
    /// Less of one thing and more of another.
    Mixed,
    /// More passes.
    Looser,
    /// As much passes.
    Neutral,
}

/// A change, whoever it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Change {
    pub(super) effect: Effect,
    /// Such as `limit lowered`.
    pub(super) what: String,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    /// More about it, each a few words.
    pub(super) notes: Vec<String>,
    /// What was used is forgotten.
    pub(super) anew: bool,
}

/// Whom a change is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// Such as `path=/login`; empty for the whole domain.
    pub(super) name: String,
    /// File and line.
    pub(super) place: String,
}

/// Those whom a change is for.
#[derive(Clone, Debug, Default)]
pub(super) struct Subjects {
    /// The first of them.
    pub(super) first: Vec<Subject>,
    pub(super) count: usize,
}

/// All changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// By domain and change, in the order in which they were found.
    found: IndexMap<(String, Change), Subjects>,
    /// It was too much to look at all of it.
    pub(super) incomplete: bool,
}

/// A change, where, and for whom.
pub(super) type Found<'c> = (&'c str, &'c Change, &'c Subjects);

/// So many of those whom a change is for are kept.
const MOST_SUBJECTS: usize = 100;

/// So many different changes are kept.
const MOST_CHANGES: usize = 200_000;

impl Effect {
    /// Of two things that happen together.
    pub(super) fn and(self, other: Effect) -> Effect {
        match (self, other) {
            (Effect::Neutral, other) => other,
            (one, Effect::Neutral) => one,
            (one, other) if one == other => one,
            _ => Effect::Mixed,
        }
    }

    /// More is stricter, or looser.
    pub(super) fn of<T: PartialOrd>(before: T, after: T, more: Effect) -> Effect {
        let is_less = after < before;
        match more {
            _ if before == after => Effect::Neutral,
            Effect::Stricter if is_less => Effect::Looser,
            Effect::Looser if is_less => Effect::Stricter,
            Effect::Stricter | Effect::Looser | Effect::Mixed | Effect::Neutral => more,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Effect::Stricter => "stricter",
            Effect::Mixed => "mixed",
            Effect::Looser => "looser",
            Effect::Neutral => "neutral",
        }
    }

    pub(super) const ALL: [Effect; 4] = [
        Effect::Stricter,
        Effect::Mixed,
        Effect::Looser,
        Effect::Neutral,
    ];
}

impl Change {
    pub(super) fn new(effect: Effect, what: impl Into<String>) -> Self {
        Self {
            effect,
            what: what.into(),
            before: None,
            after: None,
            notes: Vec::new(),
            anew: false,
        }
    }

    pub(super) fn from(mut self, before: impl Into<String>) -> Self {
        self.before = Some(before.into());
        self
    }

    pub(super) fn to(mut self, after: impl Into<String>) -> Self {
        self.after = Some(after.into());
        self
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    pub(super) fn anew(mut self, anew: bool) -> Self {
        self.anew = anew;
        self
    }
}

impl Changes {
    pub(super) fn add(&mut self, domain: &str, change: Change, subject: impl FnOnce() -> Subject) {
        let key = (domain.to_owned(), change);
        if self.found.len() >= MOST_CHANGES && !self.found.contains_key(&key) {
            self.incomplete = true;
            return;
        }
        let subjects = self.found.entry(key).or_default();
        subjects.count += 1;
        if subjects.first.len() < MOST_SUBJECTS {
            subjects.first.push(subject());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty() && !self.incomplete
    }

    /// What gets stricter first.
    pub(super) fn sorted(&self) -> Vec<Found<'_>> {
        let found = self.found.iter();
        let mut found: Vec<Found<'_>> = found
            .map(|((domain, change), subjects)| (&**domain, change, subjects))
            .collect();
        found.sort_by_key(|(_, change, _)| change.effect);
        found
    }
}
