//! Messages of the server: responses go to their calls, notifications and requests to their handlers.

use super::*;

impl SharedConnection {
    /// Handles one message, or a batch of them. It never waits.
    pub fn on_line(&self, line: &Bytes, log: &mut LogQuota) {
        let line = &line.slice_ref(line.trim_ascii());
        match line.first() {
            None => return,
            // A batch: only 2025-03-26 has them, and there they must be accepted.
            Some(b'[') => {
                if let Ok(parts) = serde_json::from_slice::<Vec<&RawValue>>(line)
                    && parts.iter().all(|part| part.get().starts_with('{'))
                {
                    return parts
                        .iter()
                        .for_each(|part| self.on_line(&line.slice_ref(part.get().as_bytes()), log));
                }
            }
            // serde would take an array for the struct.
            Some(b'{') => {
                if let Some(message) =
                    std::str::from_utf8(line).ok().and_then(|text| serde_json::from_str(text).ok())
                {
                    return self.on_message(line, &message, log);
                }
                let mut scan = OversizeScan::default();
                scan.feed(line);
                self.finish(scan.id(), Err(ConnectionError::InvalidResponse("not JSON-RPC")));
            }
            Some(_) => {}
        }
        self.log_invalid("not a JSON-RPC message", line, log);
    }

    fn on_message(&self, line: &Bytes, message: &RawMessage<'_>, log: &mut LogQuota) {
        let id = message.id.and_then(|id| id.get().parse().ok());
        let fail_invalid = |why| self.finish(id, Err(ConnectionError::InvalidResponse(why)));
        let object =
            |raw: &RawValue| raw.get().starts_with('{').then(|| line.slice_ref(raw.get().as_bytes()));
        match message {
            RawMessage { jsonrpc, .. } if jsonrpc.is_none_or(|version| version.get() != "\"2.0\"") => {
                self.log_invalid("a message that is not JSON-RPC 2.0", line, log);
                // The id of a request is the server's own.
                if message.method.is_none() {
                    fail_invalid("not JSON-RPC 2.0");
                }
            }
            RawMessage { method: Some(method), id: None, result: None, error: None, params, .. } => {
                self.notice(method, *params, line, log);
            }
            RawMessage { method: Some(method), id: Some(id), result: None, error: None, .. } => {
                let is_taken = method != "ping"
                    && self.requests.get().is_some_and(|requests| {
                        let open = self.calls().waiting.len();
                        requests.try_send((line.clone(), open)).is_ok()
                    });
                if !is_taken {
                    self.decline(method, id.get());
                }
            }
            RawMessage { method: None, result: Some(result), error: None, .. } => match object(result) {
                Some(result) => self.finish(id, Ok(ConnectionResponse::Result(result))),
                None => fail_invalid("the result is not an object"),
            },
            RawMessage { method: None, result: None, error: Some(error), id: Some(_), .. } => {
                match object(error) {
                    Some(error) => self.finish(id, Ok(ConnectionResponse::Error(error))),
                    None => fail_invalid("the error is not an object"),
                }
            }
            _ => {
                self.log_invalid("neither a request nor an answer", line, log);
                fail_invalid("neither a result nor an error, or both");
            }
        }
    }

    fn notice(&self, method: &str, params: Option<&RawValue>, line: &Bytes, log: &mut LogQuota) {
        let about = params
            .filter(|params| params.get().starts_with('{'))
            .and_then(|params| serde_json::from_str::<ParamsView>(params.get()).ok())
            .unwrap_or_default();
        let number = |raw: Option<&RawValue>| raw.and_then(|raw| raw.get().parse::<u64>().ok());
        match method {
            "notifications/progress" => {
                // All tokens are ours: an unknown one belongs to a call that is over.
                let Some(token) = about.token else { return };
                let call = number(Some(token)).filter(|id| !self.listens(*id));
                let Some((caller_token, notes)) = call.and_then(|id| self.progress(id)) else {
                    return;
                };
                let note = splice(line, &span_in(line, token), &caller_token);
                if notes.try_send(note.into()).is_err() {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            // How a modern server ends a subscription. An old one means a request of its own, whose id may
            // equal ours.
            "notifications/cancelled" if number(about.request).is_some_and(|id| self.listens(id)) => {
                self.finish(number(about.request), Err(ConnectionError::SessionClosed));
            }
            _ => {
                let listen = number(about.subscription()).filter(|id| self.listens(*id));
                let listener = listen.and_then(|id| self.progress(id)).map(|(_, notes)| notes);
                let receiver = listener.as_ref().unwrap_or(&self.notices);
                if receiver.try_send(line.clone()).is_err() {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    self.log_invalid("dropped a notification: nobody takes them", method.as_bytes(), log);
                }
            }
        }
    }

    /// A shared connection has no single client to sample or to elicit from. The request is declined; if the
    /// server does not read, silently.
    fn decline(&self, method: &str, id: &str) {
        let mut line = format!(r#"{{"jsonrpc":"2.0","id":{id},"#).into_bytes();
        if method == "ping" {
            line.extend_from_slice(br#""result":{}}"#);
        } else {
            let short: String = method.chars().take(100).collect();
            let message =
                format!("the gateway does not offer {short} to a server whose connection all callers share");
            line.extend_from_slice(br#""error":{"code":-32601,"message":"#);
            quote(&mut line, &message);
            line.extend_from_slice(b"}}");
        }
        line.push(b'\n');
        self.queue_reply(line);
    }

    pub(super) fn log_invalid(&self, what: &str, line: &[u8], log: &mut LogQuota) {
        let Some(suppressed) = log.take() else { return };
        let start = String::from_utf8_lossy(&line[..line.len().min(200)]);
        let line = start.trim_end();
        if self.warned.swap(true, Ordering::Relaxed) {
            debug!(server = self.server, suppressed, %line, "{what}");
        } else {
            warn!(server = self.server, %line, "{what}; further such lines are told at debug");
        }
    }
}
