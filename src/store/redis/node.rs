//! One server, or one master of a cluster: a connection that is kept up for ever, and calls that run at most once.
//!
//! # Why a call is never repeated
//!
//! A script that was sent may have been executed though its answer is lost; sending it again would charge twice. The client
//! library (fred 10.1) keeps the commands under way when a connection ends and sends them again as long as they have attempts
//! left: those of a broken connection unless they are `fail_fast`, and those of a connection that it replaces or drops itself
//! in any case. So every command has exactly one attempt ([`ATTEMPTS`]), which ends both ways: it is answered with an error.
//!
//! For the same reason each master of a cluster has a connection of its own here, and redirections are followed by
//! [`cluster`](super::cluster): the library counts a redirection as an attempt, and while one master is down it lets all
//! others wait. `NOSCRIPT`, `MOVED`, `ASK` and `TRYAGAIN` say that nothing was executed, so what they answer may be sent again.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::{Client, Pipeline, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::config::{Config, Options, ReconnectPolicy, Server, UnresponsiveConfig};
use fred::types::{Builder, ClusterHash, CustomCommand, Value};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::breaker::Change;
use super::finding::Finding;
use super::pipe::{Confirming, Endpoint, Greeting, Pipe, Trouble};
use super::script::Script;
use super::settings::SettingsError;
use super::way::Way;
use super::within::Within;
use crate::limit::Durability;
use crate::store::StoreError;
use crate::telemetry::tracing as spans;

/// How often a command may be sent.
const ATTEMPTS: u32 = 1;

/// Between attempts to connect, in milliseconds: the first, the longest, the random part.
const RECONNECT_MS: (u32, u32, u32) = (50, 2_000, 50);

/// After this long without any answer a connection is given up, so that what waits on it does not pile up.
const UNRESPONSIVE: Duration = Duration::from_secs(2);
const UNRESPONSIVE_CHECK: Duration = Duration::from_millis(250);

/// Before a connection is begun anew that the library has given up.
const RESTART: Duration = Duration::from_secs(1);

/// From a call that waits less than this the breaker learns nothing if there is no answer.
const PATIENT: Duration = Duration::from_millis(2);

/// The longest error text that is kept.
const MAX_ERROR: usize = 300;

/// One server.
pub(super) struct Node {
    client: Client,
    name: String,
    /// Why there is no connection.
    trouble: Arc<Mutex<Option<String>>>,
    /// Whether the server has been found to be a replica and is being left for the new master.
    leaving: Arc<AtomicBool>,
    /// How often it has been found elsewhere than before.
    moves: Arc<AtomicU64>,
    usual: Way,
    /// The way of what counts when replicas have it too.
    replicated: Way,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// One call of a script, and what it is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'c> {
    /// The script.
    pub(super) script: &'static Script,
    /// The keys, all of one hash slot in a cluster.
    pub(super) keys: &'c [&'c [u8]],
    /// The packed request.
    pub(super) body: &'c [u8],
    /// When it counts as made.
    pub(super) durability: Durability,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// For good.
    Failed(StoreError),
    /// Not executed: the slot lies on the server of this address.
    Moved(String),
    /// Not executed: the keys are on their way to the server of this address.
    Ask(String),
    /// Not executed: some of the keys have moved already, and some have not.
    TryAgain,
}

impl NoAnswer {
    /// What an error says.
    fn error(&self) -> Option<String> {
        match self {
            NoAnswer::Failed(error) => Some(error.to_string()),
            NoAnswer::Moved(_) | NoAnswer::Ask(_) | NoAnswer::TryAgain => None,
        }
    }

    /// A short word for traces; one of a closed set.
    fn kind(&self) -> &'static str {
        match self {
            NoAnswer::Failed(error) => error.kind(),
            NoAnswer::Moved(_) => "moved",
            NoAnswer::Ask(_) => "ask",
            NoAnswer::TryAgain => "try_again",
        }
    }
}

