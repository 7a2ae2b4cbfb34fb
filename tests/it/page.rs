//! The page at `/`, in a real browser, with a mouse and a keyboard.
//!
//! `SCREENSHOTS=docs cargo test --test it page::an_operator` writes the pictures of the documentation; it takes two minutes, so
//! that there is something to see on the charts.

use std::path::Path;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tollgate::admin::api::PREFIX;
use tollgate::admin::page::{FILES, POLICY};

use crate::support::browser::Browser;
use crate::support::http::{get, send};
use crate::support::poll;
use crate::support::redis;
use crate::support::server::{Server, Setup, request};

const RULES: &str = "
domain: edge
plans:
  free:
    - {name: free_minute, requests_per_unit: 60, unit: minute, algorithm: token_bucket, burst: 60}
    - {name: free_month, requests_per_unit: 10000, unit: month}
  pro:
    - {name: pro_minute, requests_per_unit: 6000, unit: minute, algorithm: token_bucket, burst: 6000}
descriptors:
  - key: user_id
    plan: {from: directory, default: free}
  - key: remote_address
    cidr: 10.0.0.0/8
    rate_limit: {unlimited: true}
  - key: remote_address
    rate_limit: {requests_per_unit: 300, unit: minute}
    ban: {after: 1000000, within: minute, for: 1h}
  - key: path
    value: /api/v1/search
    descriptors:
      - {key: user_id, rate_limit: {requests_per_unit: 20, unit: second, algorithm: sliding_window}}
  - key: path
    value: /api/v1/export
    descriptors:
      - {key: user_id, shadow_mode: true, rate_limit: {requests_per_unit: 5, unit: minute}}
";

/// The window, in pixels.
const WIDTH: u32 = 1100;
const HEIGHT: u32 = 930;

/// Whatever hits the address limit: it sees few others.
const CRAWLER: &str = "203.0.113.77";

/// Asks as a gateway would, until it is dropped: some users, and one that does not stop.
struct Load(Vec<JoinHandle<()>>);

