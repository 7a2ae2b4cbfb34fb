//! A method of a test's own, behind the service's server.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tollgate::grpc::listen::Listener;
use tollgate::grpc::unary::Method;
use tollgate::grpc::{self, Settings};
use tonic::service::Routes;
use tonic::transport::Channel;

/// A server of one thread, and a client with one connection to it.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) client: RateLimitServiceClient<Channel>,
    down: watch::Sender<bool>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Served {
    pub(crate) async fn by(method: impl Method) -> Self {
        let listener = Listener::tcp(([127, 0, 0, 1], 0).into(), None).expect("a port");
        let address = listener.address().expect("an address");
        let (down, shutdown) = watch::channel(false);
        let settings = Settings {
            max_connection_age: Duration::ZERO,
            max_connection_age_grace: Duration::ZERO,
            keepalive_interval: Duration::ZERO,
            keepalive_timeout: Duration::from_secs(20),
            max_connections: 100,
            max_concurrent_streams: 1000,
            max_calls: 1000,
            max_message_size: 1 << 20,
            needed_domains: Some(0),
            threads: 1,
        };
        let served = grpc::serve_method(listener, method, Routes::default(), settings, shutdown);
        let server = tokio::spawn(served);
        let connecting = RateLimitServiceClient::connect(format!("http://{address}"));
        let client = connecting.await.expect("a connection");
        Self {
            address,
            client,
            down,
            server,
        }
    }

    pub(crate) async fn end(self) {
        self.down.send_replace(true);
        drop(self.client);
        let ended = self.server.await.expect("no panic");
        ended.expect("a server that ends well");
    }
}
