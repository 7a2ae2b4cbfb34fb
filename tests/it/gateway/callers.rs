//! Who calls, and what they may: tokens, roles, headers that nobody but the gateway may send.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use serde_json::{Value, json};
use tollgate::time::Clock;

use super::Whole;
use crate::support::token::bearer;

fn with_roles(roles: &[&str]) -> String {
    bearer(&json!({"sub": "alice", "tier": "pro", "roles": roles}))
}

#[test]
fn a_role_opens_what_others_do_not_see() {
    let whole = Whole::start(&[]);
    let code = |method: &str, roles: &[&str]| {
        let token = with_roles(roles);
        whole
            .send(method, "/admin/users", &[("authorization", &token)])
            .code
    };
    for (roles, reads, writes) in [
        (&["admin"][..], 200, 200),
        (&["support"], 200, 403),
        (&["billing", "support"], 200, 403),
        (&["support", "admin"], 200, 200),
        (&["billing"], 403, 403),
        (&["administrator"], 403, 403),
        (&[""], 403, 403),
        (&[], 403, 403),
    ] {
        assert_eq!(code("GET", roles), reads, "{roles:?}");
        assert_eq!(code("DELETE", roles), writes, "{roles:?}");
    }
    let before = whole.decided();
    assert_eq!(whole.code("/admin"), 403, "nobody");
    // A claim that is no list of roles is none.
    for roles in [
        json!("admin"),
        json!({"admin": true}),
        json!(true),
        Value::Null,
    ] {
        let token = bearer(&json!({"sub": "alice", "roles": roles}));
        let reply = whole.get("/admin", &[("authorization", &token)]);
        assert_eq!(reply.code, 403, "{roles}");
    }
    assert_eq!(whole.decided(), before, "what is forbidden costs nothing");
}

#[test]
fn claims_become_descriptors() {
    let whole = Whole::start(&[]);
    let policy = |path: &str, claims: &Value| {
        let token = bearer(claims);
        let reply = whole.get(path, &[("authorization", &token)]);
        assert_eq!(reply.code, 200, "{reply:?}");
        reply.one("ratelimit-policy").replace('"', "")
    };
    let address = "address;q=100;w=1";
    for (claims, limits) in [
        (
            json!({"sub": "a", "tier": "free"}),
            "free_minute;q=100;w=60, free_month;q=10000;w=2592000",
        ),
        (
            json!({"sub": "b", "tier": "pro"}),
            "pro_minute;q=1000;w=60, pro_month;q=1000000;w=2592000",
        ),
        (
            json!({"app_id": "c"}),
            "app_minute;q=60;w=60, app_hour;q=1000;w=3600, app_day;q=10000;w=86400",
        ),
        (json!({"tier": "pro"}), "anonymous;q=30;w=60"),
    ] {
        assert_eq!(
            policy("/hello", &claims),
            format!("{limits}, {address}"),
            "{claims}"
        );
    }
    let support = json!({"sub": "a", "tier": "free", "roles": ["support"]});
    assert_eq!(
        policy("/admin/x", &support),
        format!("support;q=300;w=60, {address}")
    );
    let admin = json!({"sub": "a", "tier": "free", "roles": ["admin"]});
    assert_eq!(policy("/admin/x", &admin), address);
    let nobody = whole.get("/hello", &[]);
    let limits = nobody.one("ratelimit-policy").replace('"', "");
    assert_eq!(limits, format!("anonymous;q=30;w=60, {address}"));
}

