//! What things cost without Tollgate: the floor that `benches/run` compares with.
//!
//! `probe none ADDRESS` answers every request alike, decided by nobody. `probe redis ADDRESS SERVER…` makes one script call for
//! each, over one bare pipelined connection to each master, and reads nothing off the answer. Both have the gRPC stack, the
//! allocator and the messages of the service, on one thread. The masters have the slots in equal parts, in the order given, as
//! `redis-cli --cluster create` deals them out.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use fred::util::redis_keyslot;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tollgate::engine::{Answer, Status as Of};
use tollgate::grpc::wire::{Codec, RateLimitRequest};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

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

/// One connection to each master; none without Redis.
#[derive(Clone)]
struct Probe(Arc<Vec<Wire>>);

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
        let listener = TcpListener::bind(address).await?;
        let connections = TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(Probe(Arc::new(wires)));
        server.serve_with_incoming(connections).await?;
        Ok(())
    })
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

impl NamedService for Probe {
    const NAME: &'static str = "envoy.service.ratelimit.v3.RateLimitService";
}

impl tower::Service<http::Request<Body>> for Probe {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let probe = self.clone();
        Box::pin(async move { Ok(Grpc::new(Codec).unary(probe, request).await) })
    }
}

impl UnaryService<RateLimitRequest> for Probe {
    type Response = Answer;
    type Future = BoxFuture<'static, Result<Response<Answer>, Status>>;

    fn call(&mut self, request: Request<RateLimitRequest>) -> Self::Future {
        let probe = self.clone();
        Box::pin(async move {
            let message = request.get_ref();
            if let Some(entry) = message
                .descriptors
                .first()
                .and_then(|first| first.entries.first())
                && !probe.0.is_empty()
            {
                let key = Bytes::from(format!("{{probe|{}={}}}", entry.key, entry.value));
                let slot = usize::from(redis_keyslot(&key));
                // The borders between the masters are rounded.
                let master = (2 * slot + 1) * probe.0.len() / (2 * SLOTS);
                probe.0[master].call(&key).await;
            }
            let statuses = message.descriptors.iter().map(|_| Of::default()).collect();
            Ok(Response::new(Answer {
                statuses,
                ..Answer::default()
            }))
        })
    }
}
