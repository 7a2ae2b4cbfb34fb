//! What the documents say holds: links lead somewhere, examples compile, messages are said so, and references are complete.
//!
//! `UPDATE_GOLDEN=1` writes the tables of `docs/settings.md`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use tollgate::rules::Entry;
use tollgate::rules::compile::{self, Options};
use tollgate::rules::diagnostic::{Code, Severity};
use tollgate::rules::file::SourceFile;
use tollgate::settings::Settings;

use crate::support::rules;

/// What stands above the generated part of `docs/settings.md`.
const GENERATED: &str = "<!-- From here on written by `UPDATE_GOLDEN=1 cargo test --test it docs`, from src/settings.rs. -->\n";

/// A block between fences, as the document has it.
struct Block {
    /// What stands behind the fence, such as `yaml`.
    kind: String,
    text: String,
    line: usize,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents that people read, relative to the root.
fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).expect("docs");
    let docs = docs.map(|item| Path::new("docs").join(item.expect("an item").file_name()));
    let mut found: Vec<PathBuf> = docs
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .chain(["README.md", "SECURITY.md"].map(PathBuf::from))
        .collect();
    found.sort();
    assert!(found.len() > 5, "{found:?}");
    found
}

/// A document without what is between fences, and that.
fn parted(text: &str) -> (String, Vec<Block>) {
    let (mut prose, mut blocks) = (String::new(), Vec::new());
    let mut open: Option<Block> = None;
    for (at, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(kind), None) => {
                let (kind, line) = (kind.trim().to_owned(), at + 1);
                let text = String::new();
                open = Some(Block { kind, text, line });
            }
            (None, Some(mut block)) => {
                block.text += &format!("{line}\n");
                open = Some(block);
            }
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    (prose, blocks)
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> HashSet<String> {
    let (prose, _) = parted(text);
    let mut times: HashMap<String, usize> = HashMap::new();
    let mut found = HashSet::new();
    for line in prose.lines() {
        let title = line.trim_start_matches('#');
        let Some(title) = title.strip_prefix(' ').filter(|_| line.starts_with('#')) else {
            continue;
        };
        let kept = title.trim().to_lowercase();
        let kept = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let before = times.entry(slug.clone()).or_default();
        found.insert(match *before {
            0 => slug,
            before => format!("{slug}-{before}"),
        });
        *before += 1;
    }
    found
}

/// The part of a document below a heading, up to the next one.
fn section<'t>(text: &'t str, title: &str) -> &'t str {
    let mut start = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.starts_with('#') {
            if let Some(start) = start {
                return &text[start..at];
            }
            let is_it = line.trim_start_matches('#').trim().to_lowercase() == title;
            start = is_it.then_some(at + line.len());
        }
        at += line.len();
    }
    start.map_or_else(|| panic!("no heading `{title}`"), |start| &text[start..])
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for document in documents() {
        let text = read(&root().join(&document));
        let (prose, _) = parted(&text);
        for link in prose.split("](").skip(1) {
            let link = link.split(')').next().expect("a target");
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let said = format!("{} links to {link}", document.display());
            let target = match file {
                "" => root().join(&document),
                file => root().join(&document).with_file_name("").join(file),
            };
            assert!(target.exists(), "{said}, which is not there");
            if !anchor.is_empty() && target.extension().is_some_and(|e| e == "md") {
                let known = anchors(&read(&target));
                assert!(
                    known.contains(anchor),
                    "{said}, which has no such heading: {known:?}"
                );
            }
        }
    }
    assert!(links > 50, "{links}");
}

