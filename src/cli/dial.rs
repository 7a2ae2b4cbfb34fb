//! A connection to a service, in the clear or over TLS.

use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::grpc::wire::RateLimitServiceClient;

/// How long connecting may take.
pub const CONNECT: Duration = Duration::from_secs(10);

/// PEM files for TLS.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Tls {
    /// The authority that the server's certificate must be from; those of the system if not given
    #[arg(long, value_name = "FILE")]
    pub grpc_server_ca_file: Option<PathBuf>,
    /// This client's certificate
    #[arg(long, value_name = "FILE", requires = "grpc_key_file")]
    pub grpc_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "grpc_cert_file")]
    pub grpc_key_file: Option<PathBuf>,
}

/// Connects to `host:port`; with `https://` before it, over TLS. The error is what to tell.
pub async fn open(address: &str, tls: &Tls) -> Result<RateLimitServiceClient<Channel>, String> {
    let full = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    let said = |error: &dyn std::error::Error| format!("{address}: {}", whole(error));
    let mut endpoint = Endpoint::from_shared(full.clone())
        .map_err(|error| said(&error))?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true);
    if full.starts_with("https://") {
        let config = config(tls)?;
        endpoint = endpoint.tls_config(config).map_err(|error| said(&error))?;
    }
    let channel = endpoint.connect().await.map_err(|error| said(&error))?;
    Ok(RateLimitServiceClient::new(channel))
}

fn config(tls: &Tls) -> Result<ClientTlsConfig, String> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let mut config = match &tls.grpc_server_ca_file {
        Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    if let (Some(certificate), Some(key)) = (&tls.grpc_cert_file, &tls.grpc_key_file) {
        config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(config)
}

/// An error with its causes, for the first says little.
pub(super) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
