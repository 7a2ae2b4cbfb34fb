//! Rules from a management server, by aggregated discovery.
//!
//! A stream of `StreamAggregatedResources` (state of the world) or `DeltaAggregatedResources` for all resources of one type.
//! Each response is compiled and swapped in as a whole, by the path that files take, and acknowledged; or refused with what is
//! wrong with it, and the rules before stay. They also stay while the server is away. What is the same as before is not loaded
//! again.
//!
//! - [`connect`]: the connection, and what it is made with
//! - [`backoff`]: how long to wait before the next
//! - `held`: what the server has sent, and what of it holds
//! - `resource`: a resource to the tree that the compiler reads

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, Struct, Value};
use envoy_types::pb::google::rpc;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tracing::{error, info, warn};

use crate::reload::{self, Failure, Installer, LOOK_EVERY, Loaded, Loads};

pub mod backoff;
pub mod connect;
mod held;
mod resource;

use backoff::Backoff;
use connect::{Connector, Trouble};
use held::{Held, Named};

/// The type of the resources.
pub const TYPE_URL: &str = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig";

/// The longest explanation of why a response is refused, in bytes.
pub const MAX_DETAIL: usize = 4096;

/// Requests that wait for the server to read; one is sent for each response, so more never wait.
const QUEUE: usize = 2;

/// Where the rules come from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The protocol.
    pub variant: Variant,
    /// The server, and how to reach it.
    pub server: connect::Settings,
    /// Who this is.
    pub node_id: String,
    /// What else is said about it.
    pub node_metadata: Vec<(String, String)>,
    /// The waits between attempts.
    pub backoff: backoff::Settings,
}

/// The two protocols of aggregated discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Each response has all resources.
    StateOfTheWorld,
    /// Each response has what has changed.
    Delta,
}

/// Follows a management server.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    connector: Connector,
    installer: Arc<Installer>,
    held: Held,
    backoff: Backoff,
    /// Whether the stream that is open, or the last one, had an answer.
    answered: bool,
    /// What was sent last, by its fingerprint, and what came of it.
    last: Option<(u128, Result<(), String>)>,
    /// The waits before the same is refused again.
    insistence: Backoff,
}

/// Some servers answer a refusal by sending the same again, at once and without end. What is said to that is said later and
/// later, and no later than this, since such a server has nothing new to say before it has heard it.
const INSISTENCE: backoff::Settings = backoff::Settings {
    initial: Duration::from_secs(1),
    connect: Duration::from_secs(1),
    max: Duration::from_secs(10),
    jitter: 0.5,
};

impl Client {
    /// A client that puts rules in by `installer`. The error says what is wrong with the settings or the TLS files.
    pub fn new(settings: Settings, installer: Installer) -> Result<Self, Trouble> {
        Ok(Self {
            connector: Connector::new(settings.server.clone())?,
            backoff: Backoff::new(settings.backoff),
            settings,
            installer: Arc::new(installer),
            held: Held::default(),
            answered: false,
            last: None,
            insistence: Backoff::new(INSISTENCE),
        })
    }

    /// What came of the loads, for people.
    pub fn loads(&self) -> Arc<Loads> {
        self.installer.loads()
    }

