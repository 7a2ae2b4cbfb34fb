//! The rules of a side: a directory, a file, or either as a revision of git has it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::reload::Source;
use crate::reload::source::{MAX_FILES, MAX_TOTAL, is_rule_file};
use crate::rules::file::{MAX_BYTES, SourceFile};

/// What stands for no rules at all, as for other programs that compare files.
const NOTHING: &str = "/dev/null";

/// A file of a revision.
struct Blob {
    id: String,
    size: u64,
    name: String,
}

/// The rule files of a directory, a file, or `REVISION:PATH`; the error is what to tell.
pub(super) fn read(side: &str) -> Result<Vec<SourceFile>, String> {
    let path = Path::new(side);
    if side == NOTHING {
        return Ok(Vec::new());
    }
    if path.is_dir() {
        let source = Source {
            dir: path.to_owned(),
            ignore_dotfiles: false,
        };
        let read = source.read().map_err(|error| error.to_string())?;
        return Ok(read.files);
    }
    let is_there = fs::exists(path).unwrap_or(true);
    match side.split_once(':') {
        Some((revision, _)) if !is_there && !revision.is_empty() => of_revision(side),
        _ => of_file(path),
    }
}

fn of_file(path: &Path) -> Result<Vec<SourceFile>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_BYTES as u64 {
        return Err(too_large(&path.display().to_string()));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let name = path.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    Ok(vec![SourceFile { name, text }])
}

fn too_large(name: &str) -> String {
    format!("{name} is larger than {MAX_BYTES} bytes")
}

fn of_revision(side: &str) -> Result<Vec<SourceFile>, String> {
    let kind = git(side, &["cat-file", "-t", side])?;
    let blobs = match kind.trim_ascii() {
        b"blob" => {
            let id = git(side, &["rev-parse", "--verify", side])?;
            let size = git(side, &["cat-file", "-s", side])?;
            let name = side.rsplit(['/', ':']).next().unwrap_or_default();
            vec![Blob {
                id: text(&id),
                size: text(&size).parse().unwrap_or(u64::MAX),
                name: name.to_owned(),
            }]
        }
        _ => {
            let listed = git(side, &["ls-tree", "-r", "-l", "-z", "--full-tree", side])?;
            let lines = listed
                .split(|byte| *byte == 0)
                .filter(|line| !line.is_empty());
            lines
                .filter_map(|line| blob(side, line).transpose())
                .collect::<Result<_, _>>()?
        }
    };
    if blobs.len() > MAX_FILES {
        return Err(format!("{side} has more than {MAX_FILES} files"));
    }
    if let Some(large) = blobs.iter().find(|blob| blob.size > MAX_BYTES as u64) {
        return Err(too_large(&format!("{side}/{}", large.name)));
    }
    if blobs.iter().map(|blob| blob.size).sum::<u64>() > MAX_TOTAL {
        return Err(format!("{side} has more than {MAX_TOTAL} bytes"));
    }
    let is_one = kind.trim_ascii() == b"blob";
    let mut files = contents(side, &blobs)?;
    files.retain(|file| is_one || is_rule_file(Path::new(&file.name), &file.text));
    files.sort_by(|a, b| Path::new(&a.name).cmp(Path::new(&b.name)));
    Ok(files)
}

/// A line of `git ls-tree -l`: mode, type, object, size, a tab, and the name. None if it is no file that may have rules.
fn blob(side: &str, line: &[u8]) -> Result<Option<Blob>, String> {
    let line = String::from_utf8_lossy(line);
    let strange = || format!("{side}: git says {line}");
    let (about, name) = line.split_once('\t').ok_or_else(strange)?;
    let parts: Vec<&str> = about.split_whitespace().collect();
    let &[mode, kind, id, size] = parts.as_slice() else {
        return Err(strange());
    };
    // A name may be of a rule file by what is in it, which is looked at later.
    let hidden = name.split('/').any(|part| part.starts_with(".."));
    let may_be = is_rule_file(Path::new(name), "domain:");
    if kind != "blob" || hidden || !may_be {
        return Ok(None);
    }
    if mode == "120000" {
        return Err(format!(
            "{side}: {name} is a symbolic link, which is not followed in a revision; `git worktree add` has the files"
        ));
    }
    Ok(Some(Blob {
        id: id.to_owned(),
        size: size.parse().map_err(|_| strange())?,
        name: name.to_owned(),
    }))
}

/// What is in the files.
fn contents(side: &str, blobs: &[Blob]) -> Result<Vec<SourceFile>, String> {
    let failed = |error: std::io::Error| format!("{side}: git: {error}");
    let mut child = command(&["cat-file", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let files = exchange(&mut child, blobs);
    // It ends when it has nothing more to read.
    child.wait().map_err(failed)?;
    files.map_err(failed)
}

fn exchange(child: &mut Child, blobs: &[Blob]) -> std::io::Result<Vec<SourceFile>> {
    let (Some(mut asks), Some(tells)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    };
    let mut tells = BufReader::new(tells);
    let mut files = Vec::with_capacity(blobs.len());
    for blob in blobs {
        writeln!(asks, "{}", blob.id)?;
        asks.flush()?;
        let mut head = String::new();
        tells.by_ref().take(MOST_HEAD).read_line(&mut head)?;
        let size = head
            .trim_end()
            .rsplit(' ')
            .next()
            .and_then(|size| size.parse::<u64>().ok());
        let size = size.filter(|size| *size == blob.size);
        let size = size.ok_or_else(|| std::io::Error::other(format!("it says {head}")))?;
        let mut text = String::new();
        tells.by_ref().take(size).read_to_string(&mut text)?;
        // And a line's end.
        tells.by_ref().take(1).read_exact(&mut [0])?;
        let name = blob.name.clone();
        files.push(SourceFile { name, text });
    }
    Ok(files)
}

/// The longest line before a file's content, in bytes.
const MOST_HEAD: u64 = 256;

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output.trim_ascii()).into_owned()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).env("LC_ALL", "C");
    command
}

/// What git says; the error is what to tell.
fn git(side: &str, arguments: &[&str]) -> Result<Vec<u8>, String> {
    let output = command(arguments).stdin(Stdio::null()).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output
        .map_err(|error| format!("{side}: neither a file nor a directory, and git: {error}"))?;
    if status.success() {
        return Ok(stdout);
    }
    let said = text(&stderr);
    let said = said.lines().next().unwrap_or_default();
    let said = said.trim_start_matches("fatal: ");
    let help = match () {
        () if said.contains("not a git repository") => "",
        () if said.contains("does not exist in") => "; /dev/null stands for no rules",
        () => "; is it fetched? `git fetch origin BRANCH`, or `fetch-depth: 0` of actions/checkout",
    };
    Err(format!(
        "{side}: neither a file nor a directory, and git says: {said}{help}"
    ))
}
