//! Secrets in servers' responses: redacted or blocked, in every format and for every caller.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Gateway, legacy_call, stdio_fixture};
use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, http, json_answer};
use crate::raw::{Answer, Client, Head};

const CARD: &str = "4111 1111 1111 1111";
const TAKEN_OUT: &str = "[redacted:credit_card]";

/// A server that answers as the argument `how` says, each time with a card number.
fn teller(seen: &RecordedRequest) -> MockReply {
    let result = |text: &str| json!({"content": [{"type": "text", "text": text}], "resultType": "complete"});
    let card = answer(seen, &result(&format!("the card {CARD} is mine")));
    let note = |method: &str, params: Value| {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        format!("event: message\ndata: {message}\n\n")
    };
    let progress = |text: String| {
        note("notifications/progress", json!({"progressToken": "p", "progress": 1, "message": text}))
    };
    let error = json!({"jsonrpc": "2.0", "id": seen.body["id"],
        "error": {"code": -32000, "message": format!("declined: {CARD}"), "data": {"card": CARD}}});
    let events = |events: &[String]| {
        MockReply::Say(http("200 OK", &["Content-Type: text/event-stream"], &events.concat()))
    };
    if seen.http_method == "GET" && seen.header("mcp-session-id").is_some() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        let output = |data: String| note("notifications/message", json!({"level": "info", "data": data}));
        let events = [output(format!("seen: {CARD}")), output("the end".into())].concat();
        return MockReply::Repeat(head.into(), events.into_bytes(), Duration::from_millis(100));
    }
    match seen.body["params"]["arguments"]["how"].as_str().unwrap_or_default() {
        _ if seen.method() != "tools/call" => MockReply::Good,
        "json" => MockReply::Say(json_answer(&card)),
        "error" => MockReply::Say(json_answer(&error.to_string())),
        "status" => {
            MockReply::Say(http("400 Bad Request", &["Content-Type: application/json"], &error.to_string()))
        }
        "rest" => {
            let body = json!({"error": format!("declined: {CARD}")}).to_string();
            MockReply::Say(http("500 Internal Server Error", &["Content-Type: application/json"], &body))
        }
        // It looks like a message, and is none.
        "half" => {
            let body = json!({"jsonrpc": "2.0", "message": format!("declined: {CARD}")}).to_string();
            MockReply::Say(http("500 Internal Server Error", &["Content-Type: application/json"], &body))
        }
        "wide" => {
            let body = json!({"error": format!("declined: {CARD}")}).to_string();
            let wide = body.encode_utf16().flat_map(u16::to_le_bytes);
            let head = format!(
                "HTTP/1.1 500 Oh\r\nContent-Type: application/json; charset=utf-16\r\nContent-Length: {}\r\n\r\n",
                2 * body.len()
            );
            MockReply::Say(head.into_bytes().into_iter().chain(wide).collect())
        }
        "events" => events(&[
            "id: first\ndata:\n\n".into(),
            ": a comment\n\n".into(),
            progress(format!("trying {CARD}")),
            note("notifications/message", json!({"level": "info", "data": {"deep": [CARD, 7]}})),
            progress("nothing to hide".into()),
            format!("data: {card}\n\n"),
        ]),
        "late" => MockReply::Pause(
            [
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
                progress("first".into()).as_bytes(),
            ]
            .concat(),
            Duration::from_millis(300),
            (progress("second".into()) + &format!("data: {card}\n\n")).into_bytes(),
        ),
        // An event may be written over several lines.
        "lines" => events(&[card
            .replace(",\"result\"", ",\n\"result\"")
            .lines()
            .map(|line| format!("data: {line}\n"))
            .collect::<String>()
            + "\n"]),
        "big" => {
            let text = format!("{} {CARD} {}", "a ß \\ \" ".repeat(100_000), "z".repeat(1024 * 1024));
            MockReply::Say(json_answer(&answer(seen, &result(&text))))
        }
        "clean" => MockReply::Say(json_answer(&answer(seen, &result("nothing to hide")))),
        _ => MockReply::Good,
    }
}

async fn setup(results: &str) -> (MockServer, Gateway) {
    let mock = MockServer::start(teller).await;
    let gateway = Gateway::start(&format!(
        "mcpServers: {{p: {{url: \"{}\", redact: {{results: {results}}}}}}}\n",
        mock.url
    ))
    .await;
    gateway.eventually("the server is there", async |g| g.call("p__tool", json!({})).await.0 == 200).await;
    (mock, gateway)
}

