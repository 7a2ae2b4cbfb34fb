//! TLS wherever it can be, of the real binary: the HTTP ports, and the way to the collector. For the gRPC port see `grpc`, for
//! Redis `redis/connecting`.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tokio::sync::watch;
use tollgate::admin::listen;
use tollgate::grpc::tls::{Files, Protocol, Tls};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::support::authority::Authority;
use crate::support::http::{self, Reply, send_over};
use crate::support::otlp::Received;
use crate::support::poll;
use crate::support::server::{Server, Setup, binary, request};

const RULES: &str = "
domain: d
descriptors:
  - key: user
    rate_limit: {requests_per_unit: 3, unit: day}
";

/// A directory of PEM files.
struct Pems(tempfile::TempDir);

impl Pems {
    fn new() -> Self {
        Self(tempfile::TempDir::new().expect("a directory"))
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

/// A service whose `HTTP` ports or `GRPC` port speak TLS with a certificate and its key.
fn secured(port: &str, pems: &Pems, (certificate, key): (String, String)) -> Setup {
    let variable = |name: &str| format!("{port}_SERVER_{name}");
    Setup::rules(RULES)
        .env(&variable("USE_TLS"), "true")
        .env(&variable("TLS_CERT"), &pems.write("cert.pem", &certificate))
        .env(&variable("TLS_KEY"), &pems.write("key.pem", &key))
}

/// A GET over TLS, of whoever `authority` vouches for, as `client`; none without an answer.
fn get(
    address: SocketAddr,
    authority: &Authority,
    client: Option<(String, String)>,
    path: &str,
) -> Option<Reply> {
    let connection = begin(authority, client);
    let stream = StreamOwned::new(connection, http::connect(address)?);
    send_over(stream, "GET", path, &[], "")
}

/// The client's side of a connection to whoever `authority` vouches for, as `client`.
fn begin(authority: &Authority, client: Option<(String, String)>) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes());
    roots.add(root.expect("a certificate")).expect("a root");
    let builder =
        ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::from_pem_slice(certificate.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            let chain = vec![chain.expect("a certificate")];
            builder.with_client_auth_cert(chain, key).expect("a client")
        }
    };
    let name = "localhost".try_into().expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a connection")
}

#[test]
fn the_http_ports_ask_for_certificates_and_read_their_own_again() {
    let (first, second, clients) = (Authority::new(), Authority::new(), Authority::new());
    let pems = Pems::new();
    let server = secured("HTTP", &pems, first.sign("localhost"))
        .env(
            "HTTP_CLIENT_TLS_CACERT",
            &pems.write("clients.pem", &clients.pem()),
        )
        .env("HTTP_CLIENT_TLS_SAN", "operator.example")
        .start();
    let good = || Some(clients.sign("operator.example"));
    for (address, path) in [(server.http, "/health/live"), (server.debug, "/rlconfig")] {
        let reply = get(address, &first, good(), path).expect("a good client");
        assert_eq!(reply.code, 200, "{path}");
        for (who, client) in [
            ("no certificate", None),
            ("another authority", Some(first.sign("operator.example"))),
            ("another name", Some(clients.sign("other.example"))),
        ] {
            assert!(get(address, &first, client, path).is_none(), "{who}");
        }
        let clear = http::send(address, "GET", path, &[], "");
        assert!(clear.is_none(), "in clear: {clear:?}");
        assert!(get(address, &second, good(), path).is_none());
    }

    let (certificate, key) = second.sign("localhost");
    pems.write("key.pem", &key);
    pems.write("cert.pem", &certificate);
    poll::until("the new certificate", || {
        get(server.http, &second, good(), "/health/live")
    });
    pems.write("cert.pem", "nothing");
    server.wait_for_log("those before stay");
    let reply = get(server.http, &second, good(), "/health/live");
    assert_eq!(reply.expect("as before").code, 200);
}

#[test]
fn an_open_handshake_does_not_hold_up_the_end() {
    let authority = Authority::new();
    let pems = Pems::new();
    let server = secured("HTTP", &pems, authority.sign("localhost"))
        .env("DRAIN_TIMEOUT", "1h")
        .start();
    let _silent = http::connect(server.http).expect("a connection");
    get(server.http, &authority, None, "/health/live").expect("an answer");
    server.signal("TERM");
    assert!(server.wait().success());
}

/// Who begins no handshake holds up those beyond the bound, until it goes.
#[test]
fn handshakes_beyond_the_bound_wait_their_turn() {
    const HANDSHAKES: usize = 256;
    let authority = Authority::new();
    let pems = Pems::new();
    let server = secured("GRPC", &pems, authority.sign("localhost"))
        .env("GRPC_THREADS", "1")
        .start();
    let address = server.grpc.expect("a port");
    let connect = || TcpStream::connect(address).expect("a connection");
    // The answer to a greeting, which there is soon or not within `patience_ms`.
    let answered = |mut stream: &TcpStream, patience_ms| {
        let patience = Some(Duration::from_millis(patience_ms));
        stream.set_read_timeout(patience).expect("a timeout");
        stream.read_exact(&mut [0; 1]).is_ok()
    };
    let greet = || {
        let mut stream = connect();
        let greeting = begin(&authority, None).write_tls(&mut stream);
        greeting.expect("sent");
        stream
    };
    let mut silent: Vec<_> = (1..HANDSHAKES).map(|_| connect()).collect();
    assert!(answered(&greet(), 10_000), "the last that may");
    silent.push(connect());
    let beyond = greet();
    assert!(!answered(&beyond, 100), "it waits");
    silent.pop();
    assert!(answered(&beyond, 10_000), "its turn");
}

