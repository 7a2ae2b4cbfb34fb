//! Of addresses and of nobody: what is exempt, the anonymous, tokens that say nothing, bans, lists.

use std::process::Command;

use serde_json::{Value, json};
use tollgate::time::Clock;

use super::{Caller, OWN, Product, refusal};
use crate::support::http::Reply;
use crate::support::poll;
use crate::support::token::bearer;

#[test]
fn what_is_exempt_is_never_charged_and_never_refused() {
    let product = Product::with(&[(
        "name: anonymous, requests_per_unit: 30, unit: minute",
        "name: anonymous, requests_per_unit: 2, unit: day",
    )]);
    let anonymous = product.anonymous("192.0.2.1");
    let free = ["/health", "/metrics", "/docs", "/docs/api/index.html"];
    for path in free {
        assert_eq!(anonymous.code(path), 200, "{path}");
    }
    poll::until("the limit", || (anonymous.code("/") == 429).then_some(()));
    for path in free {
        let reply = anonymous.get(path);
        assert_eq!(reply.code, 200, "{path}");
        assert_eq!(reply.all("ratelimit").len(), 0);
    }
    for path in ["/healthy", "/docs/../x", "/docs/%2e%2e/x", "/docs/./../x"] {
        assert_eq!(anonymous.code(path), 429, "{path}");
    }
    let asked = || {
        product
            .0
            .tollgate
            .metric("ratelimit_service_total_requests")
    };
    let before = asked();
    let origin = ("origin", "https://app.example.com");
    let preflight = [origin, ("access-control-request-method", "POST")];
    for path in ["/", "/batch", "/api/v1/chat/send"] {
        let reply = anonymous.send("OPTIONS", path, &preflight);
        assert_eq!(reply.code, 200, "{path}");
        assert_eq!(reply.one("access-control-allow-origin"), origin.1);
        assert_eq!(anonymous.send("OPTIONS", path, &[]).code, 204, "{path}");
        let foreign = [("origin", "https://example.net"), preflight[1]];
        let reply = anonymous.send("OPTIONS", path, &foreign);
        assert_eq!(reply.all("access-control-allow-origin").len(), 0);
    }
    assert_eq!(asked(), before, "Tollgate was not asked");
    // A page may read why it was refused, and when it may try again.
    let reply = anonymous.send("GET", "/", &[origin]);
    refusal(&reply, "rate_limit_exceeded");
    assert!(
        reply
            .one("access-control-expose-headers")
            .contains("retry-after")
    );
}

#[test]
fn addresses_are_limited_and_the_anonymous_more() {
    let product = Product::start();
    let anonymous = product.anonymous("192.0.2.1");
    let codes: Vec<u16> = (0..61).map(|_| anonymous.code("/")).collect();
    assert!(codes[..30].iter().all(|code| *code == 200), "{codes:?}");
    assert!(codes.contains(&429), "{codes:?}");
    assert_eq!(product.anonymous("192.0.2.2").code("/"), 200);
    assert_eq!(product.anonymous(OWN).passes(300, "/").0, 300);
    // Only a verified token makes somebody of nobody.
    let spoofed = [
        ("x-user-id", "root"),
        ("x-user-tier", "enterprise"),
        ("x-caller", "root"),
        ("x-app-id", "app"),
        ("x_user_id", "root"),
        ("authorization", "bearer x"),
    ];
    poll::until("the limit", || (anonymous.code("/") == 429).then_some(()));
    let reply = anonymous.send("GET", "/", &spoofed);
    assert_eq!(refusal(&reply, "rate_limit_exceeded")["limit"], 30);
    let reply = product.anonymous("192.0.2.3").send("GET", "/", &spoofed);
    let head = reply.body.to_lowercase();
    for name in ["x-user", "x_user", "x-caller", "authorization"] {
        assert!(!head.contains(name), "{reply:?}");
    }
    let user = product.user("alice", "enterprise").at("192.0.2.1");
    let (passed, secs) = user.passes(400, "/");
    let refilled = (secs * 100.0).ceil() as usize;
    assert!(
        (200..=200 + refilled).contains(&passed),
        "{passed} in {secs} s"
    );
}