/// Calls the tool over a connection of its own, and returns the response byte for byte.
async fn ask(gateway: &Gateway, how: &str, change: impl FnOnce(Head) -> Head) -> Answer {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "p__tool", "arguments": {"how": how},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}, "progressToken": "p"}}});
    let head = change(Head::modern("/mcp", "tools/call", Some("p__tool")));
    let mut client = Client::connect(gateway.port).await;
    let request = head.whole(body.to_string().as_bytes());
    let answer = client.exchange(&request).await.unwrap_or_else(|| panic!("{how}: no answer"));
    assert!(answer.whole, "{how}: the answer ends as its framing says: {answer:?}");
    assert!(!text(&answer).contains(CARD), "{how}: {}", text(&answer));
    answer
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// The messages of a stream. An event may have several lines of data.
fn messages(answer: &Answer) -> Vec<Value> {
    let text = text(answer);
    let data = |event: &str| -> String {
        event.lines().filter_map(|line| line.strip_prefix("data:")).collect::<Vec<_>>().join("\n")
    };
    let all = text.split("\n\n").map(data).filter(|data| !data.trim().is_empty());
    all.map(|data| serde_json::from_str(&data).unwrap_or_else(|_| panic!("no message: {data}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_taken_out_of_whatever_an_answer_comes_in() {
    let (_puppet, gateway) = setup("redact").await;
    let same = |head| head;
    let answer = ask(&gateway, "json", same).await;
    let output = answer.message();
    assert_eq!(output["result"]["content"][0]["text"], format!("the card {TAKEN_OUT} is mine"), "{output}");
    for how in ["error", "status"] {
        let answer = ask(&gateway, how, same).await;
        let output = answer.message();
        assert_eq!(answer.status, if how == "status" { 400 } else { 200 }, "{output}");
        assert_eq!(output["error"]["message"], format!("declined: {TAKEN_OUT}"), "{how}: {output}");
        assert_eq!(output["error"]["data"]["card"], TAKEN_OUT, "{how}: {output}");
    }
    // An error that is no MCP message is forwarded too, but not over a reused connection: it names no
    // request.
    let mut rest = ask(&gateway, "rest", same).await;
    if rest.status == 502 {
        rest = ask(&gateway, "rest", same).await;
    }
    assert_eq!(
        (rest.status, rest.message()["error"].clone()),
        (500, json!(format!("declined: {TAKEN_OUT}")))
    );

    let answer = ask(&gateway, "events", same).await;
    let output = messages(&answer);
    assert_eq!(output.len(), 4, "{}", text(&answer));
    assert_eq!(output[0]["params"]["message"], format!("trying {TAKEN_OUT}"));
    assert_eq!(output[1]["params"]["data"]["deep"], json!([TAKEN_OUT, 7]));
    assert_eq!(output[2]["params"]["message"], "nothing to hide");
    assert_eq!(output[3]["result"]["content"][0]["text"], format!("the card {TAKEN_OUT} is mine"));
    assert_eq!(messages(&ask(&gateway, "lines", same).await)[0]["id"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_is_searched_and_stays_whole() {
    let (_puppet, gateway) = setup("redact").await;
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let answer = ask(&gateway, "big", |head| head.line(&format!("POST /mcp {version}"))).await;
        let output = answer.message();
        let text = output["result"]["content"][0]["text"].as_str().expect("a text").to_owned();
        let expected = format!("{} {TAKEN_OUT} {}", "a ß \\ \" ".repeat(100_000), "z".repeat(1024 * 1024));
        assert!(text == expected, "{version}: {} bytes of {}", text.len(), expected.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_http_1_0_get_searched_answers_too() {
    let (_puppet, gateway) = setup("redact").await;
    let old = |head: Head| head.line("POST /mcp HTTP/1.0");
    for how in ["json", "clean", "error", "status"] {
        let answer = ask(&gateway, how, old).await;
        assert_eq!(answer.header("transfer-encoding"), None, "{how}");
        assert_eq!(answer.message()["id"], 1, "{how}");
    }
    assert_eq!(messages(&ask(&gateway, "events", old).await).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_are_told_are_right() {
    let (_puppet, gateway) = setup("redact").await;
    for how in ["json", "clean", "error", "status", "rest"] {
        let answer = ask(&gateway, how, |head| head).await;
        match (answer.header("content-length"), answer.header("transfer-encoding")) {
            (Some(length), None) => assert_eq!(length, answer.body.len().to_string(), "{how}"),
            (None, Some(coding)) => assert_eq!(coding, "chunked", "{how}"),
            both => panic!("{how}: {both:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_stopped_is_told_to_be_and_shows_nothing() {
    let (_puppet, gateway) = setup("block").await;
    for how in ["json", "error", "big"] {
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            let answer = ask(&gateway, how, |head| head.line(&format!("POST /mcp {version}"))).await;
            let error = &answer.message()["error"];
            // The head of a server's response may have been forwarded already.
            assert!([200, 403].contains(&answer.status), "{how}: {}", answer.status);
            assert_eq!(
                (&error["code"], &error["data"]["server"]),
                (&json!(403), &json!("p")),
                "{how}: {error}"
            );
            let message = error["message"].as_str().expect("a sentence");
            assert!(message.contains("credit_card") && message.contains("`p`"), "{how}: {message}");
        }
    }
    let refused = ask(&gateway, "status", |head| head).await.message();
    assert!(
        refused["error"]["message"].as_str().is_some_and(|message| message.contains("let through")),
        "{refused}"
    );
    // A stream that has begun ends with the rejection, and everything before it is complete.
    let answer = ask(&gateway, "late", |head| head).await;
    assert_eq!(answer.status, 200);
    let mut output = messages(&answer);
    assert_eq!(output[0]["params"]["message"], "first", "{output:?}");
    let last = output.pop().expect("a last message");
    assert_eq!((&last["id"], &last["error"]["code"]), (&json!(1), &json!(403)), "{last}");
    assert_eq!(
        ask(&gateway, "clean", |head| head).await.message()["result"]["content"][0]["text"],
        "nothing to hide"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_announces_by_itself_is_searched_too() {
    for results in ["redact", "block"] {
        let (_puppet, gateway) = setup(results).await;
        let session = gateway.initialize("/mcp").await;
        let call = legacy_call(1, "p__tool", json!({"how": "clean"}));
        assert_eq!(gateway.say("/mcp", &session, &call).await.0, 200);
        let stream = gateway.http.get(gateway.url("/mcp")).header("accept", "text/event-stream");
        let stream = stream.header("mcp-session-id", &session).header("mcp-protocol-version", "2025-11-25");
        let mut stream = stream.send().await.expect("the gateway answers");
        let mut output = String::new();
        while !output.contains("the end") {
            let piece = stream.chunk().await.expect("it goes on").expect("it goes on");
            output += &String::from_utf8_lossy(&piece);
        }
        assert!(!output.contains(CARD), "{results}: {output}");
        let redacted = output.contains(&format!("seen: {TAKEN_OUT}"));
        assert_eq!(redacted, results == "redact", "{output}");
    }
}

/// The fixture over stdio and the demo server; the fixture's progress messages count as secret.
async fn in_process(results: &str) -> Gateway {
    let mut fixture = stdio_fixture();
    fixture["redact"] = json!({"results": results});
    let servers = json!({"fix": fixture, "demo": {"builtin": "demo", "redact": {"results": results}}});
    let guard =
        json!({"patterns": [{"name": "second", "regex": "step 2"}, {"name": "end", "regex": "streamed 4"}]});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\nguard: {guard}\n")).await;
    let call = async |g: &Gateway| g.call("fix__echo", json!({"message": "hi"})).await.0;
    gateway.eventually("the fixture is there", async |g| call(g).await == 200).await;
    // In both eras.
    let session = gateway.initialize("/mcp").await;
    let hello = legacy_call(1, "fix__echo", json!({"message": "hi"}));
    let said = async |g: &Gateway| g.say("/mcp", &session, &hello).await.1;
    gateway.eventually("for sessions, too", async |g| said(g).await["result"].is_object()).await;
    gateway
}

/// All messages of a tool that reports its progress: in the modern era, and in the legacy one.
async fn streams(gateway: &Gateway, count: u64) -> [String; 2] {
    let arguments = json!({"n": count, "interval_ms": 5});
    let params = json!({"name": "fix__stream", "arguments": arguments, "_meta": {"progressToken": "p",
        "io.modelcontextprotocol/logLevel": "info"}});
    let modern = gateway.modern_request("/mcp", "tools/call", params).send().await.expect("an answer");
    let session = gateway.initialize("/mcp").await;
    let mut call = legacy_call(1, "fix__stream", arguments);
    call["params"]["_meta"] = json!({"progressToken": "q"});
    let legacy = gateway.post("/mcp", Some(&session), &call).send().await.expect("an answer");
    [modern.text().await.expect("a body"), legacy.text().await.expect("a body")]
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_in_the_house_are_searched_with_all_that_they_tell_on_the_way() {
    let gateway = in_process("redact").await;
    for tool in ["fix__echo", "demo__echo"] {
        let (status, output) = gateway.call(tool, json!({"message": format!("my card {CARD}")})).await;
        assert_eq!(status, 200, "{output}");
        let session = gateway.initialize("/mcp").await;
        let call = legacy_call(1, tool, json!({"message": format!("my card {CARD}")}));
        let (_, legacy) = gateway.say("/mcp", &session, &call).await;
        for output in [output, legacy] {
            assert_eq!(
                output["result"]["content"][0]["text"],
                format!("my card {TAKEN_OUT}"),
                "{tool}: {output}"
            );
        }
    }
    for output in streams(&gateway, 4).await {
        assert!(output.contains("step 1") && output.contains("step 3"), "{output}");
        assert!(!output.contains("step 2") && output.contains("[redacted:second]"), "{output}");
        assert!(!output.contains("streamed 4") && output.contains("[redacted:end]"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_that_are_stopped_are_left_out_and_the_answer_comes() {
    let gateway = in_process("block").await;
    for output in streams(&gateway, 3).await {
        assert!(
            output.contains("step 1") && output.contains("step 3") && !output.contains("step 2"),
            "{output}"
        );
        assert!(output.contains("streamed 3"), "{output}");
    }
    for output in streams(&gateway, 4).await {
        assert!(!output.contains("streamed 4") && output.contains("does not let through"), "{output}");
    }
    for tool in ["fix__echo", "demo__echo"] {
        let (status, output) = gateway.call(tool, json!({"message": CARD})).await;
        assert_eq!((status, &output["error"]["code"]), (403, &json!(403)), "{output}");
        assert!(!output.to_string().contains(CARD), "{output}");
    }
}
