//! Replays of traffic that was made up, so that what must come of it is known.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tempfile::TempDir;
use tollgate::capture::writer::{Target, Writer};
use tollgate::capture::{Asked, Decision, Header, Recorder, Sample};
use tollgate::rules::Entry;
use tollgate::time::Timestamp;

use super::{replay, report};

/// 12:00:00 on Friday, 6 March 2026, UTC.
const BEGIN: i64 = 1_772_798_400_000_000;

/// A request of a user: when, who, and whether it was refused.
type Asking = (i64, String, bool);

struct Made {
    dir: TempDir,
}

impl Made {
    fn new() -> Self {
        Self {
            dir: TempDir::new().expect("a directory"),
        }
    }

    fn rules(&self, limit: &str) -> PathBuf {
        let rules = self.dir.path().join("rules");
        std::fs::create_dir_all(&rules).expect("a directory");
        let text =
            format!("domain: edge\ndescriptors:\n  - {{key: user, rate_limit: {{{limit}}}}}\n");
        std::fs::write(rules.join("edge.yaml"), text).expect("a file");
        rules
    }

    fn capture(&self, asked: &[Asking]) -> PathBuf {
        let path = self.dir.path().join("capture");
        let header = Header {
            tollgate: "test".to_owned(),
            began: BEGIN,
            sample: 1.0,
            store: "embedded".to_owned(),
            stop_increment: None,
            shadow_mode: false,
            quota_mode: false,
        };
        let recorder = Arc::new(Recorder::new(Sample::ALL));
        let target = Target {
            path: path.clone(),
            max_bytes: 1 << 30,
        };
        let writer = Writer::start(target, header, Arc::clone(&recorder)).expect("a file");
        for (at, user, refused) in asked {
            let entry = Entry {
                key: "user",
                value: user,
            };
            let of_user = Asked {
                entries: [entry].into_iter().collect(),
                sampled: true,
                refused: *refused,
                ..Asked::default()
            };
            recorder.note(&Decision {
                at: Timestamp::from_micros(BEGIN + at),
                domain: "edge",
                refused: *refused,
                reason: if *refused {
                    "over_limit"
                } else {
                    "within_limit"
                },
                rule: "user",
                asked: [of_user].into_iter().collect(),
                ..Decision::default()
            });
        }
        writer.finish();
        assert_eq!(recorder.counts(), (asked.len() as u64, 0));
        path
    }
}

/// Requests of some users over so many seconds, those of the first more than those of the others; none was refused.
fn traffic(seed: u64, count: usize, secs: i64, users: u32) -> Vec<Asking> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut all: Vec<Asking> = (0..count)
        .map(|_| {
            let user = random
                .random_range(0..users)
                .min(random.random_range(0..users));
            (
                random.random_range(0..secs * 1_000_000),
                format!("u{user}"),
                false,
            )
        })
        .collect();
    all.sort();
    all.dedup_by_key(|asking| asking.0);
    all
}

/// What fixed windows of whole seconds refuse, counted as a child would: by user.
fn refused_by(asked: &[Asking], most: u64, secs: i64) -> HashMap<String, u64> {
    let mut windows: HashMap<(String, i64), u64> = HashMap::new();
    let mut refused = HashMap::new();
    for (at, user, _) in asked {
        let window = windows.entry((user.clone(), (BEGIN + at) / (secs * 1_000_000)));
        let used = window.or_default();
        match *used < most {
            true => *used += 1,
            false => *refused.entry(user.clone()).or_default() += 1,
        }
    }
    refused
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn what_a_changed_rule_refuses_is_what_a_naive_model_says() {
    let made = Made::new();
    let asked = traffic(1, 5000, 600, 20);
    let capture = made.capture(&asked);
    let wanted = refused_by(&asked, 20, 60);
    let sum: u64 = wanted.values().sum();
    assert!(sum > 100, "{sum}");
    let rules = made.rules("requests_per_unit: 20, unit: minute");
    let differences = made.dir.path().join("differences");
    let more = [
        "--top",
        "64",
        "--differences",
        &differences.display().to_string(),
    ];
    let report = report(&rules, &capture, &more);
    assert_eq!(report["compared"]["newly_refused"], sum);
    assert_eq!(report["compared"]["newly_admitted"], 0);
    assert_eq!(report["by_rule"][0]["rule"], "user");
    assert_eq!(report["by_rule"][0]["source"], "edge.yaml:3");
    assert_eq!(report["by_rule"][0]["newly_refused"], sum);
    let affected = report["most_affected"].as_array().expect("a list").iter();
    let affected: HashMap<String, u64> = affected
        .map(|row| {
            let name = text(&row["subject"]).replace("edge user: user=", "");
            (name, row["newly_refused"].as_u64().expect("a number"))
        })
        .collect();
    assert_eq!(affected, wanted);
    // The time line says when, and leaves out nothing.
    let line = &report["by_rule"][0]["time_line"];
    let now = line["refused_now"].as_array().expect("a list").iter();
    assert_eq!(
        now.map(|count| count.as_u64().expect("a number"))
            .sum::<u64>(),
        sum
    );
    assert_eq!(line["seconds"], 5, "ten minutes in at most 300 cells");
    let lines = std::fs::read_to_string(differences).expect("a file");
    assert_eq!(lines.lines().count() as u64, sum);
    let first: Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["is"], "refused");
    assert_eq!(first["limit"], "20/minute");
    assert_eq!(first["at"], report["by_rule"][0]["first_newly_refused"]);
}

