//! Of users and applications: plans, windows, endpoints, costs.

use serde_json::{Value, json};

use super::{OWN, Product, monthly_remaining, refusal};

#[test]
fn a_plan_has_a_burst_and_a_user_who_moves_keeps_what_was_used() {
    let product = Product::start();
    let alice = product.user("alice", "free");
    let (passed, secs) = alice.passes(180, "/");
    let refilled = (secs * 100.0 / 60.0).ceil() as usize;
    assert!(
        (150..=150 + refilled).contains(&passed),
        "{passed} in {secs} s"
    );
    let body = refusal(&alice.get("/"), "rate_limit_exceeded");
    assert_eq!(body["limit"], 100);
    assert_eq!(body["message"], "No more than 100 per minute.");
    // 1,000 a minute and half as many again, in two batches.
    let bob = product.user("bob", "pro");
    assert_eq!(bob.batch("1000").code, 200);
    assert_eq!(bob.batch("500").code, 200);
    refusal(&bob.batch("200"), "rate_limit_exceeded");
    let alice = product.user("alice", "pro");
    let reply = alice.get("/");
    assert_eq!(reply.one("x-quota-tier"), "pro");
    let used = 1_000_000 - monthly_remaining(&reply);
    assert_eq!(
        used,
        passed as u64 + 1,
        "refused requests are charged nowhere"
    );
    assert_eq!(
        product
            .user("alice", "no such tier")
            .get("/")
            .one("x-quota-tier"),
        "free"
    );
}

#[test]
fn a_month_is_used_up() {
    let product = Product::with(&[(
        "requests_per_unit: 10000, unit: month",
        "requests_per_unit: 3, unit: month",
    )]);
    let alice = product.user("alice", "free");
    for left in [2, 1, 0] {
        assert_eq!(monthly_remaining(&alice.get("/")), left);
    }
    let reply = alice.get("/");
    assert_eq!(monthly_remaining(&reply), 0);
    let body = refusal(&reply, "monthly_quota_exceeded");
    assert_eq!(body["limit"], 3);
    let reset: jiff::Timestamp = body["reset_at"]
        .as_str()
        .expect("a moment")
        .parse()
        .expect("a moment");
    assert_eq!(reset.to_zoned(jiff::tz::TimeZone::UTC).day(), 1);
    let message = body["message"].as_str().expect("a message");
    assert!(
        message.starts_with("The plan free has 3 a month"),
        "{message}"
    );
}

#[test]
fn enterprises_are_unlimited_and_partners_have_numbers_of_their_own() {
    let product = Product::start();
    let enterprise = product.user("e", "enterprise");
    assert_eq!(enterprise.passes(300, "/").0, 300);
    let reply = enterprise.get("/");
    assert_eq!(reply.one("x-quota-tier"), "enterprise");
    assert_eq!(reply.all("x-quota-monthly-remaining").len(), 0);
    let acme = product.user("acme", "partner");
    assert_eq!(monthly_remaining(&acme.get("/")), 9_999_999);
    let numbers = json!({"limits": {"partner_minute": 2, "partner_month": 3}});
    product.manage("PUT", "/quota/user_id=acme/plan", &numbers);
    assert_eq!(acme.passes(4, "/").0, 2);
    refusal(&acme.get("/"), "monthly_quota_exceeded");
    assert_eq!(product.user("other", "partner").passes(5, "/").0, 5);
    // Without a tier in the token the directory has the plan.
    let carol = product.with_token(&json!({"sub": "carol"}));
    assert_eq!(carol.get("/").one("x-quota-tier"), "free");
    product.manage("PUT", "/quota/user_id=carol/plan", &json!({"plan": "pro"}));
    assert_eq!(carol.get("/").one("x-quota-tier"), "pro");
}

