//! Answers that are streams of events.

use super::*;

const ANSWER: &str = r#"{"jsonrpc":"2.0","id":$ID,"result":{}}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;

fn event(message: &str) -> String {
    format!("event: message\ndata: {message}\n\n")
}

fn progress(token: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}"#
    )
}

/// A stream in which these come, on a connection of its own.
fn stream(request: &UpstreamRequest, text: &str) -> Result<String, UpstreamError> {
    judged(request, 200, &[EVENTS_KIND], text, ALONE)
}

#[test]
fn events_go_out_whole_and_in_order_however_they_are_cut() {
    let request = request();
    for end in ["\n", "\r\n", "\r"] {
        let text = [": hello\n\n", &event(NOTE), &event(ANSWER)].concat().replace('\n', end);
        let whole = written(&request, &text);
        let expected = text.replace("$ID", CLIENT_ID);
        for cut in 0..=whole.len() {
            let (mut watch, _) = begin(&request, 200, &[EVENTS_KIND], ALONE).expect("events");
            let first = watch.push(Some(whole.slice(..cut)), false).expect("it passes").unwrap_or_default();
            let first = String::from_utf8_lossy(&first).into_owned();
            assert!(first.is_empty() || first.ends_with(&end.repeat(2)), "{cut}: {first:?}");
            let rest = watch.push(Some(whole.slice(cut..)), true).expect("it passes").unwrap_or_default();
            let out = first + &String::from_utf8_lossy(&rest);
            // A CR at the end may be half of a CRLF, and is made a whole one.
            assert_eq!(out.trim_end_matches('\n'), expected.trim_end_matches('\n'), "{cut} {end:?}");
            assert!(watch.is_answered() && watch.has_messages() && watch.is_stream() && !watch.is_held());
        }
    }
}

#[tokio::test]
async fn a_stream_that_ends_before_its_answer_is_none() {
    let (request, half) = (request(), event(ANSWER));
    for text in ["", ": comment\n\n", &event(NOTE), &half[..half.len() - 1], "data:\n\n"] {
        assert_eq!(kind(stream(&request, text)), kind::<()>(Err(invalid())), "{text}");
    }
    // Where no answer is due, none is missed.
    assert!(stream(&message().1, "").is_ok());
}