#[test]
fn what_was_refused_and_is_not_now_is_told_by_its_rule() {
    let made = Made::new();
    let asked: Vec<Asking> = (0..10)
        .map(|n| (n * 1000, "a".to_owned(), n >= 4))
        .collect();
    let capture = made.capture(&asked);
    let report = report(
        &made.rules("requests_per_unit: 7, unit: minute"),
        &capture,
        &[],
    );
    assert_eq!(report["compared"]["newly_admitted"], 3);
    assert_eq!(report["compared"]["newly_refused"], 0);
    assert_eq!(report["compared"]["agree"], 7);
    assert_eq!(report["by_rule"][0]["refused_before"], 6);
    assert_eq!(report["by_rule"][0]["refused_now"], 3);
    assert_eq!(report["examples"][0]["was"], "refused");
}

#[test]
fn what_only_fills_the_counters_is_not_compared() {
    let made = Made::new();
    let asked: Vec<Asking> = (0..10)
        .map(|n| (n * 1_000_000, "a".to_owned(), false))
        .collect();
    let capture = made.capture(&asked);
    let rules = made.rules("requests_per_unit: 6, unit: minute");
    let report = report(&rules, &capture, &["--warm-up", "8s"]);
    assert_eq!(report["compared"]["requests"], 2);
    assert_eq!(report["not_compared"]["warm_up"], 8);
    assert_eq!(
        report["compared"]["newly_refused"], 2,
        "the counters are full"
    );
}

/// How many of all are refused with this limit.
fn refuses(made: &Made, capture: &Path, limit: &str) -> f64 {
    let report = report(&made.rules(limit), capture, &[]);
    report["compared"]["newly_refused_ratio"]
        .as_f64()
        .expect("a number")
}

#[test]
fn a_suggested_limit_meets_the_target_and_one_notch_less_does_not() {
    for (seed, algorithm) in [
        (1, "fixed_window"),
        (2, "sliding_window"),
        (3, "token_bucket, burst_multiplier: 2"),
    ] {
        let made = Made::new();
        let capture = made.capture(&traffic(seed, 6000, 300, 10));
        let limit = |requests: u64| {
            format!("requests_per_unit: {requests}, unit: minute, algorithm: {algorithm}")
        };
        for target in [0.05, 0.002] {
            let more = ["--target", &target.to_string()];
            let report = report(&made.rules(&limit(10)), &capture, &more);
            let suggested = &report["suggested"][0];
            assert_eq!(suggested["requests_per_unit"], 10);
            let refused = suggested["refuses"].as_f64().expect("a number");
            let now = report["compared"]["newly_refused_ratio"]
                .as_f64()
                .expect("a number");
            assert!((refused - now).abs() < 1e-9, "{algorithm}: {refused} {now}");
            let number = suggested["suggested_requests_per_unit"]
                .as_u64()
                .expect("a number");
            let said = suggested["suggested_refuses"].as_f64().expect("a number");
            let with = refuses(&made, &capture, &limit(number));
            assert!((with - said).abs() < 1e-9, "{algorithm}: {with} {said}");
            assert!(
                with <= target,
                "{algorithm}, {target}: {number} refuses {with}"
            );
            let notch = (number / 100).max(1) + 1;
            let less = refuses(&made, &capture, &limit(number - notch));
            assert!(
                less > target,
                "{algorithm}, {target}: {number}-{notch} refuses {less}"
            );
        }
    }
}

#[test]
fn the_exit_code_says_whether_too_much_is_newly_refused() {
    let made = Made::new();
    let asked: Vec<Asking> = (0..10).map(|n| (n * 1000, "a".to_owned(), false)).collect();
    let capture = made.capture(&asked);
    let rules = made.rules("requests_per_unit: 8, unit: minute");
    for (most, code) in [("20%", 0), ("0.19", 1), ("0", 1), ("200%", 2)] {
        let output = replay(&rules, &capture, &["--fail-if-newly-refused", most]);
        assert_eq!(output.status.code(), Some(code), "{most}");
    }
}

