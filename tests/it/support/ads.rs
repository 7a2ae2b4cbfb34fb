//! A management server: aggregated discovery of one type, state of the world and delta.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::MetadataMap;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::poll;

/// The type of the resources.
pub(crate) const TYPE_URL: &str =
    "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig";

/// A running server; its connections end with it.
pub(crate) struct ManagementServer {
    pub(crate) address: SocketAddr,
    ads: Ads,
    runtime: Option<Runtime>,
}

/// What a client has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// Counted from 1.
    pub(crate) stream: usize,
    pub(crate) node: Option<Node>,
    /// State of the world only.
    pub(crate) version: String,
    /// Delta only, with the first request.
    pub(crate) versions: HashMap<String, String>,
    pub(crate) nonce: String,
    /// Why a response is refused.
    pub(crate) error: Option<String>,
    pub(crate) at: Option<Instant>,
}

#[derive(Clone)]
struct Ads {
    /// The version of all, 0 before there are any, and the resources by name, each with its own.
    state: watch::Sender<(u64, Named)>,
    said: Arc<Mutex<Vec<Said>>>,
    heads: Arc<Mutex<Vec<MetadataMap>>>,
    /// Whether what is refused is sent again at once, as go-control-plane does. State of the world only.
    insists: Arc<AtomicBool>,
}

type Named = BTreeMap<String, (String, Any)>;

/// A resource from its proto3 JSON; its `name` is its name.
pub(crate) fn resource(json: serde_json::Value) -> (String, Any) {
    let pool = DescriptorPool::decode(tollgate::grpc::DESCRIPTORS).expect("descriptors");
    let kind = pool.get_message_by_name("ratelimit.config.ratelimit.v3.RateLimitConfig");
    let name = json["name"].as_str().unwrap_or_default().to_owned();
    let message = DynamicMessage::deserialize(kind.expect("the type"), json).expect("its JSON");
    (name, any(message.encode_to_vec()))
}

/// A resource from its bytes.
pub(crate) fn any(value: Vec<u8>) -> Any {
    let type_url = TYPE_URL.to_owned();
    Any { type_url, value }
}

impl ManagementServer {
    /// Listens on a free port, and has no resources yet.
    pub(crate) fn start() -> Self {
        Self::listen("127.0.0.1:0".parse().expect("an address"), None)
    }

    /// Listens on an address, with TLS if any.
    pub(crate) fn listen(address: SocketAddr, tls: Option<ServerTlsConfig>) -> Self {
        let ads = Ads {
            state: watch::Sender::default(),
            said: Arc::default(),
            heads: Arc::default(),
            insists: Arc::default(),
        };
        // Connections of the one before may still be ending.
        let listener = poll::until("the port", || TcpListener::bind(address).ok());
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let service = AggregatedDiscoveryServiceServer::new(ads.clone());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let mut server = Server::builder();
            if let Some(tls) = tls {
                server = server.tls_config(tls).expect("TLS");
            }
            let server = server.add_service(service);
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        Self {
            address,
            ads,
            runtime: Some(runtime),
        }
    }

    /// From now on these are all resources. Those that are as before keep their versions.
    pub(crate) fn set(&self, resources: impl IntoIterator<Item = (String, Any)>) {
        self.ads.state.send_modify(|(version, named)| {
            *version += 1;
            let before = std::mem::take(named);
            for (name, any) in resources {
                let same = before.get(&name).filter(|(_, before)| *before == any);
                let of_its_own = same.map_or(version.to_string(), |(version, _)| version.clone());
                named.insert(name, (of_its_own, any));
            }
        });
    }

    /// Resources as JSON, as [`resource`] reads them.
    pub(crate) fn set_json(&self, resources: &[serde_json::Value]) {
        self.set(resources.iter().cloned().map(resource));
    }

    /// Begins its versions at this one, as a server does that has been there before.
    pub(crate) fn begin_at(&self, version: u64) {
        self.ads.state.send_modify(|state| state.0 = version);
    }

    /// From now on what is refused is sent again at once.
    pub(crate) fn insist(&self) {
        self.ads.insists.store(true, Ordering::Relaxed);
    }

    /// What clients have said so far.
    pub(crate) fn said(&self) -> Vec<Said> {
        self.ads.said.lock().expect("no panic").clone()
    }

