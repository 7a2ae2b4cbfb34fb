//! Where Redis is and how to reach it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use fred::types::config::{Config, ServerConfig};

/// How long a call may take unless the settings say otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(10);

/// How long connecting may take unless the settings say otherwise.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most addresses in one setting.
pub const MAX_ADDRESSES: usize = 256;

/// The port of Redis when an address names none.
const DEFAULT_PORT: u16 = 6379;

/// All there is to say about a connection to Redis. Prints without secrets.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which servers.
    pub servers: Servers,
    /// For the servers that hold keys.
    pub credentials: Credentials,
    /// The number of the database; only a single server and Sentinel have several.
    pub database: Option<u8>,
    /// Whether and how to encrypt.
    pub tls: Option<Tls>,
    /// How long connecting, TLS included, may take.
    pub connect_timeout: Duration,
    /// How long a ping and the return of a charge may take; a transaction brings its own.
    pub timeout: Duration,
    /// How many replicas must have a charge before it counts where the limit asks for that; at least 1.
    pub wait_replicas: u8,
    /// The servers of the limits per second, if they are others. Of theirs only `servers`, `credentials`, `database`, `tls`
    /// and `connect_timeout` count; the rest is as here.
    pub per_second: Option<Box<Settings>>,
}

/// Which servers hold the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// One server over TCP.
    Single(Address),
    /// One server on this machine.
    Unix(PathBuf),
    /// The server that Sentinel names.
    Sentinel {
        /// The name of the master.
        master: String,
        /// The sentinels.
        sentinels: Vec<Address>,
        /// For the sentinels themselves.
        credentials: Credentials,
    },
    /// The masters of a cluster, found through any of these.
    Cluster(Vec<Address>),
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name or an IP address, an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A user and a password; `Debug` shows neither.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user; none for the default one.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
}

/// How to encrypt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A PEM file with further authorities to trust, besides those of the system.
    pub ca: Option<PathBuf>,
    /// PEM files with the certificate chain and the key to show to the server.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Trusts a certificate that was issued for another name. Its chain is still verified.
    pub skip_hostname_verification: bool,
}

/// The value of `REDIS_TYPE`, in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    #[default]
    Single,
    /// A server that Sentinel names.
    Sentinel,
    /// A cluster.
    Cluster,
}

/// The value of `REDIS_SOCKET_TYPE`, in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Socket {
    /// The address is a host and a port.
    Tcp,
    /// The address is a path, unless it is plainly a host and a port.
    #[default]
    Unix,
}

/// Why settings cannot be used. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// `REDIS_TYPE` is something else.
    #[error("REDIS_TYPE must be single, sentinel or cluster")]
    Kind,
    /// `REDIS_SOCKET_TYPE` is something else.
    #[error("REDIS_SOCKET_TYPE must be tcp or unix")]
    Socket,
    /// An address without a port, or with a port that is none.
    #[error("REDIS_URL: an address must be host:port, with a port from 1 to 65535")]
    Address,
    /// No address at all, or too many.
    #[error("REDIS_URL must name from 1 to {MAX_ADDRESSES} addresses")]
    Addresses,
    /// A `redis://` address that cannot be read.
    #[error("REDIS_URL must read redis://[[user:]password@]host[:port][/database]")]
    Uri,
    /// No master, or no sentinel.
    #[error("REDIS_URL must read master,host:port[,host:port…] with Sentinel")]
    Sentinel,
    /// A file of certificates or a key cannot be used.
    #[error("{variable}: {reason}")]
    Tls {
        /// The variable that names the file.
        variable: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The client does not accept what the settings say.
    #[error("the settings of Redis cannot be used: {0}")]
    Client(String),
}

impl Settings {
    /// Reads `REDIS_URL` as `kind` and `socket` tell. A `redis://` or `rediss://` address may bring credentials, a database
    /// and TLS; the other fields are left at their defaults.
    pub fn parse(kind: Kind, socket: Socket, url: &str) -> Result<Self, SettingsError> {
        let url = url.trim();
        match kind {
            Kind::Single => parse_single(socket, url),
            Kind::Sentinel => parse_sentinel(url).map(Settings::with),
            Kind::Cluster => Ok(Settings::with(Servers::Cluster(parse_list(url)?))),
        }
    }

