//! `tollgate health`: asks the service on this machine whether it is ready. For images that hold no other program to ask with.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::say;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most of an answer that is read.
const LONGEST: u64 = 64 * 1024;

/// Whom to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The HTTP port of the service; it must not speak TLS
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
}

/// Exit code 0 if it is ready, 1 if it is not or does not answer.
pub fn run(args: &Args) -> ExitCode {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    match ask(address) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => ExitCode::SUCCESS,
        Ok(answer) => {
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            say(&format!("{address} is not ready: {}", body.trim()));
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&format!("{address} does not answer: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream
        .write_all(b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
