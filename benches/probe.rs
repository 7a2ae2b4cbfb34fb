//! What things cost without Tollgate: the floor that `benches/run` compares with.
//!
//! `probe none ADDRESS` answers every request alike, decided by nobody. `probe redis ADDRESS SERVER…` makes one script call for
//! each subject of one, over one bare pipelined connection to each master, and reads nothing off the answer. Both are the service's own server,
//! with its allocator, on one thread, and answer with as many bytes as it does. The masters have the slots in equal parts, in the
//! order given, as `redis-cli --cluster create` deals them out.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fred::util::redis_keyslot;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use http::HeaderMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot, watch};
use tollgate::engine::{self, Answer, Engine, Request};
use tollgate::grpc::listen::Listener;
use tollgate::grpc::unary::{Answered, Answering, Method};
use tollgate::grpc::wire;
use tollgate::grpc::{self, Settings};
use tollgate::rules::compile::{Options, compile};
use tollgate::rules::file::SourceFile;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate::telemetry::metrics::Metrics;
use tollgate::time::Clock;
use tonic::service::Routes;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The parts of the script, in the order in which the service joins them.
const SCRIPT: &str = concat!(
    include_str!("../src/store/redis/script.lua"),
    include_str!("../src/limit.lua"),
    include_str!("../src/limit/fixed_window.lua"),
    include_str!("../src/limit/token_bucket.lua"),
    include_str!("../src/limit/sliding_window.lua"),
    include_str!("../src/limit/ban.lua"),
    include_str!("../src/limit/transaction.lua"),
);

const SLOTS: usize = 16_384;

const RULES: &str = "
domain: bench
descriptors:
  - {key: user_id, rate_limit: {requests_per_unit: 1000000000, unit: minute}}
";

/// One connection to each master; none without Redis.
#[derive(Clone)]
struct Probe {
    wires: Arc<Vec<Wire>>,
    answer: Arc<Answer<'static>>,
}

struct Wire {
    queue: Arc<Mutex<Queue>>,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct Queue {
    out: BytesMut,
    waiting: VecDeque<oneshot::Sender<()>>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    // Without arguments it is `cargo bench` that runs all benches: there is nothing to measure alone.
    let [kind, address, servers @ ..] = args.as_slice() else {
        return Ok(());
    };
    let address: SocketAddr = address.parse()?;
    let servers = if kind == "redis" { servers } else { &[] };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut wires = Vec::new();
        for server in servers {
            wires.push(Wire::connect(server).await?);
        }
        let probe = Probe {
            wires: Arc::new(wires),
            answer: Arc::new(answer()?),
        };
        let settings = Settings {
            max_connection_age: Duration::ZERO,
            max_connection_age_grace: Duration::ZERO,
            keepalive_interval: Duration::ZERO,
            keepalive_timeout: Duration::from_secs(20),
            max_connections: 1024,
            max_concurrent_streams: 1024,
            max_calls: 1 << 16,
            max_message_size: 1 << 20,
            needed_domains: Some(0),
            threads: 1,
        };
        let (_running, shutdown) = watch::channel(false);
        let listener = Listener::tcp(address, None)?;
        grpc::serve_method(listener, probe, Routes::default(), settings, shutdown).await?;
        Ok(())
    })
}

/// What the service answers to one hit of a limit.
fn answer() -> Result<Answer<'static>, Box<dyn std::error::Error>> {
    let files = [SourceFile {
        name: "rules.yaml".to_owned(),
        text: RULES.to_owned(),
    }];
    let rules = compile(&files, Options::default()).map_err(|_| "the rules are wrong")?;
    let store = Store::Embedded(Embedded::new(1 << 10, Clock::System));
    let engine = Engine::new(
        store,
        engine::Settings::default(),
        Clock::System,
        Metrics::new(),
    );
    engine.install(rules);
    let entry = ("user_id".to_owned(), "alice".to_owned());
    let message = wire::message("bench", 1, [vec![entry]]);
    let request = wire::request(&message)?;
    let answer = engine
        .check(&request, Instant::now(), None, |answer| answer.owned())
        .now_or_never();
    Ok(answer.ok_or("the embedded store waits")??)
}

