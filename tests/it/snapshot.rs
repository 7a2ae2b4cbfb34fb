//! The embedded store in a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;
use tollgate::store::book::Shelf;
use tollgate::store::embedded::Embedded;
use tollgate::store::usage::{Ledger, Row};
use tollgate::store::{Key, Store, Transaction};
use tollgate::time::{Clock, Timestamp};

use crate::support::http::send;
use crate::support::poll;
use crate::support::server::{Server, Setup, is_over, request};
use crate::support::workload::Workload;

const RULES: &str = "
domain: d
plans:
  free: [{name: month, requests_per_unit: 2, unit: month}]
  pro: [{name: month, requests_per_unit: 4, unit: month}]
descriptors:
  - {key: user, plan: {from: directory, default: free}}
";

fn store(clock: &Clock) -> Embedded {
    Embedded::new(1 << 20, clock.clone())
}

fn load(path: &Path, clock: &Clock) -> Embedded {
    Embedded::load(path, 1 << 20, clock.clone()).expect("the file is whole")
}

/// A file of a store that has seen a little of everything.
fn a_file(dir: &TempDir) -> PathBuf {
    let (clock, handle) = Clock::manual(Timestamp::from_secs(0));
    let store = store(&clock);
    let mut workload = Workload::new("file", 7, false);
    for _ in 0..60 {
        workload.next(|step| {
            handle.set(step.now);
            store.transact(&step.transaction());
        });
    }
    let path = dir.path().join("snapshot");
    let store = with_notes(Store::Embedded(store));
    save(&store, &path);
    path
}

/// With a text, an item and usage.
fn with_notes(store: Store) -> Store {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let within = Duration::from_secs(1);
    let row = Row {
        id: "a".to_owned(),
        end: Timestamp::from_secs(2_000_000_000),
        used: 5,
        text: "usage".into(),
    };
    let (key, text) = (Key::new("", "a", ""), Bytes::from("text"));
    runtime.expect("a runtime").block_on(async {
        let replaced = store.replace_text(&key, None, Some(&text), None, within);
        assert!(replaced.await.expect("an answer"));
        let (shelf, ledger) = (Shelf::new(""), Ledger::new(""));
        let set = store.set_item(&shelf, "id", Some(&text), within);
        set.await.expect("set");
        let rows = [row];
        let set = store.set_usage(&ledger, &rows, within);
        set.await.expect("set");
    });
    store
}

fn save(store: &Store, path: &Path) {
    match store {
        Store::Embedded(store) => store.save(path).expect("saved"),
        Store::Redis(_) | Store::Faulty(_) => panic!("it is embedded"),
    };
}

#[test]
fn a_restored_store_answers_as_if_it_had_never_stopped() {
    for seed in 0..40 {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("snapshot");
        let (clock, handle) = Clock::manual(Timestamp::from_secs(0));
        let lasting = store(&clock);
        let mut stopping = store(&clock);
        let mut workload = Workload::new("snapshot", seed, false).steady();
        for step in 0..200 {
            workload.next(|step| {
                handle.set(step.now);
                let transaction: Transaction<'_, '_> = step.transaction();
                let wanted = lasting.transact(&transaction);
                let found = stopping.transact(&transaction);
                assert_eq!(
                    wanted,
                    found,
                    "SEED={seed} {}",
                    step.explain(&wanted, &found)
                );
            });
            if step % 50 == 49 {
                stopping.save(&path).expect("saved");
                stopping = load(&path, &clock);
            }
        }
    }
}

#[test]
fn a_file_that_is_damaged_anywhere_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().expect("a directory");
    let path = a_file(&dir);
    let mode = std::fs::metadata(&path)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let bytes = std::fs::read(&path).expect("a file");
    let refused = |bytes: &[u8]| {
        let path = dir.path().join("damaged");
        std::fs::write(&path, bytes).expect("a file");
        let clock = Clock::manual(Timestamp::from_secs(0)).0;
        Embedded::load(&path, 1 << 20, clock).is_err()
    };
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(refused(&changed), "byte {at}");
        assert!(refused(&bytes[..at]), "cut at {at}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(refused(&longer));
}

