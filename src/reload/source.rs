//! The rule files of a directory.

use std::fs::{self, Metadata};
use std::hash::Hash;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::rules::file::{MAX_BYTES, SourceFile};

/// The most files of a directory.
pub const MAX_FILES: usize = 10_000;
/// The most bytes of all of them.
pub const MAX_TOTAL: u64 = 4 * MAX_BYTES as u64;
/// How deep directories are nested.
pub const MAX_DEPTH: usize = 16;

/// A directory of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The directory; its files are read recursively.
    pub dir: PathBuf,
    /// Whether files whose names begin with a dot are left out. Those that begin with two, as Kubernetes makes them beside
    /// the files of a ConfigMap, always are.
    pub ignore_dotfiles: bool,
}

/// The files of a directory.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// In the order of their names.
    pub files: Vec<SourceFile>,
    /// Files that are no rule files.
    pub ignored: Vec<PathBuf>,
    /// Files of tests, whose names end in `.test.yaml`: they say what the rules are to do, and are not read here.
    pub tests: Vec<PathBuf>,
}

/// What a directory looks like without reading its rule files; a change of them changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Each rule file.
    Files(Vec<Seen>),
    /// It cannot be looked at.
    Unreadable(io::ErrorKind),
}

/// What a file looks like without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
    identity: Identity,
}

/// The inode, and when anything of it changed: the time of its content can be set back, this one cannot, and it also shows
/// that permissions changed.
type Identity = (u64, i64, i64);

/// What cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file or directory.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No rule file.
    #[error("{} has no rule files: their names end in .yaml or .yml", .0.display())]
    Empty(PathBuf),
    /// More than [`MAX_FILES`].
    #[error("{} has more than {MAX_FILES} files", .0.display())]
    TooMany(PathBuf),
    /// A file larger than [`MAX_BYTES`].
    #[error("{} is larger than {MAX_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    /// Files of more than [`MAX_TOTAL`] together.
    #[error("{} has more than {MAX_TOTAL} bytes", .0.display())]
    TooMuch(PathBuf),
}

impl Source {
    /// Reads all files.
    pub fn read(&self) -> Result<Read, SourceError> {
        let mut read = Read::default();
        let mut total = 0;
        for (path, metadata) in self.list()? {
            if is_test_file(&path) {
                read.tests.push(path);
                continue;
            }
            if !may_be_rule_file(&path) || (path.extension().is_none() && !has_domain(&path)) {
                read.ignored.push(path);
                continue;
            }
            if metadata.len() > MAX_BYTES as u64 {
                return Err(SourceError::TooLarge(path));
            }
            total += metadata.len();
            if total > MAX_TOTAL {
                return Err(SourceError::TooMuch(self.dir.clone()));
            }
            let name = path.strip_prefix(&self.dir).unwrap_or(&path);
            read.files.push(file(&path, name)?);
        }
        Ok(read)
    }

    /// Reads the one file that stands in place of a directory, whatever its name is.
    pub fn read_file(&self) -> Result<Read, SourceError> {
        let size = fs::metadata(&self.dir)
            .map_err(|error| SourceError::io(&self.dir, error))?
            .len();
        if size > MAX_BYTES as u64 {
            return Err(SourceError::TooLarge(self.dir.clone()));
        }
        let name = self.dir.file_name().unwrap_or_default();
        let file = file(&self.dir, Path::new(name))?;
        Ok(Read {
            files: vec![file],
            ..Read::default()
        })
    }

    /// Looks at the directory.
    pub fn look(&self) -> Look {
        match self.list() {
            Ok(files) => Look::Files(
                files
                    .into_iter()
                    .filter(|(path, _)| may_be_rule_file(path))
                    .map(|(path, metadata)| Seen {
                        path,
                        size: metadata.len(),
                        modified: metadata.modified().ok(),
                        identity: identity(&metadata),
                    })
                    .collect(),
            ),
            Err(SourceError::Io { error, .. }) => Look::Unreadable(error.kind()),
            Err(
                SourceError::Empty(_)
                | SourceError::TooMany(_)
                | SourceError::TooLarge(_)
                | SourceError::TooMuch(_),
            ) => Look::Unreadable(io::ErrorKind::Other),
        }
    }

    /// All files, in the order of their names; symbolic links are followed.
    fn list(&self) -> Result<Vec<(PathBuf, Metadata)>, SourceError> {
        let mut files = Vec::new();
        self.walk(&self.dir, 0, &mut files)?;
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(files)
    }

