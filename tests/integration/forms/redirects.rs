//! Redirections.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_redirection_within_the_origin_is_followed_and_told_once() {
    for status in ["307 Temporary Redirect", "308 Permanent Redirect"] {
        let mock = MockServer::start(move |seen| match seen.header(":path") {
            Some("/mcp") => MockReply::Say(http(status, &["Location: /mcp/"], "")),
            _ => MockReply::Good,
        })
        .await;
        let mut gateway = before(&mock, ", headers: {Authorization: \"Bearer inside\"}").await;
        let session = gateway.initialize("/mcp").await;
        for session in [None, Some(session.as_str())] {
            for long in [false, true] {
                let answer = call(&gateway, "box__tool", session, Some(BOTH), long).await;
                assert_eq!((answer.status, text(&answer)), (200, json!("done")), "{answer:?}");
            }
        }
        let there: Vec<RecordedRequest> =
            mock.calls().into_iter().filter(|seen| seen.header(":path") == Some("/mcp/")).collect();
        assert_eq!(there.len(), 4);
        assert!(there.iter().all(|seen| seen.header("authorization") == Some("Bearer inside")));
        gateway.process.wait_for("the server redirects each request");
        gateway.process.signal(libc::SIGTERM);
        gateway.process.wait();
        assert_eq!(gateway.process.output().matches("the server redirects each request").count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirection_elsewhere_is_named_and_nothing_goes_there() {
    let other = MockServer::start(|_| MockReply::Good).await;
    let to = other.url.replace("/mcp", "/secret?token=hidden");
    let location = format!("Location: {to}");
    let mock = MockServer::start(move |seen| match (seen.method(), seen.tool()) {
        ("tools/list", _) => {
            MockReply::Say(json_answer(&answer(seen, &tools(&["tool", "see_other", "loop"]))))
        }
        ("tools/call", "tool") => MockReply::Say(http("307 Temporary Redirect", &[&location], "")),
        ("tools/call", "see_other") => MockReply::Say(http("303 See Other", &["Location: /login"], "")),
        ("tools/call", "loop") => MockReply::Say(http("308 Permanent Redirect", &["Location: /mcp"], "")),
        _ => MockReply::Good,
    })
    .await;
    let gateway = before(&mock, ", headers: {Authorization: \"Bearer inside\"}").await;
    for long in [false, true] {
        // On a reused connection, a response without a body may belong to another call: it is reported when
        // the call is sent again.
        call(&gateway, "box__tool", None, Some(BOTH), long).await;
        let place = other.url.replace("/mcp", "/secret");
        for (tool, message) in [("tool", place.as_str()), ("see_other", "/login"), ("loop", "HTTP 308")] {
            let answer = call(&gateway, &format!("box__{tool}"), None, Some(BOTH), long).await;
            let error = &answer.message()["error"];
            assert_eq!((answer.status, &error["code"]), (502, &json!(502)), "{tool}: {error}");
            let said = error["message"].as_str().unwrap_or_default();
            assert!(said.contains(message) && !said.contains("hidden"), "{tool}: {said}");
        }
    }
    assert!(other.all().is_empty(), "{:?}", other.all());
    let moved = puppet_that_moved(&to).await;
    let mut gateway = Gateway::start(&format!("mcpServers: {{gone: {{url: \"{}\"}}}}\n", moved.url)).await;
    gateway.process.wait_for(&other.url.replace("/mcp", "/secret"));
    assert!(other.all().is_empty(), "{:?}", other.all());
}

async fn puppet_that_moved(to: &str) -> MockServer {
    let location = format!("Location: {to}");
    MockServer::start(move |_| MockReply::Say(http("308 Permanent Redirect", &[&location], ""))).await
}