    /// Waits for the `n`th request, counted from 1.
    #[track_caller]
    pub(crate) fn wait_for(&self, n: usize) -> Said {
        poll::until(&format!("request {n}"), || self.said().get(n - 1).cloned())
    }

    /// Waits for the first refusal; its text.
    #[track_caller]
    pub(crate) fn wait_for_refusal(&self) -> String {
        poll::until("a refusal", || {
            self.said().into_iter().find_map(|said| said.error)
        })
    }

    /// The head of the first stream.
    pub(crate) fn head(&self) -> Option<MetadataMap> {
        self.ads.heads.lock().expect("no panic").first().cloned()
    }
}

impl Drop for ManagementServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Ads {
    /// The number of a stream that begins.
    fn begin(&self, head: &MetadataMap) -> usize {
        let mut heads = self.heads.lock().expect("no panic");
        heads.push(head.clone());
        heads.len()
    }

    fn note(&self, mut said: Said) {
        said.at = Some(Instant::now());
        self.said.lock().expect("no panic").push(said);
    }

    async fn whole(
        self,
        stream: usize,
        mut requests: Streaming<DiscoveryRequest>,
        responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
    ) {
        let mut state = self.state.subscribe();
        // The version that the client has, once it has said so, or that it was sent.
        let mut known: Option<String> = None;
        loop {
            let (version, resources) = state.borrow_and_update().clone();
            let now = version.to_string();
            if version > 0 && known.as_ref().is_some_and(|known| *known != now) {
                known = Some(now.clone());
                let response = DiscoveryResponse {
                    nonce: format!("{stream}-{now}"),
                    version_info: now,
                    resources: resources.into_values().map(|(_, any)| any).collect(),
                    type_url: TYPE_URL.to_owned(),
                    ..DiscoveryResponse::default()
                };
                let _ = responses.send(Ok(response)).await;
            }
            tokio::select! {
                request = requests.message() => {
                    let Ok(Some(request)) = request else { return };
                    let said = request.version_info.clone();
                    if self.insists.load(Ordering::Relaxed) {
                        known = Some(said);
                    } else {
                        known.get_or_insert(said);
                    }
                    self.note(Said {
                        stream,
                        node: request.node,
                        version: request.version_info,
                        nonce: request.response_nonce,
                        error: request.error_detail.map(|status| status.message),
                        ..Said::default()
                    });
                }
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn delta(
        self,
        stream: usize,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) {
        let mut state = self.state.subscribe();
        let mut known: Option<HashMap<String, String>> = None;
        loop {
            let (version, resources) = state.borrow_and_update().clone();
            if let Some(known) = known.as_mut().filter(|_| version > 0) {
                let now: HashMap<_, _> = resources
                    .iter()
                    .map(|(name, (version, _))| (name.clone(), version.clone()))
                    .collect();
                if *known != now {
                    let new = |(name, (version, _)): &(String, (String, Any))| {
                        known.get(name) != Some(version)
                    };
                    let changed = resources.clone().into_iter().filter(new);
                    let changed = changed.map(|(name, (version, any))| Resource {
                        name,
                        version,
                        resource: Some(any),
                        ..Resource::default()
                    });
                    let response = DeltaDiscoveryResponse {
                        system_version_info: version.to_string(),
                        resources: changed.collect(),
                        type_url: TYPE_URL.to_owned(),
                        removed_resources: known
                            .keys()
                            .filter(|name| !now.contains_key(*name))
                            .cloned()
                            .collect(),
                        nonce: format!("{stream}-{version}"),
                        ..DeltaDiscoveryResponse::default()
                    };
                    let _ = responses.send(Ok(response)).await;
                    *known = now;
                }
            }
            tokio::select! {
                request = requests.message() => {
                    let Ok(Some(request)) = request else { return };
                    known.get_or_insert_with(|| request.initial_resource_versions.clone());
                    self.note(Said {
                        stream,
                        node: request.node,
                        versions: request.initial_resource_versions,
                        nonce: request.response_nonce,
                        error: request.error_detail.map(|status| status.message),
                        ..Said::default()
                    });
                }
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(4);
        let stream = self.begin(request.metadata());
        let ads = self.clone();
        tokio::spawn(ads.whole(stream, request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(4);
        let stream = self.begin(request.metadata());
        let ads = self.clone();
        tokio::spawn(ads.delta(stream, request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
