//! One resource has one path, however it is written: nobody comes past roles and limits by spelling.

use serde_json::json;

use super::Whole;
use crate::support::token::bearer;

/// Each way to write a path that some server or other takes for `/admin`.
const WRITINGS: [&str; 35] = [
    "/admin",
    "/admin/",
    "/admin/users?x=/docs",
    "//admin",
    "///admin//users",
    "/./admin",
    "/docs/../admin",
    "/docs/./../admin",
    "/docs/%2e%2e/admin",
    "/docs/%2E%2E/admin",
    "/docs/.%2e/admin",
    "/docs/..%2fadmin",
    "/docs/%2e%2e%2fadmin",
    "/docs%2f..%2fadmin",
    "/docs/..%5cadmin",
    "/docs/..\\admin",
    "\\admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/%2561dmin",
    "/docs/%252e%252e/admin",
    "/docs/..%252fadmin",
    "/docs/%c0%ae%c0%ae/admin",
    "/docs/..%c0%afadmin",
    "/docs/..;/admin",
    "/docs/..;x=y/admin",
    "/.;/admin",
    "/admin;x",
    "/admin;/docs",
    "/ADMIN",
    "/Admin/users",
    "/docs/..%2f/admin",
    "/admin%00",
    "/admin%09",
    "/%0d%0aadmin",
];

#[test]
fn no_writing_of_a_path_comes_past_its_role() {
    let whole = Whole::alone(&[]);
    for path in WRITINGS {
        let reply = whole.get(path, &[]);
        assert!([400, 403].contains(&reply.code), "{path}: {reply:?}");
    }
    let absolute = format!("http://{}/admin", whole.envoy.address);
    assert_eq!(whole.code(&absolute), 403, "{absolute}");
    assert_eq!(whole.asked(), [0; 4]);
    // Not too much is refused.
    for path in [
        "/caf%C3%A9",
        "/a%20b",
        "/a+b",
        "/100%25",
        "/a,b",
        "/users/@alice",
        "/?q=;%00",
    ] {
        assert_eq!(whole.code(path), 200, "{path}");
    }
}

/// A path is not redirected to how it should be written: that may begin with `//`, as another server's name does.
#[test]
fn no_writing_of_a_path_leads_elsewhere() {
    let whole = Whole::alone(&[]);
    for path in [
        "//x%2f..%2fexample.net",
        "//x%2f..%2f%2fexample.net",
        "//example.net%2f..",
        "/%2f%2fexample.net",
        "/%5c%5cexample.net",
        "/\\example.net%2f",
    ] {
        let reply = whole.get(path, &[]);
        assert_eq!(reply.all("location").len(), 0, "{path}: {reply:?}");
        let line = reply.body.lines().next().unwrap_or_default();
        assert!(reply.code != 200 || !line.contains("//"), "{path}: {line}");
    }
}

#[test]
fn a_limit_counts_each_writing_of_its_path() {
    let whole = Whole::start(&[]);
    let token = bearer(&json!({"sub": "alice", "tier": "enterprise"}));
    let policy = |path: &str| {
        let reply = whole.get(path, &[("authorization", &token)]);
        assert_eq!(reply.code, 200, "{path}: {reply:?}");
        reply.all("ratelimit-policy").join("")
    };
    let plain = policy("/api/v1/search");
    assert!(plain.contains("\"search\""), "{plain}");
    for path in [
        "/api/v1//search",
        "/api/v1/%73earch",
        "/docs/../api/v1/search",
        "/api/v1/search?x",
        "/docs/..;/api/v1/search",
    ] {
        assert_eq!(policy(path), plain, "{path}");
    }
}
