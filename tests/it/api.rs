//! The management API of the real binary.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tollgate::admin::api::{MAX_NOTE, OPENAPI, PREFIX, ROUTES};
use tollgate::directory::standing::MAX_GRANTS;

use crate::support::http::{Reply, send};
use crate::support::poll;
use crate::support::redis;
use crate::support::server::{Server, Setup, is_over, request};

const RULES: &str = "
domain: d
partition_by: [user]
plans:
  free:
    - {name: minute, requests_per_unit: 3, unit: minute, algorithm: token_bucket, burst: 3}
    - {name: month, requests_per_unit: 5, unit: month}
  pro:
    - {name: minute, requests_per_unit: 30, unit: minute, algorithm: token_bucket, burst: 30}
    - {name: month, requests_per_unit: 50, unit: month}
descriptors:
  - {key: user, plan: {from: directory, default: free}}
  - key: path
    value: /search
    descriptors:
      - {key: user, rate_limit: {name: search, requests_per_unit: 7, unit: day}}
  - key: ip
    rate_limit: {requests_per_unit: 1, unit: day}
    ban: {after: 2, within: minute, for: 1h}
";

struct Caller {
    http: SocketAddr,
    token: Option<&'static str>,
}

impl Caller {
    fn of(server: &Server) -> Self {
        Self {
            http: server.http,
            token: None,
        }
    }

    fn reply(&self, method: &str, path: &str, body: &str) -> Reply {
        let token = self.token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = token
            .iter()
            .map(|t| ("authorization", t.as_str()))
            .collect();
        let path = format!("{PREFIX}{path}");
        send(self.http, method, &path, &headers, body).expect("an answer")
    }

    #[track_caller]
    fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let reply = self.reply(method, path, &body);
        assert_eq!(reply.code, 200, "{method} {path}: {}", reply.body);
        serde_json::from_str(&reply.body).expect("JSON")
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        self.done("GET", path, &Value::Null)
    }

    #[track_caller]
    fn refused(&self, code: u16, method: &str, path: &str, body: &str) -> String {
        let reply = self.reply(method, path, body);
        assert_eq!(reply.code, code, "{method} {path}: {}", reply.body);
        assert_eq!(reply.one("content-type"), "application/problem+json");
        let problem: Value = serde_json::from_str(&reply.body).expect("JSON");
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

/// Whether a hit of this descriptor is admitted.
async fn hit(server: &Server, entries: &[(&str, &str)]) -> bool {
    let mut client = server.client().await;
    let answer = client.should_rate_limit(request("d", &[entries])).await;
    !is_over(&answer.expect("an answer").into_inner())
}

#[test]
fn the_document_and_the_routes_agree() {
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            documented.insert((method.to_uppercase(), path.clone()));
        }
    }
    let routes = ROUTES.map(|(method, path)| (method.to_owned(), path.to_owned()));
    assert_eq!(documented, BTreeSet::from(routes));

    let server = Setup::rules(RULES).start_ready();
    let caller = Caller::of(&server);
    assert_eq!(caller.get("/openapi.json"), document);
    for (method, path) in ROUTES {
        let path = path
            .replace("{subject}", "user=a")
            .replace("{entry}", "ip=1")
            .replace("{list}", "deny");
        let reply = caller.reply(method, &path, "");
        assert_ne!(reply.code, 405, "{method} {path}");
        let body = &reply.body;
        assert!(!body.contains("no such route"), "{method} {path}");
    }
    caller.refused(404, "GET", "/nothing", "");
    caller.refused(405, "PATCH", "/status", "");
}

