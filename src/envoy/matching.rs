//! Envoy's matchers of texts, headers and query parameters.

use regex::Regex;

use super::request::{Known, Seen, Unknown};
use super::tree::{Tree, field, fields, is_named, scalar};
use crate::rules::file::Node;

/// A `StringMatcher`.
#[derive(Clone, Debug)]
pub(super) struct Text {
    how: How,
    ignore_case: bool,
}

#[derive(Clone, Debug)]
enum How {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    /// Of the whole text.
    Regex(Regex),
    Unknown(String),
}

/// A `HeaderMatcher`.
#[derive(Clone, Debug)]
pub(super) struct Header {
    name: String,
    of: OfHeader,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Clone, Debug)]
enum OfHeader {
    Present(bool),
    Text(Text),
    Range(i64, i64),
}

/// A `QueryParameterMatcher`.
#[derive(Clone, Debug)]
pub(super) struct Parameter {
    name: String,
    /// None if it need only be there, or must not be.
    text: Option<Text>,
    present: bool,
}

impl Text {
    /// Reads a `StringMatcher`.
    pub(super) fn read(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        let ignore_case = tree.is_on(node, "ignore_case");
        let how = fields(node).find_map(|(name, node)| How::read(tree, name, node));
        let how = how.unwrap_or_else(|| How::Unknown("a matcher that says nothing".to_owned()));
        Self { how, ignore_case }
    }

    /// Of a whole text.
    pub(super) fn regex(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        Self {
            how: How::regex(tree, node),
            ignore_case: false,
        }
    }

    pub(super) fn matches(&self, text: &str) -> Known<bool> {
        let fold = |text: &str| match self.ignore_case {
            true => text.to_ascii_lowercase(),
            false => text.to_owned(),
        };
        let text_folded = fold(text);
        Ok(match &self.how {
            How::Exact(wanted) => text_folded == fold(wanted),
            How::Prefix(wanted) => text_folded.starts_with(&fold(wanted)),
            How::Suffix(wanted) => text_folded.ends_with(&fold(wanted)),
            How::Contains(wanted) => text_folded.contains(&fold(wanted)),
            How::Regex(regex) => regex.is_match(text),
            How::Unknown(why) => return Err(Unknown(why.clone())),
        })
    }
}

impl How {
    fn read(tree: &mut Tree<'_>, name: &str, node: &Node<'_>) -> Option<Self> {
        let is = |wanted| is_named(name, wanted);
        let text = scalar(node).map(str::to_owned);
        match text {
            Some(text) if is("exact") => Some(How::Exact(text)),
            Some(text) if is("prefix") => Some(How::Prefix(text)),
            Some(text) if is("suffix") => Some(How::Suffix(text)),
            Some(text) if is("contains") => Some(How::Contains(text)),
            None if is("safe_regex") => Some(How::regex(tree, node)),
            None if is("custom") => {
                let why = "a custom matcher, which is not computed here";
                Some(How::Unknown(why.to_owned()))
            }
            _ => None,
        }
    }

    fn regex(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        let text = tree.text(node, "regex").unwrap_or_default();
        match Regex::new(&format!("^(?s:{text})$")) {
            Ok(regex) => How::Regex(regex),
            // Envoy has another engine, RE2, which may take it.
            Err(_) => How::Unknown(format!("the regular expression `{text}` is not understood")),
        }
    }
}

impl Header {
    pub(super) fn read_all(tree: &mut Tree<'_>, node: &Node<'_>) -> Vec<Self> {
        let headers = tree.list(node, "headers");
        headers.iter().map(|node| Self::read(tree, node)).collect()
    }