#[test]
fn in_a_stream_only_what_may_come_there_passes() {
    let mut request = request();
    call_of(&mut request).sent.token = Some(Bytes::from_static(b"\"token\""));
    let other = SentIds::untracked().wire;
    for (message, passes) in [
        (NOTE, Some(NOTE)),
        (&*progress("$ID"), Some(&*progress("\"token\""))),
        (&progress(other.as_str()), None),
        (r#"{"jsonrpc":"2.0","method":"notifications/unheard/of"}"#, None),
        (r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#, None),
    ] {
        let out = stream(&request, &[event(message), event(ANSWER)].concat()).expect("it is answered");
        let answer = event(ANSWER).replace("$ID", CLIENT_ID);
        assert_eq!(out, passes.map(event).unwrap_or_default() + &answer, "{message}");
    }
    for (text, error) in [
        (event(r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#), invalid()),
        (event("not JSON"), invalid()),
        (event(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), E::UnexpectedServer),
        (event(r#"{"jsonrpc":"2.0","id":null,"result":{}}"#), E::UnexpectedServer),
        (event(&ANSWER.replace("$ID", other.as_str())), E::UnexpectedServer),
    ] {
        // Whatever comes after it.
        let text = text + &event(ANSWER);
        assert_eq!(kind(stream(&request, &text)), std::mem::discriminant(&error), "{text}");
    }
    // Events of another kind are no messages, whatever they hold.
    let text = ["event: ping\ndata: x\n\n", &event(ANSWER)].concat();
    assert_eq!(stream(&request, &text).as_deref(), Ok(&*event(ANSWER).replace("$ID", CLIENT_ID)));
    // Nobody has asked how it gets on.
    call_of(&mut request).sent.token = None;
    let out = stream(&request, &[event(&progress("$ID")), event(ANSWER)].concat()).expect("it is answered");
    assert_eq!(out, event(ANSWER).replace("$ID", CLIENT_ID));
}

#[test]
fn on_a_used_connection_what_names_no_request_waits_for_what_does() {
    for (proof, goes) in
        [(ANSWER, true), (&*progress("$ID"), true), (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, false)]
    {
        let mut request = request();
        call_of(&mut request).sent.token = Some(Bytes::from_static(b"1"));
        let (mut watch, _) = begin(&request, 200, &[EVENTS_KIND], USED).expect("events");
        let mut push = |text: &str| {
            let out = watch.push(Some(written(&request, text)), false)?.unwrap_or_default();
            Ok::<_, UpstreamError>(String::from_utf8_lossy(&out).into_owned())
        };
        assert_eq!(push(&event(NOTE)).as_deref(), Ok(""), "it may be another's");
        assert_eq!(push(": hello\n\n").as_deref(), Ok(": keep-alive\n\n"), "whatever it says");
        let out = push(&event(proof));
        if goes {
            assert!(out.expect("it passes").starts_with(&event(NOTE)), "{proof}");
            assert_eq!(push(&event(NOTE)), Ok(event(NOTE)), "from now on it is believed");
        } else {
            assert_eq!(out, Err(E::UnexpectedServer));
        }
    }
    // What waits takes no more room than an answer.
    let server = server(&format!("{ONE}, max_response: 1KiB"));
    let request = call(&server);
    let outcome = judged(&request, 200, &[EVENTS_KIND], &event(NOTE).repeat(20), USED);
    assert_eq!(outcome, Err(E::TooLarge(1024)));
}

#[test]
fn a_server_that_says_nothing_of_the_call_has_its_time_and_no_more() {
    let server = server(&format!("{ONE}, timeout: 10ms"));
    let request = call(&server);
    let begin = |headers: &[(&'static str, &str)]| {
        let long_ago =
            Instant::now().checked_sub(Duration::from_secs(9)).expect("the clock has run for so long");
        let mut head = head(200, headers);
        ResponseValidator::begin(&mut head, &request, None, ALONE, long_ago).expect("it is MCP")
    };
    let mut watch = begin(&[EVENTS_KIND]);
    assert_eq!(watch.remaining(), Some(Duration::ZERO));
    // Comments keep a connection open, but they are no answer.
    let outcome = watch.push(Some(Bytes::from_static(b": x\n\n")), false);
    assert_eq!(outcome, Err(E::TimedOut(Duration::from_millis(10))));
    let mut watch = begin(&[EVENTS_KIND]);
    assert!(watch.push(Some(written(&request, &event(ANSWER))), false).is_ok());
    assert_eq!(watch.remaining(), None, "it is answered");
}

/// A call in a client's session.
fn legacy_call(gateway: &Gateway) -> UpstreamRequest {
    call_with(&server(ONE), |call| {
        (call.server_era, call.session) = (Era::Legacy, Some(client_session(gateway, "{}")));
    })
}

/// A stream in an upstream session of a client.
fn in_session(
    request: &UpstreamRequest,
    version: &str,
    text: &str,
) -> (ResponseValidator, Result<String, UpstreamError>) {
    let upstream = upstream_session(&request.server, version);
    let kind = if text.starts_with(['{', '[']) { JSON_KIND } else { EVENTS_KIND };
    let mut head = head(200, &[kind]);
    let watch = ResponseValidator::begin(&mut head, request, Some(&upstream), ALONE, Instant::now());
    let mut watch = watch.expect("it is MCP");
    let out = passed(&mut watch, request, &[text]);
    (watch, out)
}

#[tokio::test]
async fn in_a_session_a_server_may_ask_and_ids_name_the_seat() {
    let gateway = gateway("");
    let request = legacy_call(&gateway);
    let asks = r#"{"jsonrpc":"2.0","id":"q1","method":"roots/list"}"#;
    let text = format!("id: e1\ndata: {asks}\n\nid: e2\ndata: {ANSWER}\n\n");
    let (watch, out) = in_session(&request, "2025-06-18", &text);
    let out = out.expect("it is answered");
    let events: Vec<&str> = out.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 2, "{out}");
    for (event, id, message) in [
        (events[0], "tg:4711:e1", r#"{"jsonrpc":"2.0","id":"tg:4711:\"q1\"","method":"roots/list"}"#),
        (events[1], "tg:4711:e2", r#"{"jsonrpc":"2.0","id":"mine","result":{}}"#),
    ] {
        let whole = format!("{event}\n\n");
        let read = mcp::sse::read(whole.as_bytes());
        assert_eq!(read.id.as_deref(), Some(id));
        assert_eq!(String::from_utf8_lossy(read.message().expect("a message")), message);
    }
    assert!(watch.is_resumable());
    // A stream that can be gone on with may end before its answer; one without ids may not.
    let (watch, out) = in_session(&request, "2025-06-18", &format!("id: e1\ndata: {NOTE}\n\n"));
    assert!(out.is_ok() && watch.is_resumable() && !watch.is_answered());
    assert!(in_session(&request, "2025-06-18", &event(NOTE)).1.is_err());
    // While a client is asked, its server's time stands still.
    let (watch, _) = in_session(&request, "2025-06-18", &format!("id: e1\ndata: {asks}\n\n"));
    assert_eq!(watch.remaining(), None);
}

#[tokio::test]
async fn of_a_batch_each_message_goes_out_alone() {
    let gateway = gateway("");
    let request = legacy_call(&gateway);
    let batch = format!("[{NOTE},{ANSWER}]");
    let mine = ANSWER.replace("$ID", CLIENT_ID);
    let (_, out) = in_session(&request, "2025-03-26", &format!("id: e1\ndata: {batch}\n\n"));
    let out = out.expect("it is answered");
    let events: Vec<&str> = out.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 2, "{out}");
    assert!(events[0].contains(NOTE) && !events[0].contains("tg:4711"), "{out}");
    assert!(events[1].contains(&mine) && events[1].contains("tg:4711:e1"), "{out}");
    // As JSON there is room for the answer alone.
    assert_eq!(in_session(&request, "2025-03-26", &batch).1, Ok(mine));
    assert!(in_session(&request, "2025-06-18", &batch).1.is_err(), "that revision has none");
}