#[test]
fn a_bad_token_is_refused_and_one_of_the_script_is_not() {
    let product = Product::start();
    let code = |claims: Value| product.with_token(&claims).code("/");
    assert_eq!(code(json!({"sub": "alice", "exp": 1})), 401);
    assert_eq!(code(json!({"sub": "alice", "aud": "other"})), 403);
    assert_eq!(
        code(json!({"sub": "alice", "iss": "https://example.net"})),
        401
    );
    let good = bearer(&json!({"sub": "alice"}));
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    let caller = |token: String| Caller {
        token: Some(token),
        ..product.anonymous("192.0.2.1")
    };
    assert_eq!(caller(forged).code("/"), 401);
    // Without anybody in it a token is good for nothing.
    for claims in [json!({}), json!({"sub": ""}), json!({"tier": "enterprise"})] {
        let reply = caller(bearer(&claims)).get("/");
        assert!(
            reply.one("ratelimit-policy").starts_with("\"anonymous\""),
            "{claims}"
        );
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/token");
    let output = Command::new(script)
        .args(["sub=bob", "tier=pro"])
        .output()
        .expect("the script runs");
    assert!(output.status.success(), "{output:?}");
    let token = String::from_utf8(output.stdout).expect("text");
    let reply = caller(format!("Bearer {}", token.trim())).get("/");
    assert_eq!(reply.one("x-quota-tier"), "pro");
}

#[test]
fn an_address_is_banned_longer_each_time() {
    let product = Product::with(&[
        (
            "after: 10000, within: minute, for: 1h, max: 24h",
            "after: 5, within: minute, for: 1s, max: 2s",
        ),
        (
            "name: anonymous, requests_per_unit: 30, unit: minute",
            "name: anonymous, requests_per_unit: 2, unit: day",
        ),
        (
            "requests_per_unit: 100, unit: second, algorithm: token_bucket, burst: 200",
            "requests_per_unit: 3, unit: day",
        ),
    ]);
    let anonymous = product.anonymous("192.0.2.1");
    let error = |reply: &Reply| {
        let body: Option<Value> = serde_json::from_str(&reply.body).ok();
        body.map_or(Value::Null, |body| body["error"].clone())
    };
    let until_banned = |caller: &Caller<'_>| {
        let ask = || Some(caller.get("/")).filter(|reply| error(reply) == "banned");
        refusal(&poll::until("a ban", ask), "banned")
    };
    let until_over = || {
        poll::until("the end of the ban", || {
            (error(&anonymous.get("/")) == "rate_limit_exceeded").then_some(())
        });
    };
    for (time, lasts) in [1, 2, 2].into_iter().enumerate() {
        let body = until_banned(&anonymous);
        assert_eq!(body["retry_after"], lasts, "{body}");
        assert_eq!(body["message"], "Requests from here are refused.");
        let other = format!("192.0.2.{}", 100 + time);
        assert_eq!(product.anonymous(&other).code("/"), 200, "others are not");
        until_over();
    }
    until_banned(&anonymous);
    poll::until("the ban on the list", || {
        let bans = product.manage("GET", "/bans", &Value::Null);
        (bans["items"][0]["entry"] == "remote_address=192.0.2.1").then_some(())
    });
    product.manage("DELETE", "/bans/remote_address=192.0.2.1", &Value::Null);
    until_over();
    // The limit of every address bans too, whoever calls.
    until_banned(&product.user("alice", "enterprise").at("192.0.2.2"));
}

#[test]
fn the_lists_have_the_last_word_until_they_end() {
    let product = Product::with(&[(
        "name: anonymous, requests_per_unit: 30",
        "name: anonymous, requests_per_unit: 1",
    )]);
    let until = moment(4);
    product.manage(
        "PUT",
        "/lists/deny/remote_address=192.0.2.1",
        &json!({"until": until, "note": "a test"}),
    );
    product.manage(
        "PUT",
        "/lists/allow/remote_address=198.51.100.7",
        &json!({}),
    );
    product.manage("PUT", "/lists/deny/user_id=mallory", &json!({}));
    let denied = product.anonymous("192.0.2.1");
    let reply = denied.get("/");
    let wait = refusal(&reply, "banned")["retry_after"]
        .as_u64()
        .expect("seconds");
    assert!((1..=4).contains(&wait), "{wait}");
    assert_eq!(
        product
            .user("alice", "enterprise")
            .at("192.0.2.1")
            .code("/"),
        429
    );
    poll::until("the end of the denial", || {
        (denied.code("/") == 200).then_some(())
    });
    assert_eq!(product.anonymous("198.51.100.7").passes(300, "/").0, 300);
    let reply = product.user("mallory", "enterprise").get("/");
    refusal(&reply, "banned");
    assert_eq!(reply.all("retry-after").len(), 0, "for ever");
}

/// In so many seconds from now, as the management API has it.
fn moment(secs: i64) -> String {
    let at = Clock::System.now().as_micros() + secs * 1_000_000;
    let at = jiff::Timestamp::from_microsecond(at).expect("a moment");
    at.to_string()
}
