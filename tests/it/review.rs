//! Rules in review: the workflow for GitHub, the hooks for pre-commit and the hook of git run here, on repositories of git, as far
//! as they need no service of GitHub.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_yaml::Value as Yaml;

/// The steps of the workflow that need a registry, or GitHub.
const ELSEWHERE: [&str; 2] = ["Install", "Comment"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn yaml(file: &str) -> Yaml {
    let text = fs::read_to_string(root().join(file)).expect(file);
    serde_yaml::from_str(&text).expect("YAML")
}

/// A repository with the sample rules, on `main` of its origin and on a branch of its own.
struct Repository {
    dir: tempfile::TempDir,
}

impl Repository {
    fn new() -> Self {
        let repository = Self {
            dir: tempfile::TempDir::new().expect("a directory"),
        };
        let rules = repository.rules();
        fs::create_dir_all(&rules).expect("a directory");
        for file in ["edge.yaml", "edge.test.yaml"] {
            fs::copy(root().join("config/rules").join(file), rules.join(file)).expect(file);
        }
        repository.git(&["init", "--quiet", "--initial-branch", "main"]);
        repository.git(&["config", "user.name", "a"]);
        repository.git(&["config", "user.email", "a@example.org"]);
        repository.git(&["add", "."]);
        repository.git(&["commit", "--quiet", "-m", "rules"]);
        // As a clone of a repository on GitHub names it.
        repository.git(&["update-ref", "refs/remotes/origin/main", "HEAD"]);
        repository.git(&["checkout", "--quiet", "-b", "topic"]);
        repository
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn rules(&self) -> PathBuf {
        self.path().join("config/rules")
    }

    /// Changes a text of the rules.
    fn edit(&self, from: &str, to: &str) {
        let path = self.rules().join("edge.yaml");
        let text = fs::read_to_string(&path).expect("rules");
        assert!(text.contains(from), "{from}");
        fs::write(path, text.replacen(from, to, 1)).expect("rules");
    }

    #[track_caller]
    fn git(&self, args: &[&str]) -> String {
        let output = self.command("git").args(args).output().expect("git");
        let said = said(&output);
        assert!(output.status.success(), "{args:?}: {said}");
        said
    }

    /// A program that finds `tollgate`, and nothing of who runs this test.
    fn command(&self, program: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_tollgate"));
        let dir = binary.parent().expect("a directory").display();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .env("PATH", format!("{dir}:{path}"))
            .env("HOME", self.path())
            .env("GIT_CONFIG_NOSYSTEM", "1");
        command
    }

    /// Runs the steps of the workflow until one fails; those that did, with what they said.
    fn workflow(&self) -> Vec<(String, Output)> {
        let workflow = yaml("deploy/github/rate-limits.yml");
        assert_eq!(workflow["defaults"]["run"]["shell"], "bash");
        let mut done = Vec::new();
        for step in workflow["jobs"]["rules"]["steps"]
            .as_sequence()
            .expect("steps")
        {
            let name = step["name"].as_str().unwrap_or_default();
            let Some(script) = step["run"].as_str().filter(|_| !ELSEWHERE.contains(&name)) else {
                continue;
            };
            let mut bash = self.command("bash");
            bash.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script]);
            for (variable, value) in workflow["env"].as_mapping().expect("variables") {
                let value = value.as_str().expect("text");
                let value = value.replace("${{ github.base_ref }}", "main");
                assert!(!value.contains("${{"), "{value}");
                bash.env(variable.as_str().expect("a name"), value);
            }
            bash.env("GITHUB_STEP_SUMMARY", self.path().join("summary.md"));
            let output = bash.output().expect("bash");
            let failed = !output.status.success();
            done.push((name.to_owned(), output));
            if failed {
                break;
            }
        }
        done
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path().join(file)).expect(file)
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn the_workflow_reviews_a_change_of_rules() {
    let repository = Repository::new();
    repository.edit(
        "requests_per_unit: 500, unit: day",
        "requests_per_unit: 600, unit: day",
    );
    repository.git(&["commit", "--quiet", "--all", "-m", "more"]);
    let test = repository.rules().join("edge.test.yaml");
    let text = fs::read_to_string(&test).expect("tests");
    let text = text.replace("q=500", "q=600").replace("r=490", "r=590");
    fs::write(test, text).expect("tests");
    for (name, output) in repository.workflow() {
        assert!(output.status.success(), "{name}: {}", said(&output));
    }
    let sarif: serde_json::Value =
        serde_json::from_str(&repository.read("tollgate.sarif")).expect("JSON");
    assert_eq!(sarif["version"], "2.1.0");
    assert!(
        repository
            .read("tollgate-tests.xml")
            .contains("<testsuites")
    );
    let table = repository.read("tollgate-diff.md");
    let row = "| 🟢 looser | `edge: user_id` | limit raised | `per_day: 500/day` | `per_day: 600/day` | rate and burst +20% |";
    assert!(table.contains(row), "{table}");
    assert_eq!(repository.read("summary.md"), table);
}

#[test]
fn the_workflow_fails_where_it_is_to() {
    let repository = Repository::new();
    repository.edit("unit: day", "unit: dais");
    let steps = repository.workflow();
    let (name, output) = steps.last().expect("a step");
    assert_eq!((name.as_str(), output.status.code()), ("Check", Some(1)));
    assert!(
        said(output).contains("did you mean `day`?"),
        "{}",
        said(output)
    );
    // What was found is shown nevertheless.
    assert!(
        repository
            .read("tollgate.sarif")
            .contains("unknown unit `dais`")
    );

    let repository = Repository::new();
    repository.edit(
        "requests_per_unit: 500, unit: day",
        "requests_per_unit: 600, unit: day",
    );
    let steps = repository.workflow();
    let (name, output) = steps.last().expect("a step");
    assert_eq!(
        (name.as_str(), output.status.code()),
        ("Test", Some(1)),
        "{}",
        said(output)
    );
}

#[test]
fn the_workflow_knows_a_repository_without_rules_before() {
    let repository = Repository::new();
    repository.git(&["checkout", "--quiet", "--orphan", "empty"]);
    repository.git(&[
        "commit",
        "--quiet",
        "--allow-empty",
        "-m",
        "nothing",
        "--only",
    ]);
    repository.git(&["update-ref", "refs/remotes/origin/main", "HEAD"]);
    for (name, output) in repository.workflow() {
        assert!(output.status.success(), "{name}: {}", said(&output));
    }
    assert!(repository.read("tollgate-diff.md").contains("domain added"));
}

#[test]
fn steps_that_are_run_elsewhere_are_those_that_need_it() {
    let workflow = yaml("deploy/github/rate-limits.yml");
    let steps = workflow["jobs"]["rules"]["steps"]
        .as_sequence()
        .expect("steps");
    let mut names = Vec::new();
    for step in steps {
        let name = step["name"].as_str().unwrap_or_default();
        let Some(script) = step["run"].as_str() else {
            assert!(
                step["uses"].as_str().is_some_and(|uses| uses.contains('@')),
                "{name}"
            );
            continue;
        };
        // A title or a branch is somebody's text: in a script it would be run.
        assert!(!script.contains("${{"), "{name}: {script}");
        let needs = script.contains("docker ") || script.contains("gh ");
        assert_eq!(needs, ELSEWHERE.contains(&name), "{name}");
        names.push(name);
    }
    assert_eq!(
        names,
        ["Install", "Check", "Test", "Say what changes", "Comment"]
    );
}

/// The hook of git looks at what is committed, and at nothing else.
#[test]
fn the_hook_of_git_refuses_what_is_wrong() {
    let repository = Repository::new();
    let hook = repository.path().join(".git/hooks/pre-commit");
    fs::create_dir_all(hook.parent().expect("a directory")).expect("hooks");
    fs::copy(root().join("deploy/git/pre-commit"), &hook).expect("the hook");
    let mode = fs::metadata(&hook).expect("it").permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "it can be run");

    let commit = || {
        let output = repository
            .command("git")
            .args(["commit", "-m", "change"])
            .output();
        let output = output.expect("git");
        (output.status.success(), said(&output))
    };
    fs::write(repository.path().join("notes"), "x").expect("a file");
    repository.git(&["add", "notes"]);
    let (passed, text) = commit();
    assert!(passed && !text.contains("edge"), "{text}");

    repository.edit(
        "requests_per_unit: 2, unit: second",
        "requests_per_unit: 2, unit: seconds",
    );
    repository.git(&["add", "."]);
    let (passed, text) = commit();
    assert!(!passed && text.contains("did you mean `second`?"), "{text}");

    repository.edit(
        "requests_per_unit: 2, unit: seconds",
        "requests_per_unit: 1, unit: second",
    );
    repository.git(&["add", "."]);
    let (passed, text) = commit();
    assert!(
        !passed && text.contains("FAIL a refused search costs nothing elsewhere"),
        "{text}"
    );

    repository.edit(
        "requests_per_unit: 1, unit: second",
        "requests_per_unit: 2, unit: second",
    );
    repository.edit(
        "requests_per_unit: 50, unit: second",
        "requests_per_unit: 60, unit: second",
    );
    repository.git(&["add", "."]);
    // What is not added is not looked at.
    repository.edit("domain: edge", "domian: edge");
    let (passed, text) = commit();
    assert!(passed && text.contains("rate and burst +20%"), "{text}");
}