    fn walk(
        &self,
        dir: &Path,
        depth: usize,
        files: &mut Vec<(PathBuf, Metadata)>,
    ) -> Result<(), SourceError> {
        let failed = |error| SourceError::io(dir, error);
        for item in fs::read_dir(dir).map_err(failed)? {
            let item = item.map_err(failed)?;
            let name = item.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("..") || (self.ignore_dotfiles && name.starts_with('.')) {
                continue;
            }
            let path = item.path();
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(SourceError::io(&path, error)),
            };
            if metadata.is_dir() && depth < MAX_DEPTH {
                self.walk(&path, depth + 1, files)?;
            } else if metadata.is_file() {
                if files.len() >= MAX_FILES {
                    return Err(SourceError::TooMany(self.dir.clone()));
                }
                files.push((path, metadata));
            }
        }
        Ok(())
    }
}

/// What is not UTF-8 in a file is refused where its text is parsed, with its place and beside whatever else is wrong.
fn file(path: &Path, name: &Path) -> Result<SourceFile, SourceError> {
    let bytes = fs::read(path).map_err(|error| SourceError::io(path, error))?;
    Ok(SourceFile {
        name: name.display().to_string(),
        text: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

impl Read {
    /// Differs when the name or the text of any file does.
    pub fn fingerprint(&self) -> u128 {
        let mut hasher = SipHasher13::new();
        for file in &self.files {
            (&file.name, &file.text).hash(&mut hasher);
        }
        hasher.finish128().as_u128()
    }
}

impl SourceError {
    fn io(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        SourceError::Io { path, error }
    }
}

/// Whether a file has tests of the rules beside it.
fn is_test_file(path: &Path) -> bool {
    let tests = path.file_stem().map(Path::new);
    let is_test = tests
        .and_then(Path::extension)
        .is_some_and(|tests| tests == "test");
    is_test && is_yaml(path)
}

/// By its name alone. The keys of a ConfigMap are often without an extension, and so is many a note.
fn may_be_rule_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    let is_hidden = name.as_encoded_bytes().starts_with(b".");
    match path.extension() {
        Some(_) => is_yaml(path) && !is_test_file(path),
        None => !is_hidden,
    }
}

fn is_yaml(path: &Path) -> bool {
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_lowercase());
    matches!(extension.as_deref(), Some("yaml" | "yml"))
}

/// Whether a line of the file names a domain, as one of each rule file does.
fn has_domain(path: &Path) -> bool {
    let is_small = fs::metadata(path).is_ok_and(|file| file.len() <= MAX_BYTES as u64);
    let text = is_small.then(|| fs::read_to_string(path).ok()).flatten();
    text.is_some_and(|text| names_domain(&text))
}

fn names_domain(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("domain:"))
}

/// Whether a file that is not in a directory, but elsewhere, would be read as rules.
pub fn is_rule_file(path: &Path, text: &str) -> bool {
    may_be_rule_file(path) && (path.extension().is_some() || names_domain(text))
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn identity(_metadata: &Metadata) -> Identity {
    (0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> (tempfile::TempDir, Source) {
        let dir = tempfile::TempDir::new().expect("a directory");
        let source = Source {
            dir: dir.path().to_owned(),
            ignore_dotfiles: false,
        };
        (dir, source)
    }

    /// A file of so many zeros that takes no room.
    fn file(dir: &tempfile::TempDir, name: &str, bytes: usize) {
        let file = fs::File::create(dir.path().join(name)).expect("a file");
        file.set_len(bytes as u64).expect("a length");
    }

    #[test]
    fn a_file_without_an_extension_is_one_if_it_names_a_domain() {
        let (dir, source) = source();
        for (name, text) in [
            ("edge", "# limits\ndomain: edge\n"),
            ("README", "The domain: edge\n"),
            ("old.bak", "domain: edge\n"),
            (".edge", "domain: edge\n"),
        ] {
            fs::write(dir.path().join(name), text).expect("a file");
        }
        fs::write(dir.path().join("noise"), [0xff, 0xfe]).expect("a file");
        let read = source.read().expect("the files");
        let names: Vec<_> = read.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["edge"]);
        assert_eq!(read.ignored.len(), 4);
    }

    #[test]
    fn files_are_bounded_in_number() {
        let (dir, source) = source();
        for n in 0..MAX_FILES {
            file(&dir, &format!("{n}.yaml"), 0);
        }
        let read = source.read().expect("as many as may be");
        assert_eq!(read.files.len(), MAX_FILES);
        file(&dir, "beyond.yaml", 0);
        assert!(matches!(source.read(), Err(SourceError::TooMany(_))));
    }

    #[test]
    fn files_are_bounded_in_size_each_and_together() {
        let (dir, source) = source();
        file(&dir, "a.yaml", MAX_BYTES + 1);
        assert!(matches!(source.read(), Err(SourceError::TooLarge(_))));
        file(&dir, "a.yaml", 1);
        for name in ["b.yaml", "c.yaml", "d.yaml", "e.yaml"] {
            file(&dir, name, MAX_BYTES);
        }
        assert!(matches!(source.read(), Err(SourceError::TooMuch(_))));
    }
}
