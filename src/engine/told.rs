//! What a trace says of a decision.

use std::fmt::Write;

use super::answer::metadata::{metric_name, shown};
use super::fold::Ruling;
use super::{Call, Engine, Reason, Request};
use crate::limit::transaction::Amount;
use crate::rules::Domain;
use crate::telemetry::metrics::rule::{MAX_NAME, OTHER};
use crate::telemetry::tracing::{self as spans, Decision};

/// The longest text of descriptors, in bytes; the rest is left out.
const MAX_DESCRIPTORS: usize = 512;

impl Engine {
    /// Says what was decided, if the decision is traced, or is kept although it is not: it may be `refused`, or `failed` for want
    /// of the store.
    pub(super) fn trace(
        &self,
        call: &Call<'_>,
        (refused, failed): (bool, bool),
        decide: impl FnOnce(&mut dyn FnMut(Decision<'_>)),
    ) {
        let Some(unseen) = call.traced.unseen else {
            return spans::record(&call.traced.span, decide);
        };
        if let Some(kept) = unseen.keep((refused, failed), (0, false), decide) {
            self.metrics.kept_trace(kept);
        }
    }
}

/// Of a request for a domain without rules. Which of its values are sensitive is not known, so none is told.
pub(super) fn unruled<'r>(request: &'r Request<'_>) -> Decision<'r> {
    Decision {
        domain: request.domain,
        reason: Reason::NoRule.name(),
        admitted: true,
        ..Decision::default()
    }
}

/// Of a request that was decided.
pub(super) fn decided(
    domain: &Domain,
    request: &Request<'_>,
    ruling: &Ruling<'_>,
    reason: Reason,
    say: &mut dyn FnMut(Decision<'_>),
) {
    let descriptors = descriptors(domain, request);
    let common = Decision {
        domain: request.domain,
        descriptors: &descriptors,
        reason: reason.name(),
        admitted: ruling.admitted,
        ..Decision::default()
    };
    let Some(spoken) = ruling.deciding() else {
        return say(common);
    };
    let said = spoken.decisive();
    let entries = &request.descriptors[spoken.descriptor].entries;
    let rule = metric_name(spoken.rule, entries);
    let source = spoken.rule.map(|rule| rule.source.to_string());
    let (Amount::Charge(hits) | Amount::Peek(hits) | Amount::Refund(hits)) = spoken.amount;
    say(Decision {
        rule: if rule.len() > MAX_NAME { OTHER } else { &rule },
        path: spoken.rule.map_or("", |rule| &rule.path),
        source: source.as_deref().unwrap_or_default(),
        plan: spoken.plan.unwrap_or_default(),
        limit: &said.limit.to_string(),
        hits: &hits.to_string(),
        remaining: said.remaining.floor(),
        reset: said.reset.ceil_secs(),
        ..common
    });
}

/// `user_id=alice, path=/x; remote_address=192.0.2.1`: as much as has room. Sensitive values are hashed.
fn descriptors(domain: &Domain, request: &Request<'_>) -> String {
    let mut text = String::new();
    for (number, descriptor) in request.descriptors.iter().enumerate() {
        for (place, entry) in descriptor.entries.iter().enumerate() {
            let between = match (number, place) {
                (0, 0) => "",
                (_, 0) => "; ",
                (_, _) => ", ",
            };
            // Writing to a String cannot fail.
            let _ = write!(text, "{between}{}", shown(domain, entry));
            if text.len() > MAX_DESCRIPTORS {
                let mut ends = (0..=MAX_DESCRIPTORS).rev();
                let end = ends.find(|end| text.is_char_boundary(*end));
                text.truncate(end.unwrap_or_default());
                text.push('…');
                return text;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Descriptor, Entry};

    #[test]
    fn descriptors_are_told_as_far_as_there_is_room_and_sensitive_values_not_at_all() {
        let mut domain = Domain::named("d");
        domain.sensitive.push("token".into());
        let told = |descriptors: &[&[(&str, &str)]]| {
            let descriptors = descriptors.iter().map(|entries| Descriptor {
                entries: entries
                    .iter()
                    .map(|(key, value)| Entry { key, value })
                    .collect(),
                ..Descriptor::default()
            });
            let request = Request {
                domain: "d",
                hits_addend: 1,
                descriptors: descriptors.collect(),
            };
            super::descriptors(&domain, &request)
        };
        let said = told(&[&[("a", "1"), ("b", "2")], &[("c", "")]]);
        assert_eq!(said, "a=1, b=2; c=");
        let hidden = told(&[&[("token", "horse")]]);
        assert!(
            hidden.starts_with("token") && !hidden.contains("horse"),
            "{hidden}"
        );
        let value = "é".repeat(1000);
        let entry = [("a", value.as_str())];
        let long = told(&[&entry[..]; 100]);
        assert!(long.len() <= MAX_DESCRIPTORS + '…'.len_utf8(), "{long}");
        assert!(long.ends_with("é…"));
    }
}
