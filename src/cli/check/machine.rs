//! What `tollgate check` says, for machines.

use serde_json::{Value, json};

use super::{Checked, estimate};
use crate::rules::diagnostic::{Code, Diagnostic, Severity};

/// A list of all diagnostics, and what the rules of each directory take.
pub(super) fn json(all: &[Checked]) -> String {
    let diagnostics: Vec<Value> = all
        .iter()
        .flat_map(|checked| each(checked, plain))
        .collect();
    let directories: Vec<Value> = all.iter().map(directory).collect();
    let all = json!({ "diagnostics": diagnostics, "directories": directories });
    format!("{all:#}\n")
}

fn directory(checked: &Checked) -> Value {
    let rules = checked.rules.as_ref();
    json!({
        "directory": checked.dir.display().to_string(),
        "domains": rules.map(|(domains, ..)| domains),
        "rules": rules.map(|(_, rules, _)| rules),
        "memory_per_subject": rules.map(|(_, _, estimates)| estimate::json(estimates)),
    })
}

/// Static Analysis Results Interchange Format 2.1.0, as code scanning of repositories takes it.
pub(super) fn sarif(all: &[Checked]) -> String {
    let results: Vec<Value> = all
        .iter()
        .flat_map(|checked| each(checked, result))
        .collect();
    let rules: Vec<Value> = Code::ALL.into_iter().map(rule).collect();
    let driver = json!({
        "name": "tollgate check",
        "version": env!("CARGO_PKG_VERSION"),
        "rules": rules,
    });
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": driver},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

/// What a kind of diagnostics is.
fn rule(code: Code) -> Value {
    json!({
        "id": code.name(),
        "shortDescription": {"text": code.about()},
        "help": {"text": format!("docs/lints.md#{}", code.name())},
        "defaultConfiguration": {"level": word(code.severity())},
    })
}

/// Each diagnostic, with its file's path as the caller would write it.
fn each<'c>(
    checked: &'c Checked,
    say: impl Fn(&Diagnostic, String) -> Value + 'c,
) -> impl Iterator<Item = Value> + 'c {
    checked.report.diagnostics.iter().map(move |found| {
        let file = if checked.dir.is_file() {
            checked.dir.clone()
        } else {
            checked.dir.join(&found.file)
        };
        say(found, file.display().to_string())
    })
}

fn plain(found: &Diagnostic, file: String) -> Value {
    json!({
        "severity": word(found.severity),
        "code": found.code.name(),
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
    let mut place = json!({"artifactLocation": {"uri": uri(&file)}});
    if found.span.line > 0 {
        place["region"] = json!({
            "startLine": found.span.line,
            "startColumn": found.span.column,
            "endColumn": found.span.column + found.span.length,
        });
    }
    json!({
        "ruleId": found.code.name(),
        "level": word(found.severity),
        "message": {"text": text},
        "locations": [{"physicalLocation": place}],
    })
}

/// A path as a relative reference of a URI: what cannot stand in one is percent-encoded.
fn uri(path: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=@".contains(byte);
    let encoded = path.bytes().map(|byte| match byte {
        byte if plain(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    encoded.collect()
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}
