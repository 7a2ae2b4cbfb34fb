//! From settings to the client library's configuration.

use std::time::Duration;

use fred::types::config::{Config, Server, ServerConfig, TlsConfig, TlsConnector};

use super::node::Node;
use super::settings::{Address, Servers, Settings, SettingsError};
use super::tls;

/// Makes connections to any server that is meant by the same settings.
#[derive(Clone)]
pub(super) struct Connector {
    config: Config,
    connect_timeout: Duration,
}

impl Connector {
    /// Reads the files that the settings name.
    pub(super) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let connector: Option<TlsConnector> =
            settings.tls.as_ref().map(tls::connector).transpose()?;
        let credentials = &settings.credentials;
        let config = Config {
            // The first connection is tried for ever, like every later one.
            fail_fast: false,
            username: credentials.user.clone(),
            password: credentials.password.clone(),
            database: settings.database,
            tls: connector.map(TlsConfig::from),
            ..Config::default()
        };
        Ok(Self {
            config,
            connect_timeout: settings.connect_timeout,
        })
    }

    /// A connection to one server over TCP.
    pub(super) fn node(&self, address: &Address) -> Result<Node, SettingsError> {
        let server = ServerConfig::new_centralized(address.host.clone(), address.port);
        self.start(server, address.to_string())
    }

    /// A connection to the one server of `servers`; to a cluster there is none.
    pub(super) fn single(&self, servers: &Servers) -> Result<Node, SettingsError> {
        match servers {
            Servers::Single(address) => self.node(address),
            Servers::Unix(path) => {
                let server = ServerConfig::Unix { path: path.clone() };
                self.start(server, path.display().to_string())
            }
            Servers::Sentinel {
                master,
                sentinels,
                credentials,
            } => {
                let server = ServerConfig::Sentinel {
                    hosts: sentinels.iter().map(server).collect(),
                    service_name: master.clone(),
                    username: credentials.user.clone(),
                    password: credentials.password.clone(),
                };
                self.start(server, format!("the master {master}"))
            }
            Servers::Cluster(_) => Err(SettingsError::Addresses),
        }
    }

    fn start(&self, server: ServerConfig, name: String) -> Result<Node, SettingsError> {
        let config = Config {
            server,
            ..self.config.clone()
        };
        Node::start(config, self.connect_timeout, name)
    }
}

impl std::fmt::Debug for Connector {
    /// Leaves the configuration out: it holds the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

fn server(address: &Address) -> Server {
    Server::new(address.host.clone(), address.port)
}
