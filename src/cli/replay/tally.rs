//! What came of a replay, in bounded memory: counts by rule, when, and who is affected most.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::Hasher;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::capture::{Decision, Sample};
use crate::engine::charges::Item;
use crate::engine::fold::Spoken;
use crate::engine::recording::{Told, hashed_value, name};
use crate::engine::top::sketch::Sketch;
use crate::engine::{Code, Reason};
use crate::rules::{Domain, Entry};
use crate::time::{Micros, Timestamp};

use super::line::{Line, Scale};
use super::run::Now;

/// The most rules that are counted by themselves, those of the capture and those that decide now together.
const MAX_RULES: usize = 10_000;

/// The most rules that have a line of their own.
const MAX_LINES: usize = 256;

/// How many differences are kept as examples.
const MAX_EXAMPLES: usize = 5;

/// What the sketch counts a refusal as: it is made for thousandths.
const ONE: u64 = 1000;

/// What came of a replay.
#[derive(Default)]
pub(super) struct Tally {
    /// All decisions, compared or not.
    pub(super) seen: u64,
    /// Those that are compared.
    pub(super) total: Counts,
    /// By rule: first that decided once, first.
    pub(super) rules: Vec<OfRule>,
    /// Their places, by domain and name.
    places: HashMap<String, HashMap<String, usize>>,
    /// All rules together.
    pub(super) line: Line,
    pub(super) scale: Scale,
    /// How many lines there are.
    lines: usize,
    /// Who is newly refused most.
    pub(super) subjects: Sketch,
    pub(super) examples: Vec<Difference>,
    /// The first and the last moment.
    pub(super) span: Option<(Timestamp, Timestamp)>,
    pub(super) apart: Apart,
    /// Why the first that cannot be decided cannot.
    pub(super) rejection: Option<String>,
    warm_up: Micros,
    /// What the capture has; none for an access log.
    sample: Option<Sample>,
    sensitive: HashMap<String, Vec<String>>,
}

/// Decisions that are not compared, or that need not agree.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Apart {
    /// Before the comparison began.
    pub(super) warm_up: u64,
    /// A list decided.
    pub(super) listed: u64,
    /// Refused by what the sample has not whole.
    pub(super) outside: u64,
    /// They cannot be decided.
    pub(super) rejected: u64,
    /// They came later than those after them.
    pub(super) late: u64,
    /// Made while the store did not answer; they are compared.
    pub(super) fallback: u64,
    /// Their counters lie elsewhere than when they were sampled, so they are not whole.
    pub(super) misplaced: u64,
}

/// Requests, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// All.
    pub(super) asked: u64,
    /// Refused live.
    pub(super) before: u64,
    /// Refused now.
    pub(super) now: u64,
    /// Refused now, and not live.
    pub(super) newly_refused: u64,
    /// Refused live, and not now.
    pub(super) newly_admitted: u64,
    /// Decided alike, but a descriptor is told something else.
    pub(super) told_otherwise: u64,
}

/// What became of the requests that a rule decided.
pub(super) struct OfRule {
    pub(super) domain: String,
    pub(super) name: String,
    /// Where it stands; none if no rule of this name decided now.
    pub(super) source: Option<String>,
    pub(super) counts: Counts,
    /// The first and the last new refusal.
    pub(super) refused: Option<(Timestamp, Timestamp)>,
    /// When; none if nothing was ever refused, or if there are too many.
    pub(super) line: Option<Line>,
}

/// A decision that is another now.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    pub(super) at: Timestamp,
    pub(super) domain: String,
    /// The descriptors as people write them.
    pub(super) asked: String,
    /// Whether it is refused now; it was the other way before.
    pub(super) refused: bool,
    /// The rule that refuses, or that did.
    pub(super) rule: String,
    /// The limit that refuses now.
    pub(super) limit: Option<String>,
}

impl Counts {
    /// How many are decided alike.
    pub(super) fn agree(&self) -> u64 {
        self.asked - self.newly_refused - self.newly_admitted
    }

    /// Of all requests those that are newly refused.
    pub(super) fn newly_refused_share(&self) -> f64 {
        share(self.newly_refused, self.asked)
    }

    fn add(&mut self, (before, now): (bool, bool)) {
        self.asked += 1;
        self.before += u64::from(before);
        self.now += u64::from(now);
        self.newly_refused += u64::from(now && !before);
        self.newly_admitted += u64::from(before && !now);
    }
}

/// A part of a whole; none of nothing.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => part as f64 / whole as f64,
    }
}

impl Tally {
    /// Nothing yet. Nothing is compared for as long as `warm_up` says; `sensitive` are the keys whose values are not shown.
    pub(super) fn new(
        warm_up: Duration,
        sample: Option<Sample>,
        sensitive: HashMap<String, Vec<String>>,
    ) -> Self {
        Self {
            warm_up: Micros::new(u64::try_from(warm_up.as_micros()).unwrap_or(u64::MAX)),
            sample,
            sensitive,
            ..Self::default()
        }
    }

