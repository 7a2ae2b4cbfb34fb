//! What is wrong with the rules, said as a good compiler says it.

use std::collections::HashMap;
use std::fmt::{self, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::file::{BYTE_ORDER_MARK, SourceFile, Span};

mod code;

pub use code::Code;

/// Whether a diagnostic keeps the rules from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not.
    Warning,
    /// It may well be meant: told for its cost.
    Note,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing is wrong.
    pub code: Code,
    /// The file's name, relative to the directory of the rules.
    pub file: String,
    /// Where in the file; line 0 for the file as a whole.
    pub span: Span,
    /// What the file says there.
    pub excerpt: Excerpt,
    /// Where in the tree, such as `descriptors[2].rate_limit.unit`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// The part of a line that a diagnostic is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// The line, or the part of a long one around the place.
    pub text: String,
    /// Where the place begins in `text`, counted from 0, in columns of a terminal.
    pub start: usize,
    /// How long it is, in columns.
    pub length: usize,
}

/// All that is wrong with a set of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of the files and lines.
    pub diagnostics: Vec<Diagnostic>,
}

/// How many diagnostics of a report are printed.
pub const MAX_PRINTED: usize = 100;
/// How much of a line is quoted, in characters.
pub const MAX_EXCERPT: usize = 160;
/// The longest text, in bytes, for which a name is sought that may be meant.
const MAX_WORD: usize = 64;
/// How much of a message, a path or a hint is kept, in characters.
pub const MAX_TEXT: usize = 600;

impl Diagnostic {
    /// An error at `span` of `file`; [`Report::new`] adds the excerpt.
    pub fn error(file: &SourceFile, span: Span, path: &str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code: Code::InvalidValue,
            file: printable(&file.name, MAX_TEXT),
            span,
            excerpt: Excerpt::default(),
            path: printable(path, MAX_TEXT),
            message: printable(&message.into(), MAX_TEXT),
            help: None,
        }
    }

    /// The same as a diagnostic of this kind, and as bad as those are.
    #[must_use]
    pub fn coded(mut self, code: Code) -> Self {
        self.code = code;
        self.severity = code.severity();
        self
    }

    /// The same, where it may well be meant.
    #[must_use]
    pub fn as_note(mut self) -> Self {
        self.severity = Severity::Note;
        self
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(printable(&help.into(), MAX_TEXT));
        self
    }

    /// Writes it over several lines, in colour for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let paint = |code: &str, text: &str| {
            if colour {
                format!("\x1b[{code}m{text}\x1b[0m")
            } else {
                text.to_owned()
            }
        };
        let (word, code) = match self.severity {
            Severity::Error => ("error", "1;31"),
            Severity::Warning => ("warning", "1;33"),
            Severity::Note => ("note", "1;36"),
        };
        // What is only unwise has a page that says more, by this name.
        let name = match self.severity {
            Severity::Error => String::new(),
            Severity::Warning | Severity::Note => format!("[{}]", self.code.name()),
        };
        let mut text = format!(
            "{}{}\n",
            paint(code, &format!("{word}{name}")),
            paint("1", &format!(": {}", self.message))
        );
        let mut line = |gutter: &str, mark: &str, rest: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {rest}", paint("1;34", &format!("{gutter}{mark}")));
        };
        let number = self.span.line.to_string();
        let gutter = " ".repeat(number.len());
        if self.span.line == 0 {
            line(&gutter, "-->", &self.file);
        } else {
            let place = format!("{}:{}:{}", self.file, self.span.line, self.span.column);
            line(&gutter, "-->", &place);
            let before = " ".repeat(self.excerpt.start);
            let carets = paint(code, &"^".repeat(self.excerpt.length));
            line(&format!("{gutter} "), "|", "");
            line(&format!("{number} "), "|", &self.excerpt.text);
            line(&format!("{gutter} "), "|", &format!("{before}{carets}"));
        }
        if !self.path.is_empty() {
            line(&format!("{gutter} "), "=", &format!("path: {}", self.path));
        }
        if let Some(help) = &self.help {
            line(&format!("{gutter} "), "=", &format!("help: {help}"));
        }
        text.lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n")
            + "\n"
    }
}

