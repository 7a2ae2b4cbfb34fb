//! What is said of wrong rules, reviewed as text: `tests/golden/rules/NAME.yaml` and what is said of it, `NAME.txt`; in
//! `tests/golden/lints` what is said of unwise ones.
//!
//! `UPDATE_GOLDEN=1` writes what is said now.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use tollgate::rules::compile::{self, Options};
use tollgate::rules::file::SourceFile;

use crate::support::rules::compile;

fn samples() -> Vec<(PathBuf, String)> {
    samples_of("rules")
}

fn samples_of(kind: &str) -> Vec<(PathBuf, String)> {
    let dir = &format!("{}/tests/golden/{kind}", env!("CARGO_MANIFEST_DIR"));
    let paths = fs::read_dir(dir)
        .expect(dir)
        .map(|item| item.expect(dir).path());
    let yaml = paths.filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    let mut samples: Vec<_> = yaml
        .map(|path| (path.clone(), fs::read_to_string(path).expect("a file")))
        .collect();
    samples.sort();
    samples
}

fn name(path: &std::path::Path) -> String {
    path.file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}

#[test]
fn messages_are_as_reviewed() {
    let samples = samples();
    assert!(samples.len() > 10);
    for (path, text) in samples {
        let said = match compile(&[(name(&path), text)], false) {
            Ok(rules) => format!("good: {} rules\n", rules.rules.len()),
            Err(report) => report,
        };
        compare(&path, &said);
    }
}

/// What `tollgate check` warns of is as reviewed, and the service says nothing of it.
#[test]
fn warnings_are_as_reviewed() {
    for (path, text) in samples_of("lints") {
        let name = name(&path);
        let said = |lints| {
            let options = Options {
                merge_domains: false,
                lints,
            };
            let (name, text) = (name.clone(), text.clone());
            let rules = compile::compile(&[SourceFile { name, text }], options);
            rules.expect("there are no errors").warnings.to_string()
        };
        assert_eq!(said(false), "", "{name}");
        compare(&path, &said(true));
    }
}

fn compare(path: &std::path::Path, said: &str) {
    let golden = path.with_extension("txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, said).expect("a file");
        return;
    }
    let wanted = fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(
        said,
        wanted,
        "{}: UPDATE_GOLDEN=1 writes what is said now",
        name(path)
    );
}

#[test]
fn everything_wrong_with_all_files_is_said_at_once() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let report = compile(
        &[
            file("a.yaml", "domain: a\ndescriptors:\n  - value: x\n  - key: k\n    rate_limit: {unit: fortnight}\n"),
            file("b.yaml", "domain: a\ndomain: b\ndescriptors: [{key: k, kye: k}]\n"),
            file("c.yaml", "domain: [\n"),
            file("d.yaml", ""),
        ],
        false,
    )
    .expect_err("nothing is right");
    for said in [
        "no `key`",
        "unknown unit `fortnight`",
        "two files",
        "`domain` is said twice",
        "did you mean `key`?",
        "a.yaml:1",
        "c.yaml:",
        "the file is empty",
    ] {
        assert!(report.contains(said), "{said} in\n{report}");
    }
}

#[test]
fn what_one_file_says_of_a_domain_holds_for_all_its_files() {
    let rule = "domain: d\ndescriptors:\n  - {key: token, detailed_metric: true, rate_limit: {unit: day}}\n";
    let top = "domain: d\nsensitive: [token]\n";
    for (first, second) in [(rule, top), (top, rule)] {
        let files = [first, second].map(|text| ("d.yaml".to_owned(), text.to_owned()));
        let report = compile(&files, true).expect_err("a secret in a metric");
        assert!(report.contains("sensitive values of `token`"), "{report}");
    }
}

/// However wrong the rules are, the report can be read, and is made in time that grows with the size of the files only.
#[test]
fn reports_are_bounded() {
    let wrong = "{key: k, rate_limit: {unit: dais}},".repeat(3000);
    let line = format!(
        "domain: d\ndescriptors: [{wrong}]\n\u{1b}[31m: {}",
        "x".repeat(9000)
    );
    let report = compile(&[("d.yaml".to_owned(), line)], false).expect_err("all is wrong");
    assert!(report.len() < 100_000, "{} bytes", report.len());
    assert!(
        report.contains("did you mean `day`?") && report.contains("and 900 more"),
        "{report}"
    );
    assert!(!report.contains('\u{1b}'), "{report}");
}

