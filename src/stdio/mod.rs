//! An MCP server on standard input and output, for clients that start programs (2026-07-28 and before,
//! basic/transports/stdio). Each message goes to a gateway over Streamable HTTP, and the result is written
//! as it comes. The bridge authorizes nothing and knows no server, so the same rules apply as for a client
//! over HTTP.
//!
//! The gateway is another process, reached by URL, or a gateway of this process without a listener
//! (`transport`). Either may restart without the client noticing: requests wait a moment for it, a
//! forgotten session is opened again (`session`), and streams are opened again (`listen`).

mod batch;
mod client_request;
mod events;
mod gateway_session;
mod in_flight;
mod input;
mod listen;
mod output;
mod param_headers;
mod request;
mod response;
mod session;
pub mod transport;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use mcp::json::reader::DEPTH_CEILING;
use mcp::rejection::code;
use mcp::{MessageKind, Reason, Rejection};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use client_request::StdioRequest;
use in_flight::StdioCalls;
use input::{Input, InputLine};
use mcp::jsonrpc::message;
use mcp::method::Method;
use output::Output;
use session::ClientSessions;
use transport::{Transport, TransportError};

/// Timeout at the end for closing the session at the gateway, and for the client to read the last lines.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum length of a client's line, in bytes: the highest possible `limits.max_body` of a gateway. The
/// gateway itself rejects what it does not accept, under the id of the request.
pub const MAX_LINE: usize = 64 << 20;

/// The limits of the bridge.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Maximum size of a response that is held, in bytes.
    pub max_response: usize,
    /// How long a request waits for a gateway that cannot be reached.
    pub wait: Duration,
    /// How long calls may go on after the end of standard input.
    pub drain: Duration,
}

pub struct StdioFrontend {
    transport: Transport,
    settings: Settings,
    out: Output,
    in_flight: StdioCalls,
    session: ClientSessions,
    param_headers: param_headers::ToolHeaders,
    tasks: TaskTracker,
}

impl StdioFrontend {
    /// Serves the client of this process until standard input ends, standard output breaks, or `stop` is
    /// ready.
    pub async fn serve(transport: Transport, settings: Settings, stop: impl Future<Output = ()>) {
        let input = Input::start(MAX_LINE);
        let (out, written) = Output::start();
        let bridge = Arc::new(Self {
            transport,
            settings,
            out,
            in_flight: StdioCalls::default(),
            session: ClientSessions::default(),
            param_headers: param_headers::ToolHeaders::default(),
            tasks: TaskTracker::new(),
        });
        tokio::select! {
            biased;
            () = stop => {}
            () = bridge.out.broken() => {}
            () = bridge.clone().until_the_end(input) => {}
        }
        bridge.close().await;
        bridge.out.end().await;
        // Not for a client that does not read: the end of the process ends its threads.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, written).await;
    }

    /// Reads line after line; at the end of input, the running calls may finish.
    async fn until_the_end(self: Arc<Self>, mut input: Input) {
        while let Some(line) = input.next().await {
            match line {
                InputLine::Whole(line) => self.on_line(line).await,
                InputLine::TooLong => {
                    let message = format!("a line is longer than {MAX_LINE} bytes, which no gateway takes");
                    self.log_invalid(Rejection::new(
                        413,
                        code::INVALID_REQUEST,
                        Reason::BodyTooLarge,
                        message,
                    ))
                    .await;
                }
            }
        }
        self.in_flight.stop_streams();
        self.tasks.close();
        if tokio::time::timeout(self.settings.drain, self.tasks.wait()).await.is_err() {
            tracing::warn!("standard input has ended, and some calls did not: they are cancelled");
        }
    }

    /// Handles one line. It waits for messages that later ones must not overtake (the opening of a session,
    /// notifications), not for requests.
    async fn on_line(self: &Arc<Self>, line: Bytes) {
        let line = trim(line);
        if line.is_empty() {
            return;
        }
        if line[0] == b'[' {
            self.tasks.spawn(self.clone().batch(line));
            return;
        }
        let rpc = match filters::request::read(&line, DEPTH_CEILING) {
            Ok(rpc) => rpc,
            Err(refused) => {
                let error =
                    message::rejection_response(refused.id.map(|id| id.of(&line)), &refused.rejection);
                return self.out.write(error).await;
            }
        };
        match rpc.kind {
            MessageKind::Request => {
                let request = StdioRequest::new(line, rpc);
                let opens = request.method == Method::Initialize;
                let task = self.tasks.spawn(self.clone().run(self.in_flight.begin(request)));
                if opens {
                    let _ = task.await;
                }
            }
            MessageKind::Notification => self.notification(line, &rpc).await,
            MessageKind::Response => self.forward(line).await,
        }
    }

