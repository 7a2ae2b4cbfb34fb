//! What rules will take: memory for a million subjects of each, and calls for a request that finds several.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::engine::key::key;
use crate::limit::Limit;
use crate::rules::{Domain, Entry, Rule, RuleCandidate, RuleLimit, RuleSet};
use crate::store::footprint;

/// How long a value is taken to be that the rules do not say, in characters: a user's number, an address.
const VALUE: &str = "0123456789abcdef";
const ADDRESS: &str = "203.0.113.100";

/// How many rules of a domain are listed for people, and for machines; those that take most come first.
const LISTED: usize = 10;
const LISTED_FOR_MACHINES: usize = 1000;
/// How many domains are listed for people.
const DOMAINS: usize = 10;

/// What the rules of a domain take.
pub(super) struct OfDomain {
    name: String,
    /// The sum of all, a million subjects of each rule.
    embedded: usize,
    redis: usize,
    /// Those that count subjects, the largest first; of equals in the order of the files.
    rules: Vec<OfRule>,
    /// How many rules have a fixed number of counters, whoever asks.
    few: usize,
    /// By the key that places their counters how many rules there are; by nothing, for those that lie by themselves.
    placed: BTreeMap<String, usize>,
}

/// What a rule takes for each subject, in bytes.
struct OfRule {
    written: String,
    limits: usize,
    embedded: usize,
    redis: usize,
}

/// Each domain, in the order of their names.
pub(super) fn of(rules: &RuleSet) -> Vec<OfDomain> {
    let mut by_domain: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for rule in &rules.rules {
        by_domain.entry(&rule.domain).or_default().push(rule);
    }
    let found = by_domain.into_iter();
    let found = found.filter_map(|(name, of_it)| Some((rules.domains.get(name)?, of_it)));
    found
        .map(|(domain, of_it)| OfDomain::of(domain, &of_it))
        .collect()
}

impl OfDomain {
    fn of(domain: &Domain, all: &[&Rule]) -> Self {
        let mut found = OfDomain {
            name: domain.name.to_string(),
            embedded: 0,
            redis: 0,
            rules: Vec::new(),
            few: 0,
            placed: BTreeMap::new(),
        };
        for rule in all {
            let limits = limits(domain, rule);
            if limits.is_empty() {
                continue;
            }
            let by = domain
                .partition_by
                .iter()
                .find(|key| rule.levels.iter().any(|level| *level.key == ***key));
            *found
                .placed
                .entry(by.cloned().unwrap_or_default())
                .or_default() += 1;
            if rule
                .levels
                .iter()
                .all(|level| level.share_threshold || !is_open(level))
            {
                found.few += 1;
                continue;
            }
            let entries: Vec<Entry<'_>> = rule.levels.iter().map(entry).collect();
            let text = key("", domain, &entries, Some(rule));
            let of_rule = OfRule {
                written: written(rule),
                limits: limits.len(),
                embedded: footprint::embedded(limits.iter().copied()),
                redis: footprint::redis(text.as_str().len(), limits.iter().copied()),
            };
            found.embedded += of_rule.embedded;
            found.redis += of_rule.redis;
            found.rules.push(of_rule);
        }
        found
            .rules
            .sort_by_key(|rule| std::cmp::Reverse(rule.redis));
        found
    }

