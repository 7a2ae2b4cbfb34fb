//! What a person most likely did to a text that is no YAML. The parser says where it stopped, which is seldom what is wrong.

use super::{Span, SyntaxError};
use crate::rules::diagnostic::Code;

/// The error of the parser, `info` at `span`, for people.
pub(super) fn explain(text: &str, info: &str, span: Span) -> SyntaxError {
    let place = Place::of(text, span);
    let causes = [
        conflict, template, tab, star, quote, colon, dash, unclosed, reserved,
    ];
    let found = causes.into_iter().find_map(|cause| cause(&place, info));
    let (message, span, help) = found.unwrap_or_else(|| {
        let help = indented(info).then_some("items and fields of one list or mapping begin in the same column; compare with the lines above");
        (info.to_owned(), span, help.unwrap_or_default().to_owned())
    });
    SyntaxError {
        code: Code::NotYaml,
        message: format!("not YAML: {message}"),
        span,
        help: Some(help).filter(|help| !help.is_empty()),
    }
}

/// What is known of the place.
struct Place<'t> {
    lines: Vec<&'t str>,
    span: Span,
    /// The line, or nothing.
    line: &'t str,
    /// What stands from the place on.
    rest: &'t str,
}

/// What to say, where, and what to do.
type Cause = Option<(String, Span, String)>;

/// How many lines around the place are looked at.
const NEAR: usize = 50;

impl<'t> Place<'t> {
    fn of(text: &'t str, span: Span) -> Self {
        let lines: Vec<&str> = text.lines().take(span.line + NEAR).collect();
        let line = lines.get(span.line.saturating_sub(1)).copied();
        let line = line.unwrap_or_default();
        let start = line.char_indices().nth(span.column.saturating_sub(1));
        let rest = start.map_or("", |(start, _)| &line[start..]);
        Self {
            lines,
            span,
            line,
            rest,
        }
    }

