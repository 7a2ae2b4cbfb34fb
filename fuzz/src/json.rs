//! The bodies of `/json`, and the same asked of `POST /check`.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use tollgate::admin::Access;
use tollgate::admin::api::PREFIX;

use super::world;

/// A body.
pub fn run(data: &[u8]) {
    let http = world::http(world::engine(), Access::default());
    let ask = |path: &str| {
        let request = Request::post(path).header("host", "localhost");
        let request = request.header("content-type", "application/json");
        let request = request.body(Body::from(data.to_vec())).expect("a request");
        world::wait(world::ask(&http, request))
    };
    let (supposed, _) = ask(&format!("{PREFIX}/check"));
    let (decided, body) = ask("/json");
    // What is refused or passes is said as JSON; all else is the asker's fault, and both say so.
    let known = [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS].contains(&decided);
    assert_eq!(known, supposed == StatusCode::OK);
    if known {
        serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
    } else {
        assert!(decided.is_client_error());
    }
}