    /// The lines about it, for people.
    fn write(&self, to: &mut String) {
        // Writing to a String cannot fail.
        let _ = writeln!(to, "{:>10} {:>9}   {}", "embedded", "Redis", self.name);
        for rule in self.rules.iter().take(LISTED) {
            let _ = writeln!(
                to,
                "{:>10} {:>9}     {}{}",
                bytes(rule.embedded),
                bytes(rule.redis),
                rule.written,
                if rule.limits > 1 {
                    format!(", {} limits", rule.limits)
                } else {
                    String::new()
                },
            );
        }
        if self.rules.len() > 1 {
            let listed = self.rules.len().min(LISTED);
            let more = if self.rules.len() > listed {
                ", those that are not listed here included"
            } else {
                ""
            };
            let _ = writeln!(
                to,
                "{:>10} {:>9}     all {}{more}",
                bytes(self.embedded),
                bytes(self.redis),
                self.rules.len()
            );
        }
        if self.few > 0 {
            let rules = super::count(self.few, "rule");
            let _ = writeln!(
                to,
                "{:>25}{rules} with a single counter each, whoever asks",
                ""
            );
        }
        if self.placed.len() > 1 {
            let by = self
                .placed
                .iter()
                .rev()
                .map(|(key, count)| match key.as_str() {
                    "" => format!("{count} each by itself"),
                    key => format!("{count} by `{key}`"),
                });
            let by = by.collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                to,
                "{:>25}in Redis Cluster {by}: a call for each that a request finds, at the same time",
                ""
            );
        }
    }

    fn json(&self) -> Value {
        let rules = self.rules.iter().take(LISTED_FOR_MACHINES).map(|rule| {
            json!({
                "rule": rule.written,
                "limits": rule.limits,
                "embedded_bytes": rule.embedded,
                "redis_bytes": rule.redis,
            })
        });
        json!({
            "domain": self.name,
            "embedded_bytes": self.embedded,
            "redis_bytes": self.redis,
            "rules": rules.collect::<Vec<_>>(),
            "rules_left_off": self.rules.len().saturating_sub(LISTED_FOR_MACHINES),
            "rules_of_few_counters": self.few,
            "placed_by": self.placed.iter().map(|(key, count)| json!({
                "key": if key.is_empty() { Value::Null } else { key.as_str().into() },
                "rules": count,
            })).collect::<Vec<_>>(),
        })
    }
}

/// For people; nothing if no rule counts anything.
pub(super) fn text(all: &[OfDomain]) -> String {
    let counting: Vec<&OfDomain> = all
        .iter()
        .filter(|domain| !domain.placed.is_empty())
        .collect();
    if counting.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "memory for a million subjects of each rule, their values {} characters long:\n",
        VALUE.len()
    );
    counting
        .iter()
        .take(DOMAINS)
        .for_each(|domain| domain.write(&mut text));
    if counting.len() > DOMAINS {
        let _ = writeln!(
            text,
            "and {} more domains: --format json has them",
            counting.len() - DOMAINS
        );
    }
    text + "\n"
}

/// For machines: bytes a subject, which are megabytes for a million.
pub(super) fn json(all: &[OfDomain]) -> Value {
    all.iter().map(OfDomain::json).collect()
}

/// What is counted for each subject of a rule, candidates included: of plans that of the one that takes most.
fn limits<'r>(domain: &'r Domain, rule: &'r Rule) -> Vec<&'r Limit> {
    let of = |limits: &'r [RuleLimit], candidates: &'r [RuleCandidate]| -> Vec<&'r Limit> {
        let live = limits.iter().map(|limit| &limit.limit);
        let tried = candidates.iter().map(|candidate| &candidate.limit);
        live.chain(tried).collect()
    };
    let mut limits = match &rule.plan {
        None => of(&rule.limits, &rule.candidates),
        Some(_) => {
            let plans = domain.plans.values();
            plans
                .map(|plan| of(&plan.limits, &plan.candidates))
                .max_by_key(|limits| footprint::redis(0, limits.iter().copied()))
                .unwrap_or_default()
        }
    };
    limits.extend(rule.meter.as_deref());
    limits
}

/// Whether the level has many values.
fn is_open(level: &crate::rules::Segment) -> bool {
    level.value.is_empty() || level.wildcard || is_network(level)
}

fn is_network(level: &crate::rules::Segment) -> bool {
    level
        .value
        .parse::<ipnet::IpNet>()
        .is_ok_and(|net| net.prefix_len() < net.max_prefix_len())
}

/// An entry as a request may bring it.
fn entry(level: &crate::rules::Segment) -> Entry<'_> {
    let is_address = is_network(level) || level.key.contains("remote_address");
    let value = match (is_open(level), is_address) {
        (true, true) => ADDRESS,
        (true, false) => VALUE,
        (false, _) => &level.value,
    };
    Entry {
        key: &level.key,
        value,
    }
}

/// `path=/search, user_id`.
fn written(rule: &Rule) -> String {
    let levels = rule.levels.iter().map(|level| match &*level.value {
        "" => level.key.to_string(),
        value => format!("{}={value}", level.key),
    });
    levels.collect::<Vec<_>>().join(", ")
}

/// So many bytes a subject, for a million.
fn bytes(each: usize) -> String {
    if each < 1000 {
        format!("{each} MB")
    } else {
        format!("{:.1} GB", each as f64 / 1000.0)
    }
}