    fn read(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        let name = tree.text(node, "name").unwrap_or_default();
        let text = |how| {
            OfHeader::Text(Text {
                how,
                ignore_case: false,
            })
        };
        let old = |tree: &mut Tree<'_>, name| tree.text(node, name);
        let of = if let Some(string) = field(node, "string_match") {
            OfHeader::Text(Text::read(tree, string))
        } else if let Some(range) = field(node, "range_match") {
            let bound = |tree: &mut Tree<'_>, name| {
                let text = tree.text(range, name);
                text.and_then(|text| text.parse().ok()).unwrap_or(0)
            };
            OfHeader::Range(bound(tree, "start"), bound(tree, "end"))
        } else if let Some(regex) = field(node, "safe_regex_match") {
            text(How::regex(tree, regex))
        } else if let Some(exact) = old(tree, "exact_match") {
            text(How::Exact(exact))
        } else if let Some(prefix) = old(tree, "prefix_match") {
            text(How::Prefix(prefix))
        } else if let Some(suffix) = old(tree, "suffix_match") {
            text(How::Suffix(suffix))
        } else if let Some(part) = old(tree, "contains_match") {
            text(How::Contains(part))
        } else {
            OfHeader::Present(tree.switch(node, "present_match").unwrap_or(true))
        };
        Self {
            name: name.to_ascii_lowercase(),
            of,
            invert: tree.is_on(node, "invert_match"),
            missing_is_empty: tree.is_on(node, "treat_missing_header_as_empty"),
        }
    }

    pub(super) fn all_match(all: &[Self], seen: &Seen<'_>) -> Known<bool> {
        all_of(all, |header| header.matches(seen))
    }

    /// One of several values is enough.
    fn matches(&self, seen: &Seen<'_>) -> Known<bool> {
        let mut values: Vec<&str> = seen.headers.all(&self.name)?;
        if let OfHeader::Present(wanted) = self.of {
            let there = !values.is_empty() || self.missing_is_empty;
            return Ok((there == wanted) != self.invert);
        }
        if values.is_empty() && self.missing_is_empty {
            values.push("");
        }
        // Even an inverted one asks for a header.
        if values.is_empty() {
            return Ok(false);
        }
        for value in values {
            if self.of.matches(value)? {
                return Ok(!self.invert);
            }
        }
        Ok(self.invert)
    }
}

impl OfHeader {
    fn matches(&self, value: &str) -> Known<bool> {
        match self {
            OfHeader::Present(_) => Ok(true),
            OfHeader::Text(text) => text.matches(value),
            OfHeader::Range(start, end) => {
                let number = value.parse::<i64>();
                Ok(number.is_ok_and(|number| (*start..*end).contains(&number)))
            }
        }
    }
}

impl Parameter {
    pub(super) fn read_all(tree: &mut Tree<'_>, node: &Node<'_>) -> Vec<Self> {
        let parameters = tree.list(node, "query_parameters");
        let read = |tree: &mut Tree<'_>, node| {
            let text = field(node, "string_match").map(|node| Text::read(tree, node));
            Self {
                name: tree.text(node, "name").unwrap_or_default(),
                text,
                present: tree.switch(node, "present_match").unwrap_or(true),
            }
        };
        parameters.iter().map(|node| read(tree, node)).collect()
    }

    /// In an action, for which they are decoded.
    pub(super) fn all_match(all: &[Self], seen: &Seen<'_>) -> Known<bool> {
        let query = seen.query();
        all_of(all, |one| one.matches(query.get(&one.name)))
    }

    /// In a route, for which they are as they come.
    pub(super) fn all_match_raw(all: &[Self], seen: &Seen<'_>) -> Known<bool> {
        let query = seen.query();
        all_of(all, |one| {
            one.matches(query.raw(&one.name).map(str::to_owned))
        })
    }

    fn matches(&self, value: Option<String>) -> Known<bool> {
        match (&self.text, value) {
            (None, value) => Ok(value.is_some() == self.present),
            (Some(_), None) => Ok(false),
            (Some(text), Some(value)) => text.matches(&value),
        }
    }
}

/// Whether all match: one that does not decides, whatever is not known of the others.
pub(super) fn all_of<T>(all: &[T], matches: impl Fn(&T) -> Known<bool>) -> Known<bool> {
    let mut unknown = None;
    for one in all {
        match matches(one) {
            Ok(false) => return Ok(false),
            Ok(true) => {}
            Err(why) => unknown = unknown.or(Some(why)),
        }
    }
    unknown.map_or(Ok(true), Err)
}
