//! An upstream that says what it was asked, and fails when it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use tollgate::time::Clock;

/// A running upstream; it ends with this.
pub(crate) struct Upstream {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What it answers, if not 200.
    code: Option<u16>,
    unhealthy: bool,
    /// Requests to `/held…` are not answered until this is over.
    holds: bool,
    holding: usize,
    asked: usize,
    dead: bool,
    connections: Vec<TcpStream>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let upstream = Self {
            port: 0,
            shared: Arc::default(),
        };
        upstream.listen(TcpListener::bind("127.0.0.1:0").expect("a port"))
    }

    /// Answers with this code from now on, but for its health.
    pub(crate) fn answer(&self, code: u16) {
        self.shared.change(|state| state.code = Some(code));
    }

    pub(crate) fn set_healthy(&self, healthy: bool) {
        self.shared.change(|state| state.unhealthy = !healthy);
    }

    /// Whether requests to `/held…` are kept waiting.
    pub(crate) fn hold(&self, holds: bool) {
        self.shared.change(|state| state.holds = holds);
    }

    /// How many requests it keeps waiting.
    pub(crate) fn holding(&self) -> usize {
        self.shared.state().holding
    }

    /// How many requests it has had, without those for its health.
    pub(crate) fn asked(&self) -> usize {
        self.shared.state().asked
    }

    /// Ends all its connections and takes no more.
    pub(crate) fn kill(&self) {
        self.shared.change(|state| {
            state.dead = true;
            state.holds = false;
            for connection in state.connections.drain(..) {
                // It may be closed already.
                let _ = connection.shutdown(Shutdown::Both);
            }
        });
        // Wakes the listener, which sees that it is dead.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }

    fn listen(mut self, listener: TcpListener) -> Self {
        self.port = listener.local_addr().expect("an address").port();
        let (port, shared) = (self.port, Arc::clone(&self.shared));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut state = shared.state();
                if state.dead {
                    return;
                }
                state.connections.extend(stream.try_clone());
                drop(state);
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, port, &shared));
            }
        });
        self
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(stream: &TcpStream, port: u16, shared: &Shared) {
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_request(&mut reader) {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let cache = match path.starts_with("/docs") {
            true => "cache-control: public, max-age=60\r\n",
            false => "",
        };
        let code = code(path, shared);
        let length = head.len();
        let date = date();
        let answer = format!(
            "HTTP/1.1 {code} \r\ncontent-length: {length}\r\ndate: {date}\r\nx-served-by: {port}\r\nserver: old/1.0\r\n\
             x-powered-by: old\r\nx-internal-host: db7\r\n{cache}\r\n{head}"
        );
        let mut writer = stream;
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The time, without which nothing is kept in a cache.
fn date() -> String {
    let now = jiff::Timestamp::from_microsecond(Clock::System.now().as_micros()).expect("a time");
    now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// What a request is answered with, once it is.
fn code(path: &str, shared: &Shared) -> u16 {
    let mut state = shared.state();
    if path == "/health" {
        return if state.unhealthy { 503 } else { 200 };
    }
    state.asked += 1;
    if path.starts_with("/held") && state.holds {
        state.holding += 1;
        let wait = |state: &mut State| state.holds;
        state = shared.changed.wait_while(state, wait).expect("no panic");
        state.holding -= 1;
    }
    state.code.unwrap_or(200)
}

/// The head of a request, whose body is read and left; none at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> Option<String> {
    let (mut head, mut length, mut chunked) = (String::new(), 0, false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        let name = line.to_lowercase();
        if let Some(value) = name.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        chunked |= name.starts_with("transfer-encoding:");
        if line.trim().is_empty() {
            break;
        }
        head += &line;
    }
    while chunked {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        length = usize::from_str_radix(line.trim(), 16).ok()?;
        skip(reader, length + 2)?;
        chunked = length > 0;
        length = 0;
    }
    skip(reader, length)?;
    Some(head)
}

fn skip(reader: &mut impl Read, length: usize) -> Option<()> {
    let length = length as u64;
    let skipped = std::io::copy(&mut reader.take(length), &mut std::io::sink());
    (skipped.ok()? == length).then_some(())
}