    async fn notification(self: &Arc<Self>, line: Bytes, rpc: &mcp::jsonrpc::request::Rpc) {
        let method = Method::parse(&rpc.method_name(&line));
        if method == Method::Cancelled {
            match rpc.request_id.and_then(|id| self.in_flight.cancel(id.of(&line))) {
                // Closing the stream is the cancellation (2026-07-28, streamable-http, "Cancellation").
                Some(call) if call.request.is_modern() => call.stop.cancel(),
                Some(call) => {
                    let bridge = self.clone();
                    self.tasks.spawn(async move {
                        // A cancellation that comes before its request cancels nothing.
                        call.detached.cancelled().await;
                        bridge.forward(line).await;
                    });
                }
                // Perhaps one of a batch.
                None => self.forward(line).await,
            }
            return;
        }
        self.forward(line).await;
        if method == Method::Initialized {
            self.initialized().await;
        }
    }

    /// Sends messages without a response: notifications and responses of a session. The modern era has none
    /// of either.
    async fn forward(&self, line: Bytes) {
        let Some(session) = self.session.now() else {
            tracing::debug!("a notification or response outside of a session is dropped");
            return;
        };
        // No wait for the gateway here: a restarted gateway does not know the session.
        match self.transport.post(session.headers(), line, None).await {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => {
                tracing::debug!(status = %response.status(), "the gateway rejected a notification or response");
            }
            Err(error) => tracing::warn!(%error, "a notification or response was lost"),
        }
    }

    /// Sends a message, and waits a moment for a gateway that cannot be reached: usually it is being
    /// restarted.
    async fn post(
        &self,
        headers: HeaderMap,
        body: Bytes,
        detached: Option<CancellationToken>,
    ) -> Result<reqwest::Response, TransportError> {
        let mut timeout = ConnectRetry::of(self.settings.wait);
        loop {
            let sent = self.transport.post(headers.clone(), body.clone(), detached.clone()).await;
            if !matches!(sent, Err(TransportError::Unreachable(_))) || !timeout.again().await {
                return sent;
            }
        }
    }

    /// An error for a message without a readable request id.
    async fn log_invalid(&self, rejection: Rejection) {
        self.out.write(message::rejection_response(None, &rejection)).await;
    }

    /// Ends running work: the client and the gateway are notified.
    async fn close(&self) {
        let cancelled = self.in_flight.stop_all().into_iter().map(|call| async move {
            if let Some(message) = call.cancel_response() {
                self.out.write(message).await;
            }
            if let (Some(session), false) = (self.session.now(), call.request.is_modern()) {
                let params = [&br#"{"requestId":"#[..], &call.request.id, b"}"].concat();
                let message = message::notification("notifications/cancelled", &params);
                let _ = self.transport.post(session.headers(), message, None).await;
            }
        });
        let end = async {
            futures::future::join_all(cancelled).await;
            if let Some(session) = self.session.end() {
                let _ = self.transport.delete(session.headers()).await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, end).await.is_err() {
            tracing::debug!("the gateway does not answer at the end");
        }
    }
}

/// How long to wait for a missing gateway or server.
struct ConnectRetry {
    until: Instant,
    pause: Duration,
}

impl ConnectRetry {
    fn of(wait: Duration) -> Self {
        Self { until: Instant::now() + wait, pause: Duration::from_millis(20) }
    }

    /// Waits a little, longer each time; false when the time is up.
    async fn again(&mut self) -> bool {
        if Instant::now() + self.pause > self.until {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(1));
        true
    }
}

fn trim(line: Bytes) -> Bytes {
    let blank = |byte: &u8| !byte.is_ascii_whitespace();
    let Some(start) = line.iter().position(blank) else { return Bytes::new() };
    let end = line.iter().rposition(blank).map_or(start, |at| at + 1);
    line.slice(start..end)
}