/// Schemathesis makes calls that the document allows, and some that it does not, and holds the answers against it.
#[test]
fn what_the_document_says_holds_for_calls_that_nobody_thought_of() {
    let tools = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/tools/schemathesis-4.32.5"
    );
    let tools = std::env::var("SCHEMATHESIS_DIR").unwrap_or(tools.to_owned());
    let program = format!("{tools}/bin/schemathesis");
    assert!(
        std::path::Path::new(&program).exists(),
        "no Schemathesis at {program}: run `tests/tools/install`"
    );
    let dir = tempfile::TempDir::new().expect("a directory");
    let server = Setup::rules(RULES).start_ready();
    let base = format!("http://{}{PREFIX}", server.http);
    let output = std::process::Command::new("python3")
        .env("PYTHONPATH", &tools)
        .current_dir(dir.path())
        .args([
            &program,
            "run",
            &format!("{base}/openapi.json"),
            "--url",
            &base,
        ])
        .args([
            "--max-examples",
            "15",
            "--no-color",
            "--suppress-health-check",
            "all",
        ])
        .output()
        .expect("python3 runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Tested: 28"), "{text}");
}

/// Where a rule before it falls back to its own default, the plan that is assigned was not told.
#[tokio::test]
async fn the_plan_of_a_subject_is_the_one_that_is_assigned() {
    let tiers = "descriptors:\n  - key: tier\n    descriptors: [{key: user, plan: {from: tier, default: free}}]\n";
    let rules = RULES.replace(
        "descriptors:\n  - {key: user",
        &format!("{tiers}  - {{key: user"),
    );
    let server = Setup::rules(&rules).start_ready();
    let caller = Caller::of(&server);
    assert_eq!(caller.get("/quota/alice")["plan"], json!("free"));
    caller.done("PUT", "/quota/alice/plan", &json!({"plan": "pro"}));
    let quota = caller.get("/quota/alice");
    assert_eq!(quota["rules"][0]["plan"], json!("free"), "{quota}");
    assert_eq!(quota["plan"], json!("pro"), "{quota}");
    let ends = quota["rules"][1]["limits"][1]["reset_at"].as_str();
    assert!(
        ends.is_some_and(|ends| ends.ends_with("-01T00:00:00Z")),
        "{quota}"
    );
}

