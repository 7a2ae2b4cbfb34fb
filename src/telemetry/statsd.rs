//! Statistics for StatsD and DogStatsD, by the reference's names.
//!
//! What is sent is what has been counted since it was last sent. While the server is away nothing waits anywhere: the counters go
//! on, and the next time that it can be reached it is told what they have come to.
//!
//! - `link`: UDP or TCP
//! - [`tags`]: what a line says beside its name and its number

use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tracing::warn;

use super::logs::Seldom;
use super::metrics::Metrics;
use super::metrics::stats::{RESPONSE_TIME, Times};
use link::Link;
use tags::Form;

mod link;
pub mod tags;

pub use link::Protocol;

/// The longest datagram: with its headers it fits into a frame of Ethernet, as the reference's do.
pub const MAX_PACKET: usize = 1432;

/// How long sending may take.
const SEND_WITHIN: Duration = Duration::from_secs(1);

/// Where statistics go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The way there.
    pub protocol: Protocol,
    /// How tags are written, and which.
    pub form: Form,
    /// How often they are sent.
    pub every: Duration,
}

/// Sends them.
#[derive(Debug)]
pub struct Exporter {
    metrics: Arc<Metrics>,
    form: Form,
    every: Duration,
    sent: Mutex<Sent>,
    failures: Seldom,
}

/// What has been sent, and over what.
#[derive(Debug)]
struct Sent {
    link: Link,
    counters: HashMap<String, u64>,
    times: Times,
}

/// Lines that go together, and what is sent by them.
#[derive(Debug, Default)]
struct Packet {
    text: String,
    counters: Vec<(String, u64)>,
    /// Buckets, with what they have come to.
    times: Vec<(usize, u64)>,
}

impl Exporter {
    /// Sends nothing yet.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let link = Link::new(settings.host, settings.port, settings.protocol);
        Self {
            metrics,
            form: settings.form,
            every: settings.every,
            sent: Mutex::new(Sent {
                link,
                counters: HashMap::new(),
                times: Times::default(),
            }),
            failures: Seldom::new(),
        }
    }

    /// Sends what is counted now and then, until the future is dropped.
    pub async fn keep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.every).await;
            self.flush().await;
        }
    }

    /// Sends what has been counted and not been sent, for a bounded time.
    pub async fn flush(&self) {
        let mut sent = self.sent.lock().await;
        let packets = self.packets(&sent);
        let sending = async {
            for packet in packets {
                sent.link.send(&packet.text).await?;
                sent.counters.extend(packet.counters);
                for (bucket, count) in packet.times {
                    sent.times[bucket].1 = count;
                }
            }
            io::Result::Ok(())
        };
        let outcome = tokio::time::timeout(SEND_WITHIN, sending).await;
        let outcome = outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Err(error) = outcome {
            // In the middle of a line, perhaps.
            sent.link.close();
            if self.failures.is_due() {
                let server = sent.link.name();
                warn!("statistics cannot be sent to {server}, and are sent later: {error}");
            }
        }
    }

    fn packets(&self, sent: &Sent) -> Vec<Packet> {
        let mut packets = vec![Packet::default()];
        for (name, total) in self.metrics.stats() {
            let before = sent.counters.get(&name).copied().unwrap_or_default();
            if total > before {
                let value = format!("{}|c", total - before);
                let packet = self.form.line(&name, &value);
                place(&mut packets, &packet, |packet| {
                    packet.counters.push((name, total));
                });
            }
        }
        let times = self.metrics.times().into_iter().zip(sent.times);
        for (bucket, ((end, total), (_, before))) in times.enumerate() {
            if total > before {
                // One line for all of a bucket: so many calls of which one in so many is told.
                let share = 1.0 / (total - before) as f64;
                let value = match total - before {
                    1 => format!("{end}|ms"),
                    _ => format!("{end}|ms|@{share}"),
                };
                let packet = self.form.line(RESPONSE_TIME, &value);
                place(&mut packets, &packet, |packet| {
                    packet.times.push((bucket, total));
                });
            }
        }
        packets.retain(|packet| !packet.text.is_empty());
        packets
    }
}

/// Puts a line into the last packet, or into a new one where that has no room; one that no packet has room for is left out.
fn place(packets: &mut Vec<Packet>, line: &str, note: impl FnOnce(&mut Packet)) {
    if line.len() + 1 > MAX_PACKET {
        return;
    }
    let has_room = |packet: &&mut Packet| packet.text.len() + line.len() < MAX_PACKET;
    if packets
        .last_mut()
        .as_ref()
        .is_none_or(|last| !has_room(last))
    {
        packets.push(Packet::default());
    }
    if let Some(packet) = packets.last_mut() {
        // Writing to a String cannot fail.
        let _ = writeln!(packet.text, "{line}");
        note(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_bounded_and_have_every_line_that_fits() {
        let mut packets = Vec::new();
        for length in 0..MAX_PACKET + 2 {
            place(&mut packets, &"x".repeat(length), |_| ());
        }
        assert!(packets.iter().all(|packet| packet.text.len() <= MAX_PACKET));
        let lines = packets.iter().flat_map(|packet| packet.text.lines());
        assert_eq!(lines.count(), MAX_PACKET, "up to {}", MAX_PACKET - 1);
    }
}