#[test]
fn tls_that_would_not_be_there_is_refused() {
    for (set, says) in [
        (
            &[("HTTP_SERVER_USE_TLS", "true")][..],
            "HTTP_SERVER_USE_TLS=true needs HTTP_SERVER_TLS_CERT",
        ),
        (
            &[
                ("HTTP_SERVER_USE_TLS", "true"),
                ("HTTP_SERVER_TLS_CERT", "envoy/sample-key.pem"),
                ("HTTP_SERVER_TLS_KEY", "envoy/sample-key.pem"),
            ],
            "envoy/sample-key.pem: no certificate in it",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://localhost:1"),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem"),
            ],
            "OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere.pem: No such file",
        ),
    ] {
        let mut command = binary();
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        let ended = command.envs(set.iter().copied()).output().expect("it runs");
        assert!(!ended.status.success(), "{ended:?}");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_socket_of_this_machine_has_no_tls_and_says_so() {
    let authority = Authority::new();
    let pems = Pems::new();
    let (certificate, key) = authority.sign("localhost");
    let ended = binary()
        .env("GRPC_SERVER_USE_TLS", "true")
        .env("GRPC_SERVER_TLS_CERT", pems.write("c.pem", &certificate))
        .env("GRPC_SERVER_TLS_KEY", pems.write("k.pem", &key))
        .env("GRPC_UDS", pems.0.path().join("socket"))
        .output()
        .expect("it runs");
    assert_eq!(ended.status.code(), Some(2));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("GRPC_UDS has no TLS"), "{said}");
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Asks once, traced, and ends the service: what was traced has left.
async fn trace_once(server: Server) {
    let mut message = tonic::Request::new(request("d", &[&[("user", "alice")]]));
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let parent = parent.parse().expect("ASCII");
    message.metadata_mut().insert("traceparent", parent);
    let mut client = server.client().await;
    client.should_rate_limit(message).await.expect("an answer");
    server.signal("TERM");
    assert!(server.wait().success());
}

/// A service that trusts a collector with a certificate of `authority`, and shows it one of `clients`.
fn exporting(
    address: SocketAddr,
    protocol: &str,
    pems: &Pems,
    authority: &Authority,
    clients: &Authority,
) -> Server {
    let (certificate, key) = clients.sign("tollgate.example");
    let endpoint = format!("https://localhost:{}", address.port());
    Setup::rules(RULES)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env(
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            &pems.write("ca.pem", &authority.pem()),
        )
        .env(
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            &pems.write("client.pem", &certificate),
        )
        .env(
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            &pems.write("client.key", &key),
        )
        .start_ready()
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_leave_within_tls_to_whom_the_settings_trust() {
    let (authority, stranger, clients) = (Authority::new(), Authority::new(), Authority::new());
    let (certificate, key) = authority.sign("localhost");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(clients.pem()));
    let (received, address) = Received::start_secured(tls).await;
    let pems = Pems::new();
    trace_once(exporting(address, "grpc", &pems, &stranger, &clients)).await;
    assert_eq!(received.spans(TRACE).len(), 0, "a stranger's are not sent");
    trace_once(exporting(address, "grpc", &pems, &authority, &stranger)).await;
    assert_eq!(received.spans(TRACE).len(), 0, "nor taken from one");
    trace_once(exporting(address, "grpc", &pems, &authority, &clients)).await;
    assert_eq!(received.spans(TRACE).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_leave_within_tls_over_http_too() {
    let (authority, stranger, clients) = (Authority::new(), Authority::new(), Authority::new());
    let (certificate, key) = authority.sign("localhost");
    let pems = Pems::new();
    let files = Files {
        certificate: PathBuf::from(pems.write("cert.pem", &certificate)),
        key: PathBuf::from(pems.write("key.pem", &key)),
        client_ca: Some(PathBuf::from(pems.write("clients.pem", &clients.pem()))),
        client_san: None,
    };
    let tls = Arc::new(Tls::new(files, Protocol::Http1).expect("TLS"));
    let received = Received::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (_up, down) = watch::channel(false);
    tokio::spawn(listen::serve(listener, Some(tls), received.routes(), down));
    let protocol = "http/protobuf";
    trace_once(exporting(address, protocol, &pems, &stranger, &clients)).await;
    assert_eq!(received.spans(TRACE).len(), 0, "a stranger's are not sent");
    trace_once(exporting(address, protocol, &pems, &authority, &clients)).await;
    assert_eq!(received.spans(TRACE).len(), 2);
}
