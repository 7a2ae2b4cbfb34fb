//! Two lists of patterns side by side, of which the first that matches counts: which texts find which pattern of each.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::rules::glob::{Common, common, covers};
use crate::rules::outline::Node;

use super::level::Label;

/// A pattern of `key_value`.
#[derive(Clone, Debug)]
pub(super) struct Wild<'n> {
    /// Its place in the file.
    pub(super) order: usize,
    pub(super) text: String,
    pub(super) node: &'n Node,
}

/// Texts that find the same on both sides.
#[derive(Debug)]
pub(super) struct Met<'n> {
    /// One of them.
    pub(super) text: String,
    /// The pattern that it was made of.
    pub(super) pattern: String,
    pub(super) label: Label<'n>,
    pub(super) old: Option<&'n Node>,
    pub(super) new: Option<&'n Node>,
}

/// Both lists, and where each pattern stands in them.
struct Lists<'w, 'n> {
    old: &'w [Wild<'n>],
    new: &'w [Wild<'n>],
    old_places: HashMap<&'w str, usize>,
    new_places: HashMap<&'w str, usize>,
    /// All patterns by the letters before their first `*`.
    by_start: BTreeMap<&'w str, Vec<&'w Wild<'n>>>,
    /// What only counts, if anything.
    within: Option<&'w str>,
}

/// All that two lists may come to, each in the order of its file; `rests` is what a text finds that none matches. Only texts
/// `within` this pattern count.
///
/// Nothing that can happen is left out, unless it says `incomplete`. What cannot may be in it, where patterns before it take all
/// of a text together.
pub(super) fn met<'n>(
    old: &[Wild<'n>],
    new: &[Wild<'n>],
    rests: (Option<&'n Node>, Option<&'n Node>),
    within: Option<&str>,
    incomplete: &mut bool,
) -> Vec<Met<'n>> {
    let same = old.len() == new.len() && old.iter().zip(new).all(|(old, new)| old.text == new.text);
    if same {
        let pairs = old.iter().zip(new);
        return pairs
            .map(|(old, new)| Met {
                text: sample(&new.text),
                pattern: new.text.clone(),
                label: Label::Of(new.node),
                old: Some(old.node),
                new: Some(new.node),
            })
            .collect();
    }
    let lists = Lists::new(old, new, within);
    let mut all = lists.common();
    let mut known = HashSet::new();
    for changed in lists.changed() {
        for other in lists.candidates(&changed.text) {
            if known.len() >= MOST_COMPARED {
                *incomplete = true;
                return all;
            }
            for (from, to) in [(changed, other), (other, changed)] {
                if known.insert((&*from.text, &*to.text)) {
                    all.extend(lists.cross(&from.text, &to.text));
                }
            }
        }
        all.extend(lists.against_rest(changed, rests));
    }
    all
}

/// So many pairs of patterns that may have something in common are compared.
const MOST_COMPARED: usize = 500_000;

/// A text that the pattern matches, and probably no other.
fn sample(pattern: &str) -> String {
    pattern.replace('*', "x")
}

fn start(pattern: &str) -> &str {
    pattern.split('*').next().unwrap_or_default()
}

fn end(pattern: &str) -> &str {
    pattern.rsplit('*').next().unwrap_or_default()
}

