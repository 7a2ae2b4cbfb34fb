//! What the directory has kept in a store, which others may have written: a standing, an item and a change, all of the same bytes.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use tollgate::admin::Access;
use tollgate::admin::api::PREFIX;
use tollgate::engine::key;
use tollgate::grpc::wire;
use tollgate::rules::Entry;
use tollgate::store::book::Shelf;

use super::{request, world};

/// The bytes that the store has.
pub fn run(data: &[u8]) {
    let engine = world::engine();
    let (text, shelf) = (Bytes::copy_from_slice(data), Shelf::new(""));
    let subject = Entry {
        key: "user",
        value: "alice",
    };
    let key = engine.with_rules(|rules| key::standing("", &rules.domains["d"], subject));
    let key = key.expect("rules");
    let message = wire::message("d", 1, [vec![("user".to_owned(), "alice".to_owned())]]);
    let asks = [
        ("GET", "/quota/alice"),
        ("GET", "/lists"),
        ("GET", "/bans"),
        ("GET", "/quota/alice/plan"),
        ("PUT", "/quota/alice/plan"),
        ("DELETE", "/quota/alice/plan"),
    ];
    world::wait(async {
        let (store, within) = (engine.store(), Duration::from_secs(1));
        let kept = store.replace_text(&key, None, Some(&text), None, within);
        assert!(kept.await.expect("an answer"));
        let set = store.set_item(&shelf, "id", Some(&text), within);
        set.await.expect("set");
        engine.ping_store().await.expect("an answer");
        let told = store.announce(&shelf, text.clone(), within);
        told.await.expect("told");
        engine.ping_store().await.expect("an answer");
        let http = world::http(Arc::clone(&engine), Access::default());
        for (method, path) in asks {
            let body = Body::from(r#"{"plan": "free"}"#);
            let path = format!("{PREFIX}{path}?domain=d");
            let ask = Request::builder().method(method).uri(path).body(body);
            world::ask(&http, ask.expect("a request")).await;
        }
    });
    request::decide(&engine, &message);
}
