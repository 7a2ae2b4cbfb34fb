//! The file of the embedded store: any bytes as they are, and as what a file holds between its head and its digest, which are
//! made to fit. What is read can be written and read again.

use std::path::Path;

use ring::digest::{SHA256, digest};
use tollgate::store::embedded::Embedded;
use tollgate::time::Clock;

use super::world::NOW;

/// The mark and the version of every file.
const HEAD: &[u8] = b"TOLLGATE\x01\0\0\0";

/// The most keys of the store.
const KEYS: usize = 1 << 10;

/// What a file holds: the secret, then its parts.
pub fn run(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("snapshot");
    let _ = load(&path, data);
    let mut file = [HEAD, data].concat();
    let sum = digest(&SHA256, &file);
    file.extend(sum.as_ref());
    let Some(store) = load(&path, &file) else {
        return;
    };
    store.save(&path).expect("written");
    let (clock, _) = Clock::manual(NOW);
    let again = Embedded::load(&path, KEYS, clock).expect("what was written can be read");
    assert_eq!(again.len(), store.len());
}

fn load(path: &Path, file: &[u8]) -> Option<Embedded> {
    std::fs::write(path, file).expect("a file");
    let (clock, _) = Clock::manual(NOW);
    match Embedded::load(path, KEYS, clock) {
        Ok(store) => Some(store),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}
