//! The JSON Schema of rule files: it is made of the compiler's tables, takes what the compiler takes, and sees what can be seen
//! of the rest: `tests/golden/schema.txt` says where, for each wrong file of `tests/golden/rules`.
//!
//! `UPDATE_GOLDEN=1` writes `config/schema.json`, and that file.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tollgate::rules::compile::schema::schema;

use crate::support::rules::compile;
use crate::support::server::binary;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a file with what it is to be, or makes it so.
#[track_caller]
fn compare(path: &str, wanted: &str) {
    let path = root().join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, wanted).expect("a file");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found,
        wanted,
        "{}: UPDATE_GOLDEN=1 writes it",
        path.display()
    );
}

/// The YAML files of a directory, without tests of rules.
fn files(dir: &str) -> Vec<(String, String)> {
    let dir = root().join(dir);
    let paths = fs::read_dir(&dir).expect("a directory");
    let paths = paths.map(|item| item.expect("an item").path());
    let mut found: Vec<(String, String)> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .filter(|path| !path.to_string_lossy().ends_with(".test.yaml"))
        .map(|path| (name(&path), fs::read_to_string(&path).expect("a file")))
        .collect();
    found.sort();
    found
}

fn name(path: &Path) -> String {
    let path = path.strip_prefix(root()).expect("in the repository");
    path.display().to_string()
}

/// A file as an editor reads it; none if it is no YAML.
fn document(text: &str) -> Option<Value> {
    let mut document: serde_yaml::Value = serde_yaml::from_str(text).ok()?;
    document.apply_merge().ok()?;
    serde_json::to_value(document).ok()
}

/// For each document the places that the schema refuses.
fn refused(documents: &[Value]) -> Vec<Vec<String>> {
    let tools = root().join("target/tools/schemathesis-4.32.5");
    let tools = std::env::var_os("SCHEMATHESIS_DIR").map_or(tools, PathBuf::from);
    assert!(
        tools.exists(),
        "no validator at {}: run `tests/tools/install`",
        tools.display()
    );
    let mut child = Command::new(root().join("tests/tools/check-schema"))
        .arg(root().join("config/schema.json"))
        .env("PYTHONPATH", tools)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python");
    let text = serde_json::to_vec(documents).expect("JSON");
    let mut input = child.stdin.take().expect("an input");
    input.write_all(&text).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the schema is no schema");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn the_published_schema_is_that_of_the_compiler() {
    compare("config/schema.json", &format!("{:#}\n", schema()));
    let printed = binary().arg("schema").output().expect("the binary runs");
    assert!(printed.status.success());
    let printed: Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    assert_eq!(printed, schema());
}

#[test]
fn what_the_compiler_takes_the_schema_takes() {
    let dirs = [
        "config/rules",
        "config/product",
        "tests/golden/rules",
        "tests/golden/lints",
    ];
    let all = dirs.into_iter().flat_map(files);
    let good: Vec<(String, Value)> = all
        .filter(|(name, text)| compile(&[(name.clone(), text.clone())], false).is_ok())
        // Some of what is warned of is no YAML to an editor.
        .filter_map(|(name, text)| Some((name, document(&text)?)))
        .collect();
    assert!(good.len() > 8, "{}", good.len());
    let documents: Vec<Value> = good.iter().map(|(_, document)| document.clone()).collect();
    for ((name, _), places) in good.iter().zip(refused(&documents)) {
        assert_eq!(places, [""; 0], "{name}");
    }
}

/// A schema cannot see all that is wrong, but where it looks away is written down.
#[test]
fn what_the_compiler_refuses_the_schema_refuses_where_it_can() {
    let wrong = files("tests/golden/rules").into_iter();
    let wrong = wrong.filter(|file| compile(std::slice::from_ref(file), false).is_err());
    let wrong: Vec<(String, Option<Value>)> =
        wrong.map(|(name, text)| (name, document(&text))).collect();
    let documents: Vec<Value> = wrong.iter().filter_map(|(_, d)| d.clone()).collect();
    let mut places = refused(&documents).into_iter();
    let mut said = String::new();
    for (name, document) in wrong {
        let name = name.rsplit('/').next().expect("a name");
        let said_of_it = match document {
            None => "is no YAML to an editor".to_owned(),
            Some(_) => match places.next().expect("an answer").join(" ") {
                nothing if nothing.is_empty() => "passes".to_owned(),
                places => places,
            },
        };
        said += &format!("{name}: {said_of_it}\n");
    }
    compare("tests/golden/schema.txt", &said);
}

/// An editor finds the schema by a line of the file.
#[test]
fn the_samples_name_the_schema() {
    for dir in ["config/rules", "config/product"] {
        for (name, text) in files(dir) {
            let first = text.lines().next().expect("a line");
            let link = first.strip_prefix("# yaml-language-server: $schema=");
            let link = link.unwrap_or_else(|| panic!("{name} begins with {first}"));
            let path = root().join(&name).with_file_name("").join(link);
            let found = fs::canonicalize(path).expect(link);
            assert_eq!(
                found,
                fs::canonicalize(root().join("config/schema.json")).expect("it")
            );
        }
    }
}