#[test]
fn pre_commit_runs_the_hooks() {
    let tools = root().join("target/tools/pre-commit-4.3.0");
    assert!(
        tools.exists(),
        "no pre-commit at {}: run `tests/tools/install`",
        tools.display()
    );
    let repository = Repository::new();
    let pre_commit = |args: &[&str]| {
        let mut command = repository.command("python3");
        command.args(["-m", "pre_commit"]).args(args);
        command
            .env("PYTHONPATH", &tools)
            .env("PRE_COMMIT_HOME", repository.path().join(".cache"));
        let output = command.output().expect("Python");
        (output.status.success(), said(&output))
    };
    let manifest = root().join(".pre-commit-hooks.yaml");
    let (valid, text) = pre_commit(&["validate-manifest", &manifest.display().to_string()]);
    assert!(valid, "{text}");

    // The same hooks as if they were the repository's own, since there is no network to fetch another one from.
    let hooks = fs::read_to_string(manifest).expect("hooks");
    let hooks = hooks
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect::<String>();
    let config = format!("repos:\n- repo: local\n  hooks:\n{hooks}");
    fs::write(repository.path().join(".pre-commit-config.yaml"), config).expect("a file");
    repository.edit(
        "requests_per_unit: 50, unit: second",
        "requests_per_unit: 60, unit: second",
    );
    repository.git(&["add", "."]);
    let (passed, text) = pre_commit(&["run"]);
    assert!(passed && text.contains("rate and burst +20%"), "{text}");

    repository.edit(
        "requests_per_unit: 60, unit: second",
        "requests_per_unit: 60, unit: seconds",
    );
    repository.git(&["add", "."]);
    let (passed, text) = pre_commit(&["run"]);
    assert!(!passed && text.contains("did you mean `second`?"), "{text}");
}
