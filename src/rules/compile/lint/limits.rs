//! Limits that are charged together: those that refuse everything, and those that never do.

use super::{File, REQUESTS, advise, at, get, text, windows};
use crate::limit::Hits;
use crate::rules::RuleLimit;
use crate::rules::compile::fields::Scope;
use crate::rules::compile::hints;
use crate::rules::diagnostic::Code;
use crate::rules::file::{Node, Span};

/// Looks at the limits of a descriptor, maybe of one value alone, or of a plan; `nodes` is where they stand.
pub(super) fn look(
    file: &File<'_>,
    scope: &Scope<'_>,
    limits: &[RuleLimit],
    nodes: &[&Node<'_>],
    of_one_value: bool,
) {
    let spans: Vec<Span> = nodes.iter().map(|limit| at(limit, &REQUESTS)).collect();
    nodes.iter().for_each(|node| numbers(scope, node));
    let all = || {
        let limits = limits.iter().map(|limit| &limit.limit);
        limits.zip(&spans).enumerate()
    };
    for (place, (limit, span)) in all() {
        let holds = limit.capacity();
        let dear = file.names.dearest;
        if holds == Hits::ZERO {
            refuses(scope, *span, nodes.get(place).copied(), of_one_value);
        } else if dear > holds {
            let message =
                format!("a request that costs {dear} never fits: this limit holds {holds}");
            let help = "lower that cost, or raise `requests_per_unit` or the burst";
            advise(scope, Code::NeverFits, *span, &message, help);
        }
        let stricter = all().find_map(|(other, (by, at))| {
            let most = windows::most(by, limit)
                .filter(|_| other != place && by.capacity() > Hits::ZERO)?;
            // Of two that are as strict, the second is too much.
            let is_less = most < holds || (most == holds && other < place);
            is_less.then_some((by, at, most))
        });
        if let Some((by, at, most)) = stricter {
            let message = format!(
                "{limit} can never refuse: {by} lets no more than {} pass in that time",
                most.floor()
            );
            let help = format!("remove it, or change it or the one in line {}", at.line);
            advise(scope, Code::NeverRefuses, *span, &message, &help);
        }
    }
}

/// A limit of 0. That of one value is how one is blocked, if the 0 is written.
fn refuses(scope: &Scope<'_>, span: Span, node: Option<&Node<'_>>, of_one_value: bool) {
    let is_written = node.is_some_and(|node| get(node, "requests_per_unit").is_some());
    let help = if is_written {
        "0 blocks whoever matches; for no limit at all write `unlimited: true`"
    } else {
        "`requests_per_unit` is left out, and so 0"
    };
    let found = scope.error(span, "this limit refuses every request");
    let found = found.coded(Code::AlwaysRefuses).with_help(help);
    scope.report(if is_written && of_one_value {
        found.as_note()
    } else {
        found
    });
}

/// Numbers that are read, as the reference reads them, and are easily misread.
fn numbers(scope: &Scope<'_>, limit: &Node<'_>) {
    for name in ["requests_per_unit", "unit_multiplier"] {
        let Some(node) = get(limit, name) else {
            continue;
        };
        if let Some((written, number)) =
            text(node).and_then(|text| Some((text, hints::whole(text)?)))
        {
            let message = format!("`{written}` is read as {number}");
            let help = format!("write `{name}: {number}`");
            advise(
                &scope.field(name),
                Code::OddNumber,
                node.span,
                &message,
                &help,
            );
        }
    }
}