/// Only the arithmetic of the limits is between such a file and the answers.
#[test]
fn a_file_of_impossible_numbers_is_refused_or_harmless() {
    let dir = TempDir::new().expect("a directory");
    let path = a_file(&dir);
    let bytes = std::fs::read(&path).expect("a file");
    let body = &bytes[..bytes.len() - 32];
    let (mut taken, mut refused) = (0, 0);
    // Behind the mark, the version and the secret.
    for at in 28..body.len() - 8 {
        for value in [i64::MAX, i64::MIN] {
            let mut changed = body.to_vec();
            changed[at..at + 8].copy_from_slice(&value.to_le_bytes());
            write_with_digest(&path, changed);
            let (clock, handle) = Clock::manual(Timestamp::from_secs(0));
            let Ok(store) = Embedded::load(&path, 1 << 20, clock) else {
                refused += 1;
                continue;
            };
            taken += 1;
            let mut workload = Workload::new("file", 7, false);
            for _ in 0..60 {
                workload.next(|step| {
                    handle.set(step.now);
                    store.transact(&step.transaction());
                });
            }
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

#[test]
fn what_was_noted_beside_the_counters_is_there_again() {
    let dir = TempDir::new().expect("a directory");
    let path = a_file(&dir);
    let clock = Clock::manual(Timestamp::from_secs(0)).0;
    let store = Store::Embedded(load(&path, &clock));
    let again = dir.path().join("again");
    save(&store, &again);
    let within = Duration::from_secs(1);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        let text = store.text(&Key::new("", "a", ""), within).await;
        assert_eq!(text, Ok(Some(Bytes::from("text"))));
        let items = store.items(&Shelf::new(""), within).await;
        let (_, items) = items.expect("an answer");
        assert_eq!(items, [("id".to_owned(), Bytes::from("text"))]);
        let usage = store.usage_after(&Ledger::new(""), 0, 10, within).await;
        assert_eq!(usage, Ok(vec![(1, 5, Bytes::from("usage"))]));
    });
    let length = |path| std::fs::metadata(path).expect("a file").len();
    assert_eq!(length(&path), length(&again));
}

#[test]
fn what_follows_the_end_is_damage() {
    let dir = TempDir::new().expect("a directory");
    let path = a_file(&dir);
    let bytes = std::fs::read(&path).expect("a file");
    let mut longer = bytes[..bytes.len() - 32].to_vec();
    longer.push(0);
    write_with_digest(&path, longer);
    let clock = Clock::manual(Timestamp::from_secs(0)).0;
    let error = Embedded::load(&path, 1 << 20, clock).err();
    let said = error.map(|error| error.to_string());
    assert_eq!(said.as_deref(), Some("it is damaged (too long)"));
}

#[test]
fn an_attempt_that_was_cut_short_is_in_nobodys_way() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().expect("a directory");
    let beside = dir.path().join("snapshot.new");
    std::fs::write(&beside, "half of it").expect("a file");
    let open = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&beside, open).expect("permissions");
    let path = a_file(&dir);
    let mode = std::fs::metadata(&path).expect("a file").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert!(!beside.exists());
}

#[test]
fn a_smaller_store_takes_no_more_than_it_holds() {
    use tollgate::store::embedded::SHARDS;
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("snapshot");
    let (clock, handle) = Clock::manual(Timestamp::from_secs(0));
    let store = store(&clock);
    for seed in 0..2_000 {
        // Each has keys of its own.
        Workload::new("small", seed, false).next(|step| {
            handle.set(step.now);
            store.transact(&step.transaction());
        });
    }
    handle.set(Timestamp::from_secs(0));
    store.save(&path).expect("saved");
    assert!(load(&path, &clock).len() > SHARDS);
    let small = Embedded::load(&path, 1, clock).expect("the file is whole");
    assert!(!small.is_empty() && small.len() <= SHARDS);
}

