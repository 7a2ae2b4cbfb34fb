//! Reading typed fields out of the tree. Whatever is wrong is reported, and read as absent.

use std::cell::{Cell, RefCell};
use std::fmt;

use super::table::Table;
use super::{MAX_DIAGNOSTICS, hints, unknown};
use crate::rules::diagnostic::{Code, Diagnostic, did_you_mean};
use crate::rules::file::{Node, SourceFile, Span, Value};
use crate::time::Micros;

/// Where the reader is: a file, and a path in its tree.
pub(super) struct Scope<'f> {
    pub(super) file: &'f SourceFile,
    /// What is right and yet unwise is warned of.
    pub(super) lints: bool,
    place: Place<'f>,
    sink: &'f RefCell<Vec<Diagnostic>>,
}

/// The path of a scope, which is put together only where it is asked for.
#[derive(Clone, Copy)]
enum Place<'f> {
    Root,
    Field(&'f Place<'f>, &'f str),
    Item(&'f Place<'f>, usize),
}

/// The fields of a mapping.
pub(super) struct Fields<'s, 'f> {
    pub(super) scope: &'s Scope<'f>,
    node: &'s Node<'f>,
    /// Fields under a name that is nearly theirs: what else is wrong with them is told at once.
    misspelled: Vec<(&'static str, &'s Node<'f>, Span)>,
    /// The fields that were there and wrong.
    failed: RefCell<Vec<&'static str>>,
    any_failed: Cell<bool>,
}

impl<'f> Scope<'f> {
    pub(super) fn new(
        file: &'f SourceFile,
        lints: bool,
        sink: &'f RefCell<Vec<Diagnostic>>,
    ) -> Self {
        Self {
            file,
            lints,
            place: Place::Root,
            sink,
        }
    }

    pub(super) fn field<'s>(&'s self, name: &'s str) -> Scope<'s> {
        let place = Place::Field(&self.place, name);
        Scope { place, ..*self }
    }

    pub(super) fn item(&self, index: usize) -> Scope<'_> {
        let place = Place::Item(&self.place, index);
        Scope { place, ..*self }
    }

    /// Where it is in the tree, such as `descriptors[2].rate_limit`.
    pub(super) fn path(&self) -> String {
        self.place.to_string()
    }

    pub(super) fn error(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(self.file, span, &self.path(), message)
    }

    pub(super) fn report(&self, diagnostic: Diagnostic) {
        let mut sink = self.sink.borrow_mut();
        if sink.len() < MAX_DIAGNOSTICS {
            sink.push(diagnostic);
        }
    }
}

impl Scope<'_> {
    /// Whether nothing more is reported.
    pub(super) fn is_full(&self) -> bool {
        self.sink.borrow().len() >= MAX_DIAGNOSTICS
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Place::Root => Ok(()),
            Place::Field(Place::Root, name) => f.write_str(name),
            Place::Field(above, name) => write!(f, "{above}.{name}"),
            Place::Item(above, index) => write!(f, "{above}[{index}]"),
        }
    }
}

