//! `header_mutation`: headers and query parameters that are added and taken off.

use super::format::Format;
use super::matching::Text;
use super::request::{Known, Seen, Unknown};
use super::tree::{Tree, at, field, scalar};
use crate::rules::file::Node;

/// A filter's, or a route's for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Mutations {
    headers: Vec<Mutation>,
    query: Vec<Mutation>,
    /// Of several routes' the most specific, not all, the widest first.
    pub(super) most_specific_wins: bool,
}

#[derive(Clone, Debug)]
enum Mutation {
    Remove(String),
    RemoveMatching(Text),
    Append {
        name: String,
        value: Option<Format>,
        how: How,
        keep_empty: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Append,
    IfAbsent,
    Overwrite,
    IfPresent,
}

impl Mutations {
    /// Of the message that has `request_mutations`.
    pub(super) fn read(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        Self {
            headers: list(tree, node, "request_mutations"),
            query: list(tree, node, "query_parameter_mutations"),
            most_specific_wins: false,
        }
    }

    /// Of the extension that is asked before all filters.
    pub(super) fn early(tree: &mut Tree<'_>, node: &Node<'_>) -> Self {
        Self {
            headers: list(tree, node, "mutations"),
            ..Self::default()
        }
    }

    pub(super) fn with_wins(self, most_specific_wins: bool) -> Self {
        Self {
            most_specific_wins,
            ..self
        }
    }

    pub(super) fn apply(&self, seen: &mut Seen<'_>) {
        for mutation in &self.headers {
            mutation.of_headers(seen);
        }
        for mutation in &self.query {
            mutation.of_query(seen);
        }
    }
}

fn list(tree: &mut Tree<'_>, node: &Node<'_>, name: &str) -> Vec<Mutation> {
    let all = tree.list(node, name).iter();
    all.filter_map(|node| Mutation::read(tree, node)).collect()
}

impl Mutation {
    fn read(tree: &mut Tree<'_>, node: &Node<'_>) -> Option<Self> {
        if let Some(name) = tree.text(node, "remove") {
            return Some(Mutation::Remove(name));
        }
        if let Some(matcher) = at(node, &["remove_on_match", "key_matcher"]) {
            return Some(Mutation::RemoveMatching(Text::read(tree, matcher)));
        }
        let append = field(node, "append")?;
        let pair = field(append, "header").or_else(|| field(append, "record"))?;
        let how = tree
            .text(append, "append_action")
            .or_else(|| tree.text(append, "action"));
        let value = field(pair, "value").and_then(scalar).unwrap_or_default();
        Some(Mutation::Append {
            name: tree.text(pair, "key")?,
            value: Format::parse(value),
            how: match how.as_deref() {
                Some("ADD_IF_ABSENT") => How::IfAbsent,
                Some("OVERWRITE_IF_EXISTS_OR_ADD") => How::Overwrite,
                Some("OVERWRITE_IF_EXISTS") => How::IfPresent,
                Some(_) | None => How::Append,
            },
            keep_empty: tree.is_on(append, "keep_empty_value"),
        })
    }

    fn of_headers(&self, seen: &mut Seen<'_>) {
        match self {
            Mutation::Remove(name) => {
                let name = name.to_ascii_lowercase();
                seen.headers.remove(|other| other == name);
            }
            Mutation::RemoveMatching(text) => {
                seen.headers
                    .remove(|name| text.matches(name).unwrap_or(false));
            }
            Mutation::Append {
                name,
                how,
                keep_empty,
                ..
            } => {
                let name = name.to_ascii_lowercase();
                let value = self.value(seen);
                if !keep_empty && value.as_ref().is_ok_and(String::is_empty) {
                    return;
                }
                match (how, seen.headers.has(&name)) {
                    (How::Append, _) | (How::IfAbsent, false) => seen.headers.add(&name, value),
                    (How::Overwrite, _) | (How::IfPresent, true) => seen.headers.set(&name, value),
                    (How::IfAbsent, true) | (How::IfPresent, false) => {}
                }
            }
        }
    }

    fn of_query(&self, seen: &mut Seen<'_>) {
        let mut query = seen.query().decoded();
        match self {
            Mutation::Remove(name) => query.remove(name),
            Mutation::RemoveMatching(_) => {}
            Mutation::Append { name, how, .. } => {
                let Ok(value) = self.value(seen) else {
                    return;
                };
                match (how, query.get(name).is_some()) {
                    (How::Append, _) | (How::IfAbsent, false) => query.add(name, value),
                    (How::Overwrite, _) | (How::IfPresent, true) => {
                        query.remove(name);
                        query.add(name, value);
                    }
                    (How::IfAbsent, true) | (How::IfPresent, false) => {}
                }
            }
        }
        let path = query.replace_in(&seen.path());
        seen.headers.set(":path", Ok(path));
    }

    fn value(&self, seen: &Seen<'_>) -> Known<String> {
        match self {
            Mutation::Append {
                name, value: None, ..
            } => Err(Unknown(format!(
                "the value that `{name}` is given is not understood"
            ))),
            Mutation::Append {
                value: Some(format),
                ..
            } => format.of(seen),
            Mutation::Remove(_) | Mutation::RemoveMatching(_) => Ok(String::new()),
        }
    }
}
