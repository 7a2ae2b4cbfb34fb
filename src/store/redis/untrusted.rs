//! What Redis says, read as the calls read it. Nothing of the service is here: it is where `fuzz/` enters, which plays a Redis
//! that says anything at all.

use bytes::Bytes;
use futures::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::node::Call;
use super::pipe::Pipe;
use super::reply::Reply;
use super::{frames, script, usage, value};
use crate::limit::Durability;
use crate::limit::transaction::Record;

/// How many calls wait for an answer.
const CALLS: usize = 4;

/// What a server that says `said` on its connection answers to a few calls and to a look at a key. Within a runtime.
pub async fn answers(said: &[u8]) -> std::io::Result<Vec<Bytes>> {
    let (near, mut far) = UnixStream::pair()?;
    let pipe = Pipe::over(near);
    let call = Call {
        script: &script::DECIDE,
        keys: &[b"key"],
        body: &[],
        durability: Durability::Usual,
    };
    let calls = join_all((0..CALLS).map(|_| pipe.call(&call, false, false)));
    let talk = async {
        // All calls are waiting by now. The connection may be given up in the middle.
        let _ = far.write_all(said).await;
        let _ = far.shutdown().await;
        // Read to the end, so that writing never waits.
        let _ = tokio::io::copy(&mut far, &mut tokio::io::sink()).await;
    };
    let (called, watched, ()) = tokio::join!(calls, pipe.watch(b"key"), talk);
    let called = called.into_iter().filter_map(Result::ok);
    Ok(called.chain(watched).collect())
}

/// Reads an answer in every way in which a call does; tells in how many it can be read.
pub fn read(answer: &Bytes) -> usize {
    let reply = Reply::parse(answer.clone());
    if let Some(Reply::Before(_, values)) = &reply {
        values.iter().cloned().for_each(|value| drop(record(value)));
    }
    let texts = frames::texts(answer.clone());
    let rows = texts.as_deref().and_then(usage::rows);
    [reply.is_some(), texts.is_some(), rows.is_some()]
        .into_iter()
        .filter(|can| *can)
        .count()
}

/// The record that a value under a key is; none if it is not one of ours.
pub fn record(value: Bytes) -> Option<Record> {
    value::decode(value)
}