impl<'s, 'f> Fields<'s, 'f> {
    /// The fields of a mapping; unknown ones are reported.
    pub(super) fn of(scope: &'s Scope<'f>, node: &'s Node<'f>, table: Table) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            let message = format!("{} is a mapping, not {}", table.name(), node.kind());
            let error = scope.error(node.span, message).coded(Code::WrongKind);
            scope.report(error.with_help(unknown::no_mapping(table, node)));
            return None;
        };
        let mut misspelled = Vec::new();
        let mut any_failed = false;
        for (key, value) in entries {
            if table.has(&key.text) {
                continue;
            }
            let near = did_you_mean(&key.text, table.names());
            let is_there = |name: &str| entries.iter().any(|(key, _)| key.text == name);
            let near = near.filter(|near| !unknown::is_elsewhere(&key.text) && !is_there(near));
            misspelled.extend(near.map(|near| (near, value, key.span)));
            any_failed = true;
            scope.report(unknown::field(
                &scope.field(&key.text),
                (&key.text, key.span),
                table,
                entries,
            ));
        }
        Some(Self {
            scope,
            node,
            misspelled,
            failed: RefCell::default(),
            any_failed: Cell::new(any_failed),
        })
    }

    /// A field that is there and says something.
    pub(super) fn get(&self, name: &str) -> Option<&'s Node<'f>> {
        let (node, _) = self.find(name)?;
        (!node.is_null()).then_some(node)
    }

    /// Where a field stands, if it is there.
    pub(super) fn span(&self, name: &str) -> Option<Span> {
        self.find(name).map(|(_, span)| span)
    }

    fn find(&self, name: &str) -> Option<(&'s Node<'f>, Span)> {
        let Value::Map(entries) = &self.node.value else {
            return None;
        };
        let found = entries.iter().find(|(key, _)| key.text == name);
        let misspelled = || self.misspelled.iter().find(|(near, ..)| *near == name);
        found
            .map(|(key, node)| (node, key.span))
            .or_else(|| misspelled().map(|(_, node, span)| (*node, *span)))
    }

    /// Where the mapping stands.
    pub(super) fn own_span(&self) -> Span {
        match &self.node.value {
            Value::Map(entries) => entries.first().map_or(self.node.span, |(key, _)| key.span),
            Value::Scalar { .. } | Value::List(_) => self.node.span,
        }
    }

    /// Whether a field was there and could not be read.
    pub(super) fn failed(&self, name: &'static str) -> bool {
        self.failed.borrow().contains(&name)
    }

    /// Whether any field could not be read.
    pub(super) fn any_failed(&self) -> bool {
        self.any_failed.get()
    }

    /// An error about a field.
    pub(super) fn error_at(
        &self,
        name: &str,
        span: Span,
        message: impl Into<String>,
    ) -> Diagnostic {
        self.scope.field(name).error(span, message)
    }

    pub(super) fn fail(&self, name: &'static str, error: Diagnostic) {
        self.failed.borrow_mut().push(name);
        self.any_failed.set(true);
        self.scope.report(error);
    }

    /// A field with fields of its own, and its place.
    pub(super) fn child(&self, name: &'static str) -> Option<(&'s Node<'f>, Scope<'s>)> {
        self.get(name).map(|node| (node, self.scope.field(name)))
    }

    /// A list, and its place.
    pub(super) fn list(&self, name: &'static str) -> Option<(&'s [Node<'f>], Scope<'s>)> {
        let node = self.get(name)?;
        match &node.value {
            Value::List(items) => Some((items, self.scope.field(name))),
            Value::Scalar { .. } | Value::Map(_) => {
                let message = format!("`{name}` is a list, not {}", node.kind());
                let error = self.error_at(name, node.span, message);
                let error = error.coded(Code::WrongKind);
                self.fail(name, error.with_help(unknown::no_list(name, node)));
                // What is meant as its one item is looked at nevertheless.
                let items = unknown::is_item(name, node).then(|| std::slice::from_ref(node));
                items.map(|items| (items, self.scope.field(name)))
            }
        }
    }

    /// Text as written; a number with a fraction must be in quotes, since YAML would not keep it as written.
    pub(super) fn text(&self, name: &'static str) -> Option<(&'s str, Span)> {
        let node = self.get(name)?;
        let problem = match &node.value {
            Value::Scalar { text, plain } if *plain && is_float(text) => {
                let error =
                    self.error_at(name, node.span, format!("`{text}` is a number, not text"));
                error.with_help(format!("put it in quotes: `\"{text}\"`"))
            }
            Value::Scalar { text, .. } => return Some((text, node.span)),
            Value::List(_) | Value::Map(_) => {
                let message = format!("`{name}` is text, not {}", node.kind());
                let error = self.error_at(name, node.span, message);
                let error = error.coded(Code::WrongKind);
                match (name, &node.value) {
                    ("value" | "cidr" | "key", Value::List(_)) => {
                        error.with_help(format!("one descriptor for each `{name}`"))
                    }
                    (_, _) => error,
                }
            }
        };
        self.fail(name, problem);
        None
    }

    /// A list of texts.
    pub(super) fn texts(&self, name: &'static str) -> Option<Vec<String>> {
        let (items, scope) = self.list(name)?;
        let mut texts = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match &item.value {
                Value::Scalar { text, .. } if !text.is_empty() => texts.push(text.to_string()),
                Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                    let message = format!("each item of `{name}` is text, not {}", item.kind());
                    let error = scope.item(index).error(item.span, message);
                    self.fail(name, error.coded(Code::WrongKind));
                }
            }
        }
        Some(texts)
    }

    /// `true` or `false`, or another of YAML 1.1's words for them; absent is `false`.
    pub(super) fn flag(&self, name: &'static str) -> bool {
        let Some(node) = self.get(name) else {
            return false;
        };
        if let Value::Scalar { text, plain: true } = &node.value
            && let Some(flag) = boolean(text)
        {
            return flag;
        }
        let error = self.error_at(name, node.span, format!("`{name}` is `true` or `false`"));
        let meant = match &node.value {
            Value::Scalar { text, plain: false } => boolean(text),
            Value::Scalar { text, .. } if text == "1" => Some(true),
            Value::Scalar { text, .. } if text == "0" => Some(false),
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => None,
        };
        let help = meant.map(|flag| format!("write `{name}: {flag}`, without quotes"));
        self.fail(name, help.into_iter().fold(error, Diagnostic::with_help));
        false
    }

    /// A whole number from 0 to 4,294,967,295.
    pub(super) fn number(&self, name: &'static str) -> Option<(u32, Span)> {
        let node = self.get(name)?;
        let (text, message) = match &node.value {
            // To YAML 1.1, and so to the reference, this is octal.
            Value::Scalar { text, plain: true } if is_octal(text) => (
                &**text,
                format!("`{text}` begins with 0: octal or decimal?"),
            ),
            Value::Scalar { text, plain: true } => {
                let digits = text.replace('_', "").parse::<u32>().ok();
                let whole = || u32::try_from(hints::whole(text)?).ok();
                if let Some(number) = digits.or_else(whole) {
                    return Some((number, node.span));
                }
                let message = format!("`{text}` is not a whole number from 0 to {}", u32::MAX);
                (&**text, message)
            }
            Value::Scalar { text, .. } => (&**text, format!("`{name}` is a number, not text")),
            Value::List(_) | Value::Map(_) => {
                ("", format!("`{name}` is a number, not {}", node.kind()))
            }
        };
        let error = self.error_at(name, node.span, message);
        let help = match &node.value {
            Value::Scalar { text, plain: false } if text.parse::<u32>().is_ok() => {
                Some(format!("without quotes: `{name}: {text}`"))
            }
            Value::Scalar { .. } => hints::number(name, text),
            Value::List(_) | Value::Map(_) => None,
        };
        self.fail(name, help.into_iter().fold(error, Diagnostic::with_help));
        None
    }

    /// A number above 0 with at most three decimals, in thousandths.
    pub(super) fn thousandths(&self, name: &'static str) -> Option<(u64, Span)> {
        self.decimal(name, 1)
    }

    /// A number with at most three decimals, in thousandths, and not below `least`, which is 0 or 1.
    pub(super) fn decimal(&self, name: &'static str, least: u64) -> Option<(u64, Span)> {
        let node = self.get(name)?;
        if let Value::Scalar { text, plain: true } = &node.value
            && let Some(thousandths) = thousandths(text).filter(|number| *number >= least)
        {
            return Some((thousandths, node.span));
        }
        let range = if least == 0 { "from 0 on" } else { "above 0" };
        let message = format!("`{name}` is a number {range} with at most three decimals");
        self.fail(name, self.error_at(name, node.span, message));
        None
    }

    /// A time such as `90s`, `15m`, `1h` or `7d`.
    pub(super) fn duration(&self, name: &'static str) -> Option<(Micros, Span)> {
        let (text, span) = self.text(name)?;
        let found = duration(text);
        if found.is_none() {
            let error = self.error_at(name, span, format!("`{text}` is no length of time"));
            let number = text.parse::<u32>().ok();
            let guess =
                hints::duration(text).or_else(|| Some(format!("say of what: `{}s`?", number?)));
            let usual = || "such as `90s`, `15m`, `1h` or `7d`".to_owned();
            self.fail(name, error.with_help(guess.unwrap_or_else(usual)));
        }
        found.map(|length| (length, span))
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        let (text, span) = self.text(name)?;
        let found = word(text, words);
        if found.is_none() {
            let error = self.error_at(
                name,
                span,
                format!("unknown {} `{text}`", name.replace('_', " ")),
            );
            self.fail(name, error.with_help(choices(text, words)));
        }
        found
    }

    /// Some of a few words.
    pub(super) fn some_of<T: Copy>(
        &self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Option<Vec<T>> {
        let (items, scope) = self.list(name)?;
        let mut found = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let text = match &item.value {
                Value::Scalar { text, .. } => text,
                Value::List(_) | Value::Map(_) => item.kind(),
            };
            match word(text, words) {
                Some(value) => found.push(value),
                None => {
                    let error = scope
                        .item(index)
                        .error(item.span, format!("`{text}` is none of the {name}"));
                    self.fail(name, error.with_help(choices(text, words)));
                }
            }
        }
        Some(found)
    }
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Option<T> {
    let found = words
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|(_, value)| *value)
}

fn choices<T>(text: &str, words: &[(&str, T)]) -> String {
    let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    match did_you_mean(text, words.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("one of {}", listed(words)),
    }
}

pub(super) fn listed<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let words = words.into_iter();
    let quoted: Vec<String> = words.map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

fn is_octal(text: &str) -> bool {
    text.len() > 1 && text.starts_with('0') && text.bytes().all(|digit| digit.is_ascii_digit())
}

/// What YAML 1.1 reads a plain text as, if that is true or false.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

/// Whether YAML reads the text as a number that is not whole.
fn is_float(text: &str) -> bool {
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    numeric && text.parse::<i64>().is_err() && text.parse::<f64>().is_ok()
}

fn thousandths(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = u64::from(whole.parse::<u32>().ok()?);
    let decimals: u64 = format!("{decimals:0<3}").parse().ok()?;
    Some(whole * 1000 + decimals)
}

/// A length of time as rule files have it: `90s`, `15m`, `1h` or `7d`.
pub fn duration(text: &str) -> Option<Micros> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let secs: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(secs).map(Micros::from_secs)
}
