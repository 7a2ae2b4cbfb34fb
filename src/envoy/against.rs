//! Rules held against an Envoy configuration: those that no action feeds, descriptors that no rule answers, and domains that
//! only one side knows. What is not known beforehand may be anything, so nothing is said of it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Configuration, Part, Shape, Shapes};
use crate::rules::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::rules::file::{SourceFile, Span};
use crate::rules::matcher::Patterns;
use crate::rules::{Domain, Entries, Entry, Rule, RuleSet, Segment};

/// With more entries that may be missing, a descriptor may be anything.
const MAX_OPTIONAL: u32 = 6;

/// How many of the descriptors that there are a hint tells.
const MAX_TOLD: usize = 5;

/// A set of rules, and the files that it is from.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'r> {
    /// Compiled.
    pub set: &'r RuleSet,
    /// As written.
    pub files: &'r [SourceFile],
}

/// A descriptor with or without each of the entries that may be missing.
type Variant<'s> = Vec<&'s Part>;

/// A descriptor that some Envoy can send, and the file that says so.
type Placed<'s> = (&'s str, &'s Shape);

/// What is doubtful in a set of rules, in the light of all Envoys that ask; nothing where descriptors come from elsewhere too.
pub fn unfed(configurations: &[Configuration], rules: Rules<'_>) -> Vec<Diagnostic> {
    let all: Vec<(&str, Shapes)> = configurations
        .iter()
        .map(|one| (one.name.as_str(), one.shapes()))
        .collect();
    if all.iter().any(|(_, shapes)| !shapes.open.is_empty()) {
        return Vec::new();
    }
    let named = all.iter().flat_map(|(_, shapes)| &shapes.domains);
    let named: Vec<&str> = named.map(|(name, _)| name.as_str()).collect();
    let shapes: Vec<Placed<'_>> = all
        .iter()
        .flat_map(|(name, shapes)| shapes.shapes.iter().map(|shape| (*name, shape)))
        .collect();
    let mut found = Vec::new();
    let mut strange: Vec<&str> = Vec::new();
    for rule in &rules.set.rules {
        let file = rules
            .files
            .iter()
            .find(|file| *file.name == *rule.source.file);
        let Some(file) = file else { continue };
        let domain = rules.set.domains.get(&*rule.domain);
        let Some(domain) = domain.filter(|_| named.contains(&&*rule.domain)) else {
            if !strange.contains(&&*rule.domain) {
                strange.push(&rule.domain);
                found.push(unasked(file, &rule.domain, &named));
            }
            continue;
        };
        let of_domain = shapes
            .iter()
            .filter(|(_, shape)| shape.domain == *rule.domain);
        let of_domain: Vec<Placed<'_>> = of_domain.copied().collect();
        let mut variants = of_domain.iter().flat_map(|(_, shape)| variants(shape));
        if !variants.any(|variant| feeds(domain, &variant, rule)) {
            found.push(never_fed(file, rule, &of_domain));
        }
    }
    found
}

impl Configuration {
    /// What is doubtful in the configuration, which `file` is, in the light of all sets of rules.
    pub fn unanswered(&self, file: &SourceFile, all: &[Rules<'_>]) -> Vec<Diagnostic> {
        let shapes = self.shapes();
        let mut found = Vec::new();
        let of = |name: &str| -> Vec<&Domain> {
            let domains = all.iter().filter_map(|rules| rules.set.domains.get(name));
            domains.collect()
        };
        for (name, line) in &shapes.domains {
            if of(name).is_empty() {
                let known = all.iter().flat_map(|rules| rules.set.domains.keys());
                let mut known: Vec<&str> = known.map(String::as_str).collect();
                known.sort_unstable();
                found.push(unknown_domain(file, name, *line, &known));
            }
        }
        for line in &shapes.unseen {
            let message = "no ratelimit filter looks at this";
            let help = "a filter with `rate_limits` of its own, or a RateLimitPerRoute with them, looks at no others; and `stage` is to be the filter's";
            let unseen = Diagnostic::error(file, whole_line(file, *line), "", message);
            found.push(unseen.coded(Code::UnusedAction).with_help(help));
        }
        for shape in &shapes.shapes {
            let domains = of(&shape.domain);
            if shape.has_limit || shape.parts.is_empty() || domains.is_empty() {
                continue;
            }
            let answers = |variant: &Variant<'_>| {
                all.iter().any(|rules| {
                    let Some(domain) = rules.set.domains.get(&shape.domain) else {
                        return false;
                    };
                    let mut own = rules
                        .set
                        .rules
                        .iter()
                        .filter(|rule| *rule.domain == *shape.domain);
                    own.any(|rule| feeds(domain, variant, rule))
                })
            };
            if !variants(shape).iter().any(answers) {
                found.push(never_answered(file, shape, &domains, all));
            }
        }
        found
    }
}

