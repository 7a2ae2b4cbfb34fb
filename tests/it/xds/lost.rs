//! Servers that go away, and connections.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use super::{VARIANTS, domain, follow, limit, wait_for};
use crate::support::ads::ManagementServer;
use crate::support::authority::Authority;
use crate::support::poll;
use crate::support::server::Setup;

#[test]
fn a_lost_server_keeps_the_rules_and_is_asked_again() {
    for variant in VARIANTS {
        let management = ManagementServer::start();
        let server = follow(&management, variant).start();
        management.set_json(&[domain("one", 10)]);
        wait_for(&server, "one", Some(10));
        management.wait_for(2);

        let address = management.address;
        drop(management);
        server.wait_for_log("is lost, the rules stay");
        assert_eq!(server.metric("tollgate_xds_connected"), 0.0);
        assert_eq!(limit(&server, "one"), Some(10), "{variant}");
        assert!(server.is_ready());

        let management = ManagementServer::listen(address, None);
        management.begin_at(5);
        let first = management.wait_for(1);
        assert_eq!((first.stream, first.nonce.as_str()), (1, ""));
        assert!(first.node.is_some(), "each stream says who it is");
        if variant == "GRPC_XDS_SOTW" {
            assert_eq!(first.version, "", "all is sent anew");
        } else {
            assert_eq!(first.versions.get("one").map(String::as_str), Some("1"));
        }
        management.set_json(&[domain("one", 20)]);
        wait_for(&server, "one", Some(20));
        assert_eq!(server.metric("tollgate_xds_connected"), 1.0);
        assert_eq!(server.metric("ratelimit_service_config_load_error"), 0.0);
    }
}

/// Envoy Gateway counts its versions from 1 again, and sends nothing to whoever has the version that it is at.
#[test]
fn a_restarted_server_may_use_its_versions_again() {
    let management = ManagementServer::start();
    let server = follow(&management, "GRPC_XDS_SOTW").start();
    management.set_json(&[domain("one", 10)]);
    wait_for(&server, "one", Some(10));
    let address = management.address;
    drop(management);
    let management = ManagementServer::listen(address, None);
    management.set_json(&[domain("one", 20)]);
    wait_for(&server, "one", Some(20));
    assert_eq!(management.wait_for(2).version, "1");
    // The same again is no load.
    let loads = || server.metric("ratelimit_service_config_load_success");
    assert_eq!(loads(), 2.0);
    server.signal("HUP");
    assert_eq!(management.wait_for(4).nonce, "2-1");
    assert_eq!(loads(), 2.0);
}