#[tokio::test]
async fn a_subject_is_read_reset_moved_and_given_more() {
    let server = Setup::rules(RULES).start_ready();
    let caller = Caller::of(&server);
    let alice = [("user", "alice")];
    for _ in 0..3 {
        assert!(hit(&server, &alice).await);
    }
    assert!(!hit(&server, &alice).await);
    let quota = caller.get("/quota/alice");
    assert_eq!(
        (&quota["plan"], &quota["subject"]),
        (&json!("free"), &json!("user=alice"))
    );
    let limits = quota["rules"][0]["limits"].as_array().expect("limits");
    assert_eq!(
        (&limits[1]["used"], &limits[1]["remaining"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(quota["rules"][1]["limits"][0]["name"], json!("search"));

    caller.done(
        "POST",
        "/quota/user=alice/reset",
        &json!({"limit": "minute"}),
    );
    assert!(hit(&server, &alice).await);
    let month = |quota: &Value| quota["rules"][0]["limits"][1]["remaining"].clone();
    assert_eq!(
        month(&caller.get("/quota/alice")),
        json!(1),
        "the month was not reset"
    );

    caller.done(
        "POST",
        "/quota/alice/grant",
        &json!({"limit": "month", "hits": 10}),
    );
    assert_eq!(month(&caller.get("/quota/alice")), json!(11));
    let put = json!({"plan": "pro", "limits": {"month": 40}, "note": "paid"});
    let assigned = caller.done("PUT", "/quota/alice/plan", &put);
    assert_eq!(assigned["grants"][0]["hits"], json!(10));
    assert_eq!(month(&caller.get("/quota/alice")), json!(46));
    assert!(hit(&server, &alice).await);
    let remaining = caller.get("/quota/alice/remaining");
    assert_eq!(remaining["limits"][1]["remaining"], json!(45));
    caller.done("DELETE", "/quota/alice/plan", &Value::Null);
    assert_eq!(
        month(&caller.get("/quota/alice")),
        json!(10),
        "the grant stays"
    );

    for (code, method, path, body) in [
        (404, "PUT", "/quota/alice/plan", r#"{"plan": "gold"}"#),
        (
            404,
            "PUT",
            "/quota/alice/plan",
            r#"{"plan": "pro", "limits": {"year": 1}}"#,
        ),
        (
            409,
            "PUT",
            "/quota/alice/plan",
            r#"{"plan": "pro", "limits": {"minute": 0}}"#,
        ),
        (
            409,
            "PUT",
            "/quota/alice/plan",
            r#"{"plan": "pro", "until": "2001-01-01T00:00:00Z"}"#,
        ),
        (
            400,
            "PUT",
            "/quota/alice/plan",
            r#"{"plan": "pro", "until": "tomorrow"}"#,
        ),
        (400, "PUT", "/quota/alice/plan", r#"{"plam": "pro"}"#),
        (409, "PUT", "/quota/ip=1/plan", r#"{"plan": "pro"}"#),
        (
            404,
            "POST",
            "/quota/alice/grant",
            r#"{"limit": "search", "hits": 1}"#,
        ),
        (
            400,
            "POST",
            "/quota/alice/grant",
            r#"{"limit": "month", "hits": 0}"#,
        ),
        (404, "POST", "/quota/alice/reset", r#"{"limit": "year"}"#),
        (404, "GET", "/quota/alice?domain=x", ""),
    ] {
        caller.refused(code, method, path, body);
    }
}

#[tokio::test]
async fn a_ban_is_listed_and_lifted_and_lists_hold_at_once() {
    let server = Setup::rules(RULES).start_ready();
    let caller = Caller::of(&server);
    let address = [("ip", "192.0.2.1")];
    assert!(hit(&server, &address).await);
    for _ in 0..3 {
        assert!(!hit(&server, &address).await);
    }
    let ban = poll::until("the ban to be listed", || {
        let bans = caller.get("/bans");
        bans["items"].get(0).cloned()
    });
    assert_eq!(
        (&ban["entry"], &ban["automatic"]),
        (&json!("ip=192.0.2.1"), &json!(true))
    );
    caller.done("DELETE", "/bans/ip=192.0.2.1", &Value::Null);
    assert_eq!(caller.get("/bans"), json!({"items": []}));
    let quota = caller.get("/quota/ip=192.0.2.1");
    assert_eq!(quota["rules"][0]["banned_seconds"], Value::Null);
    caller.done("POST", "/quota/ip=192.0.2.1/reset", &Value::Null);
    assert!(hit(&server, &address).await);
    assert!(!hit(&server, &address).await);

    caller.done(
        "PUT",
        "/lists/allow/ip=192.0.2.0%2F24",
        &json!({"note": "the office"}),
    );
    for _ in 0..3 {
        assert!(hit(&server, &address).await);
    }
    caller.done("PUT", "/lists/deny/ip=192.0.2.1", &Value::Null);
    assert!(!hit(&server, &address).await);
    caller.done("DELETE", "/lists/deny/ip=192.0.2.1", &Value::Null);
    caller.done("DELETE", "/lists/allow/ip=192.0.2.0%2F24", &Value::Null);
    caller.refused(404, "DELETE", "/lists/allow/ip=192.0.2.0%2F24", "");
    caller.done(
        "PUT",
        "/bans/ip=192.0.2.9",
        &json!({"until": "2100-01-01T00:00:00Z"}),
    );
    assert!(!hit(&server, &[("ip", "192.0.2.9")]).await);
    let checked = caller.done(
        "POST",
        "/check",
        &json!({"domain": "d", "descriptors": [{"entries": [{"key": "ip", "value": "192.0.2.9"}]}]}),
    );
    assert_eq!(
        (&checked["admitted"], &checked["reason"]),
        (&json!(false), &json!("banned"))
    );
}

#[test]
fn a_check_charges_nothing_and_says_why() {
    let server = Setup::rules(RULES).start_ready();
    let caller = Caller::of(&server);
    let asked = json!({
        "domain": "d",
        "hitsAddend": 4,
        "descriptors": [{"entries": [{"key": "user", "value": "bob"}]}],
    });
    for _ in 0..3 {
        let checked = caller.done("POST", "/check", &asked);
        assert_eq!(
            (&checked["admitted"], &checked["reason"]),
            (&json!(false), &json!("never_fits"))
        );
    }
    assert_eq!(
        caller.get("/quota/bob")["rules"][0]["limits"][0]["used"],
        json!(0)
    );
    assert_eq!(server.metric("tollgate_decisions"), 0.0);
    caller.refused(400, "POST", "/check", "{}");
}

#[test]
fn tokens_are_needed_where_there_are_some_and_every_change_leaves_a_line() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("text").to_owned()
    };
    let readers = file("readers", "# dashboards\nread-me\n");
    let administrators = file("administrators", "change-me\n");
    let audit = file("audit", "");
    let server = Setup::rules(RULES)
        .env("API_READ_TOKENS", &readers)
        .env("API_ADMIN_TOKENS", &administrators)
        .env("AUDIT_LOG", &audit)
        .start_ready();
    let mut caller = Caller::of(&server);
    caller.refused(401, "GET", "/status", "");
    caller.token = Some("guess");
    caller.refused(401, "GET", "/status", "");
    caller.token = Some("read-me");
    caller.get("/status");
    caller.refused(403, "PUT", "/quota/a/plan", r#"{"plan": "pro"}"#);
    assert_eq!(std::fs::read_to_string(&audit).expect("a file"), "");
    // A token that is taken out of the file counts no longer.
    file("readers", "another\n");
    caller.refused(401, "GET", "/status", "");
    caller.token = Some("change-me");
    caller.done("PUT", "/quota/a/plan", &json!({"plan": "pro"}));
    let lines = std::fs::read_to_string(&audit).expect("a file");
    assert_eq!(lines.lines().count(), 1);
    let line: Value = serde_json::from_str(lines.trim()).expect("JSON");
    assert_eq!(line["what"]["assigned"]["plan"], json!("pro"));
    assert!(!lines.contains("change-me"));
}

#[tokio::test]
async fn a_change_reaches_every_instance_within_a_second() {
    let redis = redis::Server::start();
    let url = format!("127.0.0.1:{}", redis.port);
    let start = || {
        let setup = Setup::rules(RULES).env("REDIS_URL", &url);
        setup.env("STORE_TIMEOUT", "5s").start_ready()
    };
    let (one, other) = (start(), start());
    for server in [&one, &other] {
        assert!(hit(server, &[("user", "a")]).await);
    }
    let caller = Caller::of(&one);
    caller.done("PUT", "/quota/a/plan", &json!({"plan": "pro"}));
    let asked = Caller::of(&other);
    let began = std::time::Instant::now();
    let limits = poll::until("the plan to be seen", || {
        let checked = asked.done(
            "POST",
            "/check",
            &json!({"domain": "d", "descriptors": [{"entries": [{"key": "user", "value": "a"}]}]}),
        );
        let limit = checked["statuses"][0]["limit"]["requests_per_unit"].clone();
        (limit == json!(30)).then_some(checked)
    });
    assert!(began.elapsed().as_millis() < 1000, "{limits}");
    caller.done("PUT", "/lists/deny/ip=7", &Value::Null);
    poll::until("the list to be seen", || {
        let items = asked.get("/lists");
        items["items"].get(0).map(|_| ())
    });
    assert!(!hit(&other, &[("ip", "7")]).await);
}

#[test]
fn notes_and_grants_are_bounded() {
    let server = Setup::rules(RULES).start_ready();
    let caller = Caller::of(&server);
    let noted = |bytes: usize| json!({"note": "x".repeat(bytes)});
    caller.done("PUT", "/lists/deny/ip=7", &noted(MAX_NOTE));
    let beyond = noted(MAX_NOTE + 1).to_string();
    caller.refused(400, "PUT", "/lists/deny/ip=7", &beyond);
    let grant = json!({"limit": "month", "hits": 1});
    for _ in 0..MAX_GRANTS {
        caller.done("POST", "/quota/a/grant", &grant);
    }
    let said = caller.refused(409, "POST", "/quota/a/grant", &grant.to_string());
    assert!(said.contains("64 grants already"), "{said}");
}
