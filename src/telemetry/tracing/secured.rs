//! TLS towards the collector: the authorities of the system, one of the settings, and a certificate to show.
//!
//! The exporter knows none of these variables: over gRPC it trusts nobody, and over HTTP it speaks no TLS at all.

use std::fs;
use std::time::Duration;

use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry_http::HttpClient;
use opentelemetry_http::hyper::HyperClient;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::export::first_set;
use crate::telemetry::Error;

/// The authority that the collector's certificate may be from, beside those of the system.
const AUTHORITY: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
];

/// This client's certificate.
const CERTIFICATE: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
];

/// Its key.
const KEY: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
];

/// How long an export may take, in milliseconds.
const TIMEOUT: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
];

/// Unless the settings say otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The files that the variables name, as they are: PEM.
struct Files {
    authority: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

/// For gRPC.
pub(super) fn grpc() -> Result<ClientTlsConfig, Error> {
    let files = Files::read()?;
    // Read here, so that a file that is none is told of at the start.
    files.authorities()?;
    let config = ClientTlsConfig::new().with_enabled_roots();
    let config = match files.authority {
        Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
        None => config,
    };
    Ok(match files.client {
        Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
        None => config,
    })
}

/// For HTTP; without TLS where the address has none.
pub(super) fn http() -> Result<impl HttpClient + 'static, Error> {
    let files = Files::read()?;
    let builder =
        ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Exporter(error.to_string()))?
            .with_root_certificates(files.authorities()?);
    let config = match &files.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(CERTIFICATE, certificate)?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong(KEY, &error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| wrong(CERTIFICATE, &error))?
        }
    };
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .build();
    let millis = first_set(TIMEOUT).and_then(|(_, millis)| millis.parse().ok());
    let timeout = millis.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
    Ok(HyperClient::new(connector, timeout, None))
}

impl Files {
    fn read() -> Result<Self, Error> {
        let file = |variables| {
            let Some((variable, path)) = first_set(variables) else {
                return Ok(None);
            };
            let read = fs::read(&path);
            let read = read.map_err(|error| Error::Exporter(format!("{variable}={path}: {error}")));
            read.map(Some)
        };
        let authority = file(AUTHORITY)?;
        let client = match (file(CERTIFICATE)?, file(KEY)?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                let [_, certificate] = CERTIFICATE;
                let [_, key] = KEY;
                return Err(Error::Exporter(format!(
                    "{certificate} and {key} go together"
                )));
            }
        };
        Ok(Self { authority, client })
    }

    fn authorities(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        // The system may have none: the authority in the settings can be enough.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(pem) = &self.authority {
            for certificate in certificates(AUTHORITY, pem)? {
                let added = roots.add(certificate);
                added.map_err(|error| wrong(AUTHORITY, &error))?;
            }
        }
        Ok(roots)
    }
}

fn certificates(
    variables: [&'static str; 2],
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(variables, &error))?;
    if chain.is_empty() {
        return Err(wrong(variables, &"the file holds no certificate"));
    }
    Ok(chain)
}

/// The error of the file that one of `variables` names; it holds nothing of the file.
fn wrong(variables: [&'static str; 2], reason: &dyn std::fmt::Display) -> Error {
    let variable = first_set(variables).map_or(variables[1], |(name, _)| name);
    Error::Exporter(format!("{variable}: {reason}"))
}
