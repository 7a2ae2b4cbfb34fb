//! Ways to a server: TLS, users, sockets.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tollgate::store::redis::Redis;
use tollgate::store::redis::settings::{
    Address, Credentials, Kind, MAX_ADDRESSES, Servers, Settings, SettingsError, Socket, Tls,
};

use super::{charge, key, per_day};
use crate::support::redis::{CALL_TIMEOUT, Server, connected, free_port, until};

const PASSWORD: &str = "correct-horse";

#[tokio::test]
async fn tls_with_a_client_certificate_and_a_user() {
    let files = Certificates::make("127.0.0.1");
    let (server, mut settings) = files.server();
    works(&settings).await;

    settings.credentials.password = Some("wrong-horse".to_owned());
    let store = Redis::connect(&settings).expect("settings");
    fails_saying(&store, "WRONGPASS").await;
    let shown = format!("{settings:?} {store:?} {:?}", store.ping().await);
    assert!(!shown.contains("horse"), "{shown}");

    settings.credentials.password = Some(PASSWORD.to_owned());
    settings.tls.as_mut().expect("tls").client = None;
    let store = Redis::connect(&settings).expect("settings");
    until("the server wants a certificate", async || {
        store.ping().await.is_err()
    })
    .await;
    drop(server);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_trusted_only_if_told_so() {
    let files = Certificates::make("another.example");
    let (_server, mut settings) = files.server();
    let store = Redis::connect(&settings).expect("settings");
    fails_saying(&store, "InvalidCertificate").await;
    let tls = settings.tls.as_mut().expect("tls");
    tls.skip_hostname_verification = true;
    works(&settings).await;

    // The chain is verified still.
    let stranger = Certificates::make("another.example");
    settings.tls.as_mut().expect("tls").ca = Some(stranger.path("ca.pem"));
    let store = Redis::connect(&settings).expect("settings");
    fails_saying(&store, "InvalidCertificate").await;
}

#[test]
fn a_missing_file_is_named_by_its_variable() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let _entered = runtime.as_ref().expect("a runtime").enter();
    let mut settings = Settings::parse(Kind::Single, Socket::Tcp, "localhost:1").expect("settings");
    settings.tls = Some(Tls {
        ca: Some("/nowhere/ca.pem".into()),
        ..Tls::default()
    });
    let error = Redis::connect(&settings).expect_err("no file");
    assert!(
        error.to_string().starts_with("REDIS_TLS_CACERT: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_unix_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("redis.sock").display().to_string();
    let _server = Server::with(&["--unixsocket", &path, "--requirepass", PASSWORD]);
    let mut settings = Settings::parse(Kind::Single, Socket::Unix, &path).expect("settings");
    settings.timeout = CALL_TIMEOUT;
    settings.credentials = Credentials::parse(PASSWORD);
    works(&settings).await;
}

#[test]
fn addresses_are_bounded_in_number() {
    let list = |count: usize| vec!["localhost:1"; count].join(",");
    for (kind, before) in [(Kind::Cluster, ""), (Kind::Sentinel, "master,")] {
        let read = |count| Settings::parse(kind, Socket::Tcp, &(before.to_owned() + &list(count)));
        read(MAX_ADDRESSES).expect("as many as may be");
        let beyond = read(MAX_ADDRESSES + 1).expect_err("one beyond");
        assert!(matches!(beyond, SettingsError::Addresses), "{beyond}");
    }
}

#[test]
fn addresses_are_read_as_the_reference_reads_them() {
    let single = |socket, url| Settings::parse(Kind::Single, socket, url);
    let address = |host: &str, port| Address {
        host: host.to_owned(),
        port,
    };
    let local = Servers::Single(address("localhost", 6379));
    for socket in [Socket::Tcp, Socket::Unix] {
        assert_eq!(
            single(socket, "localhost:6379").expect("read").servers,
            local
        );
        assert_eq!(
            single(socket, "/run/redis.sock").expect("read").servers,
            Servers::Unix("/run/redis.sock".into())
        );
    }
    let uri = single(Socket::Tcp, "rediss://me:pass@localhost/3").expect("read");
    assert_eq!((uri.servers, uri.database), (local, Some(3)));
    assert_eq!(uri.credentials, Credentials::parse("me:pass"));
    assert_eq!(uri.tls, Some(Tls::default()));

    let list = Settings::parse(Kind::Cluster, Socket::Tcp, "a:1, b:2").expect("read");
    assert_eq!(
        list.servers,
        Servers::Cluster(vec![address("a", 1), address("b", 2)])
    );
    let sentinel = Settings::parse(Kind::Sentinel, Socket::Tcp, "main,a:1,b:2").expect("read");
    let Servers::Sentinel {
        master, sentinels, ..
    } = sentinel.servers
    else {
        panic!("{sentinel:?}");
    };
    assert_eq!((master.as_str(), sentinels.len()), ("main", 2));
}

/// Certificates end: whoever connects anew goes by the files as they are then, and by those before if they are wrong.
#[tokio::test]
async fn the_files_of_tls_are_read_again() {
    let files = Certificates::make("127.0.0.1");
    let (mut server, settings) = files.server();
    let store = connected(&settings).await;
    files.write("client.key", "half a key");
    server.restart();
    until("it goes by the files before", async || {
        store.ping().await.is_ok()
    })
    .await;
    files.issue("127.0.0.1");
    server.restart();
    until("it goes by the new authority's", async || {
        store.ping().await.is_ok()
    })
    .await;
    works(&settings).await;
}

#[test]
fn what_cannot_be_read_is_refused_without_its_password() {
    for (kind, url) in [
        (Kind::Single, "localhost"),
        (Kind::Single, "localhost:0"),
        (Kind::Single, "localhost:70000"),
        (Kind::Single, "redis://:horse@local host"),
        (Kind::Single, "redis://:horse@localhost/twelve"),
        (Kind::Single, "me:horse@localhost:6379"),
        (Kind::Cluster, "redis://:horse@a:1,b:2"),
        (Kind::Cluster, "a:1,horse@b:2"),
        (Kind::Sentinel, "redis://:horse@a:1,b:2"),
        (Kind::Sentinel, "main,redis://:horse@a:1"),
        (Kind::Sentinel, "localhost:26379"),
        (Kind::Sentinel, ",localhost:26379"),
        (Kind::Cluster, ""),
        (Kind::Cluster, "a:1,b"),
    ] {
        let error: SettingsError = Settings::parse(kind, Socket::Tcp, url).expect_err(url);
        assert!(error.to_string().starts_with("REDIS_URL"), "{url}: {error}");
        assert!(!error.to_string().contains("horse"), "{url}: {error}");
    }
}

/// An authority, and what it issued for a server and a client.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn make(server_name: &str) -> Self {
        let this = Self(tempfile::tempdir().expect("a directory"));
        this.issue(server_name);
        this
    }

    /// All of it anew, in place of what was there.
    fn issue(&self, server_name: &str) {
        let mut params = CertificateParams::default();
        // OpenSSL takes an issuer and a subject of one name for the same.
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        self.write("ca.pem", &authority.pem());
        for (file, name) in [("server", server_name), ("client", "client.example")] {
            let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
            let key = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&key, &authority).expect("a certificate");
            self.write(&format!("{file}.pem"), &certificate.pem());
            self.write(&format!("{file}.key"), &key.serialize_pem());
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    /// A server that speaks nothing but TLS, to one user who shows a certificate.
    fn server(&self) -> (Server, Settings) {
        let port = free_port();
        let file = |name: &str| Path::display(&self.path(name)).to_string();
        let server = Server::with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &file("server.pem"),
            "--tls-key-file",
            &file("server.key"),
            "--tls-ca-cert-file",
            &file("ca.pem"),
            "--port",
            "0",
            "--user",
            "app",
            "on",
            &format!(">{PASSWORD}"),
            "~*",
            "+@all",
            "--user",
            "default",
            "off",
        ]);
        let url = format!("127.0.0.1:{port}");
        let mut settings = Settings::parse(Kind::Single, Socket::Tcp, &url).expect("settings");
        settings.timeout = CALL_TIMEOUT;
        settings.credentials = Credentials::parse(&format!("app:{PASSWORD}"));
        settings.tls = Some(Tls {
            ca: Some(self.path("ca.pem")),
            client: Some((self.path("client.pem"), self.path("client.key"))),
            skip_hostname_verification: false,
        });
        (server, settings)
    }
}

async fn works(settings: &Settings) {
    let store = connected(settings).await;
    let outcome = charge(&store, &key("way"), &per_day(5)).await;
    assert!(outcome.expect("an outcome").admitted);
}

async fn fails_saying(store: &Redis, what: &str) {
    until(what, async || {
        let error = store.ping().await.expect_err("it does not work");
        error.to_string().contains(what)
    })
    .await;
}

/// A user who may not ask to be told of changes is served all the same, over the library's connection.
#[tokio::test]
async fn a_user_without_client_tracking_is_served_all_the_same() {
    let server = Server::start();
    let admin = server.admin().await;
    admin
        .run("ACL SETUSER plain on >pass ~* +@all -client|tracking")
        .await;
    let mut settings = server.settings();
    settings.credentials = Credentials::parse("plain:pass");
    let store = connected(&settings).await;
    let (key, limit) = (key("plain"), per_day(2));
    for n in 0..4 {
        let outcome = charge(&store, &key, &limit).await.expect("an outcome");
        assert_eq!(outcome.admitted, n < 2);
    }
    assert_eq!(store.spared().0, 0, "nothing is remembered untold");
}
