//! A headless Chromium, driven as a person would: over two pipes, in the words of the DevTools protocol.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::poll;

/// A browser with one page; it ends with this.
pub(crate) struct Browser {
    child: Child,
    pipe: Mutex<ChildStdin>,
    heard: Arc<Mutex<Heard>>,
    next: AtomicU64,
    /// Which page is meant.
    session: String,
    /// Kept until the browser has ended.
    _dir: TempDir,
}

/// What the browser has said.
#[derive(Default)]
struct Heard {
    answers: HashMap<u64, Value>,
    events: Vec<Value>,
}

/// What the browser is started with, beside its directory: it calls nobody of its own accord.
const FLAGS: [&str; 18] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-zygote",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--hide-scrollbars",
    // Grey edges of letters, so that pictures stay small.
    "--disable-lcd-text",
    "--force-color-profile=srgb",
    "--lang=en-US",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// The browser takes the pipes with the numbers 3 and 4, which only a shell can give it.
const WITH_PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;

impl Browser {
    /// A browser that shows nothing yet, with a window of this size.
    pub(crate) fn start(width: u32, height: u32) -> Self {
        let program = std::env::var("CHROMIUM_BIN").unwrap_or("chromium".to_owned());
        let found = Command::new(&program).arg("--version").output();
        assert!(
            found.is_ok_and(|output| output.status.success()),
            "no Chromium called {program}: run `tests/tools/install`"
        );
        let dir = TempDir::new().expect("a directory");
        let mut command = Command::new("sh");
        command
            .args(["-c", WITH_PIPES, &program])
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", dir.path().display()))
            .env("HOME", dir.path())
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // With its helpers, so that they end together.
            .process_group(0);
        let mut child = command.spawn().expect("a shell");
        let heard = Arc::new(Mutex::new(Heard::default()));
        let said = child.stdout.take().expect("a pipe");
        listen(BufReader::new(said), &heard);
        let pipe = Mutex::new(child.stdin.take().expect("a pipe"));
        let mut browser = Self {
            child,
            pipe,
            heard,
            next: AtomicU64::new(1),
            session: String::new(),
            _dir: dir,
        };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"]
            .as_str()
            .expect("a session")
            .to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser.size(width, height);
        browser.prefers("light");
        browser
    }

    /// A command and its answer.
    #[track_caller]
    pub(crate) fn call(&self, method: &str, parameters: &Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let mut text = message.to_string().into_bytes();
        text.push(0);
        let written = self.pipe.lock().expect("no panic").write_all(&text);
        written.expect("the browser listens");
        let answer = poll::until(&format!("the answer to {method}"), || {
            self.heard.lock().expect("no panic").answers.remove(&id)
        });
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// Shows an address.
    pub(crate) fn go(&self, url: &str) {
        self.call("Page.navigate", &json!({"url": url}));
        self.wait_for("document.readyState === 'complete'");
    }

    /// The value of an expression within the page.
    #[track_caller]
    pub(crate) fn value(&self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", &asked);
        let thrown = &answer["exceptionDetails"];
        assert!(thrown.is_null(), "{expression}: {thrown}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn wait_for(&self, expression: &str) {
        poll::until(expression, || {
            (self.value(expression) == json!(true)).then_some(())
        });
    }

    /// What can be read of an element and all within it.
    #[track_caller]
    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({selector:?}).innerText"));
        text.as_str().expect("a text").to_owned()
    }

    /// Clicks on the middle of an element.
    #[track_caller]
    pub(crate) fn click(&self, selector: &str) {
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            self.mouse(kind, selector);
        }
    }