    /// Counts a decision. Tells how it differs, if it does.
    pub(super) fn add(
        &mut self,
        decision: &Decision<'_>,
        late: bool,
        now: &Now<'_, '_, '_>,
    ) -> Option<Difference> {
        self.seen += 1;
        self.apart.late += u64::from(late);
        let (first, last) = *self.span.get_or_insert((decision.at, decision.at));
        self.span = Some((first.min(decision.at), last.max(decision.at)));
        if decision.at.since(first) < self.warm_up {
            self.apart.warm_up += 1;
            return None;
        }
        match now {
            Now::Decided(told) => self.decided(decision, told),
            Now::Listed => {
                self.apart.listed += 1;
                None
            }
            Now::Outside => {
                self.apart.outside += 1;
                None
            }
            Now::Rejected(rejection) => {
                self.apart.rejected += 1;
                self.rejection.get_or_insert_with(|| rejection.to_string());
                None
            }
        }
    }

    fn decided(&mut self, decision: &Decision<'_>, told: &Told<'_, '_, '_>) -> Option<Difference> {
        let fallbacks = [
            Reason::FallbackAllow,
            Reason::FallbackDeny,
            Reason::FallbackLocal,
        ];
        let fallback = fallbacks
            .iter()
            .any(|reason| reason.name() == decision.reason);
        self.apart.fallback += u64::from(fallback);
        self.apart.misplaced += u64::from(self.is_misplaced(decision, told));
        let refused = told.answer.overall == Code::OverLimit;
        let both = (decision.refused, refused);
        self.total.add(both);
        let place = self.cell(decision.at);
        self.line.add(place, both);
        let deciding = told.ruling.and_then(|ruling| ruling.deciding());
        // A rule that refused live and is not there now still has its refusals.
        let of_now = deciding.map(|spoken| self.rule(decision.domain, name(spoken)));
        let of_before = Some(decision.rule).filter(|rule| decision.refused && !rule.is_empty());
        let of_before = of_before.map(|rule| self.rule(decision.domain, rule));
        if let (Some(rule), Some(spoken)) = (of_now, deciding) {
            self.count(
                rule,
                place,
                (decision.refused && of_before == of_now, refused),
            );
            let source = spoken.rule.map(|rule| rule.source.to_string());
            self.rules[rule].source = self.rules[rule].source.take().or(source);
        }
        if let Some(rule) = of_before.filter(|rule| Some(*rule) != of_now) {
            self.count(rule, place, (true, false));
        }
        self.note(decision, told, (of_now, of_before), both)
    }

    /// Counts by rule: of a difference only where it belongs.
    fn count(&mut self, rule: usize, place: usize, (before, now): (bool, bool)) {
        let room = self.lines < MAX_LINES;
        let of = &mut self.rules[rule];
        of.counts.asked += 1;
        of.counts.before += u64::from(before);
        of.counts.now += u64::from(now);
        if (before || now) && of.line.is_none() && room {
            of.line = Some(Line::default());
            self.lines += 1;
        }
        if let Some(line) = &mut of.line {
            line.add(place, (before, now));
        }
    }

