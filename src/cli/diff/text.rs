//! Changes as a person reads them: in a terminal, or in a pull request.

use std::fmt::Write;

use super::change::{Change, Changes, Effect, Subjects};
use crate::rules::diagnostic::printable;

/// So many changes are shown; all are counted.
pub(super) const MOST_SHOWN: usize = 100;

/// So many of those whom a change is for are named.
const MOST_NAMED: usize = 3;

/// How much of a text is shown, in characters.
const MOST_TEXT: usize = 300;

/// How much fits into a comment of GitHub, and room for what is written around it, in bytes.
const MOST_MARKDOWN: usize = 60_000;

/// For a terminal.
pub(super) fn text(changes: &Changes, colour: bool) -> String {
    let paint = |code: &str, text: &str| match colour {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let sorted = changes.sorted();
    let mut text = String::new();
    let mut last = None;
    for (domain, change, subjects) in sorted.iter().take(MOST_SHOWN) {
        let (title, code) = title(change.effect);
        if last != Some(change.effect) {
            let blank = if last.is_some() { "\n" } else { "" };
            let _ = writeln!(text, "{blank}{}", paint(code, title));
            last = Some(change.effect);
        }
        let whom = paint("1", &whom(domain, subjects));
        let place = subjects.first.first().map_or("", |first| &first.place);
        let place = match place {
            "" => String::new(),
            place => paint("2", &format!("  {}", shown(place))),
        };
        let _ = writeln!(text, "  {whom}{place}");
        let _ = writeln!(text, "      {}{}", shown(&change.what), values(change));
        let mut notes: Vec<String> = change.notes.iter().map(|note| shown(note)).collect();
        if change.anew && change.what != ANEW {
            notes.push(ANEW.to_owned());
        }
        for note in notes {
            let _ = writeln!(text, "      {}", paint("2", &note));
        }
    }
    if sorted.len() > MOST_SHOWN {
        let _ = writeln!(text, "\n… and {} more changes", sorted.len() - MOST_SHOWN);
    }
    if !sorted.is_empty() {
        text.push('\n');
    }
    text + &summary(changes) + "\n"
}

/// A table for a pull request.
pub(super) fn markdown(changes: &Changes) -> String {
    let sorted = changes.sorted();
    let mut text = format!("**Rate limits:** {}\n", summary(changes));
    if sorted.is_empty() {
        return text;
    }
    text.push_str("\n| | for whom | what | before | after | |\n|---|---|---|---|---|---|\n");
    let mut rows = 0;
    for (domain, change, subjects) in sorted.iter().take(MOST_SHOWN) {
        let mut notes: Vec<&str> = change.notes.iter().map(String::as_str).collect();
        if change.anew && change.what != ANEW {
            notes.push(ANEW);
        }
        let cell = |text: &Option<String>| text.as_deref().map(code).unwrap_or_default();
        let mark = mark(change.effect);
        let row = format!(
            "| {mark} | {} | {} | {} | {} | {} |\n",
            code(&whom(domain, subjects)),
            plain(&change.what),
            cell(&change.before),
            cell(&change.after),
            plain(&notes.join("; ")),
        );
        if text.len() + row.len() > MOST_MARKDOWN {
            break;
        }
        text.push_str(&row);
        rows += 1;
    }
    if sorted.len() > rows {
        let _ = writeln!(text, "\n… and {} more changes", sorted.len() - rows);
    }
    text
}

/// What stands for a change after which only counters differ.
const ANEW: &str = "counters start anew";

fn title(effect: Effect) -> (&'static str, &'static str) {
    match effect {
        Effect::Stricter => ("stricter", "1;31"),
        Effect::Mixed => ("stricter for some, looser for others", "1;33"),
        Effect::Looser => ("looser", "1;32"),
        Effect::Neutral => ("neither stricter nor looser", "1;34"),
    }
}

/// In a table.
fn mark(effect: Effect) -> &'static str {
    match effect {
        Effect::Stricter => "🔴 stricter",
        Effect::Mixed => "🟠 mixed",
        Effect::Looser => "🟢 looser",
        Effect::Neutral => "⚪ neutral",
    }
}

/// Such as ` 10/minute → 5/minute`.
fn values(change: &Change) -> String {
    match (&change.before, &change.after) {
        (None, None) => String::new(),
        (Some(before), None) => format!(": {}", shown(before)),
        (None, Some(after)) => format!(": {}", shown(after)),
        (Some(before), Some(after)) => format!(": {} → {}", shown(before), shown(after)),
    }
}

/// The domain, the first of those in it whom a change is for, and how many more there are.
fn whom(domain: &str, subjects: &Subjects) -> String {
    let names = subjects.first.iter().take(MOST_NAMED);
    let names = names
        .map(|subject| shown(&subject.name))
        .collect::<Vec<_>>();
    let domain = shown(domain);
    match (names.join("; "), subjects.count.saturating_sub(MOST_NAMED)) {
        (none, _) if none.is_empty() => domain,
        (names, 0) => format!("{domain}: {names}"),
        (names, more) => format!("{domain}: {names}; and {more} more"),
    }
}

/// In a line.
pub(super) fn summary(changes: &Changes) -> String {
    let sorted = changes.sorted();
    if changes.is_empty() {
        return "no request is decided otherwise".to_owned();
    }
    let count = |effect: Effect| {
        sorted
            .iter()
            .filter(|(_, change, _)| change.effect == effect)
            .count()
    };
    let counts = Effect::ALL
        .into_iter()
        .map(|effect| (count(effect), effect.word()));
    let counts = counts.filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let mut text = match sorted.len() {
        1 => format!("1 change: {}", counts.join(", ")),
        all => format!("{all} changes: {}", counts.join(", ")),
    };
    let anew = sorted.iter().filter(|(_, change, _)| change.anew).count();
    if anew > 0 {
        let _ = write!(text, "; counters start anew in {anew}");
    }
    if changes.incomplete {
        text.push_str("; there is more, which was not looked at");
    }
    text
}

fn shown(text: &str) -> String {
    printable(text, MOST_TEXT)
}

/// Text in a cell of a table, in which what stands between backticks is code.
fn plain(text: &str) -> String {
    let text = shown(text);
    // An odd one is somebody's own.
    let has_code = text.matches('`').count().is_multiple_of(2);
    let (mut result, mut in_code) = (String::new(), false);
    for c in text.chars() {
        in_code ^= c == '`' && has_code;
        let is_markup = matches!(c, '*' | '_' | '<' | '[' | '\\' | '#' | '@') && !in_code;
        if c == '|' || is_markup || (c == '`' && !has_code) {
            result.push('\\');
        }
        result.push(c);
    }
    result
}

/// The same as code: what stands in the rules is not markup, whatever it is.
fn code(text: &str) -> String {
    // The table is cut at `|` before anything else is read.
    let text = shown(text).replace('|', "\\|");
    let fence = if text.contains('`') { "``" } else { "`" };
    match text.contains("``") {
        true => plain(&text.replace('`', "'")),
        false if fence == "``" => format!("`` {text} ``"),
        false => format!("`{text}`"),
    }
}
