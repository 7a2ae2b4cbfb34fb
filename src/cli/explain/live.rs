//! A running service, asked over its API.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

use super::asked;
use crate::admin::api::PREFIX;
use crate::cli::dial::whole;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Which service.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct LiveFlags {
    /// Ask a running service at its HTTP address, such as http://localhost:8080, and not rules in files
    #[arg(long, value_name = "URL")]
    pub(super) live: Option<String>,
    /// With --live: a file with the token of a reader
    #[arg(long, value_name = "FILE", requires = "live")]
    token_file: Option<PathBuf>,
    /// With --live: the authority that the server's certificate must be from; those of the system if not given
    #[arg(long, value_name = "FILE", requires = "live")]
    ca_file: Option<PathBuf>,
}

/// A service that is asked.
pub(super) struct Live {
    url: String,
    uri: Uri,
    token: Option<String>,
    tls: ClientConfig,
}

impl Live {
    pub(super) fn new(flags: &LiveFlags) -> Result<Self, String> {
        let given = flags.live.as_deref().unwrap_or_default();
        let url = match given.contains("://") {
            true => given.trim_end_matches('/').to_owned(),
            false => format!("http://{}", given.trim_end_matches('/')),
        };
        let uri = format!("{url}{PREFIX}/explain").parse::<Uri>();
        let uri = uri.ok().filter(|uri| uri.host().is_some());
        let token = flags.token_file.as_ref().map(|path| {
            let text = asked::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let mut lines = text
                .lines()
                .map(|line| line.split('#').next().unwrap_or_default().trim());
            let token = lines.find(|line| !line.is_empty());
            token
                .map(str::to_owned)
                .ok_or_else(|| format!("{}: no token is in it", path.display()))
        });
        Ok(Self {
            uri: uri.ok_or_else(|| {
                format!("--live: `{given}` is no address, such as http://localhost:8080")
            })?,
            token: token.transpose()?,
            tls: tls(flags)?,
            url,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn explain(&self, request: &Value) -> Result<Value, String> {
        let asking = tokio::time::timeout(PATIENCE, self.ask(request.to_string()));
        let answer = asking
            .await
            .map_err(|_| "no answer came in 10 s".to_owned());
        answer
            .and_then(|answer| answer)
            .map_err(|error| format!("{}: {error}", self.url))
    }

    async fn ask(&self, body: String) -> Result<Value, String> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls.clone())
            .https_or_http()
            .enable_http1()
            .build();
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .body(Full::from(body))
            .map_err(|error| error.to_string())?;
        let answer = client
            .request(request)
            .await
            .map_err(|error| whole(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        let body: Value = serde_json::from_slice(&body)
            .map_err(|_| format!("answers {status}, which is not Tollgate's API"))?;
        match status.is_success() {
            true => Ok(body),
            false => {
                let detail = body["detail"].as_str().unwrap_or_default();
                Err(format!("{status}: {detail}"))
            }
        }
    }
}

fn tls(flags: &LiveFlags) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &flags.ca_file {
        Some(path) => {
            let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let all = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
            for one in all {
                let one = one.map_err(|error| wrong(&error))?;
                roots.add(one).map_err(|error| wrong(&error))?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
