//! What instances tell each other, in Redis; see [`posts`](crate::store::posts).

use std::time::Duration;

use bytes::Bytes;

use super::{Redis, script};
use crate::store::StoreError;
use crate::store::posts::{Board, MAX_POSTS};
use crate::time::Micros;

impl Redis {
    pub(in crate::store) async fn post(
        &self,
        board: &Board,
        instance: &str,
        text: &Bytes,
        keep: Micros,
        timeout: Duration,
    ) -> Result<(), StoreError> {
        let keep = keep.get().div_ceil(1000).to_string();
        let arguments: [&[u8]; 4] = [b"post", instance.as_bytes(), text, keep.as_bytes()];
        let reply = self.ask_board(board, &arguments, timeout).await;
        reply.map(|_| ())
    }

    pub(in crate::store) async fn posts(
        &self,
        board: &Board,
        timeout: Duration,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        let most = MAX_POSTS.to_string();
        let arguments: [&[u8]; 2] = [b"posts", most.as_bytes()];
        let reply = self.ask_board(board, &arguments, timeout).await?;
        let post = |pair: &[Bytes]| {
            let name = String::from_utf8_lossy(&pair[0]).into_owned();
            (name, pair[1].clone())
        };
        Ok(reply.chunks_exact(2).map(post).collect())
    }

    async fn ask_board(
        &self,
        board: &Board,
        arguments: &[&[u8]],
        timeout: Duration,
    ) -> Result<Vec<Bytes>, StoreError> {
        let keys: Vec<_> = board.keys.iter().collect();
        self.ask(&script::POSTS, &keys, arguments, timeout).await
    }
}
