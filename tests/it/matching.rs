//! Which rule a descriptor finds: the reference's order, and a naive matcher that looks at every rule.

use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use tollgate::rules::{Entry, RuleSet};

use crate::support::rules::compile;

/// A descriptor of a rule file; `value` may be a pattern or a network.
#[derive(Clone, Debug)]
struct Node {
    key: &'static str,
    value: &'static str,
    /// The number of its limit, if it has one.
    limit: Option<u32>,
    children: Vec<Node>,
}

const KEYS: [&str; 5] = ["a", "b", "a_b", "a*", "*x"];
const VALUES: [&str; 15] = [
    "",
    "x",
    "xy",
    "x*",
    "*x",
    "x*x",
    "*",
    "x*y*x",
    "*y*",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "2001:db8::/32",
    "::/0",
    "b_x",
];
const SENT: [&str; 15] = [
    "",
    "x",
    "xy",
    "xx",
    "xyx",
    "yx",
    "xyyx",
    "y",
    "10.1.2.3",
    "10.1.9.9",
    "10.9.9.9",
    "2001:db8::1",
    "::1",
    "::ffff:10.1.2.3",
    "b_x",
];

fn level(depth: u32) -> BoxedStrategy<Vec<Node>> {
    let children = if depth == 0 {
        Just(Vec::new()).boxed()
    } else {
        level(depth - 1)
    };
    let limit = prop::option::weighted(0.7, 1_u32..u32::MAX);
    let node = (
        prop::sample::select(&KEYS[..]),
        prop::sample::select(&VALUES[..]),
        limit,
        children,
    );
    let node = node.prop_map(|(key, value, limit, children)| Node {
        key,
        value,
        limit,
        children,
    });
    let nodes = prop::collection::vec(node, 0..8);
    let unique = nodes.prop_map(|mut nodes| {
        let mut seen = std::collections::HashSet::new();
        nodes.retain(|node| {
            let network_of_pattern = node.key.contains('*') && network(node).is_some();
            !network_of_pattern && seen.insert((node.key, node.value))
        });
        nodes
    });
    unique.boxed()
}

fn yaml(nodes: &[Node], indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    let _ = writeln!(text, "{pad}descriptors:");
    for node in nodes {
        let field = network(node).map_or("value", |_| "cidr");
        let _ = writeln!(
            text,
            "{pad}  - key: '{}'\n{pad}    {field}: '{}'",
            node.key, node.value
        );
        if let Some(limit) = node.limit {
            let _ = writeln!(
                text,
                "{pad}    rate_limit: {{unit: day, requests_per_unit: {limit}}}"
            );
        }
        yaml(&node.children, indent + 4, text);
    }
}

fn network(node: &Node) -> Option<IpNet> {
    node.value.parse().ok()
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skipped| glob(rest, &text[skipped..])),
        Some((byte, rest)) => text.first() == Some(byte) && glob(rest, &text[1..]),
    }
}

/// The reference's order, rule by rule.
fn naive<'n>(nodes: &'n [Node], entry: &(&str, &str)) -> Option<&'n Node> {
    let (key, value) = *entry;
    let plain = |node: &&&Node| node.key == key && !node.key.contains('*');
    let own = || nodes.iter().filter(|node| plain(&node));
    let exact = own().find(|node| {
        !node.value.is_empty()
            && !node.value.contains('*')
            && network(node).is_none()
            && node.value == value
    });
    let address = value
        .parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical());
    let holding = own().filter(|node| {
        let net = network(node).zip(address);
        net.is_some_and(|(net, address)| net.contains(&address))
    });
    let longest = || holding.max_by_key(|node| network(node).map(|net| net.prefix_len()));
    let wildcard = || {
        nodes.iter().find(|node| {
            if node.key.contains('*') {
                let joint = if node.value.is_empty() { "" } else { "_" };
                let pattern = format!("{}{joint}{}", node.key, node.value);
                return glob(pattern.as_bytes(), format!("{key}_{value}").as_bytes());
            }
            node.key == key
                && node.value.contains('*')
                && glob(node.value.as_bytes(), value.as_bytes())
        })
    };
    let bare = || own().find(|node| node.value.is_empty());
    exact.or_else(longest).or_else(wildcard).or_else(bare)
}

