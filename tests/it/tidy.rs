//! The house stays in order: who may use whom, and what every file has.

use std::fs;
use std::path::{Path, PathBuf};

/// What each part may use, as the map in `src/lib.rs` reads: dependencies go one way.
const MAY_USE: [(&str, &[&str]); 15] = [
    ("time", &[]),
    ("limit", &["time"]),
    ("rules", &["limit", "time"]),
    ("envoy", &["rules", "limit"]),
    ("settings", &[]),
    ("telemetry", &["limit", "settings"]),
    ("store", &["limit", "time", "settings", "telemetry"]),
    ("directory", &["rules", "limit", "store", "time"]),
    ("capture", &["rules", "limit", "time"]),
    (
        "engine",
        &[
            "capture",
            "directory",
            "rules",
            "limit",
            "store",
            "time",
            "telemetry",
        ],
    ),
    (
        "reload",
        &["rules", "engine", "telemetry", "settings", "time"],
    ),
    ("grpc", &["engine", "rules", "limit", "telemetry"]),
    ("xds", &["reload", "rules", "grpc"]),
    (
        "admin",
        &[
            "directory",
            "engine",
            "reload",
            "store",
            "rules",
            "limit",
            "telemetry",
            "time",
            "grpc",
        ],
    ),
    (
        "cli",
        &[
            "admin",
            "capture",
            "directory",
            "engine",
            "envoy",
            "grpc",
            "limit",
            "reload",
            "rules",
            "settings",
            "store",
            "telemetry",
            "time",
            "xds",
        ],
    ),
];

/// The most lines of a source file, its own tests included.
const LONGEST: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a directory with an extension.
fn files(dir: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root().join(dir)];
    while let Some(dir) = left.pop() {
        for item in fs::read_dir(&dir).expect("a directory") {
            let path = item.expect("an item").path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} in {dir}");
    found
}

fn part(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).expect("in src");
    let first = inside
        .components()
        .next()
        .expect("a name")
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn dependencies_go_one_way() {
    for path in files("src", "rs") {
        let part = part(&path);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == part) else {
            assert!(
                ["lib", "main"].contains(&part.as_str()),
                "{part} is not in the table"
            );
            continue;
        };
        let text = fs::read_to_string(&path).expect("a file");
        for used in text.split("crate::").skip(1) {
            let used: String = used
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            let fine = used == part || allowed.contains(&used.as_str());
            assert!(fine, "{} uses {used}, which {part} may not", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is_and_is_not_too_long() {
    let sources = files("src", "rs").into_iter().chain(files("tests", "rs"));
    for path in sources {
        let text = fs::read_to_string(&path).expect("a file");
        assert!(
            text.starts_with("//! "),
            "{} does not begin with `//!`",
            path.display()
        );
        assert!(
            text.lines().count() <= LONGEST,
            "{} is longer than {LONGEST} lines",
            path.display()
        );
        assert!(
            !path.ends_with("mod.rs"),
            "{}: a file beside its folder instead",
            path.display()
        );
    }
}

#[test]
fn tests_do_not_sleep() {
    for path in files("tests", "rs")
        .into_iter()
        .filter(|path| !path.ends_with("tidy.rs"))
    {
        let text = fs::read_to_string(&path).expect("a file");
        for sleep in ["thread::sleep(", "time::sleep("] {
            assert!(
                !text.contains(sleep),
                "{} sleeps: wait for a state with support::poll",
                path.display()
            );
        }
    }
}

#[test]
fn every_script_has_its_twin() {
    for path in files("src", "lua") {
        assert!(
            path.with_extension("rs").exists(),
            "{} has no .rs",
            path.display()
        );
    }
}

#[test]
fn what_the_readme_names_is_there() {
    let text = fs::read_to_string(root().join("README.md")).expect("a README");
    for link in text.split("](").skip(1) {
        let target = link.split([')', '#']).next().expect("a target");
        let outside = target.is_empty() || target.starts_with("http");
        assert!(
            outside || root().join(target).exists(),
            "the README links to {target}"
        );
    }
    for script in [
        "tests/run",
        "envoy/run-local",
        "config/rules",
        "envoy/envoy.yaml",
        "envoy/token",
        "config/product",
        "envoy/product.yaml",
        "docs/gateway.md",
    ] {
        assert!(
            text.contains(script),
            "the README does not mention {script}"
        );
        assert!(root().join(script).exists(), "{script}");
    }
}
