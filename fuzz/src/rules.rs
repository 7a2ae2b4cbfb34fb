//! Rule files: what is wrong with them is said, whatever they are, and what compiles can be shown and used.

use tollgate::admin::rlconfig_lines;
use tollgate::rules::compile::{Options, compile};
use tollgate::rules::diagnostic::Report;
use tollgate::rules::file::SourceFile;
use tollgate::rules::{Domain, Entry};

/// Begins another file.
const NEXT: &str = "\n=== \n";

/// Some files; their names are their places.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let file = |(place, text): (usize, &str)| SourceFile {
        name: format!("{place}.yaml"),
        text: text.to_owned(),
    };
    let files: Vec<SourceFile> = text.split(NEXT).enumerate().map(file).collect();
    for merge_domains in [false, true] {
        let options = Options {
            merge_domains,
            lints: true,
        };
        match compile(&files, options) {
            Ok(rules) => {
                assert!(!rules.warnings.has_errors());
                render(&rules.warnings);
                let _ = rlconfig_lines(&rules);
                for domain in rules.domains.values() {
                    look_up(domain, text);
                }
            }
            Err(report) => {
                assert!(report.has_errors());
                render(&report);
            }
        }
    }
}

fn render(report: &Report) {
    let moves = |c: char| c.is_control() && c != '\n';
    assert!(!report.render(false).contains(moves), "a terminal obeys it");
    for colour in [false, true] {
        let all = report.render(colour);
        assert_eq!(all.is_empty(), report.diagnostics.is_empty());
        for found in &report.diagnostics {
            assert!(!found.render(colour).is_empty());
        }
    }
}

/// Asks for what the file itself is likely to have.
fn look_up(domain: &Domain, text: &str) {
    let words: Vec<&str> = text.split_whitespace().take(64).collect();
    for pair in words.windows(2) {
        let first = Entry {
            key: pair[0],
            value: pair[1],
        };
        let second = Entry {
            key: pair[1],
            value: pair[0],
        };
        let _ = domain.find(&[first]);
        let _ = domain.find(&[first, second]);
    }
}