/// Each way in which a descriptor may be sent; none means that it may be anything.
fn variants(shape: &Shape) -> Vec<Variant<'_>> {
    let optional = shape.parts.iter().filter(|part| part.is_optional).count();
    let optional = u32::try_from(optional)
        .unwrap_or(u32::MAX)
        .min(MAX_OPTIONAL);
    let variant = |missing: u32| {
        let mut place = 0;
        let stays = |part: &&Part| {
            if !part.is_optional || place >= MAX_OPTIONAL {
                return true;
            }
            place += 1;
            missing & (1 << (place - 1)) == 0
        };
        shape.parts.iter().filter(stays).collect()
    };
    (0..1_u32 << optional).map(variant).collect()
}

/// Whether a descriptor like this may come to a rule.
fn feeds(domain: &Domain, variant: &Variant<'_>, rule: &Rule) -> bool {
    let known = variant.iter().map(|part| {
        let (key, value) = (part.key.as_deref()?, part.value.as_deref()?);
        Some(Entry { key, value })
    });
    if let Some(entries) = known.collect::<Option<Entries<'_>>>() {
        let found = domain.find(&entries);
        return found.is_some_and(|found| found.id == rule.id);
    }
    let levels = rule.levels.iter();
    variant.len() == rule.levels.len()
        && levels
            .zip(variant)
            .all(|(level, part)| may_match(level, part))
}

/// Whether an entry like this may match a level: what is not known may be anything.
fn may_match(level: &Segment, part: &Part) -> bool {
    let (Some(key), value) = (&part.key, &part.value) else {
        return true;
    };
    if level.key.contains('*') {
        return true;
    }
    if *level.key != **key {
        return false;
    }
    let Some(value) = value.as_deref() else {
        return true;
    };
    let in_network = || {
        let net: Option<IpNet> = level.value.parse().ok();
        let address: Option<IpAddr> = value.parse().ok();
        net.zip(address)
            .is_some_and(|(net, address)| net.contains(&address))
    };
    let like = || {
        let mut alone = Patterns::default();
        alone.add(&level.value, 0, ()).is_ok() && alone.find(value).is_some()
    };
    level.value.is_empty() || *level.value == *value || (level.wildcard && like()) || in_network()
}

/// The domain of rules for which nobody asks.
fn unasked(file: &SourceFile, name: &str, named: &[&str]) -> Diagnostic {
    let message = format!("no ratelimit filter asks for the domain `{name}`");
    let known = || named.iter().copied();
    let help = match did_you_mean(name, known()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the filters ask for {}", quoted(known())),
    };
    let place = file
        .text
        .lines()
        .position(|line| line.trim_start().starts_with("domain:"));
    let span = place.map_or(Span::default(), |place| whole_line(file, place + 1));
    Diagnostic::error(file, span, "domain", message)
        .coded(Code::UnaskedDomain)
        .with_help(help)
}

