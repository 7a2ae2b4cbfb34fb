//! A rule file as written: a tree in which everything knows where it stands.
//!
//! The YAML is read by its events, since a deserializer has no positions for what is unknown, missing or said twice. Anchors,
//! aliases and merge keys (`<<`) work; what they may multiply is bounded.

use std::borrow::Cow;

use super::diagnostic::Code;

mod hints;
mod reader;

/// What some editors write before the text.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// The largest file, in bytes.
pub const MAX_BYTES: usize = 64 << 20;
/// The most nodes of a file, aliases counted as often as they are used, and what has an anchor once more.
pub const MAX_NODES: usize = 5_000_000;
/// The most keys of one mapping.
pub const MAX_KEYS: usize = 1000;
/// The deepest nesting.
pub const MAX_DEPTH: usize = 64;
/// After so many errors in one file no more are collected.
pub const MAX_ERRORS: usize = 100;

/// A rule file: its name, for messages, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Relative to the directory of the rules.
    pub name: String,
    /// The YAML.
    pub text: String,
}

/// Where something stands in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// In characters, within the line; at least 1.
    pub length: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node<'t> {
    /// The value.
    pub value: Value<'t>,
    /// Its first line.
    pub span: Span,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Value<'t> {
    /// A scalar as written; `plain` if without quotes.
    Scalar {
        /// Without quotes.
        text: Cow<'t, str>,
        /// Without quotes, so that `null`, `true` and numbers mean what they say.
        plain: bool,
    },
    /// A sequence.
    List(Vec<Node<'t>>),
    /// A mapping, in the order of the file; every key once.
    Map(Vec<(Key<'t>, Node<'t>)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub struct Key<'t> {
    /// As written.
    pub text: Cow<'t, str>,
    /// Without quotes.
    pub plain: bool,
    /// Where it stands.
    pub span: Span,
}

/// What keeps a text, or a part of it, from being a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// What kind of thing is wrong.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to do about it.
    pub help: Option<String>,
}

/// The tree is none if the text is empty, or so wrong that reading ended; whatever is wrong stands beside it.
pub type Parsed<'t> = (Option<Node<'t>>, Vec<SyntaxError>);

/// Reads a text.
pub fn parse(text: &str) -> Parsed<'_> {
    reader::read(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text))
}

impl Span {
    /// The place for people: `line 3`, or `the same list` where there are no lines.
    pub fn place(self) -> String {
        match self.line {
            0 => "the same list".to_owned(),
            line => format!("line {line}"),
        }
    }
}

impl Node<'_> {
    /// Whether it says nothing: an empty or plain `null` scalar.
    pub fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain } => {
                *plain && matches!(&**text, "" | "~" | "null" | "Null" | "NULL")
            }
            Value::List(_) | Value::Map(_) => false,
        }
    }

    /// What kind of thing it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar { .. } if self.is_null() => "nothing",
            Value::Scalar { .. } => "a scalar",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    fn size(&self) -> usize {
        match &self.value {
            Value::Scalar { .. } => 1,
            Value::List(items) => 1 + items.iter().map(Node::size).sum::<usize>(),
            Value::Map(entries) => {
                1 + entries
                    .iter()
                    .map(|(_, node)| 1 + node.size())
                    .sum::<usize>()
            }
        }
    }

    fn depth(&self) -> usize {
        match &self.value {
            Value::Scalar { .. } => 0,
            Value::List(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Value::Map(entries) => {
                1 + entries
                    .iter()
                    .map(|(_, node)| node.depth())
                    .max()
                    .unwrap_or(0)
            }
        }
    }
}
