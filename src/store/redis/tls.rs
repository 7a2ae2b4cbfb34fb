//! TLS towards Redis.

use std::path::Path;
use std::sync::Arc;

use fred::types::config::TlsConnector;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::settings::{SettingsError, Tls};

/// What the environment variables are called that name files.
const CA: &str = "REDIS_TLS_CACERT";
const CLIENT_CERT: &str = "REDIS_TLS_CLIENT_CERT";
const CLIENT_KEY: &str = "REDIS_TLS_CLIENT_KEY";

/// Verifies all of a certificate but the name it was issued for.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

/// Reads the files and makes of them what the client connects with.
pub(super) fn connector(tls: &Tls) -> Result<TlsConnector, SettingsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(tls, Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse("REDIS_TLS", &error))?
        .dangerous();
    let builder = if tls.skip_hostname_verification {
        builder.with_custom_certificate_verifier(Arc::new(AnyName(verifier)))
    } else {
        builder.with_custom_certificate_verifier(verifier)
    };
    let config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates(CLIENT_CERT, chain)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| refuse(CLIENT_KEY, &e))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| refuse(CLIENT_CERT, &error))?
        }
    };
    Ok(config.into())
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

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.0
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is looked at last, so all else has been found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
