//! A TCP proxy in front of a server, which breaks on order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, LogNormal};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::poll::pause;

/// What the proxy does to what it carries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Carries all.
    None,
    /// Each reply comes later: half of them by `median`, some by ten times as much.
    Slow { median: Duration },
    /// Takes bytes and carries none of them on, as a gateway that has forgotten its connections. They stay, and those that
    /// have lost something stay dead.
    Swallow { requests: bool, replies: bool },
    /// Takes bytes and carries them on when the fault has ended, as a network that was cut for a while.
    Hold,
    /// Each connection ends after so many bytes of replies.
    CutAfter(usize),
    /// New connections end at once.
    Refuse,
}

/// A running proxy; it ends with this.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    fault: Mutex<Fault>,
    random: Mutex<SmallRng>,
    resets: watch::Sender<u64>,
    connections: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Requests,
    Replies,
}

/// What becomes of some bytes.
struct Treated {
    after: Duration,
    length: usize,
    then_cut: bool,
}

impl Proxy {
    /// A proxy to the server on `port`; its delays are those of `seed`.
    pub(crate) fn to(port: u16, seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let shared = Arc::new(Shared {
            fault: Mutex::new(Fault::None),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            resets: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let own = listener.local_addr().expect("an address").port();
        let listening = Arc::clone(&shared);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, port, Arc::clone(&listening)));
            }
        });
        Self {
            port: own,
            shared,
            runtime: Some(runtime),
        }
    }

    /// Breaks in this way from now on, or is well again.
    pub(crate) fn order(&self, fault: Fault) {
        *self.shared.fault.lock() = fault;
    }

    /// Ends all connections there are, without a word.
    pub(crate) fn reset(&self) {
        self.shared.resets.send_modify(|resets| *resets += 1);
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    /// Of a connection that `passed` so many bytes, none if it is dead.
    fn treat(&self, way: Way, length: usize, passed: &mut Option<usize>) -> Treated {
        let mut treated = Treated {
            after: Duration::ZERO,
            length,
            then_cut: false,
        };
        match (*self.fault.lock(), way) {
            (Fault::Slow { median }, Way::Replies) => {
                let of = LogNormal::new(median.as_secs_f64().ln(), 1.8).expect("a distribution");
                let seconds: f64 = of.sample(&mut *self.random.lock());
                treated.after = Duration::from_secs_f64(seconds.min(3.0));
            }
            (Fault::Swallow { requests: true, .. }, Way::Requests)
            | (Fault::Swallow { replies: true, .. }, Way::Replies) => *passed = None,
            (Fault::CutAfter(most), Way::Replies) => {
                let before = passed.unwrap_or(0);
                treated.length = length.min(most.saturating_sub(before));
                treated.then_cut = before + length >= most;
            }
            _ => {}
        }
        match passed {
            Some(passed) => *passed += length,
            None => treated.length = 0,
        }
        treated
    }
}

async fn serve(client: TcpStream, port: u16, shared: Arc<Shared>) {
    shared.connections.fetch_add(1, Ordering::Relaxed);
    let mut resets = shared.resets.subscribe();
    let mut client = client;
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    let refuses = *shared.fault.lock() == Fault::Refuse;
    let server = match refuses {
        true => None,
        false => TcpStream::connect(server).await.ok(),
    };
    if let Some(mut server) = server {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            _ = carry(from_client, to_server, Way::Requests, &shared) => {}
            _ = carry(from_server, to_client, Way::Replies, &shared) => {}
            _ = resets.changed() => {}
        }
        let _ = SockRef::from(&server).set_linger(Some(Duration::ZERO));
    }
    let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
    shared.connections.fetch_sub(1, Ordering::Relaxed);
}

/// Carries what comes, in order, until either end is gone.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    way: Way,
    shared: &Shared,
) -> io::Result<()> {
    let (put, mut queue) = mpsc::unbounded_channel::<(Instant, Vec<u8>, bool)>();
    let reading = async {
        let (mut buffer, mut passed) = (vec![0; 16 * 1024], Some(0));
        loop {
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                return io::Result::<()>::Err(io::ErrorKind::UnexpectedEof.into());
            }
            let treated = shared.treat(way, length, &mut passed);
            let bytes = buffer[..treated.length].to_vec();
            let _ = put.send((Instant::now() + treated.after, bytes, treated.then_cut));
        }
    };
    let writing = async {
        while let Some((due, bytes, then_cut)) = queue.recv().await {
            // What is late holds up what is behind it.
            tokio::time::sleep_until(due).await;
            while *shared.fault.lock() == Fault::Hold {
                pause().await;
            }
            to.write_all(&bytes).await?;
            if then_cut {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
        Ok(())
    };
    tokio::try_join!(reading, writing).map(|_| ())
}
