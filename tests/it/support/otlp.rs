//! A real OTLP receiver, in this process.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::ServerTlsConfig;
use tonic::{Request, Response, Status};

/// What was received so far.
#[derive(Clone, Default)]
pub(crate) struct Received(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().expect("no panic").push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Received {
    /// Starts a receiver on a free port; it ends with the runtime.
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let received = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let service = TraceServiceServer::new(received.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (received, address)
    }

    /// The same within TLS.
    pub(crate) async fn start_secured(tls: ServerTlsConfig) -> (Self, SocketAddr) {
        let received = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let service = TraceServiceServer::new(received.clone());
        let mut server = tonic::transport::Server::builder()
            .tls_config(tls)
            .expect("TLS");
        let serving = server
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        (received, address)
    }

    /// The routes of OTLP over HTTP.
    pub(crate) fn routes(&self) -> axum::Router {
        let export = async |State(received): State<Self>, body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).expect("a message");
            received.0.lock().expect("no panic").push(request);
        };
        axum::Router::new()
            .route("/v1/traces", axum::routing::post(export))
            .with_state(self.clone())
    }

    /// The same for OTLP over HTTP.
    pub(crate) async fn start_http() -> (Self, SocketAddr) {
        let received = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(axum::serve(listener, received.routes()).into_future());
        (received, address)
    }

    /// All spans of a trace, given in hexadecimal.
    pub(crate) fn spans(&self, trace: &str) -> Vec<Span> {
        let all = self.0.lock().expect("no panic");
        let scopes = all
            .iter()
            .flat_map(|r| &r.resource_spans)
            .flat_map(|r| &r.scope_spans);
        let spans = scopes.flat_map(|scope| &scope.spans);
        spans
            .filter(|span| hex(&span.trace_id) == trace)
            .cloned()
            .collect()
    }

    /// The names of all spans.
    pub(crate) fn names(&self) -> Vec<String> {
        let all = self.0.lock().expect("no panic");
        let scopes = all
            .iter()
            .flat_map(|r| &r.resource_spans)
            .flat_map(|r| &r.scope_spans);
        scopes
            .flat_map(|scope| &scope.spans)
            .map(|span| span.name.clone())
            .collect()
    }

    /// The value of an attribute of the resource.
    pub(crate) fn resource(&self, key: &str) -> Option<String> {
        let all = self.0.lock().expect("no panic");
        let resource = all.first()?.resource_spans.first()?.resource.clone()?;
        let attribute = resource
            .attributes
            .into_iter()
            .find(|attribute| attribute.key == key)?;
        text(attribute.value?.value?)
    }
}

/// The value of an attribute of a span.
pub(crate) fn attribute(span: &Span, key: &str) -> Option<String> {
    let attribute = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == key)?;
    text(attribute.value.clone()?.value?)
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: Value) -> Option<String> {
    if let Value::StringValue(text) = value {
        return Some(text);
    }
    if let Value::IntValue(number) = value {
        return Some(number.to_string());
    }
    matches!(value, Value::BoolValue(_)).then(|| (value == Value::BoolValue(true)).to_string())
}