    /// The lines up to the place, with their numbers, the nearest first.
    fn above(&self) -> impl Iterator<Item = (usize, &'t str)> + '_ {
        let numbered = self.lines.iter().copied().enumerate();
        let numbered = numbered.map(|(index, line)| (index + 1, line));
        let above: Vec<_> = numbered.take(self.span.line).collect();
        above.into_iter().rev().take(NEAR)
    }
}

/// A part of a line, from a byte on.
fn part(line: usize, text: &str, start: usize, length: usize) -> Span {
    Span {
        line,
        column: text.get(..start).unwrap_or_default().chars().count() + 1,
        length: length.max(1),
    }
}

fn conflict(place: &Place<'_>, _: &str) -> Cause {
    let marks = ["<<<<<<< ", "=======", ">>>>>>> "];
    let mut lines = place.lines.iter().enumerate();
    let (index, line) = lines.find(|(_, line)| line.starts_with(marks[0]))?;
    let message = "this is a merge conflict".to_owned();
    let help =
        "take one of the two sides, and remove the lines with `<<<<<<<`, `=======` and `>>>>>>>`";
    Some((
        message,
        part(index + 1, line, 0, line.chars().count()),
        help.to_owned(),
    ))
}

fn template(place: &Place<'_>, _: &str) -> Cause {
    let (mark, made_by) = ["{{", "${", "{%"].into_iter().find_map(|mark| {
        let help = match mark {
            "${" => "fill it in first, as `envsubst` does; what is text to the end goes in quotes",
            _ => {
                "fill it in first, as `helm template` does; what is text to the end goes in quotes"
            }
        };
        place.line.contains(mark).then_some((mark, help))
    })?;
    let start = place.line.find(mark)?;
    let message = format!("`{mark}` begins a template that has not been filled in");
    Some((
        message,
        part(place.span.line, place.line, start, 2),
        made_by.to_owned(),
    ))
}

fn tab(place: &Place<'_>, info: &str) -> Cause {
    if !info.contains("tab") {
        return None;
    }
    let lines = place.lines.iter().enumerate();
    let mut near = lines.skip(place.span.line.saturating_sub(1));
    let (index, line) = near.find(|(_, line)| {
        let text = line.trim_start_matches([' ', '\t']);
        line[..line.len() - text.len()].contains('\t')
    })?;
    let start = line.find('\t').unwrap_or(0);
    let message = "a tab, where only spaces may stand".to_owned();
    let help = "indent with two spaces for each level";
    Some((message, part(index + 1, line, start, 1), help.to_owned()))
}

/// `value: *` and `value: */users` begin with what YAML takes for an alias.
fn star(place: &Place<'_>, info: &str) -> Cause {
    let alias = info.contains("anchor") && place.rest.starts_with('*');
    if !alias {
        return None;
    }
    let end = place.rest.find([',', '}', ']', ' ', '#']);
    let text = &place.rest[..end.unwrap_or(place.rest.len())];
    let length = text.chars().count();
    let message = format!("`{text}` is an alias of something that is not there");
    let help = format!("a pattern that begins with `*` needs quotes: `\"{text}\"`");
    Some((
        message,
        Span {
            length,
            ..place.span
        },
        help,
    ))
}

fn quote(place: &Place<'_>, info: &str) -> Cause {
    let open = place.rest.starts_with(['"', '\'']) && info.contains("quoted scalar");
    let escape = info.contains("escape");
    if escape {
        let help = "between double quotes `\\` begins an escape: use single quotes, or `\\\\`";
        return Some((info.to_owned(), place.span, help.to_owned()));
    }
    let help = "end it in the same line";
    open.then(|| {
        (
            "this quote is not closed".to_owned(),
            place.span,
            help.to_owned(),
        )
    })
}

/// `key:value` without a space is text, and `key: a: b` is one colon too many.
fn colon(place: &Place<'_>, info: &str) -> Cause {
    if !info.contains("mapping values") && !info.contains("':'") && !info.contains("simple key") {
        return None;
    }
    let glued = place.above().take(3).find_map(|(number, line)| {
        let text = line.trim_start_matches([' ', '-']);
        let name = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
        let after = text[name..].strip_prefix(':')?;
        let is_glued = name > 0 && !after.is_empty() && !after.starts_with([' ', '\t', ':']);
        is_glued.then(|| (number, line, line.len() - text.len(), &text[..name], after))
    });
    if let Some((number, line, start, name, after)) = glued {
        let length = text_length(&line[start..]);
        let message = format!("there is no space after `{name}:`");
        let help = format!("write `{name}: {}`", after.trim_end());
        return Some((message, part(number, line, start, length), help));
    }
    if let Some(found) = dash(place, "block") {
        return Some(found);
    }
    let before = place.line.get(..place.line.len() - place.rest.len())?;
    if place.rest.starts_with(':') && before.contains(": ") {
        let (name, value) = before.trim_start_matches([' ', '-']).split_once(": ")?;
        let value = value.trim();
        let message = "a second `:` in one line".to_owned();
        let help = format!(
            "if it is part of the text, put that in quotes: `{name}: \"{value}{}\"`; else begin a new line after `{value}`",
            place.rest.trim_end()
        );
        return Some((message, place.span, help));
    }
    let message = "a field where none may stand".to_owned();
    let help = "fields of one mapping begin in the same column, and a field has a value or fields below it, not both; compare with the line above";
    Some((message, place.span, help.to_owned()))
}

/// `-key: a` is no item.
fn dash(place: &Place<'_>, info: &str) -> Cause {
    if !info.contains("block") {
        return None;
    }
    place.above().take(3).find_map(|(number, line)| {
        let text = line.trim_start();
        let after = text.strip_prefix('-')?;
        let is_glued = after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '{');
        is_glued.then(|| {
            let start = line.len() - text.len();
            let message = "there is no space after `-`".to_owned();
            let help = format!("write `- {}`", after.trim_end());
            (message, part(number, line, start, text_length(text)), help)
        })
    })
}

/// A bracket that is not closed stands above the place at which the parser gives up.
fn unclosed(place: &Place<'_>, info: &str) -> Cause {
    if !info.contains("flow") {
        return None;
    }
    for (number, line) in place.above() {
        let mut open = Vec::new();
        let mut quoted = None;
        for (at, c) in line.char_indices() {
            match (quoted, c) {
                (Some(quote), c) if c == quote => quoted = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quoted = Some(c),
                (None, '{' | '[') => open.push((at, c)),
                (None, '}' | ']') => drop(open.pop()),
                (None, '#') if line[..at].ends_with(' ') => break,
                (None, _) => {}
            }
        }
        if let Some((at, c)) = open.first().copied() {
            let message = format!("this `{c}` is not closed");
            let end = if c == '{' { '}' } else { ']' };
            let help = format!("add `{end}` where it ends, and `, ` between what stands in it");
            return Some((message, part(number, line, at, 1), help));
        }
    }
    let help =
        "what stands in `{ }` or `[ ]` has `, ` between; text with one of `{}[],` goes in quotes";
    Some((info.to_owned(), place.span, help.to_owned()))
}

/// Text may not begin so.
fn reserved(place: &Place<'_>, _: &str) -> Cause {
    let first = place.rest.chars().next()?;
    let message = match first {
        '@' | '`' | '%' | '&' | '|' | '>' | '!' => format!("text cannot begin with `{first}`"),
        _ => return None,
    };
    let help = format!("put it in quotes: `\"{}\"`", place.rest.trim_end());
    Some((message, place.span, help))
}

fn indented(info: &str) -> bool {
    ["indent", "expected key", "block", "'-'"]
        .iter()
        .any(|word| info.contains(word))
}

fn text_length(text: &str) -> usize {
    text.trim_end().chars().count()
}
