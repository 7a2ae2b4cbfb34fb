//! The file that `serve --record` writes: what is in it, who may read it, and what a reader makes of one that was cut off.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tollgate::capture::reader::End;
use tollgate::capture::writer::{Target, Writer, before};
use tollgate::capture::{Asked, Decision, Header, Reader, Recorder, Sample, Trouble};
use tollgate::rules::Entry;
use tollgate::time::Timestamp;

/// The smallest bound that a setting may give.
const SMALL: u64 = 4 << 20;

fn header() -> Header {
    Header {
        tollgate: "test".to_owned(),
        began: 0,
        sample: 1.0,
        store: "embedded".to_owned(),
        stop_increment: None,
        shadow_mode: false,
        quota_mode: false,
    }
}

fn decision(at: i64, user: &str) -> Decision<'_> {
    let asked = Asked {
        entries: [Entry {
            key: "user",
            value: user,
        }]
        .into_iter()
        .collect(),
        sampled: true,
        remaining: 7,
        ..Asked::default()
    };
    Decision {
        at: Timestamp::from_micros(at),
        domain: "edge",
        reason: "within_limit",
        rule: "user",
        asked: [asked].into_iter().collect(),
        ..Decision::default()
    }
}

/// Writes decisions of these moments and users.
fn write(path: &Path, decisions: &[(i64, String)], max_bytes: u64) -> (u64, u64) {
    let recorder = Arc::new(Recorder::new(Sample::ALL));
    let target = Target {
        path: path.to_owned(),
        max_bytes,
    };
    let writer = Writer::start(target, header(), Arc::clone(&recorder)).expect("a file");
    for (at, user) in decisions {
        recorder.note(&decision(*at, user));
    }
    writer.finish();
    recorder.counts()
}

/// The moments and users of a capture, and how it ends.
fn read(bytes: &[u8]) -> (Vec<(i64, String)>, End) {
    let mut reader = Reader::new(Cursor::new(bytes)).expect("a capture");
    let mut all = Vec::new();
    while let Some(found) = reader.next_decision().expect("readable") {
        let at = found.at.as_micros();
        let user = found.asked[0].entries[0].value.to_owned();
        let shown = format!("{found:?}");
        drop(found);
        assert_eq!(shown, format!("{:?}", decision(at, &user)));
        all.push((at, user));
    }
    (all, reader.end().expect("the end"))
}

/// In a hundred years: what is of the future is held until the end, and so is in order however slow the machine is.
const BEGIN: i64 = 4_900_000_000_000_000;

fn some(count: i64) -> Vec<(i64, String)> {
    (0..count)
        .map(|at| (BEGIN + at * 10, format!("user-{at}")))
        .collect()
}

#[test]
fn what_is_recorded_is_read_back_in_the_order_of_its_moments() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("capture");
    let decisions = some(20_000);
    let mut mixed = decisions.clone();
    mixed.reverse();
    assert_eq!(write(&path, &mixed, SMALL), (20_000, 0));
    assert_eq!(
        read(&fs::read(&path).expect("a file")),
        (decisions, End::Whole)
    );
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it says who asked for what");
}

#[test]
fn a_capture_that_is_cut_off_is_read_as_far_as_it_goes() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("capture");
    let decisions = some(20_000);
    write(&path, &decisions, SMALL);
    let bytes = fs::read(&path).expect("a file");
    let mut lengths = Vec::new();
    for length in (200..bytes.len()).step_by(997) {
        let (found, end) = read(&bytes[..length]);
        assert_eq!(found, decisions[..found.len()], "{length}");
        assert!(
            matches!(end, End::CutOff(_) | End::Whole),
            "{length}: {end:?}"
        );
        lengths.push(found.len());
    }
    assert!(lengths.is_sorted());
    assert!(lengths.iter().any(|read| (1..20_000).contains(read)));
    let place = bytes.len() - 20;
    let mut damaged = bytes.clone();
    damaged[place] ^= 1;
    let (found, end) = read(&damaged);
    assert!(matches!(end, End::Damaged(_)), "{end:?}");
    assert_eq!(found, decisions[..found.len()]);
}

#[test]
fn what_is_no_capture_is_said_to_be_none() {
    for (bytes, said) in [
        (&b""[..], "neither a capture"),
        (b"{\"time\": \"2026-01-01\"}", "neither a capture"),
        (b"tollgate capture\x02\0\0\0\0", "version 2"),
        (b"tollgate capture\x01\xFF\xFF\xFF\xFF", "header"),
        (b"tollgate capture\x01\x02\0\0\0{}", "header"),
    ] {
        let trouble: Trouble = Reader::new(Cursor::new(bytes)).map(drop).expect_err("none");
        assert!(trouble.to_string().contains(said), "{trouble}");
    }
}

#[test]
fn the_file_stays_within_its_bounds_and_what_was_there_makes_way() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("capture");
    fs::write(&path, "an older one").expect("a file");
    write(&path, &some(1), SMALL);
    assert_eq!(fs::read(before(&path)).expect("a file"), b"an older one");
    // Names that do not pack well.
    let name = |at: i64| {
        format!(
            "{:016x}",
            (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        )
    };
    let random: Vec<(i64, String)> = (0..20_000).map(|at| (BEGIN + at, name(at))).collect();
    let max_bytes = 256 << 10;
    assert_eq!(write(&path, &random, max_bytes), (20_000, 0));
    let sizes = [&path, &before(&path)].map(|path| fs::metadata(path).expect("a file").len());
    assert!(sizes.iter().sum::<u64>() <= max_bytes, "{sizes:?}");
    assert!(sizes[1] > max_bytes / 4, "{sizes:?}");
    let (found, end) = read(&fs::read(&path).expect("a file"));
    assert_eq!(end, End::Whole);
    assert_eq!(found.last(), random.last());
}