impl Excerpt {
    fn of(line: &str, span: Span) -> Self {
        let place = span.column.saturating_sub(1);
        let long = line.chars().nth(MAX_EXCERPT).is_some();
        // A quarter of a long line's excerpt comes before the place.
        let skipped = if long {
            place.saturating_sub(MAX_EXCERPT / 4)
        } else {
            0
        };
        let mark = if skipped > 0 { "… " } else { "" };
        let rest: String = line.chars().skip(skipped).take(MAX_EXCERPT + 1).collect();
        let rest = printable(&rest, MAX_EXCERPT);
        let columns = |from: usize, count: usize| -> usize {
            let chars = rest.chars().skip(from).take(count);
            chars.map(|c| c.width().unwrap_or(1)).sum()
        };
        Self {
            start: mark.width() + columns(0, place - skipped),
            length: columns(place - skipped, span.length).max(1),
            text: format!("{mark}{rest}"),
        }
    }
}

impl Report {
    /// All of these in the order of the files and lines, with what the files say there.
    pub fn new(mut diagnostics: Vec<Diagnostic>, files: &[SourceFile]) -> Self {
        let by_name: HashMap<String, usize> = files
            .iter()
            .enumerate()
            .map(|(index, file)| (printable(&file.name, MAX_TEXT), index))
            .collect();
        let index = |found: &Diagnostic| by_name.get(&found.file).copied();
        diagnostics.sort_by_key(|found| (index(found), found.span.line, found.span.column));
        for of_file in diagnostics.chunk_by_mut(|a, b| a.file == b.file) {
            let file = of_file.first().and_then(index).and_then(|at| files.get(at));
            let Some(file) = file else { continue };
            let text = file.text.strip_prefix(BYTE_ORDER_MARK);
            let mut lines = text.unwrap_or(&file.text).lines();
            let (mut number, mut line) = (0, "");
            for found in of_file {
                while number < found.span.line {
                    line = lines.next().unwrap_or_default();
                    number += 1;
                }
                found.excerpt = Excerpt::of(line, found.span);
            }
        }
        Self { diagnostics }
    }

    /// Whether anything in it keeps the rules from being used.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many diagnostics of a severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        let of_kind = |diagnostic: &&Diagnostic| diagnostic.severity == severity;
        self.diagnostics.iter().filter(of_kind).count()
    }

    /// All diagnostics, a blank line between them.
    pub fn render(&self, colour: bool) -> String {
        let printed = self.diagnostics.iter().take(MAX_PRINTED);
        let mut text = printed
            .map(|d| d.render(colour))
            .collect::<Vec<_>>()
            .join("\n");
        if self.diagnostics.len() > MAX_PRINTED {
            let more = self.diagnostics.len() - MAX_PRINTED;
            let _ = writeln!(text, "\n… and {more} more");
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// At most `most` characters of a text, none of which moves a terminal's cursor or changes its colour.
pub fn printable(text: &str, most: usize) -> String {
    let shown = |c: char| match c {
        '\t' | '\n' => ' ',
        c if c.is_control() || is_invisible(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    let mut result: String = text.chars().take(most).map(shown).collect();
    if text.chars().nth(most).is_some() {
        result.push('…');
    }
    result
}

/// Whether a character takes no room and is no part of another: a reader does not see it, or sees others reordered by it.
pub fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The one of `known` that `text` is most likely meant to be, if any is near enough.
pub fn did_you_mean<'k>(text: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if text.len() > MAX_WORD {
        return None;
    }
    let plain = |text: &str| text.replace(['_', '-', ' '], "");
    let text = text.to_lowercase();
    let short = plain(&text);
    let most = 1 + text.len() / 4;
    // Each letter more or less is a change.
    let alike = known
        .into_iter()
        .map(|candidate| (plain(candidate), candidate));
    let alike = alike.filter(|(candidate, _)| candidate.len().abs_diff(short.len()) <= 4 * most);
    let near = alike.map(|(plain, candidate)| (distance(&short, &plain), candidate));
    let (distance, candidate) = near.min_by_key(|(distance, _)| *distance)?;
    (distance <= most).then_some(candidate)
}

/// The number of letters to add, remove, change or swap (optimal string alignment).
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(rows[i - 2][j - 2] + 1);
            }
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