impl Wire {
    async fn connect(server: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let mut load = BytesMut::new();
        put(&mut load, &[b"SCRIPT", b"LOAD", SCRIPT.as_bytes()]);
        stream.write_all(&load).await?;
        stream.read_u8().await?;
        stream.read_exact(&mut [0; 46]).await?;
        let (read, write) = stream.into_split();
        let wire = Self {
            queue: Arc::default(),
            wake: Arc::default(),
        };
        tokio::spawn(write_all(
            write,
            Arc::clone(&wire.queue),
            Arc::clone(&wire.wake),
        ));
        tokio::spawn(read_all(read, Arc::clone(&wire.queue)));
        Ok(wire)
    }

    async fn call(&self, key: &[u8]) {
        let (answered, answer) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            let body = body();
            put(
                &mut queue.out,
                &[b"EVALSHA", SHA.as_bytes(), b"1", key, &body],
            );
            queue.waiting.push_back(answered);
        }
        self.wake.notify_one();
        let _ = answer.await;
    }
}

static SHA: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, SCRIPT.as_bytes());
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
});

/// One hit under a fixed window of a minute, as the service packs it.
fn body() -> Vec<u8> {
    let mut body = vec![4, 0, 1];
    let mut put = |number: u64, width: usize| body.extend(&number.to_le_bytes()[..width]);
    for (number, width) in [
        (0, 7),
        (0, 2),
        (1, 2),
        (1, 2),
        (0, 1),
        (0, 1),
        (1000, 7),
        (1, 1),
        (0, 1),
        (0, 1),
        (0, 1),
        (41, 4),
        (100_000, 7),
        (60_000_000, 7),
        (0, 7),
    ] {
        put(number, width);
    }
    body
}

async fn write_all(
    mut to: OwnedWriteHalf,
    queue: Arc<Mutex<Queue>>,
    wake: Arc<Notify>,
) -> io::Result<()> {
    let mut out = BytesMut::new();
    loop {
        wake.notified().await;
        std::mem::swap(&mut out, &mut queue.lock().out);
        to.write_all(&out).await?;
        out.clear();
    }
}

async fn read_all(mut from: OwnedReadHalf, queue: Arc<Mutex<Queue>>) -> io::Result<()> {
    let mut read = BytesMut::new();
    loop {
        while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
            let length = std::str::from_utf8(&read[1..end - 1])
                .ok()
                .and_then(|digits| digits.parse().ok());
            let length: usize =
                length.ok_or_else(|| io::Error::other(format!("{:?}", &read[..end])))?;
            if read.len() < end + 1 + length + 2 {
                break;
            }
            drop(read.split_to(end + 1 + length + 2));
            if let Some(answered) = queue.lock().waiting.pop_front() {
                let _ = answered.send(());
            }
        }
        if from.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn put(to: &mut BytesMut, words: &[&[u8]]) {
    to.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        to.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        to.extend_from_slice(word);
        to.extend_from_slice(b"\r\n");
    }
}

impl Probe {
    async fn ask(&self, key: &[u8]) {
        let slot = usize::from(redis_keyslot(key));
        // The borders between the masters are rounded.
        let master = (2 * slot + 1) * self.wires.len() / (2 * SLOTS);
        self.wires[master].call(key).await;
    }
}

impl Method for Probe {
    type Soon = Answered;
    type Later = BoxFuture<'static, Answered>;
    type Turn = ();

    fn turn(&self, _: Instant) {}

    fn call(&self, _: &HeaderMap, message: Bytes, (): &()) -> Answering<Self::Soon, Self::Later> {
        if self.wires.is_empty() {
            let mut room = None;
            let mut request = Request::default();
            black_box(wire::read(&message, &mut room, &mut request).is_ok());
            return Answering::Soon(Ok(wire::framed(&self.answer)));
        }
        let probe = self.clone();
        Answering::Later(Box::pin(async move {
            let mut room = None;
            let mut request = Request::default();
            black_box(wire::read(&message, &mut room, &mut request).is_ok());
            let firsts = request.descriptors.iter().filter_map(|d| d.entries.first());
            let mut subjects: SmallVec<[Bytes; 1]> = firsts
                .map(|entry| format!("{{probe|{}={}}}", entry.key, entry.value).into())
                .collect();
            subjects.dedup();
            match subjects.as_slice() {
                [one] => probe.ask(one).await,
                several => drop(join_all(several.iter().map(|key| probe.ask(key))).await),
            }
            Ok(wire::framed(&probe.answer))
        }))
    }

    async fn answer(&self, soon: Answered, (): &()) -> Answered {
        soon
    }

    async fn prepare(&self) {}
}