/// A block that is `yaml` and nothing else is rules: a file, what stands below its domain, or what stands in a descriptor.
#[test]
fn every_example_of_rules_compiles_without_a_warning() {
    let mut examples = 0;
    for document in documents() {
        let (_, blocks) = parted(&read(&root().join(&document)));
        for block in blocks.into_iter().filter(|block| block.kind == "yaml") {
            let said = |field: &str| {
                let mut lines = block.text.lines();
                lines.any(|line| line.split(':').next() == Some(field))
            };
            let whole = if said("domain") {
                block.text.clone()
            } else if ["descriptors", "plans", "costs", "response"]
                .iter()
                .any(|field| said(field))
            {
                format!("domain: example\n{}", block.text)
            } else {
                let indented = block.text.lines().map(|line| format!("    {line}\n"));
                let descriptor: String = indented.collect();
                format!("domain: example\ndescriptors:\n  - key: example\n{descriptor}")
            };
            let name = format!("{}:{}", document.display(), block.line);
            let options = Options {
                merge_domains: false,
                lints: true,
            };
            match compile::compile(&[SourceFile { name, text: whole }], options) {
                Ok(rules) => {
                    let mut report = rules.warnings;
                    // A part of a file need not have rules.
                    report
                        .diagnostics
                        .retain(|found| found.code != Code::EmptyDomain || said("descriptors"));
                    assert_eq!(report.to_string(), "");
                }
                Err(report) => panic!("{report}"),
            }
            examples += 1;
        }
    }
    assert!(examples > 10, "{examples}");
}

/// docs/lints.md has each kind of diagnostic: errors and what `--envoy` finds in tables, and what else is unwise under a heading of its own with an example
/// that is told of so.
#[test]
fn every_kind_of_diagnostic_is_explained() {
    let text = read(&root().join("docs/lints.md"));
    for code in Code::ALL {
        let name = code.name();
        if code.severity() == Severity::Error || Code::OF_ENVOY.contains(&code) {
            let row = format!("\n| `{name}` |");
            assert!(text.contains(&row), "{name} is in no table");
            continue;
        }
        let (_, blocks) = parted(section(&text, name));
        let example = blocks.into_iter().find(|block| block.kind == "yaml lint");
        let example = example.unwrap_or_else(|| panic!("{name} has no example"));
        let file = SourceFile {
            name: name.to_owned(),
            text: format!("domain: example\n{}", example.text),
        };
        let options = Options {
            merge_domains: false,
            lints: true,
        };
        let report = match compile::compile(&[file], options) {
            Ok(rules) => rules.warnings,
            Err(report) => panic!("{report}"),
        };
        let is_told = report.diagnostics.iter().any(|found| found.code == code);
        assert!(is_told, "{name}: {report}");
    }
    let headings = text.lines().filter_map(|line| line.strip_prefix("### "));
    for heading in headings {
        let is_known = Code::ALL.iter().any(|code| code.name() == heading);
        assert!(is_known, "there is no {heading}");
    }
}

/// The table below the first example of the reference says which descriptor finds which rule; `# n` numbers them.
#[test]
fn descriptors_find_what_the_reference_says() {
    let text = read(&root().join("docs/rules.md"));
    let (_, blocks) = parted(&text);
    let example = blocks.into_iter().find(|block| block.kind == "yaml");
    let example = example.expect("an example").text;
    let rules = rules::compile(&[("example.yaml".to_owned(), example.clone())], false);
    let domains = rules.expect("good rules").domains;
    let number = |line: usize| {
        // The number stands behind the key, or the value below it.
        let mut lines = example.lines().skip(line - 1).take(2);
        lines.find_map(|line| line.split("# ").nth(1))
    };
    let table = text
        .split("| descriptor | finds | |\n|---|---|---|\n")
        .nth(1);
    let rows = table.expect("a table").lines();
    let mut rows = rows.take_while(|row| row.starts_with('|')).peekable();
    assert!(rows.peek().is_some());
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let entries = cells[1].trim_matches('`').split(", ");
        let entries = entries.map(|entry| entry.split_once('=').expect("key=value"));
        let entries: Vec<Entry<'_>> = entries.map(|(key, value)| Entry { key, value }).collect();
        let found = domains["example"].find(&entries);
        let found = found.and_then(|rule| number(rule.source.line));
        assert_eq!(found.unwrap_or("nothing"), cells[2], "{row}");
    }
}

/// What the README shows of rules is what its commands run with.
#[test]
fn the_rules_in_the_readme_are_those_of_the_samples() {
    let samples = ["config/rules/edge.yaml", "config/product/product.yaml"];
    let samples = samples.map(|path| read(&root().join(path))).concat();
    let known: HashSet<&str> = samples.lines().map(str::trim).collect();
    let (_, blocks) = parted(&read(&root().join("README.md")));
    let mut lines = 0;
    for block in blocks.iter().filter(|block| block.kind == "yaml") {
        for line in block.text.lines() {
            assert!(known.contains(line.trim()), "no sample has: {line}");
            lines += 1;
        }
    }
    assert!(lines > 20, "{lines}");
}