/// Many rules of one key were each compared with all others, which took a minute for 100,000.
#[test]
fn warnings_of_many_rules_take_no_longer_than_rules_do() {
    let rule = |value: String| {
        format!(
            "  - {{key: k, value: \"{value}\", rate_limit: {{requests_per_unit: 1, unit: day}}}}\n"
        )
    };
    let exact: String = (0..60_000).map(|n| rule(format!("v{n}"))).collect();
    let patterns: String = (0..2_000).map(|n| rule(format!("p{n}-*"))).collect();
    let text = format!(
        "domain: d\ndescriptors:\n{exact}{patterns}{}{}",
        rule("*".into()),
        rule("p1-x*".into())
    );
    let name = "many.yaml".to_owned();
    let options = Options {
        merge_domains: false,
        lints: true,
    };
    let rules = compile::compile(&[SourceFile { name, text }], options).expect("no errors");
    let report = rules.warnings.to_string();
    assert!(
        report.contains("`k=p1-x*` can never match: `k=p1-*` takes all of it"),
        "{report}"
    );
    assert_eq!(rules.warnings.diagnostics.len(), 1, "{report}");
}

/// What is compared with all else of its kind is bounded: four times as many rules may take ten times as long, not sixteen.
#[test]
fn checking_takes_no_longer_than_the_rules_are_many() {
    let limit = "rate_limit: {requests_per_unit: 1, unit: day}";
    let plans: String = (0..900)
        .map(|n| format!("  p{n}: [{{requests_per_unit: 1, unit: day}}]\n"))
        .collect();
    let many =
        |count: usize, rule: &dyn Fn(usize) -> String| (0..count).map(rule).collect::<String>();
    let shapes: [(&str, &dyn Fn(usize) -> String); 4] = [
        ("costs", &|count| {
            let costs = many(count, &|n| format!("  - {{key: c{n}, cost: 1}}\n"));
            let rules = many(count, &|n| format!("  - {{key: k{n}, {limit}}}\n"));
            format!("costs:\n{costs}descriptors:\n{rules}")
        }),
        ("names", &|count| {
            let rules = many(count, &|n| {
                format!(
                    "  - {{key: k{n}, rate_limit: {{requests_per_unit: 1, unit: day, name: n{n}, replaces: [{{name: m{n}}}]}}}}\n"
                )
            });
            format!("descriptors:\n{rules}")
        }),
        ("tiers", &|count| {
            let rules = many(count, &|n| {
                format!(
                    "  - key: t\n    value: x{n}\n    descriptors: [{{key: u, plan: {{from: t, default: p0}}}}]\n"
                )
            });
            format!("plans:\n{plans}descriptors:\n{rules}")
        }),
        ("patterns", &|count| {
            let rules = many(count, &|n| {
                format!("  - {{key: k, value: \"*p{n}\", {limit}}}\n")
            });
            format!("descriptors:\n{rules}")
        }),
    ];
    for (name, shape) in shapes {
        let time = |count: usize| {
            let text = format!("domain: d\n{}", shape(count));
            let name = format!("{name}.yaml");
            let options = Options {
                merge_domains: false,
                lints: true,
            };
            let start = Instant::now();
            compile::compile(&[SourceFile { name, text }], options).expect("no errors");
            start.elapsed()
        };
        let (few, more) = (time(2_000), time(8_000));
        let most = few * 10 + Duration::from_secs(1);
        assert!(
            more < most,
            "{name}: {few:?}, and {more:?} for four times as many"
        );
    }
}

/// Whatever the text, the answer is rules or a report.
#[test]
fn mutated_files_never_panic() {
    let samples = samples();
    let mut random = SmallRng::seed_from_u64(7);
    for round in 0..4_000 {
        let (path, text) = &samples[round % samples.len()];
        let mut bytes = text.clone().into_bytes();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..=bytes.len());
            let alphabet = b"{}[]:,-*&<>!|#'\"\n \t0x\xc3\xa9";
            let byte = alphabet[random.random_range(0..alphabet.len())];
            match random.random_range(0..3) {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => bytes[at] = byte,
                _ => bytes.truncate(at.max(1)),
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = compile(&[(name(path), text)], false);
    }
}

#[test]
fn aliases_cannot_multiply_without_end() {
    let mut text = "domain: d\nx0: &x0 [a, a, a, a, a, a, a, a, a, a]\n".to_owned();
    for i in 1..12 {
        let before = vec![format!("*x{}", i - 1); 10].join(", ");
        text += &format!("x{i}: &x{i} [{before}]\n");
    }
    let report = compile(&[("bomb.yaml".to_owned(), text)], false).expect_err("too many");
    assert!(report.contains("aliases counted"), "{report}");
    let deep = format!("domain: {}{}", "[".repeat(5000), "]".repeat(5000));
    compile(&[("deep.yaml".to_owned(), deep)], false).expect_err("too deep");
}