#[test]
fn an_application_has_several_windows_that_are_charged_together() {
    let product = Product::with(&[(
        "requests_per_unit: 1000, unit: hour",
        "requests_per_unit: 70, unit: hour",
    )]);
    let app = product.app("importer");
    let codes: Vec<u16> = (0..71).map(|_| app.code("/")).collect();
    assert!(codes[..60].iter().all(|code| *code == 200), "{codes:?}");
    assert!(codes.contains(&429), "{codes:?}");
    let passed = codes.iter().filter(|code| **code == 200).count();
    let left = |name: &str| {
        let quota = product.manage("GET", "/quota/app_id=importer/remaining", &Value::Null);
        let limits = quota["limits"].as_array().expect("limits").clone();
        let limit = limits.into_iter().find(|limit| limit["limit"] == name);
        limit.expect(name)["remaining"].as_u64().expect("a number") as usize
    };
    assert_eq!(
        left("app_hour"),
        70 - passed,
        "a refused request is charged nowhere"
    );
    assert_eq!(left("app_day"), 10_000 - passed);
    product.manage(
        "PUT",
        "/quota/app_id=importer/plan",
        &json!({"plan": "app_premium"}),
    );
    assert_eq!(app.passes(70, "/").0, 70, "a higher plan holds at once");
    assert_eq!(left("app_hour"), 50_000 - passed - 70);
    product.manage(
        "PUT",
        "/quota/app_id=importer/plan",
        &json!({"plan": "app_free"}),
    );
    refusal(&app.get("/"), "rate_limit_exceeded");
}

#[test]
fn a_dear_endpoint_is_limited_for_each_user_and_in_total() {
    let product = Product::with(&[(
        "name: search_total, requests_per_unit: 5000, unit: second",
        "name: search_total, requests_per_unit: 7, unit: year",
    )]);
    let [alice, bob] = ["alice", "bob"].map(|name| product.user(name, "enterprise"));
    let path = "/api/v1/chat/send";
    let (passed, secs) = alice.passes(40, path);
    // The window slides: never more than 10 in a second.
    assert!(
        passed >= 10 && (passed as f64) < 11.0 + 10.0 * secs,
        "{passed} in {secs} s"
    );
    if secs < 1.0 {
        assert_eq!(passed, 10);
    }
    assert_eq!(bob.code(path), 200, "others are not held up");
    assert_eq!(alice.code("/api/v1/chat"), 200, "nor are other paths");
    // However it is written.
    let path = "/api/v1//%73earch?page=2";
    assert_eq!(alice.passes(4, path).0 + bob.passes(4, path).0, 7);
    assert_eq!(
        refusal(&bob.get("/api/v1/search"), "rate_limit_exceeded")["limit"],
        7
    );
    assert_eq!(
        product.anonymous(OWN).code("/api/v1/search"),
        429,
        "all together"
    );
}

#[test]
fn requests_cost_what_they_do() {
    let product = Product::start();
    let alice = product.user("alice", "free");
    let mut left = 10_000;
    for (path, cost) in [("/identify", 1), ("/compare", 2), ("/anything", 1)] {
        left -= cost;
        assert_eq!(monthly_remaining(&alice.get(path)), left, "{path}");
    }
    for items in [40, 1] {
        left -= items;
        let reply = alice.batch(&items.to_string());
        assert_eq!(monthly_remaining(&reply), left, "{items}");
    }
    // What is no number would escape the limit, and does not pass.
    for items in ["", "0", "-5", "abc", "1001", "1e3", "0x10", "1.5", "5,5"] {
        assert_eq!(alice.batch(items).code, 400, "{items}");
    }
    assert_eq!(alice.send("POST", "/batch", &[]).code, 400);
    assert_eq!(alice.send("POST", "/batch/", &[]).code, 400);
    // Of several headers the first counts.
    for (items, code) in [(["abc", "1"], 400), (["1", "abc"], 200)] {
        let items = items.map(|items| ("x-batch-items", items));
        assert_eq!(alice.send("POST", "/batch", &items).code, code, "{items:?}");
    }
    left -= 1;
    // More than the plan can ever hold: waiting does not help, and nothing is charged.
    let never = alice.batch("1000");
    refusal(&never, "rate_limit_exceeded");
    assert_eq!(never.all("retry-after").len(), 0);
    left -= 1;
    assert_eq!(monthly_remaining(&alice.get("/")), left);
}
