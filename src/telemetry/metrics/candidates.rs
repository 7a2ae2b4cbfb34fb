//! The counters of candidates: in how many requests they would have decided otherwise. Their names are those of the rule files,
//! and still there is a most of them.

use std::collections::HashSet;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::kinds::Counter;
use super::rule::OTHER;

/// How many candidates are counted by name since the start; the others are counted as `other`.
pub const MAX_CANDIDATES: usize = 1000;

/// A handle on the counters of one candidate.
#[derive(Clone, Debug)]
pub struct CandidateCounters {
    /// Requests that pass or are refused either way.
    pub same: Counter,
    /// Those that pass, and would be refused.
    pub would_refuse: Counter,
    /// Those that are refused, and would pass.
    pub would_admit: Counter,
}

/// All candidates that were loaded since the start.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    requests: Family<CandidateLabel, Counter>,
    known: Mutex<HashSet<(String, String)>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CandidateLabel {
    domain: String,
    rule: String,
    outcome: &'static str,
}

impl Candidates {
    /// None loaded yet.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let candidates = Self::default();
        registry.register(
            "tollgate_candidate_requests",
            "Requests that a candidate limit was tried on, and whether it would have refused what passes or admitted what is refused",
            candidates.requests.clone(),
        );
        candidates
    }

    /// The counters of a candidate, there from now on; the same before and after a reload.
    pub(super) fn counters(&self, domain: &str, rule: &str) -> CandidateCounters {
        let (domain, rule) = self.bounded(domain, rule);
        let counter = |outcome: &'static str| {
            let (domain, rule) = (domain.clone(), rule.clone());
            let label = CandidateLabel {
                domain,
                rule,
                outcome,
            };
            self.requests.get_or_create(&label).clone()
        };
        CandidateCounters {
            same: counter("same"),
            would_refuse: counter("would_refuse"),
            would_admit: counter("would_admit"),
        }
    }

    /// These names if they are known, or may be yet.
    fn bounded(&self, domain: &str, rule: &str) -> (String, String) {
        let names = (domain.to_owned(), rule.to_owned());
        let mut known = self.known.lock();
        if known.contains(&names) {
            return names;
        }
        if known.len() < MAX_CANDIDATES {
            known.insert(names.clone());
            return names;
        }
        (OTHER.to_owned(), OTHER.to_owned())
    }
}
