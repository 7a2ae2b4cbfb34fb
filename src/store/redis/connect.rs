//! From settings to the client library's configuration.

use std::sync::Arc;

use fred::types::config::{Config, Server, ServerConfig, TlsConfig, TlsConnector};

use super::node::Node;
use super::pipe::{Confirming, Endpoint, Greeting};
use super::refusals::Refusals;
use super::settings::{Address, Servers, Settings, SettingsError};
use super::tls;

/// Makes connections to any server that is meant by the same settings.
#[derive(Clone)]
pub(super) struct Connector {
    config: Config,
    greeting: Arc<Greeting>,
    confirming: Confirming,
}

impl Connector {
    /// Reads the files that the settings name.
    pub(super) fn new(settings: &Settings, refusals: Arc<Refusals>) -> Result<Self, SettingsError> {
        let connector: Option<TlsConnector> =
            settings.tls.as_ref().map(tls::connector).transpose()?;
        let credentials = &settings.credentials;
        let greeting = Greeting {
            credentials: credentials.clone(),
            database: settings.database,
            tls: connector
                .clone()
                .map(|TlsConnector::Rustls(connector)| connector),
            timeout: settings.connect_timeout,
            refusals,
        };
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
            greeting: Arc::new(greeting),
            confirming: Confirming {
                replicas: settings.wait_replicas,
                // So that what is not confirmed is told apart from a server that does not answer.
                within: settings.timeout * 3 / 4,
            },
        })
    }

    /// A connection to one server over TCP.
    pub(super) fn node(&self, address: &Address) -> Result<Node, SettingsError> {
        let server = ServerConfig::new_centralized(address.host.clone(), address.port);
        let at = Endpoint::Tcp(address.clone());
        self.start(server, Some(at), address.to_string())
    }

    /// A connection to the one server of `servers`; to a cluster there is none.
    pub(super) fn single(&self, servers: &Servers) -> Result<Node, SettingsError> {
        match servers {
            Servers::Single(address) => self.node(address),
            Servers::Unix(path) => {
                let server = ServerConfig::Unix { path: path.clone() };
                let at = Endpoint::Unix(path.clone());
                self.start(server, Some(at), path.display().to_string())
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
                self.start(server, None, format!("the master {master}"))
            }
            Servers::Cluster(_) => Err(SettingsError::Addresses),
        }
    }

    fn start(
        &self,
        server: ServerConfig,
        at: Option<Endpoint>,
        name: String,
    ) -> Result<Node, SettingsError> {
        let config = Config {
            server,
            ..self.config.clone()
        };
        Node::start(
            config,
            at,
            Arc::clone(&self.greeting),
            self.confirming,
            name,
        )
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