/// Whatever is wrong with a token, it is refused, and never taken for none.
#[test]
fn a_bad_token_opens_nothing() {
    let whole = Whole::start(&[]);
    let before = whole.decided();
    let now = Clock::System.now().as_micros() / 1_000_000;
    let claims = json!({
        "iss": "https://id.example.com", "aud": "product", "exp": now + 3600,
        "sub": "alice", "tier": "enterprise", "roles": ["admin"],
    });
    let part = |value: &Value| BASE64.encode(value.to_string());
    let unsigned = |head: Value| format!("{}.{}", part(&head), part(&claims));
    let hmac = |head: Value, key: &[u8]| {
        let text = unsigned(head);
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        format!(
            "{text}.{}",
            BASE64.encode(hmac::sign(&key, text.as_bytes()))
        )
    };
    let good = with_roles(&["admin"]);
    let good = good.strip_prefix("Bearer ").expect("a token");
    let parts: Vec<&str> = good.split('.').collect();
    let signed = |claims: Value| bearer(&claims).split_off("Bearer ".len());
    let public = super::part("envoy/gateway.yaml", "envoy.filters.http.jwt_authn");
    let keys = public["providers"]["id"]["local_jwks"]["inline_string"]
        .as_str()
        .expect("keys");
    let modulus = keys
        .split("\"n\": \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .expect("a key");
    let bad = [
        (
            "expired",
            signed(json!({"sub": "alice", "exp": now - 3600})),
        ),
        (
            "without an end",
            signed(json!({"sub": "alice", "exp": null})),
        ),
        (
            "not yet",
            signed(json!({"sub": "alice", "nbf": now + 3600})),
        ),
        (
            "of another issuer",
            signed(json!({"sub": "alice", "iss": "https://example.net"})),
        ),
        ("of no issuer", signed(json!({"sub": "alice", "iss": null}))),
        (
            "for another",
            signed(json!({"sub": "alice", "aud": "other"})),
        ),
        (
            "forged",
            format!(
                "{}.{}.{}AAAA",
                parts[0],
                parts[1],
                &parts[2][..parts[2].len() - 4]
            ),
        ),
        (
            "of another's signature",
            format!("{}.{}.{}", parts[0], part(&claims), parts[2]),
        ),
        (
            "not signed",
            format!("{}.", unsigned(json!({"alg": "none", "typ": "JWT"}))),
        ),
        (
            "not signed",
            format!("{}.", unsigned(json!({"alg": "None", "kid": "sample"}))),
        ),
        ("without a signature", format!("{}.{}.", parts[0], parts[1])),
        (
            "signed with the public key",
            hmac(json!({"alg": "HS256", "kid": "sample"}), modulus.as_bytes()),
        ),
        (
            "signed with the public key",
            hmac(
                json!({"alg": "HS256"}),
                &BASE64.decode(modulus).expect("bytes"),
            ),
        ),
        (
            "of a key it brings",
            format!(
                "{}.{}",
                unsigned(json!({"alg": "RS256", "kid": "sample", "jwk": {"kty": "RSA"}})),
                parts[2]
            ),
        ),
        (
            "of no key",
            format!(
                "{}.{}",
                unsigned(json!({"alg": "RS256", "kid": "../../dev/null"})),
                parts[2]
            ),
        ),
        ("opaque", "opaque".to_owned()),
        ("half", format!("{}.{}", parts[0], parts[1])),
        ("long", "a".repeat(20_000)),
    ];
    for (what, token) in bad {
        for path in ["/hello", "/admin"] {
            let reply = whole.get(path, &[("authorization", &format!("Bearer {token}"))]);
            assert!([401, 403].contains(&reply.code), "{what}: {reply:?}");
        }
    }
    assert_eq!(whole.asked(), [0; 4], "no upstream was asked");
    assert_eq!(whole.decided(), before, "nor was Tollgate");
    // What is not read as a token is not passed on as one.
    for scheme in ["bearer", "BEARER", "Bearer\t", "Basic", "Token", "Bearer"] {
        let token = with_roles(&["admin"]).replace("Bearer", scheme);
        for header in [token.as_str(), scheme] {
            let reply = whole.get("/hello", &[("authorization", header)]);
            let head = reply.body.to_lowercase();
            assert!(
                reply.code != 200 || !head.contains("authorization"),
                "{header}: {reply:?}"
            );
        }
    }
    // Two tokens, of which the second would be good.
    let both = [
        ("authorization", "Bearer x"),
        ("authorization", &*with_roles(&["admin"])),
    ];
    assert_ne!(whole.get("/admin", &both).code, 200);
}

/// What an upstream, a role or a limit would believe cannot be said by who calls.
#[test]
fn headers_of_the_gateway_cannot_be_sent() {
    let whole = Whole::start(&[]);
    let made_up = [
        "x-user-id",
        "X-User-Tier",
        "x-app-id",
        "x-caller",
        "x_user_id",
        "x_user_tier",
        "x-internal-token",
        "x-forwarded-for",
        "x-forwarded-host",
        "forwarded",
        "x-real-ip",
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-client-trace-id",
        "x-envoy-internal",
        "x-envoy-original-path",
        "x-envoy-retry-on",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-decorator-operation",
        "x-envoy-external-address",
        "x-forwarded-client-cert",
        "x-request-id",
        "traceparent",
        "tracestate",
    ];
    let spoofed: Vec<(&str, &str)> = made_up.iter().map(|name| (*name, "made-up")).collect();
    let reply = whole.get("/hello", &spoofed);
    assert_eq!(reply.code, 200);
    assert!(!reply.body.contains("made-up"), "{}", reply.body);
    assert!(
        reply.one("ratelimit-policy").starts_with("\"anonymous\""),
        "{reply:?}"
    );
    // What it says of a caller who is one.
    let token = bearer(&json!({"sub": "alice", "tier": "pro"}));
    let mut both = spoofed.clone();
    both.push(("authorization", &token));
    let reply = whole.get("/hello", &both);
    let head = reply.body.to_lowercase();
    assert!(
        head.contains("x-user-id: alice\r\n") && head.contains("x-user-tier: pro\r\n"),
        "{head}"
    );
    assert!(
        !head.contains("made-up") && !head.contains("x-caller") && !head.contains("bearer"),
        "{head}"
    );
    // Nor can it be had taken off on the way, as a header of this connection only.
    for named in ["x-user-id", "close, x-user-id", "x-user-id, x-user-tier"] {
        let reply = whole.get(
            "/hello",
            &[("authorization", &token), ("connection", named)],
        );
        let head = reply.body.to_lowercase();
        assert!(
            reply.code == 400 || head.contains("x-user-id: alice\r\n"),
            "{named}: {reply:?}"
        );
    }
}
