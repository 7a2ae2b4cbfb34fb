//! The events of the YAML parser made into a tree.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::rules::diagnostic::Code;
use saphyr_parser::{Event, Parser, ScalarStyle, Span as Range, StrInput};

use super::hints;
use super::{
    Key, MAX_BYTES, MAX_DEPTH, MAX_ERRORS, MAX_KEYS, MAX_NODES, Node, Span, SyntaxError, Value,
};

/// What was not UTF-8 has been made U+FFFD where the file was read.
fn not_utf8(text: &str) -> Option<SyntaxError> {
    let mut lines = text.lines().enumerate();
    let (index, before) = lines.find_map(|(index, line)| {
        let (before, _) = line.split_once(char::REPLACEMENT_CHARACTER)?;
        Some((index, before))
    })?;
    let span = Span {
        line: index + 1,
        column: before.chars().count() + 1,
        length: 1,
    };
    let error = SyntaxError::new("this is not UTF-8", span).of(Code::NotUtf8);
    let help = if text.contains('\0') {
        "the file looks like UTF-16, as PowerShell writes it: save it as UTF-8"
    } else {
        "the file has another encoding, or is damaged here: save it as UTF-8"
    };
    Some(error.help(help))
}

/// Reads one document.
pub(super) fn read(text: &str) -> (Option<Node<'_>>, Vec<SyntaxError>) {
    if text.len() > MAX_BYTES {
        let message = format!("the file is larger than {MAX_BYTES} bytes");
        return (None, vec![SyntaxError::new(message, Span::default())]);
    }
    if let Some(error) = not_utf8(text) {
        return (None, vec![error]);
    }
    let mut reader = Reader {
        text,
        ascii: text.is_ascii().then_some(text),
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        errors: Vec::new(),
    };
    match reader.document() {
        Ok(root) => (root, reader.errors),
        Err(error) => {
            reader.errors.push(error);
            (None, reader.errors)
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    text: &'t str,
    /// The whole text, if its characters are its bytes.
    ascii: Option<&'t str>,
    anchors: HashMap<usize, Node<'t>>,
    nodes: usize,
    /// What is wrong but does not end the reading.
    errors: Vec<SyntaxError>,
}

impl<'t> Reader<'t> {
    fn document(&mut self) -> Result<Option<Node<'t>>, SyntaxError> {
        let mut document = None;
        loop {
            let (event, range) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(document),
                Event::DocumentStart(_) if document.is_some() => {
                    let error = SyntaxError::new("a second document in one file", Span::of(range));
                    self.report(error.help("put each domain into a file of its own"));
                    return Ok(document);
                }
                Event::Nothing
                | Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd => {}
                Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..)
                | Event::MappingEnd => document = Some(self.node(event, range, 0)?),
            }
        }
    }

    fn report(&mut self, error: SyntaxError) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        }
    }

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
                Err(hints::explain(self.text, error.info(), span))
            }
            None => Ok((Event::StreamEnd, Range::default())),
        }
    }

    fn node(
        &mut self,
        event: Event<'t>,
        range: Range,
        depth: usize,
    ) -> Result<Node<'t>, SyntaxError> {
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
                let text = self.as_written(text, range);
                (Value::Scalar { text, plain }, anchor)
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
            self.grow(node.size(), span)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, span: Span, depth: usize) -> Result<Node<'t>, SyntaxError> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(SyntaxError::new("an alias of itself, or of nothing", span));
        };
        if depth + node.depth() > MAX_DEPTH {
            return Err(SyntaxError::new(
                format!("nested more than {MAX_DEPTH} deep"),
                span,
            ));
        }
        let (size, node) = (node.size(), node.clone());
        self.grow(size, span)?;
        Ok(node)
    }

    /// The text of a scalar where it stands in the file, if it stands there letter by letter; the parser's copy has a buffer
    /// many times its length.
    fn as_written(&self, text: Cow<'t, str>, range: Range) -> Cow<'t, str> {
        let (start, end) = (range.start.index(), range.end.index());
        let unquoted = |all: &'t str| Some(all.get(start..end)?.trim_matches(['"', '\'']));
        match self.ascii.and_then(unquoted) {
            Some(written) if written == text => Cow::Borrowed(written),
            _ => Cow::Owned(text.into_owned().into_boxed_str().into_string()),
        }
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

    fn list(&mut self, depth: usize) -> Result<Value<'t>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, range) => items.push(self.node(event, range, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value<'t>, SyntaxError> {
        let mut entries = Entries::new();
        let mut merged = Vec::new();
        loop {
            let (event, range) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.key(event, range)?;
            let (event, range) = self.next()?;
            let node = self.node(event, range, depth + 1)?;
            if key.text == "<<" && key.plain {
                merged.push(node);
            } else if key.is_number() {
                let error =
                    SyntaxError::new(format!("the key `{}` is not text", key.text), key.span);
                let error = error.of(Code::InvalidValue);
                self.report(error.help(
                    "keys are names, such as `domain`; the number in `n: 1,000` is written `1000`",
                ));
            } else if let Some((first, _)) = find(&entries, &key.text) {
                let error = SyntaxError::new(format!("`{}` is said twice", key.text), key.span);
                let help = format!("it stands first in line {}", first.span.line);
                self.report(error.of(Code::SaidTwice).help(&help));
            } else {
                add(&mut entries, key, node)?;
            }
        }
        for node in merged {
            self.merge(&mut entries, node)?;
        }
        Ok(Value::Map(entries))
    }

    fn key(&mut self, event: Event<'t>, range: Range) -> Result<Key<'t>, SyntaxError> {
        let span = Span::of(range);
        match event {
            Event::Scalar(text, style, _, _) => Ok(Key {
                text: self.as_written(text, range),
                plain: matches!(style, ScalarStyle::Plain),
                span,
            }),
            Event::Alias(_)
            | Event::SequenceStart(..)
            | Event::MappingStart(..)
            | Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => Err(hints::explain(self.text, "a key that is not text", span)),
        }
    }

    /// Adds what a merge key brings; what stands in the mapping itself wins, and the first of several merged.
    fn merge(&mut self, entries: &mut Entries<'t>, node: Node<'t>) -> Result<(), SyntaxError> {
        match node.value {
            Value::Map(others) => {
                for (key, value) in others {
                    if find(entries, &key.text).is_none() {
                        add(entries, key, value)?;
                    }
                }
            }
            Value::List(nodes) => {
                for node in nodes {
                    self.merge(entries, node)?;
                }
            }
            Value::Scalar { .. } => {
                let message = "`<<` merges a mapping, or a list of mappings";
                self.report(SyntaxError::new(message, node.span));
            }
        }
        Ok(())
    }
}

type Entries<'t> = Vec<(Key<'t>, Node<'t>)>;

fn find<'e, 't>(entries: &'e Entries<'t>, key: &str) -> Option<&'e (Key<'t>, Node<'t>)> {
    entries.iter().find(|(other, _)| other.text == key)
}

fn add<'t>(entries: &mut Entries<'t>, key: Key<'t>, node: Node<'t>) -> Result<(), SyntaxError> {
    if entries.len() >= MAX_KEYS {
        let message = format!("a mapping of more than {MAX_KEYS} keys");
        return Err(SyntaxError::new(message, key.span));
    }
    entries.push((key, node));
    Ok(())
}

impl Key<'_> {
    fn is_number(&self) -> bool {
        let numeric = self
            .text
            .starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
        self.plain && numeric && self.text.parse::<f64>().is_ok()
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
            code: Code::NotYaml,
            message: message.into(),
            span,
            help: None,
        }
    }

    fn of(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    fn help(mut self, help: &str) -> Self {
        self.help = Some(help.to_owned());
        self
    }
}