impl Node {
    /// Begins to connect, and keeps at it until dropped.
    ///
    /// Its address is `at`; without one it is where the library finds the server.
    pub(super) fn start(
        config: Config,
        at: Option<Endpoint>,
        greeting: Arc<Greeting>,
        confirming: Confirming,
        name: String,
    ) -> Result<Self, SettingsError> {
        let connect_timeout = greeting.timeout;
        let (first, longest, jitter) = RECONNECT_MS;
        let mut policy = ReconnectPolicy::new_exponential(0, first, longest, 2);
        policy.set_jitter(jitter);
        let mut builder = Builder::from_config(config);
        builder.set_policy(policy).with_connection_config(|config| {
            config.connection_timeout = connect_timeout;
            config.internal_command_timeout = connect_timeout;
            config.max_command_attempts = ATTEMPTS;
            config.unresponsive = UnresponsiveConfig {
                max_timeout: Some(UNRESPONSIVE),
                interval: UNRESPONSIVE_CHECK,
            };
            config.tcp.nodelay = Some(true);
        });
        let client = builder
            .build()
            .map_err(|error| SettingsError::Client(text_of(&error)))?;
        let trouble = Arc::new(Mutex::new(Some("not connected yet".to_owned())));
        // Listens from before the first attempt on.
        let events = (client.reconnect_rx(), client.error_rx());
        let (found, is_at) = watch::channel(None);
        let (finding, moves) = Finding::new(at, found);
        let watching = watch(events, name.clone(), Arc::clone(&trouble), finding);
        let connecting = keep_connected(client.clone());
        let way = |confirming| Way::new(is_at.clone(), Arc::clone(&greeting), confirming);
        let (usual, replicated) = (way(None), way(Some(confirming)));
        Ok(Self {
            client,
            name,
            trouble,
            leaving: Arc::default(),
            moves,
            usual,
            replicated,
            _tasks: [
                AbortOnDropHandle::new(tokio::spawn(watching)),
                AbortOnDropHandle::new(tokio::spawn(connecting)),
            ],
        })
    }

    /// What the server is called in logs.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether calls are kept from it, as it does not answer.
    pub(super) fn is_open(&self) -> bool {
        self.usual.breaker.is_open()
    }

    /// Whether calls that replicas are to confirm are kept from it, as they do not.
    pub(super) fn is_unconfirmed(&self) -> bool {
        self.replicated.breaker.is_open()
    }

    /// How often it has been found elsewhere than before.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    /// Runs the script, in a cluster for keys in `slot`; `asking` also for those that are only on their way to this server.
    pub(super) async fn run(
        &self,
        call: &Call<'_>,
        (slot, asking): (Option<u16>, bool),
        within: Within,
    ) -> Result<Bytes, NoAnswer> {
        let is_usual = call.durability == Durability::Usual;
        let breaker = &if is_usual {
            &self.usual
        } else {
            &self.replicated
        }
        .breaker;
        if !breaker.admits() {
            return Err(NoAnswer::Failed(StoreError::Open(self.name.clone())));
        }
        let span = spans::script_call(&self.name, &call.script.sha1, slot);
        let answering = async {
            match is_usual {
                true => self.evaluate_once(call, asking, within).await,
                false => self.evaluate_confirmed(call, asking, within).await,
            }
        };
        let answering = pin!(answering);
        let answer = match span.is_none() {
            true => answering.await,
            false => answering.instrument(span.clone()).await,
        };
        let change = match &answer {
            // This tells more of the caller than of the server.
            Err(NoAnswer::Failed(StoreError::Timeout | StoreError::Unconfirmed(_)))
                if within.length() < PATIENT =>
            {
                None
            }
            Err(NoAnswer::Failed(StoreError::Timeout | StoreError::Unconfirmed(_))) => {
                breaker.failed()
            }
            // That there is none of the connections which tell what is confirmed has been waited for.
            Err(NoAnswer::Failed(StoreError::Unreachable(_)))
                if !is_usual && within.length() >= PATIENT && self.is_connected() =>
            {
                breaker.failed()
            }
            // Of this one nothing is known yet.
            Err(NoAnswer::Failed(StoreError::Unreachable(_))) => None,
            Ok(_) | Err(_) => breaker.answered(),
        };
        match (change, is_usual) {
            (Some(Change::Opened), true) => {
                tracing::warn!(server = %self.name, "redis does not answer; calls are decided without it");
            }
            (Some(Change::Opened), false) => {
                let error = answer.as_ref().err().and_then(NoAnswer::error);
                tracing::warn!(server = %self.name, error, "replicas do not confirm in time what redis charges; limits with `durability: replicated` are decided without it");
            }
            (Some(Change::Closed), true) => {
                tracing::info!(server = %self.name, "redis answers again");
            }
            (Some(Change::Closed), false) => {
                tracing::info!(server = %self.name, "replicas confirm again what redis charges");
            }
            (None, _) => {}
        }
        if let Err(no_answer) = &answer {
            spans::failed(&span, no_answer.kind());
        }
        answer
    }

