//! Messages between the gateway processes that have one Redis in common, over its channels (`PUBLISH`,
//! `SUBSCRIBE`), and the connection for what they keep there (`task_records`).
//!
//! Each process reads one channel, that of its id, and renews a lease: without it, the process has ended. A
//! message is delivered at most once: who needs an answer asks again. Nobody waits while Redis is down: a send
//! is an error then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::StreamExt as _;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, Msg, RedisError, cmd};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The id of a process: 128 random bits.
pub type ProcessId = [u8; 16];

/// The timeout of a connection and of a send, and the pause between two attempts to connect.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often a process sends itself a message and renews its lease, and after how much silence its connection
/// is lost.
const HEARTBEAT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(15);
/// How long the lease of a process that has ended lasts. A process that was stopped for so long notices it: its
/// connection was silent for too long.
const LEASE: Duration = SILENCE.saturating_add(HEARTBEAT);
/// After a connection is made, for this long others may not have theirs yet.
const SETTLING: Duration = Duration::from_secs(5);
/// Messages that wait for their reader.
const QUEUE: usize = 1024;

/// The messages of a process. Without an owner it ends.
pub struct ProcessMessages {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    client: Client,
    prefix: String,
    process: ProcessId,
    /// None while Redis is down.
    connection: ArcSwapOption<Connection>,
    /// Told of each new connection.
    connected: Arc<watch::Sender<()>>,
    /// A lease that Redis refuses is told once.
    is_refused: AtomicBool,
}

struct Connection {
    open: MultiplexedConnection,
    since: Instant,
}

/// Redis is down.
#[derive(Debug, thiserror::Error)]
#[error("Redis does not answer")]
pub struct Unreachable;

impl ProcessMessages {
    /// Connects in the background; what others send to `process` comes out of the receiver.
    ///
    /// # Errors
    ///
    /// A URL that the client cannot use.
    pub fn start(
        url: &str,
        prefix: &str,
        process: ProcessId,
        runtime: &Handle,
        connected: Arc<watch::Sender<()>>,
    ) -> Result<(Self, mpsc::Receiver<Bytes>), RedisError> {
        let quick = TcpSettings::default().set_nodelay(true);
        let info = url.into_connection_info()?.set_tcp_settings(quick);
        let shared = Arc::new(Shared {
            client: Client::open(info)?,
            prefix: prefix.into(),
            process,
            connection: ArcSwapOption::empty(),
            connected,
            is_refused: AtomicBool::new(false),
        });
        let (out, messages) = mpsc::channel(QUEUE);
        let stop = CancellationToken::new();
        let (reader, stopped) = (shared.clone(), stop.clone());
        runtime.spawn(async move { stopped.run_until_cancelled(reader.read_all(out)).await });
        Ok((Self { shared, _stop: stop.drop_guard() }, messages))
    }

    /// Whether messages arrive and can be sent.
    pub fn is_there(&self) -> bool {
        self.shared.connection.load().is_some()
    }

    /// Sends a message; whether the other process reads its channel.
    ///
    /// # Errors
    ///
    /// Redis does not answer.
    pub async fn send(&self, to: &ProcessId, message: &[u8]) -> Result<bool, Unreachable> {
        let connection = self.shared.connection.load_full().ok_or(Unreachable)?;
        self.shared.publish(&connection.open, to, message).await.map(|readers| readers > 0)
    }

    /// Whether the connection is old enough that others, too, have theirs and have written what Redis lost.
    pub fn is_settled(&self) -> bool {
        self.shared.connection.load().as_ref().is_some_and(|there| there.since.elapsed() > SETTLING)
    }

    /// Whether a process has renewed its lease of late.
    ///
    /// # Errors
    ///
    /// Redis does not answer.
    pub async fn is_running(&self, process: &ProcessId) -> Result<bool, Unreachable> {
        let mut exists = cmd("EXISTS");
        exists.arg(self.shared.lease(process));
        self.run::<i64>(exists).await.map(|count| count > 0)
    }

    pub(super) fn key(&self, kind: &str, name: &str) -> String {
        format!("{}{kind}:{name}", self.shared.prefix)
    }

