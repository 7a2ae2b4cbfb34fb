//! `tollgate serve`: the life of the service.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::say;
use crate::admin::{self, Access, Admin};
use crate::engine::Engine;
use crate::grpc;
use crate::grpc::listen::Listener;
use crate::grpc::tls::{Files, Protocol, Tls};
use crate::reload::{Failure, Loaded};
use crate::settings::{Backend, Settings, reference};
use crate::store::Store;
use crate::store::embedded::{Embedded, PARTS};
use crate::store::redis::Redis;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{self, Tracing};
use crate::time::Clock;
use feed::Feed;
use snapshots::Snapshots;
use statistics::Sink;

mod feed;
mod parts;
mod recording;
mod secrets;
mod snapshots;
mod statistics;

/// How often all of memory is looked at for keys that have expired, a part at a time.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How long is waited where memory was asked for, before more is: requests go first.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// How often a store that has not answered yet is asked again.
const PING_EVERY: Duration = Duration::from_millis(200);

/// Why the service does not run.
enum Failed {
    /// The call was wrong.
    Usage(String),
    /// The world was.
    Run(String),
}

/// The sockets of the service.
struct Ports {
    grpc: Listener,
    http: TcpListener,
    debug: TcpListener,
    /// Where statistics are fetched, and the path, if that has a port of its own.
    statistics: Option<(TcpListener, String)>,
}

/// The TLS of the ports that have any.
#[derive(Clone)]
struct Secured {
    grpc: Option<Arc<Tls>>,
    http: Option<Arc<Tls>>,
}

/// What the process is told from outside, heard from its first moment on: unheard, each of these would end it.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

/// How many threads do what is beside the requests of the gRPC port, which has its own: reloads, the HTTP ports, exports.
const ASIDE: usize = 2;

