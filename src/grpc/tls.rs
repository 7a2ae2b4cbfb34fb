//! Certificates, read again when their files change. Connections that are open keep theirs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The files of a server's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The authority of client certificates, which are then required; PEM.
    pub client_ca: Option<PathBuf>,
    /// The DNS name that a client's certificate must have.
    pub client_san: Option<String>,
}

/// What is spoken within TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2, as gRPC needs it.
    Http2,
    /// HTTP/1.1.
    Http1,
}

/// TLS with the files as they are now.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    protocol: Protocol,
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files; the error names the one that is wrong.
    pub fn new(files: Files, protocol: Protocol) -> io::Result<Self> {
        let config = ArcSwap::new(read(&files, protocol)?);
        Ok(Self {
            files,
            protocol,
            config,
        })
    }

    /// Reads the files again whenever they have changed, until dropped. Files that are wrong change nothing.
    pub async fn watch(self: Arc<Self>) {
        let mut before = look(&self.files);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = look(&self.files);
            if now == before {
                continue;
            }
            before = now;
            match read(&self.files, self.protocol) {
                Ok(config) => {
                    self.config.store(config);
                    info!("read the TLS certificate again");
                }
                Err(error) => {
                    warn!("the TLS files have changed and are wrong; those before stay: {error}")
                }
            }
        }
    }

    /// Shakes hands within [`HANDSHAKE_TIMEOUT`]; none if that fails.
    pub async fn shake(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.accept(stream)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => debug!("a TLS handshake failed: {error}"),
            Err(_) => debug!("a TLS handshake took too long"),
        }
        None
    }

    async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let stream = TlsAcceptor::from(self.config.load_full())
            .accept(stream)
            .await?;
        if let Some(wanted) = &self.files.client_san {
            let certificates = stream.get_ref().1.peer_certificates();
            let client = certificates.and_then(|chain| chain.first());
            if !client.is_some_and(|client| has_dns_name(client, wanted)) {
                return Err(io::Error::other(format!(
                    "the client's certificate is not for {wanted}"
                )));
            }
        }
        Ok(stream)
    }
}

fn read(files: &Files, protocol: Protocol) -> io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match &files.client_ca {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(path, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(path, error))?)
        }
        None => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, error))?;
    let mut config = builder
        .with_single_cert(certificates(&files.certificate)?, key)
        .map_err(|error| wrong(&files.certificate, error))?;
    config.alpn_protocols = vec![match protocol {
        Protocol::Http2 => b"h2".to_vec(),
        Protocol::Http1 => b"http/1.1".to_vec(),
    }];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(path, error))?;
    let chain: Vec<_> = read
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(path, error))?;
    if chain.is_empty() {
        return Err(wrong(path, "no certificate in it"));
    }
    Ok(chain)
}

fn wrong(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{}: {error}", path.display()),
    )
}

fn look(files: &Files) -> Vec<Option<SystemTime>> {
    let paths = [
        Some(&files.certificate),
        Some(&files.key),
        files.client_ca.as_ref(),
    ];
    let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    paths.into_iter().flatten().map(modified).collect()
}

fn has_dns_name(certificate: &CertificateDer<'_>, wanted: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    let is_wanted = |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(name) if name.eq_ignore_ascii_case(wanted));
    names.value.general_names.iter().any(is_wanted)
}
