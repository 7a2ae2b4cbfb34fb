//! The limits of a descriptor or of a plan: several that are charged together, or none at all.

use smallvec::SmallVec;

use super::candidate::Tried;
use super::fields::Scope;
use super::limit::{self, Found};
use crate::limit::transaction::MAX_SLOTS;
use crate::rules::diagnostic::Code;
use crate::rules::file::{Node as Yaml, Span};
use crate::rules::{Domain, RuleCandidate, RuleLimit};

/// Whether any of these may be taken in advance.
pub(super) fn leased(limits: &[RuleLimit]) -> bool {
    limits.iter().any(|limit| limit.limit.lease().is_some())
}

/// What the limits of a descriptor or a plan come to.
#[derive(Default)]
pub(super) struct Limits {
    pub(super) unlimited: bool,
    pub(super) limits: SmallVec<[RuleLimit; 1]>,
    /// What an unlimited one replaces.
    pub(super) replaces: Vec<String>,
    /// What is tried beside them.
    pub(super) candidates: Vec<RuleCandidate>,
    /// Where each limit stands.
    spans: Vec<Span>,
    /// Where each candidate stands.
    tried_at: Vec<Span>,
}

/// How many limits and candidates a key remembers, its ban and its meter apart.
const MOST: usize = MAX_SLOTS - 2;

impl Limits {
    /// Adds the limit at `node`; what is wrong with it, or with the two together, is reported.
    pub(super) fn read(&mut self, scope: &Scope<'_>, node: &Yaml<'_>, domain: &Domain) {
        match limit::read(scope, node, domain) {
            Some(Found::Unlimited(replaces, tried)) if self.limits.is_empty() => {
                self.unlimited = true;
                self.replaces.extend(replaces);
                self.tries(scope, None, tried);
            }
            Some(Found::Limit(limit, span, tried)) if !self.unlimited => {
                self.check_shared(scope, &limit, span);
                self.check_leases(scope, &limit, span);
                self.tries(scope, Some(self.limits.len()), tried);
                self.limits.push(*limit);
                self.spans.push(span);
            }
            Some(Found::Unlimited(..) | Found::Limit(..)) => {
                let error = scope.error(node.span, "an unlimited descriptor has no other limits");
                let error = error.coded(Code::Conflict);
                scope.report(error.with_help("remove the limits, or the one with `unlimited`"));
            }
            None => {}
        }
    }

    /// Whether a batch may be taken in advance: of all limits, then.
    pub(super) fn have_leases(&self) -> bool {
        leased(&self.limits)
    }

    /// Adds the candidate of the limit at `instead_of`, or of none.
    fn tries(&mut self, scope: &Scope<'_>, instead_of: Option<usize>, tried: Option<Tried>) {
        let Some(tried) = tried else { return };
        let scope = scope.field("candidate");
        let tag = tried.limit.tag();
        let others = self.candidates.iter().zip(&self.tried_at);
        let same = |(other, _): &(&RuleCandidate, &Span)| other.limit.tag() == tag;
        if let Some((_, first)) = others.clone().find(same) {
            let message = "two candidates of one descriptor with the same window and algorithm";
            let help = format!(
                "they would share a counter; the other stands in {}: try one after the other",
                first.place()
            );
            scope.report(scope.error(tried.span, message).with_help(help));
        }
        self.candidates.push(RuleCandidate {
            instead_of,
            limit: tried.limit,
            unlimited: tried.unlimited,
            charge_always: tried.charge_always,
        });
        self.tried_at.push(tried.span);
    }

    /// No live limit may make way for a candidate.
    pub(super) fn check_room(&self, scope: &Scope<'_>) {
        let all = self.limits.len() + self.candidates.len();
        if let Some(span) = self.tried_at.last().filter(|_| all > MOST) {
            let message = format!("{all} limits and candidates on one descriptor");
            let help = format!("with candidates there are at most {MOST}; try some after others");
            scope.report(scope.error(*span, message).with_help(help));
        }
    }

    fn check_leases(&self, scope: &Scope<'_>, limit: &RuleLimit, span: Span) {
        let first = self.limits.first().zip(self.spans.first());
        if let Some((first, at)) = first
            && first.limit.lease().is_some() != limit.limit.lease().is_some()
        {
            let message = "of limits that are charged together, all have a `lease` or none";
            let help = format!(
                "what is taken in advance is taken of all of them; the first stands in {}",
                at.place()
            );
            let error = scope.error(span, message).coded(Code::Conflict);
            scope.report(error.with_help(help));
        }
    }

    fn check_shared(&self, scope: &Scope<'_>, limit: &RuleLimit, span: Span) {
        let tag = limit.limit.tag();
        let same = self.limits.iter().zip(&self.spans);
        let mut same = same.filter(|(other, _)| other.limit.tag() == tag);
        if let Some((_, first)) = same.next() {
            let message = "two limits of one descriptor with the same window and algorithm";
            let help = format!(
                "they would share a counter and only the lower could bind; the other stands in {}",
                first.place()
            );
            let error = scope.error(span, message).coded(Code::Duplicate);
            scope.report(error.with_help(help));
        }
    }
}
