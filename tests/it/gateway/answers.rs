//! What a client gets beside the upstream's answer: headers, leave for browsers, answers from the cache, TLS.

use std::io::Write;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};
use serde_json::json;

use super::Whole;
use crate::support::http::{connect, send, send_over};
use crate::support::poll;
use crate::support::token::bearer;

#[test]
fn answers_have_an_id_and_a_time_and_nothing_of_the_inside() {
    let whole = Whole::alone(&[]);
    let mut ids = Vec::new();
    for path in ["/hello", "/docs", "/docs", "/admin", "/batch", "/health"] {
        let reply = whole.get(path, &[("x-request-id", "mine")]);
        let id = reply.one("x-request-id").to_owned();
        assert_eq!(id.len(), 36, "{path}: {id}");
        assert!(!ids.contains(&id), "{path}: {id}");
        if path == "/hello" {
            assert!(reply.body.contains(&id), "the upstream has the same");
        }
        ids.push(id);
        let ms = reply
            .one("x-response-time")
            .strip_suffix("ms")
            .expect("a time");
        ms.parse::<u32>().expect("a number");
        assert_eq!(reply.one("strict-transport-security"), "max-age=31536000");
        for (name, value) in &reply.headers {
            let inside = ["server", "x-powered-by"].contains(&name.as_str());
            let inside = inside || name.starts_with("x-internal") || name.starts_with("x-envoy");
            assert!(!inside, "{path}: {name}: {value}");
        }
    }
    for upstream in &whole.upstreams {
        upstream.kill();
    }
    let reply = poll::until("nobody to be there", || {
        let reply = whole.send("POST", "/", &[]);
        (reply.code == 503).then_some(reply)
    });
    assert!(
        reply
            .body
            .starts_with("{\"error\":\"unavailable\",\"request_id\":"),
        "{reply:?}"
    );
}

#[test]
fn a_browser_may_ask_from_the_page_that_may() {
    let whole = Whole::start(&[]);
    let before = whole.decided();
    let ours = ("origin", "https://app.example.com");
    let asks = ("access-control-request-method", "DELETE");
    let reply = whole.send("OPTIONS", "/admin/x", &[ours, asks]);
    assert_eq!(reply.code, 200);
    assert_eq!(reply.one("access-control-allow-origin"), ours.1);
    assert!(reply.one("access-control-allow-methods").contains("DELETE"));
    for origin in [
        "https://example.net",
        "https://app.example.com.example.net",
        "http://app.example.com",
        "null",
    ] {
        let reply = whole.send("OPTIONS", "/", &[("origin", origin), asks]);
        assert_eq!(
            reply.all("access-control-allow-origin").len(),
            0,
            "{origin}"
        );
    }
    assert_eq!(whole.send("OPTIONS", "/", &[]).code, 204);
    assert_eq!(whole.decided(), before);
    assert_eq!(whole.asked(), [0; 4]);
    let reply = whole.get("/hello", &[ours]);
    assert_eq!(reply.one("access-control-allow-origin"), ours.1);
    assert!(
        reply
            .one("access-control-expose-headers")
            .contains("retry-after")
    );
}

#[test]
fn what_may_be_is_answered_from_the_cache_and_still_counted() {
    let whole = Whole::start(&[("max_cache_entry_count: 10000", "max_cache_entry_count: 20")]);
    let first = whole.get("/docs/api", &[]);
    assert_eq!(first.all("age").len(), 0);
    // It is written beside the answer: until it is there, each request fills the cache anew.
    let first = poll::until("an answer from the cache", || {
        let reply = whole.get("/docs/api", &[]);
        (reply.all("age").len() == 1).then_some(reply)
    });
    let (decided, asked) = (whole.decided(), whole.asked());
    let alice = bearer(&json!({"sub": "alice", "tier": "pro"}));
    let again = whole.get("/docs/api", &[("authorization", &alice)]);
    assert_eq!(again.all("age").len(), 1);
    assert_eq!(whole.asked(), asked, "no upstream was asked");
    assert!(
        !again.body.contains("alice"),
        "the same for everybody: {again:?}"
    );
    assert_ne!(again.one("x-request-id"), first.one("x-request-id"));
    assert!(whole.decided() > decided);
    // Nobody writes into it what others get.
    let poisoned = [
        ("x-forwarded-host", "evil"),
        ("x-original-url", "/admin"),
        ("x-user-id", "evil"),
    ];
    let reply = whole.get("/docs/other", &poisoned);
    assert!(
        !reply.body.contains("evil") && !reply.body.contains("/admin"),
        "{reply:?}"
    );
    let asked: usize = whole.asked().iter().sum();
    whole.get("/hello", &[]);
    whole.get("/hello", &[]);
    assert_eq!(
        whole.asked().iter().sum::<usize>(),
        asked + 2,
        "only where a route says so"
    );
    // Whoever asks for ever more does not fill the disk.
    for page in 0..60 {
        whole.get(&format!("/docs?{page}"), &[]);
    }
    let entries = || {
        let stats = send(
            whole.envoy.admin,
            "GET",
            "/stats?filter=cache.size_count",
            &[],
            "",
        )?;
        stats.body.trim().rsplit_once(": ")?.1.parse::<u64>().ok()
    };
    poll::until("the cache to be within its bound", || {
        (entries()? <= 20).then_some(())
    });
}

#[test]
fn tls_is_there_and_what_is_plain_is_sent_to_it() {
    let whole = Whole::alone(&[]);
    let get = |versions: &[&'static SupportedProtocolVersion], protocol: &[u8]| {
        let root = CertificateDer::from_pem_file(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/envoy/sample-tls.pem"
        ));
        let mut roots = RootCertStore::empty();
        roots.add(root.expect("a certificate")).expect("a root");
        let config =
            ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_protocol_versions(versions)
                .expect("versions");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
        let mut stream = StreamOwned::new(connection, connect(whole.https)?);
        // Nothing is said yet, but hands are shaken.
        stream.flush().ok()?;
        Some(stream)
    };
    for (versions, spoken) in [
        (&[&rustls::version::TLS13], ProtocolVersion::TLSv1_3),
        (&[&rustls::version::TLS12], ProtocolVersion::TLSv1_2),
    ] {
        let mut stream = get(versions, b"http/1.1").expect("TLS");
        let reply = send_over(&mut stream, "GET", "/hello", &[], "").expect("an answer");
        assert_eq!(reply.code, 200);
        assert!(
            reply
                .body
                .to_lowercase()
                .contains("x-forwarded-proto: https"),
            "{reply:?}"
        );
        assert_eq!(stream.conn.protocol_version(), Some(spoken));
        let stream = get(versions, b"h2").expect("TLS");
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
    }
    let reply = send(whole.redirect, "GET", "/a?b=c", &[], "").expect("an answer");
    assert_eq!(reply.code, 301);
    let port = whole.https.port();
    assert_eq!(
        reply.one("location"),
        format!("https://localhost:{port}/a?b=c")
    );
}
