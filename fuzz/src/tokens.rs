//! Files of tokens: each line lets in whoever brings it, and nothing else lets anybody in.

use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode};
use tollgate::admin::Access;
use tollgate::admin::api::PREFIX;

use super::world;

/// The most tokens that are tried.
const TRIED: usize = 4;

/// The file.
pub fn run(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("tokens");
    std::fs::write(&path, data).expect("a file");
    let access = Access::new(Some(path), None, None);
    let is_readable = access.trouble().is_none();
    assert_eq!(is_readable, std::str::from_utf8(data).is_ok());
    let http = world::http(world::without_rules(), access);
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let tried = lines.iter().take(TRIED).copied();
    for token in tried.chain(["", "#", "not in the file"]) {
        let Ok(header) = HeaderValue::from_str(&format!("Bearer {token}")) else {
            continue;
        };
        let is_one = !token.is_empty() && !token.starts_with('#') && lines.contains(&token);
        let ask = |method: &str| {
            let request = Request::builder().method(method);
            let request = request.uri(format!("{PREFIX}/lists"));
            let request = request.header("authorization", header.clone());
            let request = request.body(Body::empty()).expect("a request");
            world::wait(world::ask(&http, request)).0
        };
        let expected = if is_one && is_readable && header.to_str().is_ok() {
            StatusCode::OK
        } else {
            StatusCode::UNAUTHORIZED
        };
        assert_eq!(ask("GET"), expected, "{token:?}");
        assert_ne!(ask("PUT"), StatusCode::OK);
    }
}
