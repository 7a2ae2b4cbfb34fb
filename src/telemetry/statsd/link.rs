//! The way to a StatsD server.

use std::io;
use std::str::FromStr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};

/// How packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One after the other over a connection.
    Tcp,
    /// Each on its own.
    Udp,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            _ => Err(format!("{text} is neither tcp nor udp")),
        }
    }
}

/// A server, and the socket that leads to it if there is one.
#[derive(Debug)]
pub(super) struct Link {
    host: String,
    port: u16,
    protocol: Protocol,
    socket: Option<Socket>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Link {
    pub(super) fn new(host: String, port: u16, protocol: Protocol) -> Self {
        Self {
            host,
            port,
            protocol,
            socket: None,
        }
    }

    /// What the server is called in logs.
    pub(super) fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Sends a packet, once there is a socket.
    pub(super) async fn send(&mut self, packet: &str) -> io::Result<()> {
        if self.socket.is_none() {
            self.socket = Some(self.open().await?);
        }
        match &mut self.socket {
            Some(Socket::Tcp(stream)) => stream.write_all(packet.as_bytes()).await,
            Some(Socket::Udp(socket)) => socket.send(packet.as_bytes()).await.map(|_| ()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Begins anew with the next packet, and looks up the server's address again.
    pub(super) fn close(&mut self) {
        self.socket = None;
    }

    async fn open(&self) -> io::Result<Socket> {
        let address = (self.host.as_str(), self.port);
        match self.protocol {
            Protocol::Tcp => Ok(Socket::Tcp(TcpStream::connect(address).await?)),
            Protocol::Udp => {
                let found = tokio::net::lookup_host(address).await?.next();
                let found = found.ok_or(io::ErrorKind::NotFound)?;
                let any = match found.is_ipv4() {
                    true => "0.0.0.0:0",
                    false => "[::]:0",
                };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(found).await?;
                Ok(Socket::Udp(socket))
            }
        }
    }
}
