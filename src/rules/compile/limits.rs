//! The limits of a descriptor or of a plan: several that are charged together, or none at all.

use smallvec::SmallVec;

use super::fields::Scope;
use super::limit::{self, Found};
use crate::rules::diagnostic::Code;
use crate::rules::file::{Node as Yaml, Span};
use crate::rules::{Domain, RuleLimit};

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
    /// Where each limit stands.
    spans: Vec<Span>,
}

impl Limits {
    /// Adds the limit at `node`; what is wrong with it, or with the two together, is reported.
    pub(super) fn read(&mut self, scope: &Scope<'_>, node: &Yaml<'_>, domain: &Domain) {
        match limit::read(scope, node, domain) {
            Some(Found::Unlimited(replaces)) if self.limits.is_empty() => {
                self.unlimited = true;
                self.replaces.extend(replaces);
            }
            Some(Found::Limit(limit, span)) if !self.unlimited => {
                self.check_shared(scope, &limit, span);
                self.check_leases(scope, &limit, span);
                self.limits.push(*limit);
                self.spans.push(span);
            }
            Some(Found::Unlimited(_) | Found::Limit(..)) => {
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