    async fn evaluate_once(
        &self,
        call: &Call<'_>,
        asking: bool,
        within: Within,
    ) -> Result<Bytes, NoAnswer> {
        if let Some(pipe) = self.usual.pipe() {
            return self.call(&pipe, call, asking, within).await;
        }
        let sent = match self.send(call, asking, within.length(), false).await {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                self.send(call, asking, within.rest().length(), true).await
            }
            sent => sent,
        };
        match sent {
            Ok(Value::Bytes(answer)) => Ok(answer),
            Ok(Value::String(answer)) => Ok(answer.into_inner()),
            Ok(other) => Err(NoAnswer::Failed(strange(&format!("{:?}", other.kind())))),
            Err(error) => Err(self.explain(&error)),
        }
    }

    /// Over the connection that is for such calls alone, which the first of them begins; no other can tell what is confirmed.
    async fn evaluate_confirmed(
        &self,
        call: &Call<'_>,
        asking: bool,
        within: Within,
    ) -> Result<Bytes, NoAnswer> {
        if !self.is_connected() {
            return Err(NoAnswer::Failed(self.unreachable()));
        }
        let opened = self.replicated.opened();
        let Ok(pipe) = tokio::time::timeout_at(within.deadline.into(), opened).await else {
            let reason = format!("{}: no connection for what replicas confirm", self.name);
            return Err(NoAnswer::Failed(StoreError::Unreachable(reason)));
        };
        self.call(&pipe, call, asking, within).await
    }

    async fn call(
        &self,
        pipe: &Pipe,
        call: &Call<'_>,
        asking: bool,
        within: Within,
    ) -> Result<Bytes, NoAnswer> {
        let calling = async {
            match pipe.call(call, asking, false).await {
                Err(Trouble::Said(text)) if text.starts_with("NOSCRIPT") => {
                    pipe.call(call, asking, true).await
                }
                answer => answer,
            }
        };
        let Ok(answer) = tokio::time::timeout_at(within.deadline.into(), calling).await else {
            return Err(NoAnswer::Failed(StoreError::Timeout));
        };
        answer.map_err(|trouble| match trouble {
            Trouble::Closed => NoAnswer::Failed(self.unreachable()),
            Trouble::Full => NoAnswer::Failed(StoreError::Unreachable(format!(
                "{}: too many answers are waited for",
                self.name
            ))),
            Trouble::Lost => NoAnswer::Failed(StoreError::Timeout),
            Trouble::Unconfirmed(why) => {
                let why: String = why.chars().take(MAX_ERROR).collect();
                NoAnswer::Failed(StoreError::Unconfirmed(format!("{}: {why}", self.name)))
            }
            Trouble::Strange(what) => NoAnswer::Failed(strange(&what)),
            Trouble::Said(text) => {
                let refused = || StoreError::Refused(text.chars().take(MAX_ERROR).collect());
                self.understand(&text)
                    .unwrap_or_else(|| NoAnswer::Failed(refused()))
            }
        })
    }

    /// What stands under `key`; this instance is told when it changes. None if that cannot be had.
    pub(super) async fn watch(&self, key: &[u8], timeout: Duration) -> Option<Bytes> {
        let pipe = self.usual.pipe()?;
        tokio::time::timeout(timeout, pipe.watch(key)).await.ok()?
    }

    /// Begins what calls of this runtime go over, unless it is there.
    pub(super) fn prepare(&self) {
        self.usual.pipe();
    }

    /// Asks for a sign of life.
    pub(super) async fn ping(&self, timeout: Duration) -> Result<(), StoreError> {
        let pong: Result<Value, Error> = self.with_options(timeout).ping(None).await;
        match pong.map_err(|error| self.explain(&error)) {
            Ok(_) => Ok(()),
            Err(NoAnswer::Failed(error)) => Err(error),
            Err(_) => Err(StoreError::Refused("a redirection".to_owned())),
        }
    }

    /// Asks which server has which slots.
    pub(super) async fn cluster_slots(&self, timeout: Duration) -> Option<Value> {
        let command = CustomCommand::new_static("CLUSTER", ClusterHash::FirstKey, false);
        let client = self.with_options(timeout);
        client.custom(command, vec!["SLOTS"]).await.ok()
    }

    /// Boxed, since the library's futures are so deep that the compiler gives up on what is built upon them.
    fn send<'a>(
        &'a self,
        call: &'a Call<'_>,
        asking: bool,
        timeout: Duration,
        whole: bool,
    ) -> BoxFuture<'a, Result<Value, Error>> {
        let client = self.with_options(timeout);
        if asking {
            Box::pin(evaluate_asking(client, call, whole))
        } else {
            Box::pin(async move { evaluate(&client, call, whole).await })
        }
    }

    fn with_options(&self, timeout: Duration) -> WithOptions<Client> {
        self.client.with_options(&Options {
            max_attempts: Some(ATTEMPTS),
            timeout: Some(timeout),
            // Without a connection it fails at once rather than waiting for one.
            fail_fast: true,
            ..Options::default()
        })
    }

    fn explain(&self, error: &Error) -> NoAnswer {
        if let Some(understood) = self.understand(error.details()) {
            return understood;
        }
        let unsent = *error.kind() == ErrorKind::Canceled && !self.is_connected();
        NoAnswer::Failed(if unsent {
            self.unreachable()
        } else if error.details().starts_with("Failed to route") {
            StoreError::Unreachable(self.name.clone())
        } else if is_lost(error) {
            StoreError::Timeout
        } else {
            StoreError::Refused(text_of(error))
        })
    }

    /// What an error of the server means, if it is one of those that are not about the call.
    fn understand(&self, text: &str) -> Option<NoAnswer> {
        let mut words = text.split_whitespace();
        let word = words.next()?;
        let mut address = || words.nth(1).unwrap_or_default().to_owned();
        match word {
            "MOVED" => Some(NoAnswer::Moved(address())),
            "ASK" => Some(NoAnswer::Ask(address())),
            "TRYAGAIN" => Some(NoAnswer::TryAgain),
            "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" => {
                let text = text.chars().take(MAX_ERROR).collect();
                Some(NoAnswer::Failed(StoreError::Unreachable(text)))
            }
            "READONLY" => {
                self.leave();
                None
            }
            _ => None,
        }
    }

    fn unreachable(&self) -> StoreError {
        let trouble = self.trouble.lock().clone();
        let reason = trouble.unwrap_or_else(|| "not connected".to_owned());
        StoreError::Unreachable(format!("{}: {reason}", self.name))
    }

    /// Connects anew, since Sentinel may by now name another server as the master.
    fn leave(&self) {
        if self.leaving.swap(true, Ordering::Relaxed) {
            return;
        }
        let (client, leaving) = (self.client.clone(), Arc::clone(&self.leaving));
        tokio::spawn(async move {
            // Its outcome is told by the connection's events.
            let _ = client.force_reconnection().await;
            leaving.store(false, Ordering::Relaxed);
        });
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Node").field(&self.name).finish()
    }
}

