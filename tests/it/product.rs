//! The sample product: `config/product` behind `envoy/product.yaml`, each row of its table through a real Envoy.

use std::time::Instant;

use serde_json::{Value, json};
use tollgate::admin::api::PREFIX;

use crate::support::gateway::{Gateway, assert_valid, edited};
use crate::support::http::{self, Reply};
use crate::support::server;
use crate::support::token::bearer;

mod addresses;
mod users;

const RULES: &str = "config/product/product.yaml";

/// In the network that no address limit holds for.
const OWN: &str = "10.1.2.3";

/// The sample product.
struct Product(Gateway);

/// Whoever calls it.
struct Caller<'p> {
    product: &'p Product,
    address: &'p str,
    token: Option<String>,
}

impl Product {
    fn start() -> Self {
        Self::with(&[])
    }

    /// With other rules, as somebody would edit them.
    fn with(edits: &[(&str, &str)]) -> Self {
        let gateway = [
            // As behind a load balancer: addresses are those that it says.
            ("xff_num_trusted_hops: 0", "xff_num_trusted_hops: 1"),
            // Envoy waits for a client that has not sent all when it is answered; a test waits for the connection's end.
            (
                "stat_prefix: gateway",
                "delayed_close_timeout: 0.01s\n          stat_prefix: gateway",
            ),
        ];
        Self(Gateway::start(
            "product.yaml",
            &gateway,
            &edited(RULES, edits),
        ))
    }

    fn anonymous<'p>(&'p self, address: &'p str) -> Caller<'p> {
        Caller {
            product: self,
            address,
            token: None,
        }
    }

    /// Somebody with these claims, in the own network.
    fn with_token(&self, claims: &Value) -> Caller<'_> {
        Caller {
            token: Some(bearer(claims)),
            ..self.anonymous(OWN)
        }
    }

    fn user(&self, name: &str, tier: &str) -> Caller<'_> {
        self.with_token(&json!({"sub": name, "tier": tier}))
    }

    fn app(&self, name: &str) -> Caller<'_> {
        self.with_token(&json!({"app_id": name}))
    }

    /// A call of the management API.
    #[track_caller]
    fn manage(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let path = format!("{PREFIX}{path}");
        let reply = http::send(self.0.tollgate.http, method, &path, &[], &body).expect("an answer");
        assert_eq!(reply.code, 200, "{method} {path}: {}", reply.body);
        serde_json::from_str(&reply.body).expect("JSON")
    }
}

impl<'p> Caller<'p> {
    fn at(self, address: &'p str) -> Self {
        Self { address, ..self }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut all = vec![("x-forwarded-for", self.address)];
        all.extend(self.token.iter().map(|token| ("authorization", &**token)));
        all.extend(headers);
        self.product.0.send(method, path, &all)
    }

    fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[])
    }

    fn code(&self, path: &str) -> u16 {
        self.get(path).code
    }

    fn batch(&self, items: &str) -> Reply {
        self.send("POST", "/batch", &[("x-batch-items", items)])
    }

    /// How many of so many requests pass, and how long they took.
    fn passes(&self, requests: usize, path: &str) -> (usize, f64) {
        let begun = Instant::now();
        let passed = (0..requests).filter(|_| self.code(path) == 200).count();
        (passed, begun.elapsed().as_secs_f64())
    }

    /// The limits that it meets: name, number and seconds of each.
    fn policy(&self, path: &str) -> String {
        let reply = self.get(path);
        reply.all("ratelimit-policy").join("").replace('"', "")
    }
}

/// Asserts that a reply is a refusal as the table has it, and returns its body.
#[track_caller]
fn refusal(reply: &Reply, error: &str) -> Value {
    assert_eq!(reply.code, 429, "{reply:?}");
    assert_eq!(reply.one("content-type"), "application/json");
    let body: Value = serde_json::from_str(&reply.body).expect("JSON");
    assert_eq!(body["error"], error, "{reply:?}");
    let mut fields: Vec<&String> = body.as_object().expect("an object").keys().collect();
    fields.sort();
    assert_eq!(
        fields,
        ["error", "limit", "message", "reset_at", "retry_after"]
    );
    if body["retry_after"] != Value::Null {
        assert_eq!(reply.one("retry-after"), body["retry_after"].to_string());
    }
    body
}

#[track_caller]
fn monthly_remaining(reply: &Reply) -> u64 {
    let left = reply.one("x-quota-monthly-remaining");
    left.parse().expect("a number")
}

#[test]
fn the_committed_files_are_valid() {
    assert_valid("product.yaml");
    let output = server::binary()
        .args(["check", "config/product"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.trim_end().ends_with("no errors"), "{said}");
}

#[test]
fn the_committed_numbers_are_those_of_the_table() {
    let product = Product::start();
    let user = |tier| product.user("u", tier).policy("/");
    assert_eq!(
        user("free"),
        "free_minute;q=100;w=60, free_month;q=10000;w=2592000"
    );
    assert_eq!(
        user("pro"),
        "pro_minute;q=1000;w=60, pro_month;q=1000000;w=2592000"
    );
    assert_eq!(user("enterprise"), "");
    let app = |plan: &str| {
        let path = "/quota/app_id=a/plan";
        product.manage("PUT", path, &json!({"plan": plan}));
        product.app("a").policy("/")
    };
    assert_eq!(
        app("app_free"),
        "app_minute;q=60;w=60, app_hour;q=1000;w=3600, app_day;q=10000;w=86400"
    );
    assert_eq!(
        app("app_premium"),
        "app_minute;q=1000;w=60, app_hour;q=50000;w=3600, app_day;q=1000000;w=86400"
    );
    assert_eq!(app("app_enterprise"), "app_minute;q=10000;w=60");
    let root = product.user("u", "enterprise");
    for (path, limits) in [
        ("chat/send", "chat_total;q=1000;w=1, chat;q=10;w=1"),
        (
            "users/profile",
            "profile_total;q=10000;w=1, profile;q=100;w=1",
        ),
        ("search", "search_total;q=5000;w=1, search;q=50;w=1"),
    ] {
        assert_eq!(root.policy(&format!("/api/v1/{path}")), limits);
    }
    let anonymous = product.anonymous("192.0.2.1").policy("/");
    assert_eq!(anonymous, "anonymous;q=30;w=60, address;q=100;w=1");
    assert_eq!(product.anonymous(OWN).policy("/"), "");
    let ban = "ban: {after: 10000, within: minute, for: 1h, max: 24h}";
    assert_eq!(edited(RULES, &[]).matches(ban).count(), 2);
}
