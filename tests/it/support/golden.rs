//! What is said, held against a file that was reviewed.

use std::fs;
use std::path::Path;

/// Fails if the file says something else; with `UPDATE_GOLDEN=1` writes it.
#[track_caller]
pub(crate) fn compare(path: &Path, said: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, said).expect("a file");
        return;
    }
    let wanted = fs::read_to_string(path).unwrap_or_default();
    let name = path.display();
    assert_eq!(
        said, wanted,
        "{name}: UPDATE_GOLDEN=1 writes what is said now"
    );
}
