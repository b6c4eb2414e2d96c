use super::*;

#[test]
fn an_error_is_reported_once_until_the_server_has_answered() {
    let config = crate::config::Config::quickstart();
    let server = Server::new("demo", &config.servers["demo"], &config.limits, None).expect("a server");
    let record_error = |error: Option<&str>| server.set_error(error.map(str::to_owned));
    assert!(record_error(Some("HTTP 404")));
    for reason in ["HTTP 404", "HTTP 404"] {
        assert!(!record_error(Some(reason)), "it was reported");
    }
    assert!(record_error(Some("HTTP 500")), "another reason");
    assert!(!record_error(Some("HTTP 404")), "both were reported");
    assert!(record_error(Some("request 6f9619ff-8b86 failed at 2026-11-30T01:19:19")));
    assert!(
        !record_error(Some("request 11ffa2c4-9d01 failed at 2026-11-30T01:19:24")),
        "only an id and a time differ"
    );
    let count = (0..100).filter(|n| record_error(Some(&format!("reason {}", "x".repeat(*n))))).count();
    assert!(count <= REASONS, "{count}");
    assert_eq!(
        server.last_error().as_deref().map(String::as_str),
        Some(&*format!("reason {}", "x".repeat(99)))
    );
    assert!(record_error(None), "it is back");
    assert!(!record_error(None));
    assert!(record_error(Some("HTTP 404")), "and down again");
}

#[test]
fn each_transport_has_what_is_asked_of_it_and_nothing_else() {
    let http = "url: \"http://127.0.0.1:1/mcp\"";
    let two = "urls: [\"http://127.0.0.1:1/mcp\", \"http://127.0.0.1:2/mcp\"]";
    let passes = format!("{http}, credentials: passthrough");
    // Whether Pingora forwards to it, and its own checks; the subscriptions of each era; background tasks.
    for (settings, forwards, checks, updates, shared, background) in [
        ("builtin: demo", false, false, false, false, false),
        ("command: \"true\"", false, false, true, true, false),
        (http, true, false, true, false, true),
        (two, true, true, true, false, true),
        (&passes, true, false, true, false, true),
    ] {
        let mut config = config::parse("test", &format!("mcpServers: {{s: {{{settings}}}}}"), &|_| None)
            .unwrap_or_else(|_| panic!("a good config: {settings}"));
        // Without this it reads the system's certificates, which takes longer than the test.
        let tls = config::ServerTls { insecure_skip_verify: true, ..config::ServerTls::default() };
        config.servers.get_mut("s").expect("a server").tls = Some(tls).filter(|_| forwards);
        let server = Server::new("s", &config.servers["s"], &config.limits, None).expect("a server");
        let upstream = &server.upstream;
        assert_eq!(server.forwards_natively(), forwards, "{settings}");
        assert_eq!(server.endpoint_pool().is_some(), forwards, "{settings}");
        assert_eq!(server.forwards_client_auth(), settings == passes, "{settings}");
        assert_eq!(upstream.health().is_some(), checks, "{settings}");
        assert_eq!(upstream.resource_updates().is_some(), updates, "{settings}");
        assert_eq!(upstream.shared_subscriptions().is_some(), shared, "{settings}");
        assert_eq!(upstream.list_changes().is_some(), updates, "{settings}");
        assert_eq!(upstream.background().is_some(), background, "{settings}");
    }
}
