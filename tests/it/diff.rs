//! `tollgate diff`: what it says of each kind of change, reviewed as text in `tests/golden/diff`; that it says something of
//! whatever changes a decision; and where it takes rules from.
//!
//! `UPDATE_GOLDEN=1` writes what is said now.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tollgate::cli::diff::{Difference, difference};
use tollgate::rules::compile::Options;
use tollgate::rules::file::SourceFile;

use crate::support::golden::compare;
use crate::support::server::binary;

mod counters;
mod decisions;

fn golden() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/diff"))
}

fn run(args: &[&str], dir: &Path) -> Output {
    let mut command = binary();
    command.arg("diff").args(args).current_dir(dir);
    command.output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// What changes from one text to another.
pub(super) fn changes(old: &str, new: &str) -> Difference {
    let files = |text: &str| {
        let (name, text) = ("rules.yaml".to_owned(), text.to_owned());
        vec![SourceFile { name, text }]
    };
    let options = Options::default();
    difference(&files(old), &files(new), options).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn changes_are_said_as_reviewed() {
    let items = fs::read_dir(golden()).expect("a directory");
    let names = items.map(|item| item.expect("an item").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = names
        .filter_map(|name| Some(name.strip_suffix(".old.yaml")?.to_owned()))
        .collect();
    names.sort();
    assert!(names.len() > 7, "{names:?}");
    for name in names {
        let (old, new) = (format!("{name}.old.yaml"), format!("{name}.new.yaml"));
        for (format, extension) in [("text", "txt"), ("markdown", "md"), ("json", "json")] {
            // The other two say the same in their form, which one of them shows.
            if format != "text" && name != "domain" {
                continue;
            }
            let output = run(&[&old, &new, "--format", format], &golden());
            assert!(output.status.success(), "{name}: {}", stderr(&output));
            compare(
                &golden().join(format!("{name}.{extension}")),
                &stdout(&output),
            );
        }
        let itself = run(&[&new, &new, "--exit-code"], &golden());
        assert_eq!(itself.status.code(), Some(0), "{name}: {}", stdout(&itself));
    }
}

#[test]
fn exit_codes_are_those_of_git_diff() {
    let code = |args: &[&str]| run(args, &golden()).status.code();
    let (old, new) = ("limits.old.yaml", "limits.new.yaml");
    assert_eq!(code(&[old, new]), Some(0));
    assert_eq!(code(&[old, new, "--exit-code"]), Some(1));
    assert_eq!(code(&[old, old, "--exit-code"]), Some(0));
    assert_eq!(
        code(&["nothing.old.yaml", "nothing.new.yaml", "--exit-code"]),
        Some(0)
    );
    assert_eq!(code(&[old, "not_there.yaml"]), Some(2));
    assert_eq!(code(&[old]), Some(2));
}

#[test]
fn rules_that_cannot_be_used_are_said_with_their_mistakes() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("a file");
    write("good.yaml", "domain: d\n");
    write(
        "bad.yaml",
        "domain: d\ndescriptors: [{key: k, rate_limit: {unit: minutes}}]\n",
    );
    write("latin.yaml", "domain: d\n");
    fs::write(dir.path().join("latin.yaml"), b"domain: \xe9\n").expect("a file");
    for (args, said) in [
        (["good.yaml", "bad.yaml"], "did you mean `minute`?"),
        (
            ["good.yaml", "bad.yaml"],
            "error: the rules of bad.yaml cannot be used",
        ),
        (
            ["bad.yaml", "good.yaml"],
            "error: the rules of bad.yaml cannot be used",
        ),
        (
            ["good.yaml", "latin.yaml"],
            "latin.yaml: stream did not contain valid UTF-8",
        ),
        (
            ["gone.yaml", "good.yaml"],
            "error: gone.yaml: No such file or directory",
        ),
    ] {
        let output = run(&args, dir.path());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(stdout(&output), "");
        assert!(
            stderr(&output).contains(said),
            "{said} in\n{}",
            stderr(&output)
        );
    }
}

/// What `docs/limits-as-code.md` shows is said of these changes of the sample rules.
#[test]
fn the_document_shows_what_is_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let old = fs::read_to_string(root.join("config/rules/edge.yaml")).expect("rules");
    let mut new = old.clone();
    for (from, to) in [
        (
            "name: per_minute, requests_per_unit: 10,",
            "name: per_minute, requests_per_unit: 6,",
        ),
        (
            "      - {name: per_day, requests_per_unit: 500, unit: day}\n",
            "      - {name: per_day, requests_per_unit: 500, unit: day}\n\
             \x20 # Who pays for more.\n\
             \x20 - key: user_id\n\
             \x20   value: alice\n\
             \x20   rate_limits:\n\
             \x20     - {name: per_minute, requests_per_unit: 100, unit: minute}\n\
             \x20     - {name: per_day, requests_per_unit: 500, unit: day}\n",
        ),
        (
            "requests_per_unit: 2, unit: second, algorithm: sliding_window",
            "requests_per_unit: 60, unit: minute",
        ),
    ] {
        assert!(new.contains(from), "{from}");
        new = new.replacen(from, to, 1);
    }
    let dir = tempfile::TempDir::new().expect("a directory");
    for (side, text) in [("old", old), ("new", new)] {
        fs::create_dir(dir.path().join(side)).expect("a directory");
        fs::write(dir.path().join(side).join("edge.yaml"), text).expect("a file");
    }
    let said = stdout(&run(&["old", "new"], dir.path()));
    let document = fs::read_to_string(root.join("docs/limits-as-code.md")).expect("a document");
    let shown = document
        .split("tollgate diff origin/main:config/rules config/rules\n")
        .nth(1);
    let shown = shown.and_then(|rest| rest.split("```").next());
    assert_eq!(shown, Some(&*said));
}

/// A repository of git, with the rules of `limits.old.yaml` committed and those of `limits.new.yaml` in place.
struct Repository(tempfile::TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(tempfile::TempDir::new().expect("a directory"));
        fs::create_dir_all(repository.path().join("config/rules/deep")).expect("a directory");
        repository.git(&["init", "--quiet", "--initial-branch", "main"]);
        repository.copy("limits.old.yaml", "config/rules/edge.yaml");
        repository.write("config/rules/deep/other.yml", "domain: other\n");
        repository.write("config/rules/edge.test.yaml", "- nonsense: for this\n");
        repository.write("config/rules/notes.txt", "domain: no\n");
        repository.write("config/rules/README", "Some notes.\n");
        repository.git(&["add", "."]);
        let who = ["-c", "user.name=a", "-c", "user.email=a@example.org"];
        repository.git(&[&who[..], &["commit", "--quiet", "-m", "rules"]].concat());
        repository.copy("limits.new.yaml", "config/rules/edge.yaml");
        repository
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("a file");
    }

    fn copy(&self, golden_file: &str, name: &str) {
        fs::copy(golden().join(golden_file), self.path().join(name)).expect("a file");
    }

    #[track_caller]
    fn git(&self, args: &[&str]) {
        let output = Command::new("git")
            .args(args)
            .current_dir(self.path())
            .output();
        let output = output.expect("git");
        assert!(output.status.success(), "{}", stderr(&output));
    }
}

