//! Calls of the management API, one after the other.

use axum::body::Body;
use axum::http::{Method, Request, Uri};
use bytes::Bytes;
use tollgate::admin::Access;
use tollgate::admin::api::PREFIX;

use super::world;

/// Begins another call.
const NEXT: &[u8] = b"\n===\n";

/// The most calls.
const CALLS: usize = 16;

/// Calls: of each a method and a path, then on a line of its own the body.
pub fn run(data: &[u8]) {
    let http = world::http(world::engine(), Access::default());
    let mut rest = data;
    for _ in 0..CALLS {
        let end = rest.windows(NEXT.len()).position(|here| here == NEXT);
        let call = &rest[..end.unwrap_or(rest.len())];
        if let Some(request) = request(call) {
            let asked_for_head = request.method() == Method::HEAD;
            let (status, body) = world::wait(world::ask(&http, request));
            assert!(!status.is_informational());
            if asked_for_head {
                // RFC 9110, 9.3.2: no content, whatever the status.
                assert!(body.is_empty());
            } else {
                assert!(!status.is_client_error() || !body.is_empty() || status == 404);
            }
        }
        let Some(end) = end else { return };
        rest = &rest[end + NEXT.len()..];
    }
}

fn request(call: &[u8]) -> Option<Request<Body>> {
    let end = call.iter().position(|byte| *byte == b'\n');
    let (head, body) = call.split_at(end.unwrap_or(call.len()));
    let space = head.iter().position(|byte| *byte == b' ')?;
    let path = [PREFIX.as_bytes(), &head[space + 1..]].concat();
    let path = Uri::from_maybe_shared(Bytes::from(path)).ok()?;
    let body = body.get(1..).unwrap_or_default().to_vec();
    let request = Request::builder().method(&head[..space]).uri(path);
    let request = request.header("host", "localhost");
    request.body(Body::from(body)).ok()
}
