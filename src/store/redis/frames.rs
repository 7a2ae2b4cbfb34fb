//! Calls of the scripts beside the one that decides: a word and its arguments, answered by texts, as `frames.lua` has them.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Redis;
use super::connected::Home;
use super::node::Call;
use super::script::Script;
use super::within::Within;
use crate::limit::Durability;
use crate::store::{Key, StoreError};

impl Redis {
    /// Calls a script on keys of one slot.
    pub(super) async fn ask(
        &self,
        script: &'static Script,
        keys: &[&Key],
        arguments: &[&[u8]],
        timeout: Duration,
    ) -> Result<Vec<Bytes>, StoreError> {
        let mut body = BytesMut::new();
        for argument in arguments {
            body.put_u32_le(u32::try_from(argument.len()).unwrap_or(u32::MAX));
            body.put_slice(argument);
        }
        let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_str().as_bytes()).collect();
        let call = Call {
            script,
            keys: &keys,
            body: &body,
            durability: Durability::Usual,
        };
        let within = Within::from_now(timeout);
        let reply = self.link.run(Home::default(), &call, within).await?;
        texts(reply).ok_or_else(unreadable)
    }
}

/// The texts of a reply, each with its length before it.
pub(super) fn texts(mut reply: Bytes) -> Option<Vec<Bytes>> {
    let mut texts = Vec::new();
    while reply.has_remaining() {
        let length = reply.try_get_u32_le().ok()?;
        let length = usize::try_from(length).ok()?;
        if reply.remaining() < length {
            return None;
        }
        texts.push(reply.split_to(length));
    }
    Some(texts)
}

/// The error of an answer that is not what the script says.
pub(super) fn unreadable() -> StoreError {
    StoreError::Corrupt("an answer of the script cannot be read".to_owned())
}