impl Call<'_> {
    /// The command that runs the script, and what it names it by: its name, or all of it.
    pub(super) fn command(&self, whole: bool) -> (&'static str, &'static str) {
        if whole {
            ("EVAL", self.script.source)
        } else {
            ("EVALSHA", self.script.sha1.as_str())
        }
    }
}

fn strange(answer: &str) -> StoreError {
    StoreError::Corrupt(format!("the script answered with {answer}"))
}

/// Sends the script by its name, or `whole`.
async fn evaluate<C: ClientLike>(client: &C, call: &Call<'_>, whole: bool) -> Result<Value, Error> {
    let (command, script) = call.command(whole);
    let mut arguments: Vec<Value> = Vec::with_capacity(3 + call.keys.len());
    arguments.push(Value::from_static_str(script));
    arguments.push(Value::Integer(call.keys.len() as i64));
    let texts = call.keys.iter().chain([&call.body]);
    arguments.extend(texts.map(|text| Value::Bytes(Bytes::copy_from_slice(text))));
    // The library spells these two out only for clients without options.
    let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
    client.custom(command, arguments).await
}

/// Sends the script to a server that the keys are only on their way to.
async fn evaluate_asking(
    client: WithOptions<Client>,
    call: &Call<'_>,
    whole: bool,
) -> Result<Value, Error> {
    // Both commands of a pipeline go over the same connection with nothing between them.
    let pipeline = Pipeline::from(client);
    let asking = CustomCommand::new_static("ASKING", ClusterHash::FirstKey, false);
    let _: Value = pipeline.custom(asking, Vec::<Value>::new()).await?;
    let _: Value = evaluate(&pipeline, call, whole).await?;
    let mut answers = pipeline.try_all().await;
    answers
        .pop()
        .unwrap_or_else(|| Err(Error::new(ErrorKind::Protocol, "no answer to a pipeline")))
}