    pub(super) async fn run<T: FromRedisValue>(&self, command: Cmd) -> Result<T, Unreachable> {
        let connection = self.shared.connection.load_full().ok_or(Unreachable)?;
        let mut open = connection.open.clone();
        match timeout(TIMEOUT, command.query_async(&mut open)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                tracing::warn!(%error, "Redis: a command failed");
                Err(Unreachable)
            }
            Err(_) => Err(Unreachable),
        }
    }
}

impl Shared {
    fn channel(&self, process: &ProcessId) -> String {
        format!("{}process:{}", self.prefix, hex(process))
    }

    fn lease(&self, process: &ProcessId) -> String {
        format!("{}alive:{}", self.prefix, hex(process))
    }

    /// Renews the lease; false if Redis does not answer in time.
    async fn renew(&self, connection: &MultiplexedConnection) -> bool {
        let mut set = cmd("SET");
        set.arg(self.lease(&self.process)).arg(1).arg("PX").arg(LEASE.as_millis() as u64);
        let mut connection = connection.clone();
        match timeout(TIMEOUT, set.query_async::<()>(&mut connection)).await {
            Ok(Ok(())) => true,
            // A user of Redis without this right has messages all the same.
            Ok(Err(error)) => {
                if !self.is_refused.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "Redis: this process cannot show that it runs, so its tasks count as lost");
                }
                true
            }
            Err(_) => false,
        }
    }

    async fn publish(
        &self,
        connection: &MultiplexedConnection,
        to: &ProcessId,
        message: &[u8],
    ) -> Result<i64, Unreachable> {
        let mut publish = cmd("PUBLISH");
        publish.arg(self.channel(to)).arg(message);
        let mut connection = connection.clone();
        match timeout(TIMEOUT, publish.query_async(&mut connection)).await {
            Ok(Ok(readers)) => Ok(readers),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a message to another process is not sent");
                Err(Unreachable)
            }
            Err(_) => Err(Unreachable),
        }
    }

    async fn read_all(self: Arc<Self>, out: mpsc::Sender<Bytes>) {
        let mut is_told = false;
        loop {
            match self.read(&out, &mut is_told).await {
                Ok(()) if out.is_closed() => return,
                ended => {
                    self.connection.store(None);
                    if !std::mem::replace(&mut is_told, true) {
                        let why =
                            ended.err().map_or_else(|| "the connection ended".into(), |why| why.to_string());
                        tracing::warn!(error = %why, "Redis is away: other gateway processes cannot be reached");
                    }
                }
            }
            tokio::time::sleep(TIMEOUT / 2).await;
        }
    }

    /// Reads until the connection ends or is silent for too long.
    async fn read(&self, out: &mpsc::Sender<Bytes>, is_told: &mut bool) -> Result<(), RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let connection = self.client.get_multiplexed_async_connection_with_config(&config);
        let connection = timeout(TIMEOUT, connection).await.map_err(|_| late())??;
        let mut reading = timeout(TIMEOUT, self.client.get_async_pubsub()).await.map_err(|_| late())??;
        timeout(TIMEOUT, reading.subscribe(self.channel(&self.process))).await.map_err(|_| late())??;
        // The connection ends with its sink.
        let (_sink, mut messages) = reading.split();
        if !self.renew(&connection).await {
            return Err(late());
        }
        self.connection.store(Some(Arc::new(Connection { open: connection.clone(), since: Instant::now() })));
        self.connected.send_replace(());
        if std::mem::take(is_told) {
            tracing::info!("Redis is back: other gateway processes can be reached");
        }
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            let message: Option<Msg> = tokio::select! {
                message = messages.next() => message,
                _ = beat.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(late());
                    }
                    if !self.renew(&connection).await
                        || self.publish(&connection, &self.process, b"").await.is_err()
                    {
                        return Err(late());
                    }
                    continue;
                }
            };
            let Some(message) = message else { return Ok(()) };
            heard = Instant::now();
            let text = message.get_payload_bytes();
            if !text.is_empty() && out.send(Bytes::copy_from_slice(text)).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn hex(process: &ProcessId) -> String {
    process.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn late() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}
