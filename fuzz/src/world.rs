//! A service without ports, made anew for each input, so that what one does depends on no other.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use tollgate::admin::listen::Peer;
use tollgate::admin::{Access, Admin};
use tollgate::engine::{Engine, Settings};
use tollgate::rules::RuleSet;
use tollgate::rules::compile::{Options, compile};
use tollgate::rules::file::SourceFile;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::{Clock, Timestamp};
use tower::ServiceExt;

/// When it is, until an input says otherwise.
pub const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

/// The most keys of a store.
const KEYS: usize = 1 << 10;

/// Something of everything that a rule may say.
static RULES: LazyLock<SourceFile> = LazyLock::new(|| SourceFile {
    name: "rules.yaml".to_owned(),
    text: include_str!("rules.yaml").to_owned(),
});

/// Waits for `future`, on a runtime that nothing else uses.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// The rules of [`engine`].
pub fn rules() -> RuleSet {
    let files = std::slice::from_ref(&*RULES);
    compile(files, Options::default()).unwrap_or_else(|report| panic!("{report}"))
}

/// An engine that counts in memory.
pub fn engine() -> Arc<Engine> {
    let engine = without_rules();
    engine.install(rules());
    engine
}

/// The same before it has rules, which is quicker.
pub fn without_rules() -> Arc<Engine> {
    let (clock, _) = Clock::manual(NOW);
    let store = Store::Embedded(Embedded::new(KEYS, clock.clone()));
    let engine = Engine::new(store, Settings::default(), clock, Metrics::new());
    Arc::new(engine)
}

/// The HTTP port of an engine.
pub fn http(engine: Arc<Engine>, access: Access) -> Router {
    let admin = Admin {
        engine,
        metrics: Metrics::new(),
        loads: Arc::default(),
        needed_domains: Some(0),
    };
    admin.http(Arc::new(access))
}

/// What the port answers to somebody on this machine.
pub async fn ask(http: &Router, mut request: Request<Body>) -> (StatusCode, Bytes) {
    let here = SocketAddr::from(([127, 0, 0, 1], 1));
    request.extensions_mut().insert(Peer(here));
    let answer = match http.clone().oneshot(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    };
    let status = answer.status();
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await;
    (status, body.expect("a body in memory"))
}