#[test]
fn a_revision_of_git_is_a_side() {
    let repository = Repository::new();
    let wanted = fs::read_to_string(golden().join("limits.txt")).expect("a file");
    let wanted = wanted.replace("limits.new.yaml", "edge.yaml");
    for (old, new, below) in [
        ("main:config/rules", "config/rules", "."),
        ("main:config/rules/", "config/rules", "."),
        ("HEAD:config/rules/edge.yaml", "config/rules/edge.yaml", "."),
        // As git reads them: from the top, or from here.
        ("main:config/rules", "rules", "config"),
        ("main:./rules", "rules", "config"),
    ] {
        let output = run(&[old, new], &repository.path().join(below));
        assert_eq!(stderr(&output), "", "{old}");
        assert_eq!(stdout(&output), wanted, "{old}");
    }
    let output = run(
        &["HEAD:config/rules", "main:config/rules", "--exit-code"],
        repository.path(),
    );
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let output = run(&["/dev/null", "HEAD:config/rules"], repository.path());
    assert!(
        stdout(&output).contains("domain added: 19 rules"),
        "{}",
        stdout(&output)
    );
    for (old, said) in [
        (
            "main:config/gone",
            "does not exist in 'main'; /dev/null stands for no rules",
        ),
        ("origin/main:config/rules", "is it fetched?"),
        ("--upload-pack=x:y", "unexpected argument"),
    ] {
        let output = run(&[old, "config/rules"], repository.path());
        assert_eq!(output.status.code(), Some(2), "{old}");
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    let elsewhere = tempfile::TempDir::new().expect("a directory");
    let output = run(&["main:rules", "/dev/null"], elsewhere.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("not a git repository"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_symbolic_link_in_a_revision_is_said_and_not_passed_over() {
    let repository = Repository::new();
    std::os::unix::fs::symlink(
        "edge.yaml",
        repository.path().join("config/rules/link.yaml"),
    )
    .expect("a link");
    repository.git(&["add", "."]);
    let who = ["-c", "user.name=a", "-c", "user.email=a@example.org"];
    repository.git(&[&who[..], &["commit", "--quiet", "-m", "link"]].concat());
    let output = run(&["HEAD:config/rules", "config/rules"], repository.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("link.yaml is a symbolic link"),
        "{}",
        stderr(&output)
    );
}

/// A rule of a value of one key.
fn rule(value: &str, requests: u32) -> String {
    format!(
        "  - {{key: k, value: '{value}', rate_limit: {{requests_per_unit: {requests}, unit: day}}}}\n"
    )
}

fn many(rules: u32, of: impl Fn(u32) -> String) -> String {
    format!(
        "domain: d\ndescriptors:\n{}",
        (0..rules).map(of).collect::<String>()
    )
}

/// However much changes, what is said fits where it goes, and the rest is counted.
#[test]
fn what_is_said_is_bounded() {
    let old = many(10_000, |n| rule(&format!("v{n}"), 100));
    let alike = changes(&old, &many(10_000, |n| rule(&format!("v{n}"), 50)));
    let text = alike.text(false);
    assert!(text.lines().count() < 8, "{text}");
    assert!(text.contains("k=v0; k=v1; k=v2; and 9997 more"), "{text}");
    let json: Value = serde_json::from_str(&alike.json()).expect("JSON");
    assert_eq!(json["changes"][0]["count"], 10_000);
    assert_eq!(
        json["changes"][0]["for"].as_array().map(Vec::len),
        Some(100)
    );

    let each = changes(&old, &many(10_000, |n| rule(&format!("v{n}"), 200 + n)));
    let text = each.text(false);
    assert!(text.contains("… and 9900 more changes"), "{text}");
    assert!(text.len() < 100_000, "{}", text.len());
    assert!(each.markdown().len() < 65_000, "{}", each.markdown().len());
    let json: Value = serde_json::from_str(&each.json()).expect("JSON");
    assert_eq!(json["count"], 10_000);

    let long = "x".repeat(5_000);
    let long = changes(&many(1, |_| rule(&long, 1)), &many(1, |_| rule(&long, 2)));
    assert!(long.text(false).len() < 2_000, "{}", long.text(false));
    let wild = "\\e[31m|<script>`$(x)``";
    let wild = changes(
        "domain: d\n",
        &many(1, |_| {
            format!("  - {{key: \"{wild}\", rate_limit: {{unit: day}}}}\n")
        }),
    );
    assert!(!wild.text(false).contains('\u{1b}'));
    let row = wild.markdown();
    let row = row.lines().last().expect("a row");
    assert_eq!(row.replace("\\|", "").matches('|').count(), 7, "{row}");
    assert!(
        !row.contains("<script>") || row.contains("\\<script>"),
        "{row}"
    );
}

/// Values, networks and patterns side by side are each looked up, and not compared with all others.
#[test]
fn many_rules_are_compared_in_time_that_grows_with_their_number() {
    let text = |shift: u32, requests: u32| {
        many(50_000, |n| match n % 5 {
            0 => rule(&format!("p{}-*", n + shift), requests),
            1 => {
                let (high, low) = ((n + shift) / 256 % 256, (n + shift) % 256);
                format!(
                    "  - {{key: k, cidr: 10.{high}.{low}.0/24, rate_limit: {{requests_per_unit: {requests}, unit: day}}}}\n"
                )
            }
            _ => rule(&format!("v{}", n + shift), requests),
        })
    };
    // The second has a fifth of its descriptors elsewhere, and a bare key that takes over from those that are gone.
    let new = text(10_000, 6) + "  - {key: k, rate_limit: {requests_per_unit: 1, unit: day}}\n";
    let begun = Instant::now();
    let found = changes(&text(0, 5), &new);
    let took = begun.elapsed();
    assert!(!found.is_empty());
    assert!(took < Duration::from_secs(60), "{took:?}");
}
