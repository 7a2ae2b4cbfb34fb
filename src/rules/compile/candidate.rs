//! A limit that is tried beside a live one.

use super::fields::{Fields, Scope};
use super::limit::{self, Numbers};
use super::table::Table;
use crate::limit::Limit;
use crate::rules::Domain;
use crate::rules::diagnostic::Code;
use crate::rules::file::Span;

/// A candidate as read.
pub(super) struct Tried {
    /// The limit, on trial.
    pub(super) limit: Limit,
    /// It refuses nothing: what if there were no limit?
    pub(super) unlimited: bool,
    /// `charge: always` or `charge: admitted`; none for the service's default.
    pub(super) charge_always: Option<bool>,
    /// Where it stands.
    pub(super) span: Span,
}

/// What a candidate stands beside.
pub(super) enum Live {
    /// A limit.
    Limit(Numbers),
    /// None, and said so.
    Unlimited,
    /// A limit that could not be read.
    Unread,
}

/// Reads the candidate of a limit, if it has one.
pub(super) fn read(live: &Fields<'_, '_>, of: Live, domain: &Domain) -> Option<Tried> {
    let (node, scope) = live.child("candidate")?;
    let span = live.span("candidate").unwrap_or(node.span);
    if live.get("lease").is_some() {
        let message = "a limit with a `lease` has no `candidate`";
        let error = live.error_at("candidate", span, message);
        let help = "what is taken in advance is not seen hit by hit; leave the `lease` out while \
                    the candidate is tried";
        live.fail("candidate", error.with_help(help));
    }
    let fields = Fields::of(&scope, node, Table::Candidate)?;
    let found = match of {
        Live::Unread => None,
        Live::Unlimited => counted(&fields, &scope, None, domain),
        Live::Limit(numbers) => counted(&fields, &scope, Some(&numbers), domain),
    };
    found.map(|(limit, unlimited, charge_always)| Tried {
        limit: limit.on_trial(),
        unlimited,
        charge_always,
        span,
    })
}

/// The limit, whether it refuses nothing, and whether it is charged always; a lint if it is the live one again.
fn counted(
    fields: &Fields<'_, '_>,
    scope: &Scope<'_>,
    live: Option<&Numbers>,
    domain: &Domain,
) -> Option<(Limit, bool, Option<bool>)> {
    let same = |help: &str| {
        if !scope.lints {
            return;
        }
        let message = "the candidate is the same as the limit: nothing can differ";
        let warning = scope
            .error(fields.own_span(), message)
            .coded(Code::SameCandidate);
        scope.report(warning.with_help(help));
    };
    if fields.flag("unlimited") {
        limit::no_numbers(fields, "candidate");
        let Some(live) = live else {
            same("say which limit to try, such as `{requests_per_unit: 100, unit: minute}`");
            return None;
        };
        let meter = Limit::meter(live.unit(), &domain.time_zone);
        return Some((meter, true, live.charge_always));
    }
    let numbers = Numbers::read(fields, live)?;
    let limit = numbers.build(fields, &domain.time_zone)?;
    if live.is_some_and(|live| live.is_same(&numbers)) {
        same(
            "say what it changes, such as `requests_per_unit`; or remove it, if it has become the limit",
        );
    }
    Some((limit, false, numbers.charge_always))
}
