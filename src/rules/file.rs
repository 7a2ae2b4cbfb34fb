//! A rule file as written: a tree in which everything knows where it stands.
//!
//! The YAML is read by its events, since a deserializer has no positions for what is unknown, missing or said twice. Anchors,
//! aliases and merge keys (`<<`) work; what they may multiply is bounded.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as Range, StrInput};

/// The largest file, in bytes.
pub const MAX_BYTES: usize = 64 << 20;
/// The most nodes of a file, aliases counted as often as they are used.
pub const MAX_NODES: usize = 5_000_000;
/// The deepest nesting.
pub const MAX_DEPTH: usize = 64;

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
pub struct Node {
    /// The value.
    pub value: Value,
    /// Its first line.
    pub span: Span,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// A scalar as written; `plain` if without quotes.
    Scalar {
        /// Without quotes.
        text: String,
        /// Without quotes, so that `null`, `true` and numbers mean what they say.
        plain: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file; every key once.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub struct Key {
    /// As written.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// Why a text is no tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to do about it.
    pub help: Option<String>,
}

/// Reads a text; none if it is empty.
pub fn parse(text: &str) -> Result<Option<Node>, SyntaxError> {
    if text.len() > MAX_BYTES {
        let message = format!("the file is larger than {MAX_BYTES} bytes");
        return Err(SyntaxError::new(message, Span::default()));
    }
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
    };
    let mut document = None;
    loop {
        let (event, range) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(document),
            Event::DocumentStart(_) if document.is_some() => {
                let error = SyntaxError::new("a second document in one file", Span::of(range));
                return Err(error.help("put each domain into a file of its own"));
            }
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            Event::Alias(_)
            | Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::SequenceEnd
            | Event::MappingStart(..)
            | Event::MappingEnd => document = Some(reader.node(event, range, 0)?),
        }
    }
}

impl Node {
    /// Whether it says nothing: an empty or plain `null` scalar.
    pub fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain } => {
                *plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
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

impl Span {
    fn of(range: Range) -> Self {
        let (start, end) = (range.start, range.end);
        let length = if start.line() == end.line() {
            end.col().saturating_sub(start.col())
        } else {
            1
        };
        Self {
            line: start.line(),
            column: start.col() + 1,
            length: length.max(1),
        }
    }
}

impl SyntaxError {
    fn new(message: impl Into<String>, span: Span) -> Self {
        Self {
            message: message.into(),
            span,
            help: None,
        }
    }

    fn help(mut self, help: &str) -> Self {
        self.help = Some(help.to_owned());
        self
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Range), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let mark = *error.marker();
                let span = Span {
                    line: mark.line(),
                    column: mark.col() + 1,
                    length: 1,
                };
                Err(SyntaxError::new(
                    format!("not YAML: {}", error.info()),
                    span,
                ))
            }
            None => Ok((Event::StreamEnd, Range::default())),
        }
    }

    fn node(&mut self, event: Event<'t>, range: Range, depth: usize) -> Result<Node, SyntaxError> {
        let span = Span::of(range);
        self.grow(1, span)?;
        if depth > MAX_DEPTH {
            return Err(SyntaxError::new(
                format!("nested more than {MAX_DEPTH} deep"),
                span,
            ));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = matches!(style, ScalarStyle::Plain);
                (
                    Value::Scalar {
                        text: text.into_owned(),
                        plain,
                    },
                    anchor,
                )
            }
            Event::SequenceStart(anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.map(depth)?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, span, depth),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                return Err(SyntaxError::new("not YAML: the text ends too early", span));
            }
        };
        let node = Node { value, span };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, span: Span, depth: usize) -> Result<Node, SyntaxError> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(SyntaxError::new("an alias of itself, or of nothing", span));
        };
        if depth + node.depth() > MAX_DEPTH {
            return Err(SyntaxError::new(
                format!("nested more than {MAX_DEPTH} deep"),
                span,
            ));
        }
        self.grow(node.size(), span)?;
        Ok(node)
    }

    fn grow(&mut self, by: usize, span: Span) -> Result<(), SyntaxError> {
        self.nodes += by;
        if self.nodes > MAX_NODES {
            return Err(SyntaxError::new(
                format!("more than {MAX_NODES} values, aliases counted"),
                span,
            ));
        }
        Ok(())
    }

    fn list(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, range) => items.push(self.node(event, range, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, range) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.key(event, range)?;
            let (event, range) = self.next()?;
            let node = self.node(event, range, depth + 1)?;
            if key.text == "<<" {
                merged.push(node);
            } else if let Some((first, _)) =
                entries.iter().find(|(other, _)| other.text == key.text)
            {
                let message = format!("`{}` is said twice", key.text);
                let help = format!("it stands first in line {}", first.span.line);
                return Err(SyntaxError::new(message, key.span).help(&help));
            } else {
                entries.push((key, node));
            }
        }
        for node in merged {
            merge(&mut entries, node)?;
        }
        Ok(Value::Map(entries))
    }

    fn key(&mut self, event: Event<'t>, range: Range) -> Result<Key, SyntaxError> {
        let span = Span::of(range);
        match event {
            Event::Scalar(text, style, _, _) => {
                if matches!(style, ScalarStyle::Plain) && text.parse::<f64>().is_ok() {
                    let error = SyntaxError::new(format!("the key `{text}` is not text"), span);
                    return Err(error.help("keys are names, such as `domain` or `descriptors`"));
                }
                let text = text.into_owned();
                Ok(Key { text, span })
            }
            Event::Alias(_)
            | Event::SequenceStart(..)
            | Event::MappingStart(..)
            | Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => Err(SyntaxError::new("a key that is not text", span)),
        }
    }
}

/// Adds what a merge key brings; what stands in the mapping itself wins, and the first of several merged.
fn merge(entries: &mut Vec<(Key, Node)>, node: Node) -> Result<(), SyntaxError> {
    match node.value {
        Value::Map(others) => {
            for (key, value) in others {
                if entries.iter().all(|(own, _)| own.text != key.text) {
                    entries.push((key, value));
                }
            }
            Ok(())
        }
        Value::List(nodes) => nodes.into_iter().try_for_each(|node| merge(entries, node)),
        Value::Scalar { .. } => Err(SyntaxError::new(
            "`<<` merges a mapping, or a list of mappings",
            node.span,
        )),
    }
}
