//! Looks into the YAML of an Envoy configuration, which is protobuf's JSON: a field is named `like_this` or `likeThis`.

use serde_json::{Map, Value as Json};

use crate::rules::diagnostic::Diagnostic;
use crate::rules::file::{Node, SourceFile, Value};

/// The most that is said to be wrong with one file.
const MAX_ERRORS: usize = 100;

/// Reads fields, and keeps what is wrong with them.
pub(super) struct Tree<'f> {
    file: &'f SourceFile,
    pub(super) found: Vec<Diagnostic>,
}

impl<'f> Tree<'f> {
    pub(super) fn of(file: &'f SourceFile) -> Self {
        Self {
            file,
            found: Vec::new(),
        }
    }

    /// Something that Envoy would not take, or that cannot be meant.
    pub(super) fn error(&mut self, node: &Node<'_>, message: impl Into<String>) {
        if self.found.len() < MAX_ERRORS {
            let error = Diagnostic::error(self.file, node.span, "", message);
            self.found.push(error);
        }
    }

    /// Something that Envoy takes, and that does not do what it says.
    pub(super) fn warn(&mut self, node: &Node<'_>, message: &str, help: &str) {
        if self.found.len() < MAX_ERRORS {
            let warning = Diagnostic::error(self.file, node.span, "", message).as_warning();
            self.found.push(warning.with_help(help));
        }
    }

    /// The values of a list; empty if it is not there.
    pub(super) fn list<'n, 't>(&mut self, node: &'n Node<'t>, name: &str) -> &'n [Node<'t>] {
        let Some(field) = field(node, name) else {
            return &[];
        };
        match &field.value {
            Value::List(items) => items,
            Value::Scalar { .. } | Value::Map(_) => {
                let kind = field.kind();
                self.error(field, format!("`{name}` is a list, and this is {kind}"));
                &[]
            }
        }
    }

    /// A text; none if it is not there.
    pub(super) fn text(&mut self, node: &Node<'_>, name: &str) -> Option<String> {
        let field = field(node, name)?;
        let text = scalar(field);
        if text.is_none() {
            let kind = field.kind();
            self.error(field, format!("`{name}` is a text, and this is {kind}"));
        }
        text.map(str::to_owned)
    }

    /// A switch, which is off if it is not there. Protobuf's wrapped ones are written the same.
    pub(super) fn is_on(&mut self, node: &Node<'_>, name: &str) -> bool {
        self.switch(node, name).unwrap_or(false)
    }

    pub(super) fn switch(&mut self, node: &Node<'_>, name: &str) -> Option<bool> {
        let text = self.text(node, name)?;
        let on = text.parse().ok();
        if let (None, Some(field)) = (on, field(node, name)) {
            self.error(field, format!("`{name}` is true or false, not `{text}`"));
        }
        on
    }

    pub(super) fn number(&mut self, node: &Node<'_>, name: &str) -> Option<u64> {
        let text = self.text(node, name)?;
        let number = text.parse().ok();
        if let (None, Some(field)) = (number, field(node, name)) {
            self.error(field, format!("`{name}` is a whole number, not `{text}`"));
        }
        number
    }
}

/// The field of a mapping; none if it is not there, or null.
pub(super) fn field<'n, 't>(node: &'n Node<'t>, name: &str) -> Option<&'n Node<'t>> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let found = entries.iter().find(|(key, _)| is_named(&key.text, name));
    found.map(|(_, value)| value).filter(|node| !node.is_null())
}

/// The field at the end of a way of names.
pub(super) fn at<'n, 't>(node: &'n Node<'t>, way: &[&str]) -> Option<&'n Node<'t>> {
    way.iter().try_fold(node, |node, name| field(node, name))
}

/// The fields of a mapping, by their names as written.
pub(super) fn fields<'n, 't>(
    node: &'n Node<'t>,
) -> impl Iterator<Item = (&'n str, &'n Node<'t>)> + use<'n, 't> {
    let entries = match &node.value {
        Value::Map(entries) => entries.as_slice(),
        Value::Scalar { .. } | Value::List(_) => &[],
    };
    entries.iter().map(|(key, node)| (&*key.text, node))
}

pub(super) fn scalar<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        Value::List(_) | Value::Map(_) => None,
    }
}

/// Whether a message says that it is of this type.
pub(super) fn is_type(node: &Node<'_>, name: &str) -> bool {
    let named = field(node, "@type").and_then(scalar).unwrap_or_default();
    named.rsplit('/').next() == Some(name)
}

/// The value as JSON: plain scalars mean what they say.
pub(super) fn json(node: &Node<'_>) -> Json {
    match &node.value {
        _ if node.is_null() => Json::Null,
        Value::Scalar { text, plain: true } => match serde_json::from_str(text) {
            Ok(value @ (Json::Bool(_) | Json::Number(_))) => value,
            _ => Json::String(text.to_string()),
        },
        Value::Scalar { text, .. } => Json::String(text.to_string()),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => {
            let entries = entries.iter();
            let entries = entries.map(|(key, node)| (key.text.to_string(), json(node)));
            Json::Object(entries.collect::<Map<_, _>>())
        }
    }
}

/// Whether a key is this name, or the same in the other spelling.
pub(super) fn is_named(key: &str, name: &str) -> bool {
    let mut letters = key.chars();
    let mut upper = false;
    key == name
        || name.chars().all(|wanted| {
            if wanted == '_' {
                upper = true;
                return true;
            }
            let wanted = if upper {
                wanted.to_ascii_uppercase()
            } else {
                wanted
            };
            upper = false;
            letters.next() == Some(wanted)
        }) && letters.next().is_none()
}