fn never_fed(file: &SourceFile, rule: &Rule, shapes: &[Placed<'_>]) -> Diagnostic {
    let levels = rule
        .levels
        .iter()
        .map(|level| match level.value.is_empty() {
            true => level.key.to_string(),
            false => format!("{}={}", level.key, level.value),
        });
    let levels = levels.collect::<Vec<_>>().join(",");
    let message = format!("no action of Envoy feeds this rule: nothing sends `{levels}`");
    let mut keys: Vec<&str> = rule.levels.iter().map(|level| &*level.key).collect();
    let same_keys = shapes.iter().find(|(_, shape)| keys_of(shape) == keys);
    keys.sort_unstable();
    let reordered = shapes.iter().find(|(_, shape)| {
        let mut of_shape = keys_of(shape);
        of_shape.sort_unstable();
        of_shape == keys
    });
    let help = match (same_keys, reordered) {
        (Some((name, shape)), _) => format!(
            "{name}:{} sends `{}`: the values differ",
            shape.line,
            shown(shape)
        ),
        (None, Some((name, shape))) => format!(
            "{name}:{} sends `{}`: the order matters",
            shape.line,
            shown(shape)
        ),
        (None, None) => {
            let mut all: Vec<String> = Vec::new();
            for (_, shape) in shapes {
                let shown = shown(shape);
                if !all.contains(&shown) {
                    all.push(shown);
                }
            }
            let more = all.len().saturating_sub(MAX_TOLD);
            all.truncate(MAX_TOLD);
            let more = if more > 0 {
                format!(", and {more} more")
            } else {
                String::new()
            };
            match all.is_empty() {
                true => "Envoy sends nothing for this domain".to_owned(),
                false => format!(
                    "Envoy sends {}{more}",
                    quoted(all.iter().map(String::as_str))
                ),
            }
        }
    };
    let span = whole_line(file, rule.source.line);
    Diagnostic::error(file, span, &rule.path, message)
        .coded(Code::UnfedRule)
        .with_help(help)
}

fn unknown_domain(file: &SourceFile, name: &str, line: usize, known: &[&str]) -> Diagnostic {
    let message = format!("no rules are for the domain `{name}`: all that is asked for it passes");
    let help = match did_you_mean(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the rules are for {}", quoted(known.iter().copied())),
    };
    let span = whole_line(file, line);
    Diagnostic::error(file, span, "", message)
        .coded(Code::UnknownDomain)
        .with_help(help)
}

fn never_answered(
    file: &SourceFile,
    shape: &Shape,
    domains: &[&Domain],
    all: &[Rules<'_>],
) -> Diagnostic {
    let message = format!(
        "no rule of the domain `{}` answers the descriptor `{}`",
        shape.domain,
        shown(shape)
    );
    let known = all.iter().flat_map(|rules| &rules.set.rules);
    let known = known.filter(|rule| domains.iter().any(|domain| domain.name == rule.domain));
    let keys = keys_of(shape);
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    let near = known.clone().find(|rule| {
        let mut of_rule: Vec<&str> = rule.levels.iter().map(|level| &*level.key).collect();
        of_rule.sort_unstable();
        of_rule == sorted
    });
    let words = known.flat_map(|rule| rule.levels.iter().map(|level| &*level.key));
    let words: Vec<&str> = words.collect();
    let strange = keys.iter().find(|key| !words.contains(key));
    let meant = strange.and_then(|key| Some((key, did_you_mean(key, words.iter().copied())?)));
    let help = match (near, meant) {
        (Some(rule), _) => format!("the rule at {} has the same keys, with other values or in another order", rule.source),
        (None, Some((key, near))) => format!("the rules have no `{key}`; did you mean `{near}`?"),
        (None, None) => "add a rule of just its keys in this order, or take its actions out: it is sent, and does nothing".to_owned(),
    };
    let span = whole_line(file, shape.line);
    Diagnostic::error(file, span, "", message)
        .coded(Code::UnansweredDescriptor)
        .with_help(help)
}

fn keys_of(shape: &Shape) -> Vec<&str> {
    let keys = shape
        .parts
        .iter()
        .map(|part| part.key.as_deref().unwrap_or("*"));
    keys.collect()
}

/// `user=anonymous,remote_address`, an entry that may be missing in brackets.
fn shown(shape: &Shape) -> String {
    let parts = shape.parts.iter().map(|part| {
        let key = part.key.as_deref().unwrap_or("*");
        let text = match &part.value {
            Some(value) => format!("{key}={value}"),
            None => key.to_owned(),
        };
        if part.is_optional {
            format!("[{text}]")
        } else {
            text
        }
    });
    parts.collect::<Vec<_>>().join(",")
}

fn quoted<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

/// What stands in a line, from its first letter to its last.
fn whole_line(file: &SourceFile, line: usize) -> Span {
    let text = line
        .checked_sub(1)
        .and_then(|place| file.text.lines().nth(place));
    let text = text.unwrap_or_default();
    let before = text.chars().count() - text.trim_start().chars().count();
    Span {
        line,
        column: before + 1,
        length: text.trim().chars().count().max(1),
    }
}