impl Load {
    async fn on(servers: &[&Server]) -> Self {
        let mut tasks = Vec::new();
        for (place, server) in servers.iter().enumerate() {
            let mut client = server.client().await;
            let wave = async move {
                for turn in place.. {
                    let user = ["alice", "bob", "carol", "dave", "erin"][turn * turn % 7 % 5];
                    let address = format!("198.51.100.{}", turn % 23);
                    let path = ["/api/v1/search", "/api/v1/export", "/"][turn % 5 % 3];
                    let mut asked: Vec<Vec<(&str, &str)>> = vec![
                        vec![("user_id", user)],
                        vec![("remote_address", &address)],
                        vec![("path", path), ("user_id", user)],
                    ];
                    // Twenty seconds of more, and of less.
                    if turn / 900 % 2 == 0 || turn % 3 == 0 {
                        asked.push(vec![("remote_address", CRAWLER)]);
                    }
                    for one in &asked {
                        let _ = client.should_rate_limit(request("edge", &[one])).await;
                    }
                    if turn % 4 == 0 {
                        poll::pause().await;
                    }
                }
            };
            tasks.push(tokio::spawn(wave));
        }
        Self(tasks)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

fn page(server: &Server) -> String {
    format!("http://{}/", server.http)
}

fn overview(server: &Server) -> Value {
    let reply = get(server.http, &format!("{PREFIX}/overview"));
    serde_json::from_str(&reply.body).expect("JSON")
}

/// Waits until what an expression finds is a number beyond `least`, as the page writes it.
#[track_caller]
fn beyond(browser: &Browser, least: f64, expression: &str) {
    poll::until(expression, || {
        let text = browser.value(expression);
        let text = text.as_str()?.trim().trim_end_matches("/s");
        let number: f64 = text.replace(',', "").parse().ok()?;
        (number > least).then_some(())
    });
}

#[test]
fn the_page_is_told_what_it_may_do() {
    let server = Setup::rules(RULES).start_ready();
    for (path, kind, text) in FILES {
        let reply = get(server.http, path);
        assert_eq!((reply.code, reply.body.as_str()), (200, text), "{path}");
        assert_eq!(reply.one("content-type"), kind);
        assert_eq!(reply.one("content-security-policy"), POLICY);
        assert_eq!(reply.one("x-content-type-options"), "nosniff");
        assert_eq!(reply.one("referrer-policy"), "no-referrer");
        // Nothing of elsewhere, no script or style but those in files, and no way to make elements of text.
        let (all, names) = (
            text.matches("http"),
            text.matches("http://www.w3.org/2000/svg"),
        );
        assert_eq!(all.count(), names.count(), "{path}");
        let ways: &[&str] = match path {
            "/" => &["style=", "onclick", "onload", "<style"],
            _ => &[
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ],
        };
        for way in ways {
            assert!(!text.contains(way), "{path}: {way}");
        }
    }
    assert!(!POLICY.contains("unsafe") && POLICY.starts_with("default-src 'none'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_goes_on() {
    let pictures = std::env::var("SCREENSHOTS").ok();
    let redis = redis::Server::start();
    let url = format!("127.0.0.1:{}", redis.port);
    // A busy machine is no reason to decide without Redis.
    let start = || {
        let setup = Setup::rules(RULES).env("REDIS_URL", &url);
        setup.env("STORE_TIMEOUT", "5s").start_ready()
    };
    let (one, other) = (start(), start());
    let _load = Load::on(&[&one, &other]).await;
    let wanted = if pictures.is_some() { 60 } else { 3 };
    for samples in 1..=wanted {
        poll::until("some history", || {
            let seen = overview(&one)["requests"]["asked"].as_array()?.len();
            (seen >= samples).then_some(())
        });
    }
    let browser = Browser::start(WIDTH, HEIGHT);
    browser.go(&page(&one));
    look_around(&browser);
    poll::until("the other instance", || {
        (browser.value("document.querySelectorAll('#instances tr').length") == json!(2))
            .then_some(())
    });

    let picture = |name: &str| {
        if let Some(to) = &pictures {
            browser.picture(&Path::new(to).join(name));
        }
    };
    // With the mouse: who, why, and what of it.
    let first = "#who li:first-child";
    browser.wait_for(&format!(
        "document.querySelector('{first}').innerText.includes('remote_address={CRAWLER}')"
    ));
    let explained = poll::until("a refusal explained", || {
        browser.click(&format!("{first} button"));
        browser.wait_for("document.querySelector('#explained .result') !== null");
        // It would pass when a minute has just begun.
        let explained = browser.text("#explained");
        explained
            .contains("It would be refused: a limit has no room now.")
            .then_some(explained)
    });
    assert!(
        explained.contains("matches any remote_address"),
        "{explained}"
    );
    assert!(explained.contains("300 / minute refuses"), "{explained}");
    see_it_in_each_light(&browser, &picture);
    explain_by_keyboard(&browser);
    switch_by_keyboard(&browser);
    find_a_rule(&browser);

    assert_eq!(browser.complaints(), [""; 0]);
    let asked = browser.asked();
    assert!(asked.len() > 5, "{asked:?}");
    let outside = |url: &&String| !url.starts_with(&page(&one)) && !url.starts_with("data:");
    assert_eq!(asked.iter().find(outside), None);
}

fn see_it_in_each_light(browser: &Browser, picture: &dyn Fn(&str)) {
    browser.value("document.activeElement.blur(); scrollTo({top: 0, behavior: 'instant'})");
    browser.wait_for("scrollY === 0");
    picture("page-light.png");
    let light = browser.value("getComputedStyle(document.body).backgroundColor");
    browser.prefers("dark");
    let dark = browser.value("getComputedStyle(document.body).backgroundColor");
    assert_eq!(
        (light, dark),
        (json!("rgb(244, 245, 247)"), json!("rgb(14, 18, 23)"))
    );
    picture("page-dark.png");
    browser.prefers("light");
    // On a phone nothing lies beside the window.
    browser.size(390, 844);
    browser.wait_for("document.scrollingElement.scrollWidth <= 390");
    picture("page-phone.png");
    browser.size(WIDTH, HEIGHT);
}

fn look_around(browser: &Browser) {
    browser.wait_for("document.querySelector('#verdict').dataset.level === 'warn'");
    let verdict = browser.text("#verdict");
    assert!(verdict.contains("of the requests are refused"), "{verdict}");
    for (what, least) in [("#asked", 10.0), ("#refused", 1.0)] {
        let said = format!("document.querySelector('{what}').innerText");
        beyond(browser, least, &said);
    }
    assert_eq!(browser.text("#store"), "Redis answers");
    assert!(browser.text("#servers").contains("answers"));
    assert!(browser.text("#rules-count").starts_with('5'));
    // The rule that refuses says so, in its row of the tree, and the rest of its domain is there.
    let tree = browser.text("#tree");
    for name in [
        "edge",
        "user_id",
        "10.0.0.0/8",
        "/api/v1/search",
        "shadow",
        "300 / minute",
    ] {
        assert!(tree.contains(name), "{name}: {tree}");
    }
    let row = "[...document.querySelectorAll('#tree summary')].find((row) => row.innerText.includes('300 / minute'))";
    let said = format!("{row}.querySelector('.rate.refused').innerText");
    beyond(browser, 1.0, &said);
    let drawn = browser.value(&format!("{row}.querySelectorAll('.spark .refused').length"));
    assert_eq!(drawn, json!(2), "an area and its edge");
}

fn explain_by_keyboard(browser: &Browser) {
    browser.value("document.activeElement.blur(); scrollTo(0, 0)");
    browser.tab_to(".skip");
    browser.press("Enter");
    browser.tab_to("#explain-descriptors");
    browser.value("document.querySelector('#explain-descriptors').select()");
    browser.typed("path=/api/v1/search,user_id=zoe\npath=/nowhere,user_id=zoe");
    browser.tab_to("#explain button");
    let ring = browser.value("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(ring, json!("solid"), "the focus is seen");
    browser.press("Enter");
    browser.wait_for("document.querySelector('#explained').innerText.includes('It would pass')");
    let explained = browser.text("#explained");
    for wanted in [
        "all limits have room",
        "matches path=/api/v1/search",
        "matches any user_id",
        "20 left of 20 / second",
        "nothing matches it",
        "not looked at",
        "ratelimit-policy: ",
    ] {
        assert!(explained.contains(wanted), "{wanted}: {explained}");
    }
}

fn switch_by_keyboard(browser: &Browser) {
    browser.value("document.activeElement.blur(); scrollTo(0, 0)");
    browser.tab_to("input[name=by]");
    browser.press("ArrowRight");
    browser.wait_for("document.querySelector('#who').classList.contains('hits')");
    assert!(
        browser.text("#who").contains("user_id="),
        "{}",
        browser.text("#who")
    );
    browser.press("ArrowLeft");
    browser.wait_for("document.querySelector('#who').classList.contains('refused')");
    // A node of the tree opens and closes as well.
    browser.value("document.querySelector('#find').focus()");
    browser.press("Tab");
    let is_open = "document.activeElement.parentElement.open";
    assert_eq!(browser.value(is_open), json!(true));
    browser.press("Enter");
    browser.wait_for(&format!("!{is_open}"));
    browser.press(" ");
    browser.wait_for(is_open);
}

fn find_a_rule(browser: &Browser) {
    let rows =
        "[...document.querySelectorAll('#tree li')].filter((row) => row.checkVisibility()).length";
    let all = browser.value(rows);
    browser.click("#find");
    browser.typed("search");
    browser.wait_for(&format!("{rows} === 3"));
    browser.value("document.querySelector('#find').select()");
    browser.typed(" ");
    browser.wait_for(&format!("{rows} === {all}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_rules_and_clients_are_harmless() {
    const SCRIPT: &str = "<script>hacked=1</script>";
    const IMAGE: &str = "<img src=x onerror=hacked=1>";
    let rules = format!(
        "domain: '{IMAGE}'\ndescriptors:\n  - key: '{SCRIPT}'\n    rate_limit: {{name: '{IMAGE}', requests_per_unit: 1, unit: day}}\n"
    );
    let server = Setup::rules(&rules).start_ready();
    let mut client = server.client().await;
    for _ in 0..3 {
        let asked = request(IMAGE, &[&[(SCRIPT, IMAGE)]]);
        client.should_rate_limit(asked).await.expect("an answer");
    }
    let browser = Browser::start(1000, 800);
    browser.go(&page(&server));
    // The rules and who is refused are asked for apart.
    browser.wait_for("document.querySelector('#who button') !== null");
    browser.wait_for("document.querySelector('#tree li') !== null");
    // It is all there, as text.
    for place in ["#tree", "#who"] {
        assert!(
            browser.text(place).contains(SCRIPT),
            "{}",
            browser.text(place)
        );
    }
    assert!(
        browser.text("#who").contains(IMAGE),
        "{}",
        browser.text("#who")
    );
    browser.click("#who button");
    browser.wait_for("document.querySelector('#explained .result') !== null");
    let explained = browser.text("#explained");
    assert!(
        explained.contains(IMAGE) && explained.contains("refused"),
        "{explained}"
    );
    std::fs::write(
        server.rules().join("rules.yaml"),
        format!("{rules}  - {IMAGE}"),
    )
    .expect("a file");
    browser.wait_for("document.querySelector('#verdict pre') !== null");
    let made = "document.querySelectorAll('img, script:not([src])').length";
    assert_eq!(browser.value(made), json!(0));
    assert_eq!(browser.value("typeof hacked"), json!("undefined"));
    assert_eq!(browser.complaints(), [""; 0]);
}

/// The page asks again each second or two, and may do so between the press of a button and its release.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_pressed_stays_while_the_page_asks_again() {
    let server = Setup::rules(RULES).start_ready();
    let mut client = server.client().await;
    let mut ask = async |user: &str, times: usize| {
        for _ in 0..times {
            let asked = request("edge", &[&[("user_id", user)]]);
            client.should_rate_limit(asked).await.expect("an answer");
        }
    };
    ask("alice", 70).await;
    let browser = Browser::start(1000, 800);
    browser.go(&page(&server));
    let button = "#who li:last-child button";
    browser.wait_for(&format!("document.querySelector('{button}') !== null"));
    browser.value(&format!("document.querySelector('{button}').focus()"));
    browser.mouse("mousePressed", button);
    // Somebody else is refused more: the row of alice goes down.
    ask("bob", 90).await;
    browser.wait_for("document.querySelectorAll('#who li').length === 2");
    assert!(browser.text("#who li:last-child").contains("alice"));
    let focus = browser.value("document.activeElement.getAttribute('aria-label')");
    assert_eq!(focus, json!("Explain a request of user_id=alice"));
    browser.mouse("mouseReleased", button);
    browser.wait_for("document.querySelector('#explained .result') !== null");
    assert!(browser.text("#explained").contains("user_id=alice"));
    // Nor does a button lose the focus when its row goes up.
    browser.value(&format!("document.querySelector('{button}').focus()"));
    ask("alice", 90).await;
    browser.wait_for("document.querySelector('#who li').innerText.includes('alice')");
    let focus = browser.value("document.activeElement.getAttribute('aria-label')");
    assert_eq!(focus, json!("Explain a request of user_id=alice"));
    // Of the files' errors as well, whatever is said beside them.
    let wrong = "domain: edge\ndescriptors: 7\n";
    std::fs::write(server.rules().join("rules.yaml"), wrong).expect("a file");
    browser.wait_for("document.querySelector('#verdict details') !== null");
    browser.mouse("mousePressed", "#verdict summary");
    let wrong = "domain: edge\ndescriptors: 8\n\n";
    let said = browser.text("#verdict");
    std::fs::write(server.rules().join("rules.yaml"), wrong).expect("a file");
    ask("carol", 100).await;
    browser.wait_for(&format!(
        "document.querySelector('#verdict').innerText !== {said:?}"
    ));
    browser.mouse("mouseReleased", "#verdict summary");
    browser.wait_for("document.querySelector('#verdict details').open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_kept_in_the_tab_alone() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = dir.path().join("readers");
    std::fs::write(&file, "read-me\n").expect("a file");
    let server = Setup::rules(RULES)
        .env("API_READ_TOKENS", file.to_str().expect("text"))
        .start_ready();
    for route in [
        "/overview",
        "/top",
        "/explain?domain=edge&descriptor=user_id=a",
    ] {
        let path = format!("{PREFIX}{route}");
        assert_eq!(get(server.http, &path).code, 401, "{route}");
        let bearer = [("authorization", "Bearer read-me")];
        let reply = send(server.http, "GET", &path, &bearer, "").expect("an answer");
        assert_eq!(reply.code, 200, "{route}: {}", reply.body);
    }
    let browser = Browser::start(1000, 800);
    browser.go(&page(&server));
    browser.wait_for("document.activeElement.id === 'token-text'");
    assert_eq!(
        browser.value("document.querySelector('#all').hidden"),
        json!(true)
    );
    browser.typed("guess");
    browser.press("Enter");
    browser.wait_for("document.querySelector('#token-why').innerText.includes('not known')");
    browser.click("#token-text");
    browser.typed("read-me");
    browser.press("Enter");
    browser.wait_for("!document.querySelector('#all').hidden");
    assert_eq!(browser.text("#verdict"), "All is well.");
    let kept = browser
        .value("[sessionStorage.length, localStorage.length, document.cookie, location.href]");
    assert_eq!(kept, json!([1, 0, "", page(&server)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_is_what_is_seen_first() {
    let mut redis = redis::Server::start();
    let url = format!("127.0.0.1:{}", redis.port);
    let server = Setup::rules(RULES).env("REDIS_URL", &url).start_ready();
    let browser = Browser::start(1000, 800);
    browser.go(&page(&server));
    let says = |level: &str, text: &str| {
        browser.wait_for(&format!(
            "document.querySelector('#verdict').dataset.level === '{level}' && document.querySelector('#verdict').innerText.includes('{text}')"
        ));
    };
    says("good", "All is well.");
    std::fs::write(
        server.rules().join("rules.yaml"),
        "domain: edge\ndescriptors: 7\n",
    )
    .expect("a file");
    says("warn", "The rule files have errors");
    browser.click("#verdict summary");
    let reason = browser.text("#verdict pre");
    assert!(reason.contains("rules.yaml:2"), "{reason}");
    redis.kill();
    says("bad", "Redis does not answer");
    assert!(browser.text("#store").contains("1 of 1 away"));
    redis.restart();
    std::fs::write(server.rules().join("rules.yaml"), RULES).expect("a file");
    says("good", "All is well.");
    drop(server);
    says("bad", "Tollgate does not answer.");
}