#[test]
fn a_server_that_insists_is_answered_later_and_later() {
    let management = ManagementServer::start();
    management.insist();
    let server = follow(&management, "GRPC_XDS_SOTW").start();
    management.set_json(&[domain("one", 10)]);
    wait_for(&server, "one", Some(10));
    management.set_json(&[json!({"name": "one"})]);
    let refused = [3, 4, 5].map(|n| management.wait_for(n));
    assert!(refused.iter().all(|said| said.error.is_some()));
    let at = refused.map(|said| said.at.expect("a time"));
    // A second and two, less half of each at most.
    for (wait, least) in [(at[1] - at[0], 400), (at[2] - at[1], 800)] {
        assert!(wait >= Duration::from_millis(least), "{wait:?}");
    }
    assert_eq!(server.metric("ratelimit_service_config_load_error"), 1.0);
    assert_eq!(limit(&server, "one"), Some(10));
    management.set_json(&[domain("one", 11)]);
    wait_for(&server, "one", Some(11));
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for() {
    let management = ManagementServer::start();
    let (address, setup) = (management.address, follow(&management, "GRPC_XDS_SOTW"));
    drop(management);
    let server = setup.start();
    server.wait_for_log("is lost, the rules stay");
    assert!(!server.is_ready());
    let management = ManagementServer::listen(address, None);
    management.set_json(&[domain("one", 10)]);
    wait_for(&server, "one", Some(10));
    assert!(server.is_ready());
}

#[test]
fn attempts_come_later_and_later_up_to_a_bound() {
    let refusing = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = refusing.local_addr().expect("an address").to_string();
    let _server = Setup::rules("")
        .env("CONFIG_TYPE", "GRPC_XDS_SOTW")
        .env("CONFIG_GRPC_XDS_SERVER_URL", &address)
        .env("CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL", "50ms")
        .env("XDS_CLIENT_BACKOFF_MAX_INTERVAL", "200ms")
        .env("XDS_CLIENT_BACKOFF_JITTER", "false")
        .start();
    // Each connection is closed as soon as it is there.
    let attempts: Vec<Instant> = (0..6)
        .map(|_| {
            drop(refusing.accept().expect("a connection"));
            Instant::now()
        })
        .collect();
    let waits = attempts.windows(2).map(|pair| pair[1] - pair[0]);
    let least = [50, 100, 200, 200, 200].map(Duration::from_millis);
    for (wait, least) in waits.zip(least) {
        // An attempt is noticed some time after it was made.
        assert!(wait >= least / 2, "{wait:?} is less than {least:?}");
    }
}

#[test]
fn a_hangup_asks_anew() {
    let management = ManagementServer::start();
    let server = follow(&management, "GRPC_XDS_DELTA").start();
    management.set_json(&[domain("one", 10)]);
    wait_for(&server, "one", Some(10));
    management.wait_for(2);
    server.signal("HUP");
    assert_eq!(management.wait_for(3).stream, 2);
    assert_eq!(limit(&server, "one"), Some(10));
}

#[test]
fn a_message_over_the_bound_is_not_taken() {
    for variant in VARIANTS {
        let management = ManagementServer::start();
        let server = follow(&management, variant)
            .env("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", "4096")
            .start();
        management.set_json(&[domain("one", 10)]);
        wait_for(&server, "one", Some(10));
        let many: Vec<_> = (0..1000).map(|n| json!({"key": format!("k{n}")})).collect();
        let large = json!({"name": "large", "domain": "large", "descriptors": many});
        management.set_json(&[domain("one", 11), large]);
        server.wait_for_log("the rules cannot be read, and those before stay");
        assert!(server.metric("ratelimit_service_config_load_error") >= 1.0);
        assert_eq!(limit(&server, "one"), Some(10), "{variant}");
        management.set_json(&[domain("one", 12)]);
        wait_for(&server, "one", Some(12));
    }
}

/// Files of the client, and what they are called.
struct Pems(tempfile::TempDir);

impl Pems {
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

/// A server whose certificate is for `control-plane`, and that asks for one of the same authority.
fn secured(authority: &Authority) -> ServerTlsConfig {
    let (certificate, key) = authority.sign("control-plane");
    ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(authority.pem()))
}

#[test]
fn tls_files_are_read_again_for_each_connection() {
    let local = "127.0.0.1:0".parse().expect("an address");
    let (before, after) = (Authority::new(), Authority::new());
    let pems = Pems(tempfile::TempDir::new().expect("a directory"));
    let write = |authority: &Authority| {
        let (certificate, key) = authority.sign("ratelimit");
        [
            ("CLIENT_TLS_CERT", pems.write("cert.pem", &certificate)),
            ("CLIENT_TLS_KEY", pems.write("key.pem", &key)),
            ("SERVER_TLS_CACERT", pems.write("ca.pem", &authority.pem())),
        ]
    };
    let management = ManagementServer::listen(local, Some(secured(&before)));
    let mut setup = follow(&management, "GRPC_XDS_SOTW")
        .env("CONFIG_GRPC_XDS_SERVER_USE_TLS", "true")
        .env("CONFIG_GRPC_XDS_SERVER_TLS_SAN", "control-plane");
    for (name, path) in write(&before) {
        setup = setup.env(&format!("CONFIG_GRPC_XDS_{name}"), &path);
    }
    let server = setup.start();
    management.set_json(&[domain("one", 10)]);
    wait_for(&server, "one", Some(10));

    // The other side has certificates of another authority now, and so, a while later, has this one.
    let address = management.address;
    drop(management);
    let management = ManagementServer::listen(address, Some(secured(&after)));
    management.begin_at(7);
    server.wait_for_log("invalid peer certificate");
    assert_eq!(limit(&server, "one"), Some(10));
    write(&after);
    management.wait_for(1);
    management.set_json(&[domain("one", 20)]);
    wait_for(&server, "one", Some(20));
}

#[test]
fn a_server_of_another_name_is_not_believed() {
    let local = "127.0.0.1:0".parse().expect("an address");
    let authority = Authority::new();
    let (certificate, key) = authority.sign("someone-else");
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
    let management = ManagementServer::listen(local, Some(tls));
    management.set_json(&[domain("one", 10)]);
    let pems = Pems(tempfile::TempDir::new().expect("a directory"));
    let server = follow(&management, "GRPC_XDS_SOTW")
        .env("CONFIG_GRPC_XDS_SERVER_USE_TLS", "true")
        .env("CONFIG_GRPC_XDS_SERVER_TLS_SAN", "control-plane")
        .env(
            "CONFIG_GRPC_XDS_SERVER_TLS_CACERT",
            &pems.write("ca.pem", &authority.pem()),
        )
        .start();
    server.wait_for_log("not valid for name");
    assert!(!server.is_ready());
    assert!(management.said().is_empty());
    poll::until("another attempt", || {
        let lost = |line: &&String| line.contains("not valid for name");
        (server.log().iter().filter(lost).count() > 1).then_some(())
    });
}