/// Whether the answer, if there was one, has not come.
fn is_lost(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Timeout | ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Protocol
    ) || error
        .details()
        .starts_with("Too many failed write attempts")
}

/// The library ends its own attempts only at errors that it takes for mistakes in the settings; the server may have been
/// mistaken.
async fn keep_connected(client: Client) {
    loop {
        let connection = AbortOnDropHandle::new(client.connect());
        let _ = connection.await;
        tokio::time::sleep(RESTART).await;
    }
}

/// Logs a line for each change of the connection, and remembers why there is none.
async fn watch(
    (mut connected, mut errors): (Receiver<Server>, Receiver<(Error, Option<Server>)>),
    name: String,
    trouble: Arc<Mutex<Option<String>>>,
    found: Finding,
) {
    loop {
        tokio::select! {
            event = connected.recv() => match event {
                Err(RecvError::Closed) => return,
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    if let Ok(server) = &event {
                        found.tell(server);
                    }
                    if trouble.lock().take().is_some() {
                        tracing::info!(server = %name, "connected to redis");
                    }
                }
            },
            event = errors.recv() => match event {
                Err(RecvError::Closed) => return,
                Err(RecvError::Lagged(_)) => {}
                Ok((error, _)) => {
                    let now = text_of(&error);
                    let before = trouble.lock().replace(now.clone());
                    if before.as_ref() != Some(&now) {
                        tracing::warn!(server = %name, error = %now, "no connection to redis");
                    }
                }
            },
        }
    }
}

fn text_of(error: &Error) -> String {
    error.details().chars().take(MAX_ERROR).collect()
}
