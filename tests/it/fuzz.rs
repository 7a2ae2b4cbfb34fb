//! What the fuzzer begins with, and all that it ever found: each file under `fuzz/seeds` is read as `fuzz/run` has it read.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use tollgate::store::redis::untrusted;

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "the targets use it from another crate")]
mod entries;

use entries::{
    api, capture, directory, json, redis, request, rules, snapshot, tokens, value, values,
};

/// A target, and what it does with the bytes of a file.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 11] = [
    ("api", api::run),
    ("capture", capture::run),
    ("directory", directory::run),
    ("json", json::run),
    ("redis", redis::run),
    ("request", request::run),
    ("rules", rules::run),
    ("snapshot", snapshot::run),
    ("tokens", tokens::run),
    ("value", value::run),
    ("values", values::run),
];

#[test]
fn every_seed_is_stood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (name, run) in TARGETS {
        assert!(
            root.join("targets").join(format!("{name}.rs")).exists(),
            "{name}"
        );
        let seeds = fs::read_dir(root.join("seeds").join(name)).expect(name);
        let mut count = 0;
        for seed in seeds {
            let path = seed.expect("a file").path();
            // If this is the last line, it is what panics.
            println!("{}", path.display());
            run(&fs::read(&path).expect("a file"));
            count += 1;
        }
        assert!(count > 0, "{name} has no seeds");
    }
}

/// Those of another version would be refused by their first byte, and the fuzzer would begin with nothing.
#[test]
fn every_seed_of_a_value_is_one() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for seed in fs::read_dir(seeds.join("value")).expect("seeds") {
        let path = seed.expect("a file").path();
        let bytes = fs::read(&path).expect("a file");
        let record = untrusted::record(Bytes::copy_from_slice(&bytes[value::HEAD..]));
        let record = record.unwrap_or_else(|| panic!("{}", path.display()));
        assert!(!record.slots.is_empty() || path.ends_with("nothing"));
    }
    // The time, and how long the one value is.
    let before = fs::read(seeds.join("redis/a-before")).expect("a file");
    assert!(untrusted::record(Bytes::copy_from_slice(&before[10..])).is_some());
}

#[test]
fn every_target_is_run() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets");
    assert_eq!(
        fs::read_dir(targets).expect("targets").count(),
        TARGETS.len()
    );
}