    fn with(servers: Servers) -> Self {
        Self {
            servers,
            credentials: Credentials::default(),
            database: None,
            tls: None,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            timeout: DEFAULT_TIMEOUT,
            wait_replicas: 1,
            per_second: None,
        }
    }
}

impl Credentials {
    /// Reads `password` or `user:password`; nothing gives none.
    pub fn parse(text: &str) -> Self {
        let some = |part: &str| (!part.is_empty()).then(|| part.to_owned());
        match text.split_once(':') {
            Some((user, password)) => Self {
                user: some(user),
                password: some(password),
            },
            None => Self {
                user: None,
                password: some(text),
            },
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&self.user, &self.password) {
            (None, None) => "none",
            (Some(_), _) | (_, Some(_)) => "hidden",
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let (host, port) = text.trim().rsplit_once(':').ok_or(SettingsError::Address)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        // What comes before an @ is a password, and a host's name is no secret.
        let is_no_host = |c: char| c.is_whitespace() || c.is_control() || "[]@/\\?#".contains(c);
        match port.parse() {
            Ok(port) if port > 0 && !host.is_empty() && !host.contains(is_no_host) => Ok(Self {
                host: host.to_owned(),
                port,
            }),
            _ => Err(SettingsError::Address),
        }
    }
}

impl FromStr for Kind {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        match text.to_ascii_lowercase().as_str() {
            "single" | "" => Ok(Kind::Single),
            "sentinel" => Ok(Kind::Sentinel),
            "cluster" => Ok(Kind::Cluster),
            _ => Err(SettingsError::Kind),
        }
    }
}

impl FromStr for Socket {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Socket::Tcp),
            "unix" | "" => Ok(Socket::Unix),
            _ => Err(SettingsError::Socket),
        }
    }
}

fn parse_single(socket: Socket, url: &str) -> Result<Settings, SettingsError> {
    if let Some(rest) = url.strip_prefix("redis://") {
        return parse_uri(rest);
    }
    if let Some(rest) = url.strip_prefix("rediss://") {
        let mut settings = parse_uri(rest)?;
        settings.tls = Some(Tls::default());
        return Ok(settings);
    }
    let path = url.strip_prefix("unix://").unwrap_or(url);
    let plainly_an_address = !path.contains('/') && Address::from_str(path).is_ok();
    if path.starts_with('/') || (socket == Socket::Unix && !plainly_an_address) {
        if path.is_empty() {
            return Err(SettingsError::Addresses);
        }
        return Ok(Settings::with(Servers::Unix(PathBuf::from(path))));
    }
    Address::from_str(path).map(|address| Settings::with(Servers::Single(address)))
}

/// Reads what follows the scheme.
fn parse_uri(rest: &str) -> Result<Settings, SettingsError> {
    let config = Config::from_url_centralized(&format!("redis://{rest}"));
    // The client's own error is left out, since it may quote the address with its password.
    let config = config.map_err(|_| SettingsError::Uri)?;
    let ServerConfig::Centralized { server } = config.server else {
        return Err(SettingsError::Uri);
    };
    let port = if server.port == 0 {
        DEFAULT_PORT
    } else {
        server.port
    };
    let mut settings = Settings::with(Servers::Single(Address {
        host: server.host.to_string(),
        port,
    }));
    settings.credentials = Credentials {
        user: config.username.filter(|user| !user.is_empty()),
        password: config.password,
    };
    settings.database = config.database;
    Ok(settings)
}

fn parse_sentinel(url: &str) -> Result<Servers, SettingsError> {
    let (master, sentinels) = url.split_once(',').ok_or(SettingsError::Sentinel)?;
    let master = master.trim();
    if master.is_empty() || master.contains(['@', '/']) {
        return Err(SettingsError::Sentinel);
    }
    Ok(Servers::Sentinel {
        master: master.to_owned(),
        sentinels: parse_list(sentinels)?,
        credentials: Credentials::default(),
    })
}

fn parse_list(text: &str) -> Result<Vec<Address>, SettingsError> {
    let addresses: Vec<Address> = text
        .split(',')
        .filter(|address| !address.trim().is_empty())
        .map(Address::from_str)
        .collect::<Result<_, _>>()?;
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
        return Err(SettingsError::Addresses);
    }
    Ok(addresses)
}