    fn note(
        &mut self,
        decision: &Decision<'_>,
        told: &Told<'_, '_, '_>,
        (of_now, of_before): (Option<usize>, Option<usize>),
        both: (bool, bool),
    ) -> Option<Difference> {
        let at = decision.at;
        match both {
            (false, true) => {
                let rule = of_now?;
                let of = &mut self.rules[rule];
                of.counts.newly_refused += 1;
                let (first, _) = *of.refused.get_or_insert((at, at));
                of.refused = Some((first, at));
                let deciding = told.ruling.and_then(|ruling| ruling.deciding())?;
                self.affected(decision, deciding);
            }
            (true, false) => {
                let rule = of_before.or(of_now)?;
                self.rules[rule].counts.newly_admitted += 1;
            }
            (true, true) | (false, false) => {
                // An access log says neither.
                let is_known = self.sample.is_some();
                let otherwise = u64::from(is_known && is_told_otherwise(decision, told));
                self.total.told_otherwise += otherwise;
                return None;
            }
        }
        let deciding = told.ruling.and_then(|ruling| ruling.deciding());
        let deciding = deciding.filter(|_| both.1);
        let difference = Difference {
            at,
            domain: decision.domain.to_owned(),
            asked: self.asked(decision),
            refused: both.1,
            rule: deciding.map_or(decision.rule, name).to_owned(),
            limit: deciding.map(|spoken| spoken.decisive().limit.to_string()),
        };
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(difference.clone());
        }
        Some(difference)
    }

    /// Counts a new refusal of a subject.
    fn affected(&mut self, decision: &Decision<'_>, deciding: &Spoken<'_>) {
        let Some(asked) = decision.asked.get(deciding.descriptor) else {
            return;
        };
        let mut hasher = SipHasher13::new();
        for part in [decision.domain, name(deciding)] {
            hasher.write(part.as_bytes());
            hasher.write_u8(0xFF);
        }
        for entry in &asked.entries {
            for part in [entry.key, entry.value] {
                hasher.write(part.as_bytes());
                hasher.write_u8(0xFF);
            }
        }
        let sensitive = self.sensitive.get(decision.domain);
        self.subjects.add(hasher.finish(), ONE, |to| {
            // Writing to a String cannot fail.
            let _ = write!(to, "{} {}: ", decision.domain, name(deciding));
            entries(to, decision.domain, sensitive, &asked.entries);
        });
    }

    /// The descriptors as people write them.
    fn asked(&self, decision: &Decision<'_>) -> String {
        let sensitive = self.sensitive.get(decision.domain);
        let mut text = String::new();
        for (place, asked) in decision.asked.iter().enumerate() {
            if place > 0 {
                text.push_str("; ");
            }
            entries(&mut text, decision.domain, sensitive, &asked.entries);
        }
        text
    }

    /// Whether a counter lies elsewhere than when its requests were chosen for the sample.
    fn is_misplaced(&self, decision: &Decision<'_>, told: &Told<'_, '_, '_>) -> bool {
        let sample = self.sample.filter(|sample| !sample.is_all());
        let (Some(sample), Some(charges)) = (sample, told.charges) else {
            return false;
        };
        let mut items = charges.items.iter().zip(&decision.asked);
        items.any(|(item, asked)| match item {
            Item::Limited(limited) => {
                let key = &charges.keys[charges.demands[limited.demand].key];
                // The hash of a hash lies elsewhere anyway.
                let hidden = asked
                    .entries
                    .iter()
                    .any(|entry| entry.value.starts_with('#'));
                !hidden && sample.has(key.tag()) != asked.sampled
            }
            Item::Free | Item::Unlimited(_) => false,
        })
    }

    /// The cell of a moment.
    fn cell(&mut self, at: Timestamp) -> usize {
        let (line, rules) = (&mut self.line, &mut self.rules);
        self.scale.place(at, |from, to| {
            line.grow(from, to);
            let lines = rules.iter_mut().filter_map(|rule| rule.line.as_mut());
            lines.for_each(|line| line.grow(from, to));
        })
    }

    /// The place of a rule, among the others if there are too many.
    fn rule(&mut self, domain: &str, name: &str) -> usize {
        let known = self.places.get(domain).and_then(|names| names.get(name));
        if let Some(place) = known {
            return *place;
        }
        if self.rules.len() >= MAX_RULES {
            return self.others();
        }
        let names = self.places.entry(domain.to_owned()).or_default();
        names.insert(name.to_owned(), self.rules.len());
        self.push(domain, name)
    }

    /// The place of all rules beyond the first.
    fn others(&mut self) -> usize {
        match self.rules.len() > MAX_RULES {
            true => MAX_RULES,
            false => self.push("", "(other rules)"),
        }
    }

    fn push(&mut self, domain: &str, name: &str) -> usize {
        self.rules.push(OfRule {
            domain: domain.to_owned(),
            name: name.to_owned(),
            source: None,
            counts: Counts::default(),
            refused: None,
            line: None,
        });
        self.rules.len() - 1
    }
}

/// Whether a descriptor is told something else: another code, or another number that is left.
fn is_told_otherwise(decision: &Decision<'_>, told: &Told<'_, '_, '_>) -> bool {
    let mut statuses = told.answer.statuses.iter().zip(&decision.asked);
    statuses.any(|(status, asked)| {
        let refused = status.code == Code::OverLimit;
        asked.sampled && (refused != asked.refused || status.remaining != asked.remaining)
    })
}

/// Writes entries as people do; sensitive values hashed, as captures have them already.
fn entries(to: &mut String, domain: &str, sensitive: Option<&Vec<String>>, all: &[Entry<'_>]) {
    for (place, entry) in all.iter().enumerate() {
        let between = if place == 0 { "" } else { "," };
        let hide = sensitive.is_some_and(|keys| keys.iter().any(|key| key == entry.key));
        let hidden = (hide && !entry.value.starts_with('#'))
            .then(|| hashed_value(&Domain::named(domain), *entry));
        let value = hidden.as_deref().unwrap_or(entry.value);
        // Writing to a String cannot fail.
        let _ = write!(to, "{between}{}={value}", entry.key);
    }
}
