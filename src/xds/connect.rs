//! The connection to the management server. The TLS files are read anew for each: certificates end, and the server's place
//! outlives them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity};

/// How long connecting may take, and the handshake after it.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// After so much silence the connection is asked for a sign of life, and given up after three without one, each
/// [`PROBE_EVERY`]. TCP does that: many servers close a connection whose HTTP/2 pings come more often than every five minutes.
const SILENCE: Duration = Duration::from_secs(30);

/// See [`SILENCE`].
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// The most headers beside those of gRPC.
pub const MAX_HEADERS: usize = 64;

/// The most bytes of their names and values.
pub const MAX_HEADER_BYTES: usize = 16 << 10;

/// The server, and how to reach it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port`; before it may stand `http://`, `https://` or `dns:///`.
    pub url: String,
    /// None without TLS.
    pub tls: Option<Tls>,
    /// Sent with each stream; see [`headers`].
    pub headers: Vec<(AsciiMetadataKey, AsciiMetadataValue)>,
    /// The largest response, in bytes.
    pub max_message_size: usize,
}

/// TLS towards the server; each file is PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authority that the server's certificate may be from, beside those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate that this client shows, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have; that of the URL if none.
    pub server_name: Option<String>,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A TLS file that cannot be read.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The URL is none, or the server cannot be reached.
    #[error("{}", causes(.0))]
    Transport(#[from] tonic::transport::Error),
    /// The stream ended.
    #[error("{}: {}", .0.code(), super::line(.0.message()))]
    Stream(Box<Status>),
}

/// Makes connections.
#[derive(Debug)]
pub(super) struct Connector {
    settings: Settings,
}

/// Reads `name:value,name:value`. The error says what is wrong, without the values, which may be secret.
pub fn headers(text: &str) -> Result<Vec<(AsciiMetadataKey, AsciiMetadataValue)>, String> {
    let mut headers = Vec::new();
    if text.len() > MAX_HEADER_BYTES {
        return Err(format!("more than {MAX_HEADER_BYTES} bytes"));
    }
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair
            .split_once(':')
            .ok_or("not of the form name:value,name:value")?;
        let name = name.trim().to_ascii_lowercase();
        let key = name.parse::<AsciiMetadataKey>();
        let key = key.map_err(|_| format!("`{name}` is no name of a header"))?;
        let value = value.trim().parse::<AsciiMetadataValue>();
        let mut value = value.map_err(|_| format!("the value of `{name}` cannot be sent"))?;
        value.set_sensitive(true);
        headers.push((key, value));
    }
    if headers.len() > MAX_HEADERS {
        return Err(format!("more than {MAX_HEADERS} headers"));
    }
    Ok(headers)
}

impl Connector {
    /// The error is of the URL or the TLS files, which are read to see that they can be.
    pub(super) fn new(settings: Settings) -> Result<Self, Trouble> {
        let connector = Self { settings };
        connector.endpoint()?;
        Ok(connector)
    }

    /// One connection: a channel would make another by itself, at once and with the files of before.
    pub(super) async fn connect(&self) -> Result<Channel, Trouble> {
        let used = AtomicBool::new(false);
        let once = tower::service_fn(move |uri: Uri| {
            let again = used.swap(true, Ordering::Relaxed);
            async move {
                match again {
                    false => open(&uri).await.map(TokioIo::new),
                    true => Err(io::Error::other("the connection has ended")),
                }
            }
        });
        Ok(self.endpoint()?.connect_with_connector(once).await?)
    }

    fn endpoint(&self) -> Result<Endpoint, Trouble> {
        let url = self.settings.url.trim();
        let known = ["http://", "https://", "dns:///"];
        let place = known.iter().find_map(|scheme| url.strip_prefix(scheme));
        let place = place.unwrap_or(url);
        let scheme = match self.settings.tls {
            Some(_) => "https",
            None => "http",
        };
        let endpoint =
            Endpoint::from_shared(format!("{scheme}://{place}"))?.connect_timeout(CONNECT_WITHIN);
        Ok(match &self.settings.tls {
            Some(tls) => endpoint.tls_config(tls.read()?)?,
            None => endpoint,
        })
    }
}

async fn open(uri: &Uri) -> io::Result<TcpStream> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let usual = match uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(usual))).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(SILENCE)
        .with_interval(PROBE_EVERY)
        .with_retries(3);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

impl Tls {
    fn read(&self) -> Result<ClientTlsConfig, Trouble> {
        let mut roots = RootCertStore::empty();
        // The system may have none, or some that cannot be read: the authority in the settings can be enough.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &self.ca {
            let wrong = |problem: &dyn std::fmt::Display| Trouble::file(path, problem);
            let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
            let before = roots.len();
            for certificate in read {
                let certificate = certificate.map_err(|error| wrong(&error))?;
                roots.add(certificate).map_err(|error| wrong(&error))?;
            }
            if roots.len() == before {
                return Err(wrong(&"no certificate in it"));
            }
        }
        let mut config = ClientTlsConfig::new()
            .trust_anchors(roots.roots)
            .timeout(CONNECT_WITHIN);
        if let Some((certificate, key)) = &self.client {
            let read = |path: &Path| fs::read(path).map_err(|error| Trouble::file(path, &error));
            config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

impl Trouble {
    fn file(path: &Path, problem: &dyn std::fmt::Display) -> Self {
        Trouble::File {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }
}

/// The error with what caused it, since its own text is two words.
fn causes(error: &tonic::transport::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_bounded_and_their_values_not_told() {
        let read = headers("X-One: 1 ,authorization:Bearer a:b,").expect("headers");
        let read: Vec<_> = read
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
            .collect();
        assert_eq!(read, [("x-one", "1"), ("authorization", "Bearer a:b")]);
        assert_eq!(headers("").map(|none| none.len()), Ok(0));
        for wrong in ["hunter2", "a b:hunter2", "a:hunter2\u{7}", "a-bin:hunter2"] {
            let error = headers(wrong).expect_err(wrong);
            assert!(!error.contains("hunter2"), "{error}");
        }
        let many = "a:b,".repeat(MAX_HEADERS);
        assert_eq!(headers(&many).map(|many| many.len()), Ok(MAX_HEADERS));
        assert!(headers(&format!("{many}a:b")).is_err());
        assert!(headers(&format!("a:{}", "b".repeat(MAX_HEADER_BYTES))).is_err());
    }
}