    /// Follows the server until dropped; when `asked` to, by a connection that is made anew at once.
    pub async fn follow(mut self, asked: Arc<Notify>) {
        let installer = Arc::clone(&self.installer);
        let sweep = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                installer.free_replaced();
            }
        };
        let follow = async {
            loop {
                self.answered = false;
                let ended = tokio::select! {
                    ended = self.stream() => ended,
                    () = asked.notified() => {
                        info!("asking the management server anew");
                        continue;
                    }
                };
                installer.connected(false);
                let wait = self.backoff.next(self.answered, rand::random());
                self.tell(ended, wait);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = asked.notified() => {}
                }
            }
        };
        tokio::join!(sweep, follow);
    }

    fn tell(&self, ended: Result<(), Trouble>, wait: Duration) {
        let url = &self.settings.server.url;
        let why = match ended {
            Ok(()) => "it has ended the stream".to_owned(),
            Err(trouble) => trouble.to_string(),
        };
        let wait = wait.as_secs_f64();
        warn!(
            "the management server {url} is lost, the rules stay, next attempt in {wait:.1} s: {why}"
        );
    }

    /// Connects, and takes what comes until the stream ends.
    async fn stream(&mut self) -> Result<(), Trouble> {
        let channel = self.connector.connect().await?;
        info!(
            "connected to the management server {}",
            self.settings.server.url
        );
        self.installer.connected(true);
        let client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(self.settings.server.max_message_size);
        let ended = match self.settings.variant {
            Variant::StateOfTheWorld => self.whole(client).await,
            Variant::Delta => self.delta(client).await,
        };
        ended.map_err(|status| {
            if is_too_large(&status) {
                let problem = Failure::Untaken(line(status.message()));
                reload::log(&self.installer.install(Err(problem)));
            }
            Trouble::Stream(Box::new(status))
        })
    }

    async fn whole(
        &mut self,
        mut client: AggregatedDiscoveryServiceClient<Channel>,
    ) -> Result<(), Status> {
        let (requests, receiver) = mpsc::channel(QUEUE);
        // Without the version that holds: Envoy Gateway counts from 1 again when it is restarted, and would not send rules
        // that have changed meanwhile under a version that was used before.
        let first = DiscoveryRequest {
            node: Some(self.node()),
            type_url: TYPE_URL.to_owned(),
            ..DiscoveryRequest::default()
        };
        // Nobody else sends, so there is room.
        let _ = requests.send(first).await;
        let request = self.request(ReceiverStream::new(receiver));
        let responses = client.stream_aggregated_resources(request).await?;
        let mut responses = responses.into_inner();
        while let Some(response) = responses.message().await? {
            self.answered = true;
            if response.type_url != TYPE_URL {
                unasked(&response.type_url);
                continue;
            }
            let nonce = response.nonce.clone();
            let error_detail = self.take_whole(response).await.err().map(refusal);
            let answer = DiscoveryRequest {
                version_info: self.held.version.clone(),
                type_url: TYPE_URL.to_owned(),
                response_nonce: nonce,
                error_detail,
                ..DiscoveryRequest::default()
            };
            if requests.send(answer).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn delta(
        &mut self,
        mut client: AggregatedDiscoveryServiceClient<Channel>,
    ) -> Result<(), Status> {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let first = DeltaDiscoveryRequest {
            node: Some(self.node()),
            type_url: TYPE_URL.to_owned(),
            initial_resource_versions: self.held.begin(),
            ..DeltaDiscoveryRequest::default()
        };
        // Nobody else sends, so there is room.
        let _ = requests.send(first).await;
        let request = self.request(ReceiverStream::new(receiver));
        let responses = client.delta_aggregated_resources(request).await?;
        let mut responses = responses.into_inner();
        while let Some(response) = responses.message().await? {
            self.answered = true;
            if response.type_url != TYPE_URL {
                unasked(&response.type_url);
                continue;
            }
            let nonce = response.nonce.clone();
            let error_detail = self.take_delta(response).await.err().map(refusal);
            let answer = DeltaDiscoveryRequest {
                type_url: TYPE_URL.to_owned(),
                response_nonce: nonce,
                error_detail,
                ..DeltaDiscoveryRequest::default()
            };
            if requests.send(answer).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Puts in all that a response has; the version holds if the rules do.
    async fn take_whole(&mut self, response: DiscoveryResponse) -> Result<(), String> {
        let resources = response.resources.into_iter().enumerate();
        let resources = resources.map(|(index, any)| Named {
            name: format!("{}", index + 1),
            version: String::new(),
            any,
        });
        self.install(resources.map(Arc::new).collect()).await?;
        self.held.version = response.version_info;
        Ok(())
    }

    /// Puts in what there was with what a response changes.
    async fn take_delta(&mut self, response: DeltaDiscoveryResponse) -> Result<(), String> {
        self.held
            .change(response.resources, &response.removed_resources);
        self.install(self.held.received()).await?;
        self.held.accept();
        Ok(())
    }

    /// The error is what the server is told. The same again has the same outcome, and is not counted.
    async fn install(&mut self, mut resources: Vec<Arc<Named>>) -> Result<(), String> {
        let fingerprint = held::fingerprint(&mut resources);
        if let Some((_, outcome)) = self.last.as_ref().filter(|last| last.0 == fingerprint) {
            if outcome.is_err() {
                tokio::time::sleep(self.insistence.next(false, rand::random())).await;
            }
            return outcome.clone();
        }
        self.insistence = Backoff::new(INSISTENCE);
        let installer = Arc::clone(&self.installer);
        // Compiling many rules takes a while.
        let installed = tokio::task::spawn_blocking(move || {
            let bounded = held::bounded(resources);
            let written = bounded.map(|resources| held::written(resources, fingerprint));
            let result = installer.install(written);
            reload::log(&result);
            result
        });
        let outcome = match installed.await {
            Ok(Ok(Loaded { .. })) => Ok(()),
            Ok(Err(failure)) => Err(reload::shortened(failure.to_string(), MAX_DETAIL)),
            Err(_) => {
                error!("loading the rules made the service panic, and those before stay");
                Err("internal error".to_owned())
            }
        };
        self.last = Some((fingerprint, outcome.clone()));
        outcome
    }

    fn node(&self) -> Node {
        let text = |text: &String| Value {
            kind: Some(Kind::StringValue(text.clone())),
        };
        let metadata = self.settings.node_metadata.iter();
        let fields = metadata.map(|(key, value)| (key.clone(), text(value)));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Node {
            id: self.settings.node_id.clone(),
            metadata: Some(Struct {
                fields: fields.collect(),
            }),
            user_agent_name: "tollgate".to_owned(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(version)),
            ..Node::default()
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in &self.settings.server.headers {
            request.metadata_mut().append(name.clone(), value.clone());
        }
        request
    }
}

/// What the protocol has for a response that is refused.
fn refusal(text: String) -> rpc::Status {
    rpc::Status {
        code: Code::InvalidArgument.into(),
        message: text,
        details: Vec::new(),
    }
}

fn unasked(type_url: &str) {
    let kind = line(type_url);
    warn!("the management server sent resources that it was not asked for, of the type {kind}");
}

/// How much of a text of the server is logged, in characters.
const MAX_LINE: usize = 512;

/// A text of the server as a part of one line of the log.
fn line(text: &str) -> String {
    let escaped = text.chars().take(MAX_LINE).flat_map(char::escape_debug);
    escaped.collect()
}

/// Whether a message was beyond the bound of this client.
fn is_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange
}
