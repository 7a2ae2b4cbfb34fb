//! Descriptor to key: injective, short, and free of secrets.
//!
//! A key reads `{domain|user_id=alice}|^|path=/x`: the hash tag is the domain with the entry that places the key, `^` stands
//! for that entry among the others. A descriptor without such an entry is all hash tag. What could be mistaken for
//! punctuation is percent-encoded; a text over [`LONGEST`] bytes, or a sensitive one, is `#` and its hash. The `*` of a
//! pattern whose values share a counter stands as it is, which no value's does.

use ring::digest::{Context, SHA256};

use crate::rules::{Domain, Entry, PlanSource, Rule};
use crate::store::Key;

/// The longest text that stands in a key as it is, in bytes.
pub const LONGEST: usize = 64;

/// The key of a descriptor; `rule` is the one that it matched, if any.
pub fn key(prefix: &str, domain: &Domain, entries: &[Entry<'_>], rule: Option<&Rule>) -> Key {
    let placing = placing(domain, entries);
    // What has no part in the key is not looked at.
    let rule = rule.filter(|rule| rule.alters_keys);
    let tag = |to: &mut String| {
        text(to, domain, "", &domain.name);
        match placing {
            Some(placing) => entry(to, domain, entries, placing, rule),
            None => (0..entries.len()).for_each(|level| entry(to, domain, entries, level, rule)),
        }
    };
    let rest = |to: &mut String| {
        let levels = 0..placing.map_or(0, |_| entries.len());
        for level in levels {
            if placing == Some(level) {
                to.push_str("|^");
            } else {
                entry(to, domain, entries, level, rule);
            }
        }
    };
    Key::build(prefix, tag, rest)
}

/// Where the standing of a subject is kept: in the slot of those of its counters that it places.
pub fn standing(prefix: &str, domain: &Domain, entry: Entry<'_>) -> Key {
    let mut tag = String::with_capacity(64);
    text(&mut tag, domain, "", &domain.name);
    tag.push('|');
    tag.push_str(&subject(domain, entry));
    // The rest of no counter's key begins so.
    Key::new(prefix, &tag, "@")
}

/// An entry as keys and lists have it: `key=value`, the value hashed if it is sensitive or long.
pub fn subject(domain: &Domain, subject: Entry<'_>) -> String {
    let mut name = String::with_capacity(32);
    entry(&mut name, domain, &[subject], 0, None);
    name.split_off(1)
}

/// The first level whose entry places the key.
fn placing(domain: &Domain, entries: &[Entry<'_>]) -> Option<usize> {
    let level_of = |key: &String| entries.iter().position(|entry| entry.key == key.as_str());
    domain.partition_by.iter().find_map(level_of)
}

pub(super) fn entry(
    to: &mut String,
    domain: &Domain,
    all: &[Entry<'_>],
    level: usize,
    rule: Option<&Rule>,
) {
    let entry = all[level];
    to.push('|');
    text(to, domain, "", entry.key);
    to.push('=');
    let shared = rule
        .and_then(|rule| rule.levels.get(level))
        .filter(|segment| segment.share_threshold);
    let names_plan = rule
        .and_then(|rule| rule.plan.as_ref())
        .is_some_and(|plan| plan.from == PlanSource::Entry(level));
    match shared {
        // Whoever moves to another plan keeps what was used.
        _ if names_plan => to.push('*'),
        Some(segment) => pattern(to, &segment.value),
        None if domain.sensitive.iter().any(|key| key == entry.key) => {
            hashed(to, domain, entry.key, entry.value);
        }
        None => text(to, domain, entry.key, entry.value),
    }
}

fn text(to: &mut String, domain: &Domain, of: &str, text: &str) {
    if text.len() > LONGEST {
        hashed(to, domain, of, text);
    } else if is_plain(text) {
        // As nearly all are: it is taken as a whole.
        to.push_str(text);
    } else {
        text.bytes().for_each(|byte| escaped(to, byte));
    }
}

/// Whether all of a text stands as it is. All of it is looked at, as it is short: that is faster than to stop midway.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .fold(true, |plain, byte| plain & PLAIN[usize::from(byte)])
}

fn pattern(to: &mut String, pattern: &str) {
    for byte in pattern.bytes() {
        match byte {
            b'*' => to.push('*'),
            byte => escaped(to, byte),
        }
    }
}

fn escaped(to: &mut String, byte: u8) {
    if PLAIN[usize::from(byte)] {
        to.push(char::from(byte));
    } else {
        hex(to, "%", &[byte]);
    }
}

/// Which bytes stand as they are, since they cannot be mistaken for punctuation.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        let is_special = matches!(byte, b'%' | b'{' | b'}' | b'|' | b'=' | b'#' | b'*');
        plain[byte as usize] = byte.is_ascii_graphic() && !is_special;
        byte += 1;
    }
    plain
};

/// The first half of the SHA-256 of a text; `of`, the key that it is the value of, keeps equal values of two keys apart.
pub(super) fn hashed(to: &mut String, domain: &Domain, of: &str, text: &str) {
    let mut context = Context::new(&SHA256);
    for part in [&*domain.name, of, text] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    hex(to, "#", &context.finish().as_ref()[..16]);
}

fn hex(to: &mut String, mark: &str, bytes: &[u8]) {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    to.push_str(mark);
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            to.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn domain(partition_by: &[&str], sensitive: &[&str]) -> Domain {
        let owned = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        Domain {
            partition_by: owned(partition_by),
            sensitive: owned(sensitive),
            ..Domain::named("edge")
        }
    }

    fn of(domain: &Domain, entries: &[(&str, &str)]) -> Key {
        let entries: Vec<Entry<'_>> = entries
            .iter()
            .map(|(key, value)| Entry { key, value })
            .collect();
        key("", domain, &entries, None)
    }

    #[test]
    fn all_limits_of_a_user_share_a_hash_tag() {
        let domain = domain(&["user_id", "remote_address"], &[]);
        let a = of(&domain, &[("user_id", "alice")]);
        let b = of(&domain, &[("path", "/x"), ("user_id", "alice")]);
        assert_eq!(a.tag(), b.tag());
        assert_eq!(b.as_str(), "{edge|user_id=alice}|path=/x|^");
    }

    #[test]
    fn secrets_and_long_values_are_hashed() {
        let domain = domain(&[], &["api_key"]);
        let key = of(&domain, &[("api_key", "s3cret"), ("path", &"x".repeat(65))]);
        assert!(!key.as_str().contains("s3cret"));
        assert!(key.as_str().len() < 120, "{}", key.as_str());
    }

    proptest! {
        /// No two descriptors share a key, and none breaks out of its hash tag.
        #[test]
        fn keys_are_injective(
            descriptors in proptest::collection::vec(
                proptest::collection::vec(("[a|=]{0,2}", "[a^%{}|=#*\u{e9}]{0,3}"), 0..4),
                2..40,
            )
        ) {
            let domain = domain(&["a", "|"], &[]);
            let mut seen = HashMap::new();
            for descriptor in descriptors {
                let entries: Vec<(&str, &str)> =
                    descriptor.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                let key = of(&domain, &entries);
                prop_assert_eq!(key.as_str().matches(['{', '}']).count(), 2);
                let before = seen.insert(key.as_str().to_owned(), descriptor.clone());
                prop_assert!(before.is_none_or(|before| before == descriptor));
            }
        }
    }
}
