//! The page at `/`: what an operator wants to see first.
//!
//! It is three files that are part of the binary, and holds nothing itself: what it shows it asks of the management API, with
//! the token that whoever looks at it gives, so it is for nobody's eyes who may not ask. What it may do is said by a
//! `Content-Security-Policy`: run its own script, and ask where it came from; and of no text make elements.

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use axum::routing::get;

/// What the page may do.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// The routes of the page: path, content type, text.
pub const FILES: [(&str, &str, &str); 3] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("page/page.html"),
    ),
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("page/page.css"),
    ),
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("page/page.js"),
    ),
];

pub(super) fn routes() -> Router {
    FILES.into_iter().fold(Router::new(), |routes, file| {
        routes.route(file.0, get(async move || answer(file)))
    })
}

fn answer((_, kind, text): (&'static str, &'static str, &'static str)) -> impl IntoResponse {
    let own = |name: &'static str| HeaderName::from_static(name);
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version may run the next time.
        (header::CACHE_CONTROL, "no-cache"),
        (own("cross-origin-opener-policy"), "same-origin"),
        (own("cross-origin-resource-policy"), "same-origin"),
    ];
    (headers, text)
}
