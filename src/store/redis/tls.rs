//! TLS towards Redis. The files are read again when they have changed by the time of a handshake: certificates end, and
//! connections are made anew for as long as the service lives.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use fred::types::config::TlsConnector;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::settings::{SettingsError, Tls};

/// What the environment variables are called that name files.
const CA: &str = "REDIS_TLS_CACERT";
const CLIENT_CERT: &str = "REDIS_TLS_CLIENT_CERT";
const CLIENT_KEY: &str = "REDIS_TLS_CLIENT_KEY";

/// The files as they are now, for every handshake.
#[derive(Debug)]
struct Files {
    tls: Tls,
    provider: Arc<CryptoProvider>,
    read: ArcSwap<Read>,
    /// When each of them was last changed, as far as is known.
    modified: Mutex<Vec<Option<SystemTime>>>,
}

/// What the files say.
#[derive(Debug)]
struct Read {
    verifier: Arc<WebPkiServerVerifier>,
    client: Option<Arc<CertifiedKey>>,
}

/// Reads the files and makes of them what the client connects with.
pub(super) fn connector(tls: &Tls) -> Result<TlsConnector, SettingsError> {
    let provider = Arc::new(ring::default_provider());
    let files = Arc::new(Files {
        modified: Mutex::new(modified(tls)),
        read: ArcSwap::from_pointee(Read::new(tls, &provider)?),
        tls: tls.clone(),
        provider: Arc::clone(&provider),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse("REDIS_TLS", &error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&files) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(files);
    Ok(config.into())
}

impl Files {
    /// Reads them again if they have changed. Files that are wrong change nothing.
    fn refresh(&self) {
        let now = modified(&self.tls);
        {
            let mut before = self.modified.lock();
            if *before == now {
                return;
            }
            *before = now;
        }
        match Read::new(&self.tls, &self.provider) {
            Ok(read) => {
                self.read.store(Arc::new(read));
                tracing::info!("read the TLS files for redis again");
            }
            Err(error) => {
                tracing::warn!(%error, "the TLS files for redis have changed and are wrong; those before stay");
            }
        }
    }
}

impl Read {
    fn new(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Self, SettingsError> {
        let client = tls.client.as_ref().map(|(chain, key)| {
            let chain = certificates(CLIENT_CERT, chain)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| refuse(CLIENT_KEY, &e))?;
            let certified = CertifiedKey::from_der(chain, key, provider);
            certified.map_err(|error| refuse(CLIENT_CERT, &error))
        });
        Ok(Self {
            verifier: verifier(tls, Arc::clone(provider))?,
            client: client.transpose()?.map(Arc::new),
        })
    }
}

/// When the files were last changed.
fn modified(tls: &Tls) -> Vec<Option<SystemTime>> {
    let (chain, key) = tls.client.as_ref().map(|(chain, key)| (chain, key)).unzip();
    let modified = |path: &PathBuf| {
        std::fs::metadata(path)
            .and_then(|file| file.modified())
            .ok()
    };
    let files = [tls.ca.as_ref(), chain, key];
    files.into_iter().flatten().map(modified).collect()
}

fn verifier(
    tls: &Tls,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, SettingsError> {
    let mut roots = RootCertStore::empty();
    // The system may have none, or some that cannot be read: the authority in the settings can be enough.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(ca) = &tls.ca {
        for certificate in certificates(CA, ca)? {
            roots.add(certificate).map_err(|error| refuse(CA, &error))?;
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| refuse(CA, &error))
}

fn certificates(
    variable: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| refuse(variable, &error))?;
    if chain.is_empty() {
        return Err(refuse(variable, &"the file holds no certificate"));
    }
    Ok(chain)
}

fn refuse(variable: &'static str, reason: &dyn std::fmt::Display) -> SettingsError {
    SettingsError::Tls {
        variable,
        reason: reason.to_string(),
    }
}

impl ServerCertVerifier for Files {
    /// Comes first in a handshake, and finds the files as they are.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.refresh();
        let verifier = &self.read.load().verifier;
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last, so all else has been found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.tls.skip_hostname_verification => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verifier = &self.read.load().verifier;
        verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verifier = &self.read.load().verifier;
        verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.read.load().verifier.supported_verify_schemes()
    }
}

impl ResolvesClientCert for Files {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.read.load().client.clone()
    }

    fn has_certs(&self) -> bool {
        self.read.load().client.is_some()
    }
}