impl<'w, 'n> Lists<'w, 'n> {
    fn new(old: &'w [Wild<'n>], new: &'w [Wild<'n>], within: Option<&'w str>) -> Self {
        let places = |list: &'w [Wild<'n>]| -> HashMap<&'w str, usize> {
            let texts = list.iter().enumerate();
            texts.map(|(place, wild)| (&*wild.text, place)).collect()
        };
        let mut by_start: BTreeMap<&str, Vec<&Wild<'_>>> = BTreeMap::new();
        let new_places = places(new);
        let only_old = old
            .iter()
            .filter(|wild| !new_places.contains_key(&*wild.text));
        for wild in new.iter().chain(only_old) {
            by_start.entry(start(&wild.text)).or_default().push(wild);
        }
        Self {
            old,
            new,
            old_places: places(old),
            new_places,
            by_start,
            within,
        }
    }

    /// What each pattern of both lists finds for itself.
    fn common(&self) -> Vec<Met<'n>> {
        let both = self.new.iter().filter_map(|new| {
            let old = self.old.get(*self.old_places.get(&*new.text)?)?;
            Some(Met {
                text: sample(&new.text),
                pattern: new.text.clone(),
                label: Label::Of(new.node),
                old: Some(old.node),
                new: Some(new.node),
            })
        });
        both.collect()
    }

    /// The patterns that are in one list, or whose order is another: of any two that have changed places, one is here.
    fn changed(&self) -> Vec<&'w Wild<'n>> {
        let places = self
            .old
            .iter()
            .map(|old| self.new_places.get(&*old.text).copied());
        let places: Vec<Option<usize>> = places.collect();
        let stay = longest_ascending(&places);
        let old = self.old.iter().zip(stay).filter(|(_, stays)| !stays);
        let added = self
            .new
            .iter()
            .filter(|new| !self.old_places.contains_key(&*new.text));
        old.map(|(old, _)| old).chain(added).collect()
    }

    /// All patterns that may have texts in common with this one.
    fn candidates(&self, pattern: &str) -> Vec<&'w Wild<'n>> {
        let start = start(pattern);
        let shorter = (0..start.len()).filter(|end| start.is_char_boundary(*end));
        let shorter = shorter.filter_map(|end| self.by_start.get(&start[..end]));
        let longer = self.by_start.range(start..);
        let longer = longer.take_while(|(other, _)| other.starts_with(start));
        let all = shorter
            .chain(longer.map(|(_, list)| list))
            .flatten()
            .copied();
        let end = end(pattern);
        let fits = |other: &str| end.ends_with(self::end(other)) || self::end(other).ends_with(end);
        all.filter(|other| other.text != pattern && fits(&other.text))
            .collect()
    }

    /// The texts that find one pattern in the old list, and the other in the new one.
    fn cross(&self, from: &str, to: &str) -> Option<Met<'n>> {
        let (old, new) = (*self.old_places.get(from)?, *self.new_places.get(to)?);
        let before = |places: &HashMap<&str, usize>, first: &str, second: usize| {
            places.get(first).is_some_and(|place| *place < second)
        };
        // What both match finds the one that comes first, on both sides.
        if before(&self.new_places, from, new) || before(&self.old_places, to, old) {
            return None;
        }
        let patterns = [Some(from), Some(to), self.within];
        let patterns: Vec<&str> = patterns.into_iter().flatten().collect();
        let text = match common(&patterns) {
            Common::Nothing => return None,
            Common::Text(text) => text,
            Common::Unknown => sample(from),
        };
        let (old, new) = (self.old.get(old)?.node, self.new.get(new)?.node);
        let (label, pattern) = match (covers(from, to), covers(to, from)) {
            (true, _) => (Label::Of(new), to),
            (false, true) => (Label::Of(old), from),
            (false, false) => (Label::Both(old, new), from),
        };
        Some(Met {
            text,
            pattern: pattern.to_owned(),
            label,
            old: Some(old),
            new: Some(new),
        })
    }

    /// The texts of a pattern of one list that no pattern of the other matches.
    fn against_rest(
        &self,
        changed: &'w Wild<'n>,
        (old_rest, new_rest): (Option<&'n Node>, Option<&'n Node>),
    ) -> Option<Met<'n>> {
        let is_old = self.old_places.contains_key(&*changed.text);
        let is_new = self.new_places.contains_key(&*changed.text);
        let (places, old, new) = match (is_old, is_new) {
            (true, false) => (&self.new_places, Some(changed.node), new_rest),
            (false, true) => (&self.old_places, old_rest, Some(changed.node)),
            _ => return None,
        };
        let start = start(&changed.text);
        let starts = (0..=start.len()).filter(|end| start.is_char_boundary(*end));
        let mut wider = starts
            .filter_map(|end| self.by_start.get(&start[..end]))
            .flatten();
        let covered =
            wider.any(|wide| places.contains_key(&*wide.text) && covers(&wide.text, &changed.text));
        (!covered).then(|| Met {
            text: sample(&changed.text),
            pattern: changed.text.clone(),
            label: Label::Of(changed.node),
            old,
            new,
        })
    }
}

/// Which of these are in a longest ascending sequence; what is none is not.
fn longest_ascending(places: &[Option<usize>]) -> Vec<bool> {
    // The last of the best sequence of each length, and what comes before each.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; places.len()];
    for (at, place) in places
        .iter()
        .enumerate()
        .filter(|(_, place)| place.is_some())
    {
        let length = ends.partition_point(|end| places[*end] < *place);
        before[at] = length.checked_sub(1).map(|shorter| ends[shorter]);
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut stay = vec![false; places.len()];
    let mut next = ends.last().copied();
    while let Some(at) = next {
        stay[at] = true;
        next = before[at];
    }
    stay
}

#[cfg(test)]
mod tests {
    use super::longest_ascending;

    #[test]
    fn what_stays_is_in_order() {
        let stay = |places: &[usize]| {
            let places: Vec<_> = places.iter().map(|place| Some(*place)).collect();
            longest_ascending(&places)
        };
        assert_eq!(stay(&[0, 1, 2]), [true, true, true]);
        assert_eq!(stay(&[2, 0, 1]), [false, true, true]);
        assert_eq!(
            longest_ascending(&[Some(1), None, Some(0)])
                .iter()
                .filter(|s| **s)
                .count(),
            1
        );
    }
}
