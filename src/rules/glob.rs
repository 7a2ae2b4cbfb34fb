//! Patterns held against each other: `*` stands for any text, and nothing else is special.

use std::collections::{HashSet, VecDeque};

use smallvec::SmallVec;

/// What two or more patterns have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Common {
    /// No text matches all of them.
    Nothing,
    /// This text does, and none is shorter.
    Text(String),
    /// They are too long to tell.
    Unknown,
}

/// After so many steps it is not looked further.
const MOST_STEPS: usize = 20_000;

/// Whether all that `narrow` matches is matched by `wide`; `*` stands for any text in both.
pub fn covers(wide: &str, narrow: &str) -> bool {
    let (wide, narrow) = (wide.as_bytes(), narrow.as_bytes());
    // Where the last `*` of `wide` stands, and how far it reaches.
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < narrow.len() {
        match wide.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(byte) if *byte == narrow[read] => {
                at += 1;
                read += 1;
            }
            Some(_) | None => {
                let Some((place, reach)) = star else {
                    return false;
                };
                star = Some((place, reach + 1));
                (at, read) = (place + 1, reach + 1);
            }
        }
    }
    wide[at..].iter().all(|byte| *byte == b'*')
}

/// How far each pattern has been read.
type Places = SmallVec<[u16; 4]>;

/// The shortest text that all patterns match.
pub fn common(patterns: &[&str]) -> Common {
    let patterns: Vec<Vec<char>> = patterns.iter().map(|text| text.chars().collect()).collect();
    if patterns
        .iter()
        .any(|text| text.len() >= usize::from(u16::MAX))
    {
        return Common::Unknown;
    }
    let start: Places = patterns.iter().map(|_| 0).collect();
    let mut seen = HashSet::from([start.clone()]);
    let mut left = VecDeque::from([(start, String::new())]);
    while let Some((places, text)) = left.pop_front() {
        let here = || {
            places
                .iter()
                .zip(&patterns)
                .map(|(at, pattern)| pattern.get(usize::from(*at)))
        };
        if here().all(|letter| letter.is_none()) {
            return Common::Text(text);
        }
        if seen.len() > MOST_STEPS {
            return Common::Unknown;
        }
        // A `*` may end here, which takes no letter: these are looked at first.
        for (which, letter) in here().enumerate() {
            if letter == Some(&'*') {
                let mut next = places.clone();
                next[which] += 1;
                if seen.insert(next.clone()) {
                    left.push_front((next, text.clone()));
                }
            }
        }
        // Or all that are at a letter read it, and those at a `*` let it pass.
        let mut letters = here().filter(|letter| *letter != Some(&'*'));
        let first = letters.next().flatten();
        if let Some(first) = first
            && letters.all(|letter| letter == Some(first))
        {
            let step = |(at, letter): (&u16, Option<&char>)| match letter {
                Some('*') => *at,
                Some(_) | None => at + 1,
            };
            let next: Places = places.iter().zip(here()).map(step).collect();
            if seen.insert(next.clone()) {
                left.push_back((next, format!("{text}{first}")));
            }
        }
    }
    Common::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_it_matches_whole() {
        for (wide, narrow, wanted) in [
            ("*", "", true),
            ("*", "a*", true),
            ("a*", "ab*", true),
            ("a*", "*", false),
            ("a*c", "abc", true),
            ("a*c", "ab*c", true),
            ("a*c", "ab*", false),
            ("*a*", "xay", true),
            ("*ab", "aab", true),
            ("a", "a*", false),
        ] {
            assert_eq!(covers(wide, narrow), wanted, "{wide} {narrow}");
        }
    }

    #[test]
    fn what_patterns_have_in_common_is_matched_by_all_of_them() {
        for (a, b, wanted) in [
            ("a*", "*b", Some("ab")),
            ("a*", "b*", None),
            ("a*c", "ab*", Some("abc")),
            ("*", "*", Some("")),
            ("*x*", "ab", None),
            ("ab*ba", "*aba", Some("abaaba")),
            ("é*", "*é", Some("é")),
            ("aba*", "*aba", Some("aba")),
        ] {
            let found = common(&[a, b]);
            match (&found, wanted) {
                (Common::Text(text), Some(wanted)) => {
                    assert!(covers(a, text) && covers(b, text), "{a} {b} {text}");
                    assert!(text.chars().count() <= wanted.chars().count(), "{text}");
                }
                (Common::Nothing, None) => {}
                _ => panic!("{a} {b}: {found:?}"),
            }
        }
        assert_eq!(common(&["a*", "*b", "*c*"]), Common::Text("acb".to_owned()));
    }
}