    /// One event of the mouse on the middle of an element, wherever that is by now.
    #[track_caller]
    pub(crate) fn mouse(&self, kind: &str, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const found = document.querySelector({selector:?}); found.scrollIntoView({{block: 'center', behavior: 'instant'}}); \
             const box = found.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        ));
        let event = json!({
            "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1,
        });
        self.call("Input.dispatchMouseEvent", &event);
    }

    /// Presses a key by its name.
    pub(crate) fn press(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            " " => (32, " "),
            "ArrowLeft" => (37, ""),
            "ArrowRight" => (39, ""),
            other => panic!("no key {other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text,
            });
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// Goes on with the Tab key until an element has the focus.
    #[track_caller]
    pub(crate) fn tab_to(&self, selector: &str) {
        let is_there = format!("document.activeElement.matches({selector:?})");
        for _ in 0..100 {
            if self.value(&is_there) == json!(true) {
                return;
            }
            self.press("Tab");
        }
        panic!("the keyboard does not come to {selector}");
    }

    /// Types a text where the focus is.
    pub(crate) fn typed(&self, text: &str) {
        self.call("Input.insertText", &json!({"text": text}));
    }

    /// A window of this size.
    pub(crate) fn size(&self, width: u32, height: u32) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// What the person prefers: `dark` or `light`, and no motion.
    pub(crate) fn prefers(&self, scheme: &str) {
        let features = json!({"features": [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]});
        self.call("Emulation.setEmulatedMedia", &features);
    }

    /// Writes a picture of the window.
    pub(crate) fn picture(&self, path: &Path) {
        let shot = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        let data = shot["data"].as_str().expect("a picture");
        let bytes = base64::engine::general_purpose::STANDARD.decode(data);
        std::fs::write(path, bytes.expect("base64")).expect("a file");
    }

    /// What was reported of the page: errors and warnings of scripts, exceptions, what did not load, what a policy has stopped. Not what
    /// the browser thinks of the machine.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let heard = self.heard.lock().expect("no panic");
        let complains = |event: &&Value| match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => true,
            "Runtime.consoleAPICalled" => event["params"]["type"] != "log",
            "Log.entryAdded" => {
                let entry = &event["params"]["entry"];
                let of_the_page = ["javascript", "network", "security"].map(Value::from);
                entry["level"] != "verbose" && of_the_page.contains(&entry["source"])
            }
            _ => false,
        };
        let complaints = heard.events.iter().filter(complains);
        complaints
            .map(|event| event["params"].to_string())
            .collect()
    }

    /// All addresses that were asked.
    pub(crate) fn asked(&self) -> Vec<String> {
        let heard = self.heard.lock().expect("no panic");
        let sent = heard.events.iter();
        let sent = sent.filter(|event| event["method"] == "Network.requestWillBeSent");
        let url = |event: &Value| {
            event["params"]["request"]["url"]
                .as_str()
                .map(str::to_owned)
        };
        sent.filter_map(url).collect()
    }
}

/// Takes down what the browser says: messages with a zero byte after each.
fn listen(mut pipe: impl BufRead + Send + 'static, heard: &Arc<Mutex<Heard>>) {
    let heard = Arc::clone(heard);
    std::thread::spawn(move || {
        let mut text = Vec::new();
        while pipe.read_until(0, &mut text).is_ok_and(|read| read > 0) {
            if text.last() == Some(&0) {
                text.pop();
            }
            let message: Value = serde_json::from_slice(&text).unwrap_or_default();
            text.clear();
            let mut heard = heard.lock().expect("no panic");
            match message["id"].as_u64() {
                Some(id) => drop(heard.answers.insert(id, message)),
                None => heard.events.push(message),
            }
        }
    });
}

impl Drop for Browser {
    /// It is asked to end, so that it takes its helpers along; if it does not, all are made to.
    fn drop(&mut self) {
        if let Ok(mut pipe) = self.pipe.lock() {
            let _ = pipe.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        }
        let end = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let group = format!("-{}", self.child.id());
        let mut kill = Command::new("kill");
        // There is no such group any more, as a rule.
        let _ = kill
            .args(["-KILL", "--", &group])
            .stderr(Stdio::null())
            .status();
        let _ = self.child.wait();
    }
}
