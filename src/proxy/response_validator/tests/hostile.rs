//! Each path of a server's messages to a client drops the same hostile messages.

use mcp::version;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::exchange::UpstreamRequest;
use crate::registry::Registry;
use crate::runtime::RuntimeConfig;
use crate::streams::resource_updates::{Receiver, ResourceEvent, ResourceSubscriber};
use crate::upstream::call_timer::CallTimer;
use crate::upstream::server_messages::ServerMessageFilter;
use crate::upstream::server_messages::tests::HOSTILE;

const MARK: &str = "HOSTILE";
const GOOD: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"GOOD"}}"#;

fn stream_of(message: &str) -> String {
    format!("event: message\ndata: {message}\n\ndata: {{\"jsonrpc\":\"2.0\",\"id\":$ID,\"result\":{{}}}}\n\n")
}

/// Fails with the messages that pass; `pass` is what goes to the client.
fn none_passes(path: &str, mut pass: impl FnMut(&str) -> Option<String>) {
    let passed: Vec<&str> = HOSTILE
        .iter()
        .copied()
        .filter(|message| pass(message).is_some_and(|out| out.contains(MARK)))
        .collect();
    assert!(passed.is_empty(), "{path}: {passed:#?}");
    assert!(pass(GOOD).is_some_and(|out| out.contains("GOOD")), "{path}: what is allowed passes");
}

#[tokio::test]
async fn relayed_streams_drop_what_is_hostile() {
    let gateway = gateway("");
    let request = request();
    none_passes("modern", |message| judged(&request, 200, &[EVENTS_KIND], &stream_of(message), ALONE).ok());
    let session = client_session(&gateway, "{}");
    let request = call_with(&server(ONE), |call| {
        (call.server_era, call.session) = (Era::Legacy, Some(session));
    });
    none_passes("legacy", |message| {
        let upstream = upstream_session(&request.server, "2025-06-18");
        let mut head = head(200, &[EVENTS_KIND]);
        let begun = ResponseValidator::begin(&mut head, &request, Some(&upstream), ALONE, Instant::now());
        passed(&mut begun.expect("it is MCP"), &request, &[&stream_of(message)]).ok()
    });
}

#[tokio::test]
async fn calls_by_the_gateways_own_client_drop_what_is_hostile() {
    let gateway = gateway("");
    let timer = Arc::new(CallTimer::default());
    let out = |request: &UpstreamRequest, upstream: Option<&_>, message: &str| {
        let call = request.as_call().expect("a call");
        let out = request.to_client(call, Bytes::copy_from_slice(message.as_bytes()), upstream, &timer)?;
        Some(String::from_utf8_lossy(&out).into_owned())
    };
    let modern = request();
    none_passes("modern", |message| out(&modern, None, message));
    let session = client_session(&gateway, "{}");
    let legacy = call_with(&server(ONE), |call| {
        (call.server_era, call.session) = (Era::Legacy, Some(session));
    });
    let upstream = upstream_session(&legacy.server, "2025-06-18");
    none_passes("legacy", |message| out(&legacy, Some(&*upstream), message));
}

#[tokio::test]
async fn notification_streams_of_sessions_drop_what_is_hostile() {
    let gateway = gateway("");
    let (session, server) = (client_session(&gateway, "{}"), server(ONE));
    none_passes("a session", |message| {
        let out = session.notification(&server, 4711, Bytes::copy_from_slice(message.as_bytes()))?;
        Some(String::from_utf8_lossy(&out).into_owned())
    });
}

#[test]
fn calls_of_servers_without_http_drop_what_is_hostile() {
    for version in version::LEGACY.iter().chain(version::MODERN) {
        let filter = ServerMessageFilter { server: "s", version };
        none_passes(version, |message| {
            let note = Bytes::copy_from_slice(message.as_bytes());
            let out = crate::streams::call::to_client(filter, None, note)?;
            Some(String::from_utf8_lossy(&out).into_owned())
        });
    }
}

#[tokio::test]
async fn resource_updates_drop_what_is_hostile_and_what_is_secret() {
    let text =
        "mcpServers: {demo: {builtin: demo, redact: {results: block}}}\nguard: {detectors: [credit_card]}\n";
    let config = config::parse("test", text, &|_| None).expect("a good config");
    let config = RuntimeConfig::new(config, None, &Handle::current()).expect("it can run");
    let registry = Registry::start(config, Metrics::new());
    let server = server(&format!("{ONE}, redact: {{results: block}}"));
    let (out, mut events) = mpsc::channel(64);
    let (promised, _promise) = oneshot::channel();
    let receiver = Receiver::Subscription(Bytes::from_static(b"\"mine\""));
    let mut subscriber = ResourceSubscriber::new(registry, vec!["u".into()], receiver, out, promised);
    let acknowledged = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":1},"notifications":{"resourceSubscriptions":["u"]}}}"#;
    let update = |more: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{{"uri":"u","_meta":{{"io.modelcontextprotocol/subscriptionId":1}}{more}}}}}"#
        )
    };
    let secret = update(r#","title":"4111 1111 1111 1111""#);
    let good = update("");
    let messages = [acknowledged].into_iter().chain(HOSTILE.iter().copied()).chain([&*secret, &*good]);
    for message in messages {
        let message = Bytes::copy_from_slice(message.as_bytes());
        subscriber.on_message(&server, &message).await.expect("it is still watched");
    }
    drop(subscriber);
    let mut sent = Vec::new();
    while let Some(ResourceEvent::Message(message)) = events.recv().await {
        sent.push(String::from_utf8_lossy(&message).into_owned());
    }
    assert_eq!(sent, [good.replace(":1}", ":\"mine\"}")]);
}