#[test]
fn what_cannot_be_replayed_is_said() {
    let made = Made::new();
    let rules = made.rules("requests_per_unit: 8, unit: minute");
    let path = made.dir.path().join("traffic");
    for (bytes, said) in [
        (&b""[..], "neither a capture"),
        (b"GET / 200\n", "neither a capture"),
        (b"tollgate capture\x09", "failed to fill"),
        (b"tollgate capture\x09\0\0\0\0", "version 9"),
        (b"{\"time\": 1}\n", "--descriptor"),
    ] {
        std::fs::write(&path, bytes).expect("a file");
        let output = replay(&rules, &path, &[]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.starts_with("error: ") && text.contains(said), "{text}");
    }
    let output = replay(&rules, &made.dir.path().join("nothing"), &[]);
    assert_eq!(output.status.code(), Some(2));
    let capture = made.capture(&[]);
    let output = replay(&rules, &capture, &[]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("there is no decision in the traffic"),
        "{text}"
    );
    std::fs::write(
        rules.join("edge.yaml"),
        "domain: edge\ndescriptors: [{kye: a}]\n",
    )
    .expect("a file");
    let output = replay(&rules, &capture, &[]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("did you mean `key`?"), "{text}");
}

/// What is kept does not grow with the traffic: neither subjects nor rules nor time.
#[test]
fn memory_is_bounded_whatever_comes() {
    let made = Made::new();
    let mut random = SmallRng::seed_from_u64(5);
    // Everybody comes once, over three years.
    let mut asked: Vec<Asking> = (0..20_000)
        .map(|n| {
            (
                random.random_range(0..94_608_000) * 1_000_000,
                format!("u{n}"),
                false,
            )
        })
        .collect();
    asked.sort();
    let capture = made.capture(&asked);
    let rules = made.rules("requests_per_unit: 0, unit: year");
    let most = ["--keys", "2048", "--top", "64", "--target", "1%"];
    let report = report(&rules, &capture, &most);
    assert_eq!(report["compared"]["newly_refused"], asked.len());
    let cells = report["time_line"]["requests"]
        .as_array()
        .expect("a list")
        .len();
    assert!((30..=300).contains(&cells), "{cells}");
    assert!(report["most_affected"].as_array().expect("a list").len() <= 64);
    assert!(report["examples"].as_array().expect("a list").len() <= 5);
    assert!(
        report["counters"].as_u64().expect("a number") <= 2048,
        "{report:#}"
    );
    let rules = made.rules("requests_per_unit: 5, unit: year");
    let report = super::report(&rules, &capture, &["--keys", "2048"]);
    let counters = report["counters"].as_u64().expect("a number");
    assert!((1500..=2048).contains(&counters), "{counters}");
}

#[test]
fn several_captures_are_one_in_the_order_of_time() {
    let (made, other) = (Made::new(), Made::new());
    let of = |odd: i64| (0..10).map(move |n| ((2 * n + odd) * 1000, "a".to_owned(), n >= 3));
    let first = made.capture(&of(0).collect::<Vec<_>>());
    let second = other.capture(&of(1).collect::<Vec<_>>());
    let rules = made.rules("requests_per_unit: 6, unit: minute");
    let second = second.display().to_string();
    let report = report(&rules, &first, &[&second]);
    assert_eq!(report["compared"]["agree"], 20, "{report:#}");
    assert_eq!(report["may_differ"]["late"], 0);
}

/// As a person reads it; `UPDATE_GOLDEN=1` writes it down.
#[test]
fn the_report_is_the_one_that_was_reviewed() {
    let made = Made::new();
    let mut asked = traffic(6, 3000, 600, 8);
    // Some were refused live, by a rule that is looser now.
    for (_, user, refused) in asked.iter_mut().skip(1000).take(200) {
        *refused = user == "u7";
    }
    let capture = made.capture(&asked);
    let rules = made.rules("requests_per_unit: 40, unit: minute");
    let output = replay(&rules, &capture, &["--target", "1%", "--warm-up", "10s"]);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = said.replace(&made.dir.path().display().to_string(), "DIR");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/replay.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &said).expect("a file");
    }
    let wanted = std::fs::read_to_string(&golden).expect("tests/golden/replay.txt");
    assert_eq!(said, wanted);
}

#[test]
fn the_picture_stands_for_itself() {
    let made = Made::new();
    let capture = made.capture(&traffic(3, 2000, 600, 5));
    let picture = made.dir.path().join("picture.svg");
    let rules = made.rules("requests_per_unit: 20, unit: minute");
    report(&rules, &capture, &["--svg", &picture.display().to_string()]);
    let svg = std::fs::read_to_string(picture).expect("a picture");
    assert!(
        svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""),
        "{svg}"
    );
    assert!(svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("prefers-color-scheme: dark"));
    for outside in ["href", "<script", "<image", "@import", "url("] {
        assert!(!svg.contains(outside), "{outside}");
    }
    assert_eq!(svg.matches("<g>").count(), 2, "all, and the one rule");
}