/// Exit code 0 after a signal, 1 if the service cannot run, 2 if a setting is wrong.
pub fn run(settings: Settings) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ASIDE)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Usage(problem)) => {
            say(&format!("error: {problem}"));
            ExitCode::from(super::USAGE)
        }
        Err(Failed::Run(problem)) => {
            say(&format!("error: {problem}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: Settings) -> Result<(), Failed> {
    let signals = signals().map_err(|error| Failed::Run(error.to_string()))?;
    let telemetry = parts::telemetry(&settings.telemetry).map_err(Failed::Usage)?;
    let (guard, tracing) =
        telemetry::install(&telemetry).map_err(|error| Failed::Usage(error.to_string()))?;
    secrets::warn_of_open_files(&settings);
    for said in reference::without_effect(|variable| std::env::var(variable).ok()) {
        warn!("{said}");
    }
    let metrics = Metrics::new();
    let store = store(&settings)?;
    let engine = Engine::new(
        store,
        parts::engine(&settings),
        Clock::System,
        Arc::clone(&metrics),
    );
    let engine = Arc::new(engine);
    let feed = Feed::new(&settings, &engine, &metrics)?;
    let tls = tls(&settings)?;
    let access = Arc::new(parts::access(&settings.http));
    if let Some(trouble) = access.trouble() {
        return Err(Failed::Usage(trouble));
    }
    let sink = statistics::sink(&settings.statistics).await;
    let sink = sink.map_err(Failed::Usage)?;
    let ports = bind(&settings, &sink, tls.grpc.clone()).await?;
    let recording = recording::start(&settings, &engine)?;
    greet(&settings, &ports, feed.first().as_ref());

    let reload = Arc::new(Notify::new());
    let admin = Admin {
        engine: Arc::clone(&engine),
        metrics: Arc::clone(&metrics),
        loads: feed.loads(),
        needed_domains: settings.rules.needed_domains(),
    };
    let mut background = background(&engine, feed, &reload, &tls);
    let store = &settings.store;
    let snapshots = store
        .snapshot()
        .map(|path| Snapshots::new(path, &engine, &metrics));
    if let Some(snapshots) = &snapshots {
        let keep = Arc::clone(snapshots).keep(store.embedded_snapshot_every.0);
        background.push(tokio::spawn(keep));
    }
    let statsd = sink.and_then(|sink| sink.exporter(&metrics));
    background.extend(statsd.clone().map(|statsd| tokio::spawn(statsd.keep())));
    let (shutdown, down) = watch::channel(false);
    let surfaces = (tracing, access, tls.http);
    let serving = spawn_servers(&settings, ports, admin, surfaces, &down);
    let outcome = wait_for_the_end(&settings, &engine, signals, &reload, &shutdown, serving).await;
    background.iter().for_each(JoinHandle::abort);
    if let Err(error) = engine.leave().await {
        tracing::debug!("the others learn later that this instance has left: {error}");
    }
    engine.give_back_leases().await;
    if let Err(error) = engine.flush_usage().await {
        warn!("the last usage is not written down: {error}");
    }
    if let Some(snapshots) = &snapshots {
        snapshots.write().await;
    }
    if let Some(recording) = recording {
        // It waits for the disk.
        let finished = tokio::task::spawn_blocking(|| recording.finish()).await;
        finished.map_err(|error| Failed::Run(error.to_string()))?;
    }
    if let Some(statsd) = statsd {
        statsd.flush().await;
    }
    guard.shutdown().await;
    outcome
}

fn signals() -> io::Result<Signals> {
    Ok(Signals {
        term: signal(SignalKind::terminate())?,
        int: signal(SignalKind::interrupt())?,
        hup: signal(SignalKind::hangup())?,
    })
}

fn store(settings: &Settings) -> Result<Store, Failed> {
    match settings.store.backend().map_err(Failed::Usage)? {
        Backend::Embedded => {
            if settings.per_second.redis_persecond {
                let problem = "REDIS_PERSECOND is for BACKEND_TYPE=redis, beside REDIS_URL";
                return Err(Failed::Usage(problem.to_owned()));
            }
            let keys = usize::try_from(settings.store.embedded_max_keys).unwrap_or(usize::MAX);
            let store = match settings.store.snapshot() {
                Some(path) => snapshots::restore(path, keys).map_err(Failed::Run)?,
                None => Embedded::new(keys, Clock::System),
            };
            // A capture has the decisions in the order of their moments.
            Ok(Store::Embedded(match settings.record.path() {
                Some(_) => store.with_distinct_moments(),
                None => store,
            }))
        }
        Backend::Redis => {
            if settings.store.snapshot().is_some() {
                let problem =
                    "EMBEDDED_SNAPSHOT is for the embedded store; Redis keeps what it has";
                return Err(Failed::Usage(problem.to_owned()));
            }
            let redis = parts::redis(settings).map_err(Failed::Usage)?;
            let redis = Redis::connect(&redis).map_err(|error| Failed::Usage(error.to_string()))?;
            Ok(Store::Redis(redis))
        }
    }
}

/// The TLS of the gRPC port, and of the HTTP ports.
fn tls(settings: &Settings) -> Result<Secured, Failed> {
    let read = |files: Result<Option<Files>, String>, protocol| {
        let Some(files) = files.map_err(Failed::Usage)? else {
            return Ok(None);
        };
        let tls = Tls::new(files, protocol).map_err(|error| Failed::Run(error.to_string()))?;
        Ok(Some(Arc::new(tls)))
    };
    Ok(Secured {
        grpc: read(parts::grpc_tls(&settings.grpc), Protocol::Http2)?,
        http: read(parts::http_tls(&settings.http), Protocol::Http1)?,
    })
}

async fn bind(
    settings: &Settings,
    sink: &Option<Sink>,
    tls: Option<Arc<Tls>>,
) -> Result<Ports, Failed> {
    let (grpc, http) = (&settings.grpc, &settings.http);
    let grpc = match &grpc.grpc_uds {
        Some(path) if !path.as_os_str().is_empty() && tls.is_some() => {
            let problem = "GRPC_UDS has no TLS; leave out GRPC_SERVER_USE_TLS, or listen on a port";
            return Err(Failed::Usage(format!("{problem} ({})", path.display())));
        }
        Some(path) if !path.as_os_str().is_empty() => Listener::unix(path).map_err(|error| {
            Failed::Run(format!("cannot listen on {}: {error}", path.display()))
        })?,
        _ => {
            let address = address(&grpc.grpc_host, grpc.grpc_port, "GRPC_HOST").await?;
            Listener::tcp(address, tls)
                .map_err(|error| taken("gRPC", address, "GRPC_PORT", &error))?
        }
    };
    let listen = async |name: &str, address: SocketAddr, variable: &str| {
        TcpListener::bind(address)
            .await
            .map_err(|error| taken(name, address, variable, &error))
    };
    let http_address = address(&http.host, http.port, "HOST").await?;
    let debug_address = address(&http.debug_host, http.debug_port, "DEBUG_HOST").await?;
    let statistics = match sink {
        Some(Sink::Prometheus(address, path)) => {
            let listener = listen("Prometheus", *address, "PROMETHEUS_ADDR").await?;
            Some((listener, path.clone()))
        }
        Some(Sink::Statsd(_)) | None => None,
    };
    Ok(Ports {
        grpc,
        http: listen("HTTP", http_address, "PORT").await?,
        debug: listen("debug", debug_address, "DEBUG_PORT").await?,
        statistics,
    })
}

async fn address(host: &str, port: u16, variable: &str) -> Result<SocketAddr, Failed> {
    let found = tokio::net::lookup_host((host, port))
        .await
        .ok()
        .and_then(|mut found| found.next());
    found.ok_or_else(|| Failed::Usage(format!("{variable}={host} is no address")))
}

fn taken(name: &str, address: SocketAddr, variable: &str, error: &io::Error) -> Failed {
    let hint = if error.kind() == io::ErrorKind::AddrInUse {
        format!(": another process listens there; choose another {variable}")
    } else {
        format!(": {error}")
    };
    Failed::Run(format!("cannot listen on the {name} port {address}{hint}"))
}

/// Says what was loaded, where the service listens and what to try.
fn greet(settings: &Settings, ports: &Ports, loaded: Option<&Result<Loaded, Failure>>) {
    let dir = settings.rules.dir();
    match loaded {
        None => {
            let server = &settings.xds.config_grpc_xds_server_url;
            info!("not ready until the management server {server} has sent the rules");
        }
        Some(Ok(loaded)) => {
            let Loaded {
                files,
                rules,
                domains,
                version: _,
                warnings: _,
            } = loaded;
            info!(
                "loaded {rules} rules of {files} files in {}: {}",
                dir.display(),
                domains.join(", ")
            );
        }
        Some(Err(Failure::Rejected(report))) => {
            warn!(
                "the rules in {} have errors; not ready until they are mended\n{report}",
                dir.display()
            );
        }
        Some(Err(problem @ (Failure::Unreadable(_) | Failure::Untaken(_)))) => {
            warn!("there are no rules; not ready until there are: {problem}");
        }
    }
    let grpc = match (ports.grpc.address(), &settings.grpc.grpc_uds) {
        (Some(address), _) => address.to_string(),
        (None, path) => path
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
    };
    let local = |listener: &TcpListener| {
        listener
            .local_addr()
            .map(|a| a.to_string())
            .unwrap_or_default()
    };
    let (http, inspect) = (local(&ports.http), local(&ports.debug));
    let fetched = ports.statistics.as_ref();
    let fetched = fetched.map(|(port, path)| format!(", statistics on {}{path}", local(port)));
    let fetched = fetched.unwrap_or_default();
    info!("listening: gRPC on {grpc}, HTTP on {http}, debug on {inspect}{fetched}");
    let port = ports
        .http
        .local_addr()
        .map(|address| address.port())
        .unwrap_or_default();
    let domain = loaded
        .and_then(|loaded| loaded.as_ref().ok())
        .and_then(|loaded| loaded.domains.first());
    let domain = domain.map_or("edge", String::as_str);
    let scheme = match settings.http.http_server_use_tls {
        true => "https://",
        false => "",
    };
    info!(
        "try: curl -s {scheme}localhost:{port}/json -d '{{\"domain\": \"{domain}\", \
         \"descriptors\": [{{\"entries\": [{{\"key\": \"user_id\", \"value\": \"alice\"}}]}}]}}'"
    );
}

/// What goes on beside the requests.
fn background(
    engine: &Arc<Engine>,
    feed: Feed,
    reload: &Arc<Notify>,
    tls: &Secured,
) -> Vec<JoinHandle<()>> {
    let keeper = Arc::clone(engine);
    let (pinger, follower) = (Arc::clone(engine), Arc::clone(engine));
    let (settler, member) = (Arc::clone(engine), Arc::clone(engine));
    let (historian, teller) = (Arc::clone(engine), Arc::clone(engine));
    let mut tasks = vec![
        tokio::spawn(feed.follow(Arc::clone(reload))),
        tokio::spawn(keep_memory(Arc::clone(engine))),
        tokio::spawn(async move { follower.follow_directory().await }),
        tokio::spawn(async move { keeper.keep_usage().await }),
        tokio::spawn(async move { settler.pay_owed().await }),
        tokio::spawn(async move { member.be_present().await }),
        tokio::spawn(async move { historian.keep_history().await }),
        tokio::spawn(async move { teller.tell_top().await }),
        tokio::spawn(async move {
            while let Err(error) = pinger.ping_store().await {
                tracing::debug!("the store has not answered yet: {error}");
                tokio::time::sleep(PING_EVERY).await;
            }
        }),
    ];
    let served = [&tls.grpc, &tls.http].into_iter().flatten();
    tasks.extend(served.map(|tls| tokio::spawn(Arc::clone(tls).watch())));
    tasks
}

/// Sees to it that keys find memory when they come, and that those that have expired give it back.
async fn keep_memory(engine: Arc<Engine>) {
    for swept in (0..PARTS).cycle() {
        for part in 0..PARTS {
            if engine.make_room(part) > 0 {
                tokio::time::sleep(ROOM_PAUSE).await;
            }
        }
        tokio::time::sleep(SWEEP_EVERY / PARTS as u32).await;
        engine.sweep(swept);
    }
}

fn spawn_servers(
    settings: &Settings,
    ports: Ports,
    admin: Admin,
    (tracing, access, tls): (Tracing, Arc<Access>, Option<Arc<Tls>>),
    down: &watch::Receiver<bool>,
) -> JoinHandle<io::Result<()>> {
    let grpc = grpc::serve(
        ports.grpc,
        Arc::clone(&admin.engine),
        Arc::clone(&admin.metrics),
        tracing,
        parts::grpc(settings),
        down.clone(),
    );
    let http = admin::serve(
        ports.http,
        tls.clone(),
        admin.clone().http(access),
        down.clone(),
    );
    let debug = admin::serve(ports.debug, tls, admin.clone().debug(), down.clone());
    let down = down.clone();
    let statistics = async move {
        match ports.statistics {
            Some((port, path)) => admin::serve(port, None, admin.metrics_at(&path), down).await,
            None => Ok(()),
        }
    };
    tokio::spawn(async move { tokio::try_join!(grpc, http, debug, statistics).map(|_| ()) })
}

/// Serves until a signal; then is not ready at once, goes on for the drain delay, and lets calls under way finish.
async fn wait_for_the_end(
    settings: &Settings,
    engine: &Engine,
    mut signals: Signals,
    reload: &Notify,
    shutdown: &watch::Sender<bool>,
    mut serving: JoinHandle<io::Result<()>>,
) -> Result<(), Failed> {
    loop {
        tokio::select! {
            _ = signals.term.recv() => break,
            _ = signals.int.recv() => break,
            _ = signals.hup.recv() => reload.notify_one(),
            ended = &mut serving => return ended_early(ended),
        }
    }
    engine.drain();
    info!("stopping: not ready from now on, calls under way finish");
    tokio::time::sleep(settings.grpc.drain_delay.0).await;
    shutdown.send_replace(true);
    match tokio::time::timeout(settings.grpc.drain_timeout.0, serving).await {
        Ok(ended) => ended_early(ended),
        Err(_) => {
            warn!("some calls did not finish in time");
            Ok(())
        }
    }
}

fn ended_early(ended: Result<io::Result<()>, tokio::task::JoinError>) -> Result<(), Failed> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failed::Run(error.to_string())),
        Err(error) => Err(Failed::Run(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::engine;
    use crate::store::embedded::SHARDS;

    /// A part, and then the requests: all of it at once would be as long a pause as what it is there to avoid.
    #[tokio::test]
    async fn memory_is_asked_for_a_part_at_a_time() {
        let clock = Clock::default();
        let store = Store::Embedded(Embedded::new(16, clock.clone()));
        let settings = engine::Settings::default();
        let engine = Arc::new(Engine::new(store, settings, clock, Metrics::new()));
        let kept = keep_memory(Arc::clone(&engine));
        let looked = timeout(Duration::ZERO, kept).await;
        assert!(looked.is_err(), "it has no end");
        assert_eq!(engine.make_room(0), 0, "there is room");
        assert_eq!(engine.make_room(1), SHARDS / PARTS, "there is none yet");
    }
}
