//! Keys and values that are compared letter by letter, and are written as if they were not.

use super::items::{Item, Matches};
use super::{advise, get, text};
use crate::rules::compile::fields::Scope;
use crate::rules::diagnostic::{Code, distance, is_invisible};
use crate::rules::file::{Node, Span, Value};

/// Keys that Envoy's actions send where the configuration names none.
const OF_ENVOY: [&str; 7] = [
    "remote_address",
    "masked_remote_address",
    "generic_key",
    "header_match",
    "query_match",
    "destination_cluster",
    "source_cluster",
];

/// Looks at the key and the value of a descriptor.
pub(super) fn look(scope: &Scope<'_>, item: &Item<'_>) {
    if let Some(key) = get(item.node, "key")
        && !odd(&scope.field("key"), key)
    {
        misspelled(&scope.field("key"), item.key, key.span);
    }
    if let Some(value) = get(item.node, "value") {
        let scope = scope.field("value");
        if !odd(&scope, value) {
            written(&scope, item, value.span);
        }
    }
    empty(scope, item);
}

/// What cannot be meant in any text; whether there is something.
pub(super) fn odd(scope: &Scope<'_>, node: &Node<'_>) -> bool {
    let Some(text) = text(node) else { return false };
    let quotes = ['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}', '\u{201e}'];
    let (code, message, help) = if let Some(mark) = ["{{", "${", "<%"]
        .into_iter()
        .find(|mark| text.contains(mark))
    {
        let message = format!("`{mark}` begins a template that has not been filled in");
        let help =
            "fill it in before the service reads the file, with `helm template` or `envsubst`";
        (Code::UnfilledTemplate, message, help.to_owned())
    } else if text.trim() != text {
        let message = "this text begins or ends with a space".to_owned();
        let help = format!(
            "values are compared letter by letter: write `{}`",
            text.trim()
        );
        (Code::StrayCharacter, message, help)
    } else if let Some(c) = text
        .chars()
        .find(|c| is_invisible(*c) || (c.is_whitespace() && *c != ' '))
    {
        let message = format!(
            "this text has an invisible character, U+{:04X}",
            u32::from(c)
        );
        let help = "type the text anew: it was probably copied from a document";
        (Code::StrayCharacter, message, help.to_owned())
    } else if let Some(c) = text.chars().find(|c| quotes.contains(c)) {
        let message = format!("`{c}` is no quote to YAML, but part of the text");
        (
            Code::StrayCharacter,
            message,
            "write `\"` or `'`".to_owned(),
        )
    } else {
        return false;
    };
    advise(scope, code, node.span, &message, &help);
    true
}

/// A key that is nearly one of Envoy's.
fn misspelled(scope: &Scope<'_>, key: &str, span: Span) {
    if OF_ENVOY.contains(&key) {
        return;
    }
    let plain = |text: &str| text.to_lowercase().replace(['_', '-', '.'], "");
    let near = OF_ENVOY.into_iter().find(|known| {
        plain(known) == plain(key)
            || distance(known, key) == 1
            || (key, *known) == ("remote_addr", "remote_address")
    });
    if let Some(near) = near {
        let message = format!("`{key}` is not the key that Envoy sends, which is `{near}`");
        let help = format!("write `{near}`, unless a `descriptor_key` of your Envoy says `{key}`");
        advise(scope, Code::MisspelledKey, span, &message, &help);
    }
}

/// A value that is meant to match more than itself.
fn written(scope: &Scope<'_>, item: &Item<'_>, span: Span) {
    let (Matches::Value(value) | Matches::Pattern(value)) = item.matches else {
        return;
    };
    if let Some(part) = regex(value) {
        let message =
            format!("`{part}` is compared letter by letter: values are no regular expressions");
        let help = "`*` stands for any text, and nothing else is special; or let Envoy's configuration tell the cases apart";
        advise(scope, Code::RegexValue, span, &message, help);
    } else if let Some(part) = placeholder(value) {
        let message = format!("`{part}` is compared letter by letter");
        let help = format!("for any text there write `{}`", value.replace(part, "*"));
        advise(scope, Code::PathTemplate, span, &message, &help);
    } else if is_network(value)
        && !["mask", "cidr", "net", "prefix"]
            .iter()
            .any(|word| item.key.contains(word))
    {
        let message = format!("`{value}` is compared as text, and no address is written so");
        let help = format!("write `cidr: {value}` for the addresses in it");
        advise(scope, Code::NetworkAsText, span, &message, &help);
    }
}

/// The part of a value that only a regular expression has.
fn regex(value: &str) -> Option<&str> {
    let signs = [
        "(?", ".*$", "[0-9]", "[a-z", "[A-Z", "[^/", "\\d", "\\w", "\\.", "\\/", ".+", "/.*",
        "(.*", "]+", "]*",
    ];
    if let Some(sign) = signs.into_iter().find(|sign| value.contains(sign)) {
        return Some(sign);
    }
    if value.starts_with('^') {
        return Some("^");
    }
    (value.starts_with('/') && value.ends_with('$')).then_some("$")
}

/// `{id}`, or `:id` at the beginning of a part of a path.
fn placeholder(value: &str) -> Option<&str> {
    if !value.starts_with('/') {
        return None;
    }
    value.split('/').find(|part| {
        let inner = part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'));
        let inner = inner.or_else(|| part.strip_prefix('<')?.strip_suffix('>'));
        let inner = inner.or_else(|| part.strip_prefix(':'));
        inner.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
    })
}

fn is_network(value: &str) -> bool {
    value.contains('/') && value.parse::<ipnet::IpNet>().is_ok()
}

/// `value:` without anything behind it matches everything.
fn empty(scope: &Scope<'_>, item: &Item<'_>) {
    let Value::Map(fields) = &item.node.value else {
        return;
    };
    for name in ["value", "cidr"] {
        let field = fields.iter().find(|(key, _)| key.text == name);
        if let Some((key, _)) = field.filter(|(_, node)| node.is_null() || text(node) == Some("")) {
            let message = format!("`{name}` says nothing, so that every value matches");
            let help = format!(
                "remove `{name}` if that is meant, or say which; the word null goes in quotes"
            );
            advise(
                &scope.field(name),
                Code::EmptyValue,
                key.span,
                &message,
                &help,
            );
        }
    }
}
