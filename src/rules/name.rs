//! What a rule is called in metrics: the reference's names.

use std::borrow::Cow;

use super::{Entry, Rule, Segment};

impl Rule {
    /// The rule's name for a descriptor: its keys and values, joined with dots. Where `detailed_metric` or `value_to_metric`
    /// ask for it, it has the descriptor's own values.
    pub fn metric_name(&self, entries: &[Entry<'_>]) -> Cow<'_, str> {
        if !self.named_by_values {
            return Cow::Borrowed(&self.name);
        }
        let levels = self.levels.iter().zip(entries);
        let parts = levels.map(|(level, entry)| {
            let by_value = self.detailed_metric || level.value_to_metric;
            let part = if level.share_threshold || !by_value {
                level.as_written()
            } else if entry.value.is_empty() {
                entry.key.to_owned()
            } else {
                format!("{}_{}", entry.key, entry.value)
            };
            sanitise(&part)
        });
        parts.collect::<Vec<_>>().join(".").into()
    }
}

/// The name of a rule with these levels when no value of a descriptor is in it.
pub(super) fn written(levels: &[Segment]) -> String {
    let parts = levels.iter().map(|level| sanitise(&level.as_written()));
    parts.collect::<Vec<_>>().join(".")
}

/// `:` and `|`, and the dots within IPv4 addresses, become `_`, since names are split at dots.
fn sanitise(name: &str) -> String {
    let name = name.replace([':', '|'], "_");
    let mut result = String::with_capacity(name.len());
    let mut rest = name.as_str();
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let end = from
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(from.len());
        let (run, after) = from.split_at(end);
        result.push_str(before);
        let address = run.trim_end_matches('.');
        if is_address(address) {
            result.push_str(&address.replace('.', "_"));
            result.push_str(&run[address.len()..]);
        } else {
            result.push_str(run);
        }
        rest = after;
    }
    result.push_str(rest);
    result
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::Ipv4Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::sanitise;

    #[test]
    fn only_the_dots_of_addresses_are_replaced() {
        let cases = [
            ("ip_10.0.0.1", "ip_10_0_0_1"),
            ("net_10.0.0.0/8", "net_10_0_0_0/8"),
            ("path_/v1.2/a:b|c", "path_/v1.2/a_b_c"),
            ("version_1.2.3", "version_1.2.3"),
            ("version_1.2.3.4.5", "version_1.2.3.4.5"),
            ("host_10.0.0.1.", "host_10_0_0_1."),
        ];
        for (text, wanted) in cases {
            assert_eq!(sanitise(text), wanted);
        }
    }
}
