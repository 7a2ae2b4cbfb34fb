//! What each instance tells the others of one thing, and what the others have told last.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;

use super::Engine;
use crate::directory::follow::LOOK_WITHIN;
use crate::store::StoreError;
use crate::store::posts::{Board, MAX_POST};
use crate::time::Micros;

/// How often an instance tells the others.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(5);

/// For how long it is believed.
const KEEP: Micros = Micros::from_secs(15);

/// For how long what the others tell is not asked again, however many look.
const FRESH: Duration = Duration::from_secs(2);

/// The longest name of an instance, in bytes.
const MAX_INSTANCE: usize = 256;

/// A board, and what was read there last: instances, and what each has told.
#[derive(Debug)]
pub(super) struct Bulletin<P> {
    board: Board,
    heard: Mutex<Option<(Instant, Vec<Heard<P>>)>>,
}

/// An instance, and what it has told.
type Heard<P> = (String, P);

impl<P: Clone> Bulletin<P> {
    pub(super) fn new(board: Board) -> Self {
        Self {
            board,
            heard: Mutex::default(),
        }
    }

    /// Tells the others.
    pub(super) async fn tell(&self, engine: &Engine, text: &Bytes) -> Result<(), StoreError> {
        let own = engine.instances.own();
        let told = engine.store.post(&self.board, own, text, KEEP, LOOK_WITHIN);
        told.await
    }

    /// What the others have told, and whether they could be asked. `read` makes of a text what an instance would have written,
    /// if one would have.
    pub(super) async fn others(
        &self,
        engine: &Engine,
        read: impl Fn(&Bytes) -> Option<P>,
    ) -> (Vec<Heard<P>>, bool) {
        let mut heard = self.heard.lock().await;
        if let Some((at, others)) = &*heard
            && at.elapsed() < FRESH
        {
            return (others.clone(), true);
        }
        match engine.store.posts(&self.board, LOOK_WITHIN).await {
            Ok(posts) => {
                let own = engine.instances.own();
                let posts = posts.into_iter().filter(|(name, _)| name != own);
                let others: Vec<Heard<P>> = posts
                    .filter(|(name, text)| name.len() <= MAX_INSTANCE && text.len() <= MAX_POST)
                    .filter_map(|(name, text)| Some((name, read(&text)?)))
                    .collect();
                *heard = Some((Instant::now(), others.clone()));
                (others, true)
            }
            Err(_) => (Vec::new(), false),
        }
    }
}