fn naive_limit(mut nodes: &[Node], entries: &[(&str, &str)]) -> Option<u32> {
    let (last, before) = entries.split_last()?;
    for entry in before {
        nodes = &naive(nodes, entry)?.children;
    }
    naive(nodes, last)?.limit
}

fn found(rules: &RuleSet, entries: &[(&str, &str)]) -> Option<u32> {
    let entries: Vec<Entry<'_>> = entries
        .iter()
        .map(|(key, value)| Entry { key, value })
        .collect();
    let rule = rules.domains["d"].find(&entries)?;
    Some(rule.limits[0].limit.requests_per_unit())
}

fn rules(descriptors: &str) -> RuleSet {
    compile(
        &[("d.yaml".to_owned(), format!("domain: d\n{descriptors}"))],
        false,
    )
    .expect("good rules")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn finds_what_a_naive_matcher_finds(
        nodes in level(2),
        sent in prop::collection::vec(
            prop::collection::vec(
                (prop::sample::select(&["a", "b", "a_b", "ax"][..]), prop::sample::select(&SENT[..])),
                0..4,
            ),
            40,
        ),
    ) {
        let mut text = String::new();
        yaml(&nodes, 0, &mut text);
        let rules = rules(&text);
        for entries in &sent {
            prop_assert_eq!(found(&rules, entries), naive_limit(&nodes, entries), "{:?} in\n{}", entries, text);
        }
    }
}

fn one(key: &str, value: &str, limit: u32) -> String {
    format!(
        "  - {{key: '{key}', value: '{value}', rate_limit: {{unit: day, requests_per_unit: {limit}}}}}\n"
    )
}

#[test]
fn the_first_pattern_in_the_file_wins_whatever_its_length() {
    let patterns = [one("k", "*", 1), one("k", "abc*", 2), one("k", "*z", 3)];
    let in_order = rules(&format!("descriptors:\n{}", patterns.concat()));
    assert_eq!(found(&in_order, &[("k", "abcz")]), Some(1));
    let reversed: String = patterns.iter().rev().map(String::as_str).collect();
    let reversed = rules(&format!("descriptors:\n{reversed}"));
    assert_eq!(found(&reversed, &[("k", "abcz")]), Some(3));
    assert_eq!(found(&reversed, &[("k", "abc")]), Some(2));
    assert_eq!(found(&reversed, &[("k", "other")]), Some(1));
}

#[test]
fn the_ends_of_a_pattern_do_not_overlap() {
    let rules = rules(&format!("descriptors:\n{}", one("k", "ab*ba", 1)));
    assert_eq!(found(&rules, &[("k", "aba")]), None);
    assert_eq!(found(&rules, &[("k", "abba")]), Some(1));
}

#[test]
fn a_key_that_joins_key_and_value_is_another_rule() {
    let rules = rules(&format!(
        "descriptors:\n{}{}",
        one("a", "b", 1),
        one("a_b", "", 2)
    ));
    assert_eq!(found(&rules, &[("a", "b")]), Some(1));
    assert_eq!(found(&rules, &[("a_b", "")]), Some(2));
}

#[test]
fn rules_of_merged_files_stand_in_the_order_of_the_files() {
    let file = |name: &str, value: &str, limit| {
        let text = format!("domain: d\ndescriptors:\n{}", one("k", value, limit));
        (name.to_owned(), text)
    };
    let rules =
        compile(&[file("a.yaml", "*", 1), file("b.yaml", "x*", 2)], true).expect("good rules");
    assert_eq!(found(&rules, &[("k", "x")]), Some(1));
}
