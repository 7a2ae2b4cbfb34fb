//! Who may do what: tokens from files for readers and administrators, or loopback alone. Each change leaves a line behind.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, header};
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tracing::{error, info};

use super::{PREFIX, Problem};
use crate::admin::listen::Peer;
use crate::time::Clock;

/// The largest file of tokens that is read, in bytes.
pub const MAX_FILE: u64 = 1 << 20;

/// Who may do what.
#[derive(Debug, Default)]
pub struct Access {
    readers: Option<PathBuf>,
    administrators: Option<PathBuf>,
    audit: Option<PathBuf>,
    /// One line at a time.
    writing: Mutex<()>,
}

impl Access {
    /// Tokens from files, one a line, `#` before comments. Without any file the API answers on loopback only. Changes are
    /// written to `audit`, or to the log.
    pub fn new(
        readers: Option<PathBuf>,
        administrators: Option<PathBuf>,
        audit: Option<PathBuf>,
    ) -> Self {
        Self {
            readers,
            administrators,
            audit,
            writing: Mutex::default(),
        }
    }

    /// What is wrong with the files, if anything.
    pub fn trouble(&self) -> Option<String> {
        let files = [
            ("API_READ_TOKENS", &self.readers),
            ("API_ADMIN_TOKENS", &self.administrators),
        ];
        let wrong = files.into_iter().find_map(|(name, path)| {
            let path = path.as_ref()?;
            let error = tokens(path).err()?;
            Some(format!("{name}={}: {error}", path.display()))
        });
        wrong.or_else(|| {
            let path = self.audit.as_ref()?;
            let error = OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .err()?;
            Some(format!("AUDIT_LOG={}: {error}", path.display()))
        })
    }

    /// Whether a call is allowed. What is only read needs a reader's token or an administrator's, a change an administrator's.
    pub(super) fn check(&self, request: &Request) -> Result<(), Problem> {
        if self.readers.is_none() && self.administrators.is_none() {
            return check_local(request);
        }
        let Some(token) = bearer(request.headers()) else {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "a bearer token is needed",
            ));
        };
        if self
            .administrators
            .as_deref()
            .is_some_and(|file| has(file, token))
        {
            return Ok(());
        }
        let reader = self.readers.as_deref().is_some_and(|file| has(file, token));
        let changes = request.method() != Method::GET
            && request.method() != Method::HEAD
            && !["/check", "/explain"].contains(&request.uri().path().trim_start_matches(PREFIX));
        match (reader, changes) {
            (true, false) => Ok(()),
            (true, true) => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "changes need an administrator's token",
            )),
            (false, _) => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "the token is not known",
            )),
        }
    }

    /// Writes a line about a change: who, when, what.
    pub(super) fn audit(&self, headers: &HeaderMap, action: &str, what: &Value) {
        let at = super::as_moment(Clock::System.now().as_micros());
        let by = bearer(headers).map_or_else(|| "loopback".to_owned(), name_of);
        let line = json!({"at": at, "by": by, "action": action, "what": what}).to_string();
        let Some(path) = &self.audit else {
            info!(target: "tollgate::audit", "{line}");
            return;
        };
        let _one = self.writing.lock();
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        if let Err(problem) = written {
            error!(
                "the audit log {} cannot be written: {problem}; {line}",
                path.display()
            );
        }
    }
}

/// What a proxy adds: whoever asks is elsewhere.
const FORWARDED: [&str; 5] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Without tokens only this machine may ask: nobody through a proxy that runs on it, and no web page that a browser shows,
/// be it one whose name has come to mean this machine.
fn check_local(request: &Request) -> Result<(), Problem> {
    let peer = request.extensions().get::<Peer>();
    let local = peer.is_some_and(|Peer(address)| address.ip().to_canonical().is_loopback());
    let headers = request.headers();
    let is_forwarded = FORWARDED.iter().any(|name| headers.contains_key(*name));
    let is_page = headers.contains_key(header::ORIGIN) || !is_asked_as_local(headers);
    if !local || is_forwarded || is_page {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "without API_READ_TOKENS and API_ADMIN_TOKENS the API answers on loopback only",
        ));
    }
    Ok(())
}

/// Whether the caller calls this machine by a name that no other has.
fn is_asked_as_local(headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let authority: Option<Authority> = host.and_then(|host| host.parse().ok());
    authority.is_some_and(|authority| {
        let host = authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = bare.parse().ok();
        host.eq_ignore_ascii_case("localhost")
            || address.is_some_and(|address| address.to_canonical().is_loopback())
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// Tells tokens apart in the audit log without telling them.
fn name_of(token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    let hex = |byte: &u8| format!("{byte:02x}");
    let name: String = hash.as_ref()[..6].iter().map(hex).collect();
    format!("token {name}")
}

/// Digests are compared, of each token all bytes, so that the time it takes says nothing of the tokens.
fn has(file: &Path, token: &str) -> bool {
    let asked = digest(&SHA256, token.as_bytes());
    let known = tokens(file).unwrap_or_else(|problem| {
        error!("the tokens in {} cannot be read: {problem}", file.display());
        Vec::new()
    });
    known.iter().fold(false, |found, known| {
        let known = digest(&SHA256, known.as_bytes());
        let pairs = known.as_ref().iter().zip(asked.as_ref());
        let apart = pairs.fold(0, |apart, (a, b)| black_box(apart | (a ^ b)));
        found | (apart == 0)
    })
}

fn tokens(file: &Path) -> std::io::Result<Vec<String>> {
    let mut text = String::new();
    std::fs::File::open(file)?
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)?;
    // What is cut off may be half a token, and half of one must not do.
    if text.len() as u64 > MAX_FILE {
        let reason = format!("more than {MAX_FILE} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, reason));
    }
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}