#[test]
fn every_field_of_the_rules_is_in_the_reference() {
    let text = read(&root().join("docs/rules.md"));
    let mut wanted: HashMap<&str, Vec<String>> = HashMap::new();
    for (of, field) in compile::fields() {
        wanted.entry(of).or_default().push(field.to_owned());
    }
    assert!(wanted.len() > 5, "{wanted:?}");
    for (of, mut wanted) in wanted {
        let table = section(&text, of).lines();
        let table = table.skip_while(|line| !line.starts_with("| field |"));
        let rows = table.take_while(|line| line.starts_with('|'));
        let rows = rows.filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let mut explained: Vec<String> = rows.map(str::to_owned).collect();
        explained.sort();
        wanted.sort();
        assert_eq!(explained, wanted, "the fields of {of} in docs/rules.md");
    }
}

/// “…” in the reference of the rules quotes a message, which a golden file must have.
#[test]
fn every_message_in_the_reference_is_said_so() {
    let golden = ["tests/golden/rules", "tests/golden/lints"].into_iter();
    let golden = golden.flat_map(|dir| fs::read_dir(root().join(dir)).expect(dir));
    let golden = golden.map(|item| item.expect("an item").path());
    let golden = golden.filter(|path| path.extension().is_some_and(|e| e == "txt"));
    let golden: String = golden.map(|path| read(&path)).collect();
    let (prose, _) = parted(&read(&root().join("docs/rules.md")));
    let mut quoted = 0;
    for message in prose.split('“').skip(1) {
        let message = message.split('”').next().expect("an end");
        assert!(golden.contains(message), "no golden file says “{message}”");
        quoted += 1;
    }
    assert!(quoted > 20, "{quoted}");
}

/// The tables of settings, a heading for each group.
fn settings() -> String {
    let command = Settings::augment_args(clap::Command::new("serve"));
    let (mut tables, mut group) = (String::new(), "");
    for argument in command.get_arguments() {
        let heading = argument.get_help_heading().expect("a group");
        if heading != group {
            group = heading;
            tables +=
                &format!("\n## {group}\n\n| variable | value | default | |\n|---|---|---|---|\n");
        }
        let variable = argument.get_env().expect("a variable").to_string_lossy();
        let flag = argument.get_long().expect("a flag");
        assert_eq!(flag.replace('-', "_").to_uppercase(), variable);
        let value = argument.get_value_names().expect("a name")[0].as_str();
        let default = argument.get_default_values().first();
        let default = default.map_or(String::new(), |default| match default.to_string_lossy() {
            empty if empty.is_empty() => String::new(),
            default => format!("`{default}`"),
        });
        let help = argument.get_help().expect("help").to_string();
        let help = help.replace('|', "\\|");
        tables += &format!("| `{variable}` | {value} | {default} | {help} |\n");
    }
    tables
}

#[test]
fn the_reference_of_the_settings_is_their_table() {
    let path = root().join("docs/settings.md");
    let text = read(&path);
    let (head, tables) = text
        .split_once(GENERATED)
        .expect("the line above the tables");
    let wanted = settings();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{head}{GENERATED}{wanted}")).expect("a file");
        return;
    }
    assert_eq!(
        tables, wanted,
        "UPDATE_GOLDEN=1 writes the tables of docs/settings.md"
    );
}

#[test]
fn the_settings_that_the_readme_names_are_there() {
    let command = Settings::augment_args(clap::Command::new("serve"));
    let known: HashSet<String> = command
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_string_lossy().into_owned()))
        .collect();
    let text = read(&root().join("README.md"));
    let mut named = 0;
    for row in section(&text, "settings").lines() {
        let first = row.strip_prefix('|').and_then(|row| row.split('|').next());
        for name in first.unwrap_or("").split('`').skip(1).step_by(2) {
            let of_others = name.starts_with("OTEL_");
            assert!(
                of_others || known.contains(name),
                "there is no setting {name}"
            );
            named += 1;
        }
    }
    assert!(named > 10, "{named}");
}
