//! What `tollgate check` says, for machines.

use serde_json::{Value, json};

use super::Checked;
use crate::rules::diagnostic::{Diagnostic, Severity};

/// A list of all diagnostics.
pub(super) fn json(all: &[Checked]) -> String {
    let diagnostics: Vec<Value> = all
        .iter()
        .flat_map(|checked| each(checked, plain))
        .collect();
    format!("{:#}\n", json!({ "diagnostics": diagnostics }))
}

/// Static Analysis Results Interchange Format 2.1.0, as code scanning of repositories takes it.
pub(super) fn sarif(all: &[Checked]) -> String {
    let results: Vec<Value> = all
        .iter()
        .flat_map(|checked| each(checked, result))
        .collect();
    let driver = json!({
        "name": "tollgate check",
        "version": env!("CARGO_PKG_VERSION"),
        "rules": [
            {"id": "error", "shortDescription": {"text": "The rules cannot be used"}},
            {"id": "warning", "shortDescription": {"text": "The rules can be used, and are unwise"}},
        ],
    });
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    });
    format!("{log:#}\n")
}

/// Each diagnostic, with its file's path as the caller would write it.
fn each<'c>(
    checked: &'c Checked,
    say: impl Fn(&Diagnostic, String) -> Value + 'c,
) -> impl Iterator<Item = Value> + 'c {
    checked.report.diagnostics.iter().map(move |found| {
        let file = checked.dir.join(&found.file);
        say(found, file.display().to_string())
    })
}

fn plain(found: &Diagnostic, file: String) -> Value {
    json!({
        "severity": word(found.severity),
        "file": file,
        "line": found.span.line,
        "column": found.span.column,
        "length": found.span.length,
        "path": found.path,
        "message": found.message,
        "help": found.help,
    })
}

fn result(found: &Diagnostic, file: String) -> Value {
    let text = match &found.help {
        Some(help) => format!("{}\n{help}", found.message),
        None => found.message.clone(),
    };
    let mut place = json!({"artifactLocation": {"uri": file}});
    if found.span.line > 0 {
        place["region"] = json!({
            "startLine": found.span.line,
            "startColumn": found.span.column,
            "endColumn": found.span.column + found.span.length,
        });
    }
    let word = word(found.severity);
    json!({
        "ruleId": word,
        "level": word,
        "message": {"text": text},
        "locations": [{"physicalLocation": place}],
    })
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}