/// Writes a file whose digest is right, whatever it says.
fn write_with_digest(path: &Path, mut bytes: Vec<u8>) {
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    bytes.extend(digest.as_ref());
    std::fs::write(path, bytes).expect("a file");
}

proptest! {
    /// A file with a good digest over nonsense is refused too, and nothing panics.
    #[test]
    fn nonsense_never_panics(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("nonsense");
        let mut bytes = b"TOLLGATE\x01\x00\x00\x00".to_vec();
        bytes.extend(body);
        write_with_digest(&path, bytes);
        let clock = Clock::manual(Timestamp::from_secs(0)).0;
        // It may be refused, or hold little.
        let _ = Embedded::load(&path, 1 << 20, clock);
    }
}

async fn admitted(server: &Server, user: &str) -> bool {
    let mut client = server.client().await;
    let answer = client
        .should_rate_limit(request("d", &[&[("user", user)]]))
        .await;
    !is_over(&answer.expect("an answer").into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_ended_or_killed_forgets_nothing_that_was_written() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("snapshot");
    let start = || {
        Setup::rules(RULES)
            .env("EMBEDDED_SNAPSHOT", path.to_str().expect("text"))
            .env("EMBEDDED_SNAPSHOT_EVERY", "50ms")
            .start_ready()
    };
    let server = start();
    assert!(admitted(&server, "a").await);
    assert!(admitted(&server, "a").await);
    assert!(!admitted(&server, "a").await);
    server.signal("TERM");
    assert!(server.wait().success());

    let server = start();
    assert!(!admitted(&server, "a").await, "the month goes on");
    let moved = send(
        server.http,
        "PUT",
        "/api/v1/rate-limit/quota/user=a/plan",
        &[],
        r#"{"plan": "pro"}"#,
    );
    assert_eq!(moved.expect("an answer").code, 200);
    assert!(admitted(&server, "a").await);
    let before = server.metric("tollgate_snapshots{outcome=\"ok\"");
    poll::until("two more writes", || {
        (server.metric("tollgate_snapshots{outcome=\"ok\"") >= before + 2.0).then_some(())
    });
    server.signal("KILL");
    server.wait();

    let server = start();
    assert!(admitted(&server, "a").await);
    assert!(
        !admitted(&server, "a").await,
        "four in all, since the plan is kept too"
    );
}

#[test]
fn a_second_service_does_not_take_the_file_of_the_first() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("snapshot");
    let file = path.to_str().expect("text");
    let _first = Setup::rules(RULES)
        .env("EMBEDDED_SNAPSHOT", file)
        .start_ready();
    let mut second = crate::support::server::binary();
    let second = second.arg("serve").env("EMBEDDED_SNAPSHOT", file);
    let output = second.output().expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("is another service's"), "{text}");
}

#[test]
fn a_file_that_cannot_be_used_is_a_clear_line() {
    use crate::support::server::binary;
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("snapshot");
    std::fs::write(&path, "not one of ours").expect("a file");
    let run = |settings: &[(&str, &str)]| {
        let mut command = binary();
        command.arg("serve").envs(settings.iter().copied());
        let output = command.output().expect("the binary runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let file = path.to_str().expect("text");
    let (code, text) = run(&[("EMBEDDED_SNAPSHOT", file)]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("it is no snapshot of Tollgate's; move it away"),
        "{text}"
    );
    let (code, text) = run(&[("EMBEDDED_SNAPSHOT", "/nowhere/at/all")]);
    assert_eq!(code, Some(1));
    assert!(text.contains("cannot be written"), "{text}");
    let (code, text) = run(&[("EMBEDDED_SNAPSHOT", file), ("REDIS_URL", "localhost:1")]);
    assert_eq!(code, Some(2));
    assert!(
        text.contains("EMBEDDED_SNAPSHOT is for the embedded store"),
        "{text}"
    );
}
