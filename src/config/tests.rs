//! The configurations of valid files. Invalid files are in `tests/config_faults/`.

use std::time::Duration;

use super::*;

fn read(text: &str) -> Config {
    let environment = |name: &str| (name == "TOKEN").then(|| "s3cr3t: {a} # b".to_owned());
    parse("test.yaml", text, &environment).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_quickstart_listens_on_loopback_and_has_the_demo() {
    let config = Config::quickstart();
    assert_eq!(config.listen.address.to_string(), "127.0.0.1:8000");
    assert_eq!(config.servers.keys().map(ServerName::as_str).collect::<Vec<_>>(), ["demo"]);
    assert_eq!(config.servers["demo"].transport, ServerTransport::Builtin(Builtin::Demo));
    assert_eq!((config.limits, config.log.format, config.path), (Limits::default(), LogFormat::Auto, None));
}

#[test]
fn a_block_of_claude_desktop_can_be_pasted_as_it_is() {
    let config = read(
        r#"{
  "mcpServers": {
    "filesystem": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "/Users/me/Desktop"],
      "env": {"LOG": "1", "PORT": 8080, "DEBUG": true, "MODE": "0755"}
    },
    "off": {"command": "x", "disabled": true, "env": {"KEY": "${NOT_SET}"}}
  }
}"#,
    );
    assert_eq!(config.servers.len(), 1);
    let server = &config.servers["filesystem"];
    let ServerTransport::Stdio { command, args, env, cwd, .. } = &server.transport else {
        panic!("{server:?}")
    };
    assert_eq!((command.as_str(), args.len(), cwd), ("npx", 3, &None));
    let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(env, [("DEBUG", "true"), ("LOG", "1"), ("MODE", "0755"), ("PORT", "8080")]);
    assert_eq!((server.prefix.as_str(), server.credentials), ("filesystem", CredentialsMode::None));
}

#[test]
fn blocks_of_cursor_and_vs_code_can_be_pasted_as_they_are() {
    let config = read(
        r#"mcpServers: {
  "remote": {"type": "http", "url": "https://mcp.example.com/mcp", "headers": {"Authorization": "Bearer ${env:TOKEN}"},
             "alwaysAllow": ["a"], "autoApprove": [], "description": "x", "icon": {"src": "y"}, "disabled": false},
  "camel": {"type": "streamableHttp", "url": "http://localhost:3000"},
  "local": {"type": "stdio", "command": "uvx", "args": null, "url": null, "cwd": null}
}"#,
    );
    let ServerTransport::Http { urls, headers } = &config.servers["remote"].transport else {
        panic!("not http")
    };
    let url = &urls[0];
    assert_eq!((url.to_string().as_str(), url.port()), ("https://mcp.example.com/mcp", 443));
    assert_eq!(headers["authorization"].expose(), "Bearer s3cr3t: {a} # b");
    assert_eq!(config.servers["remote"].credentials, CredentialsMode::Static);
    let map = config.servers["remote"].transport.header_map();
    assert!(map["authorization"].is_sensitive());
    assert_eq!(config.servers["camel"].credentials, CredentialsMode::None);
    assert_eq!(config.servers["local"].transport.as_str(), "stdio");
}

#[test]
fn a_value_of_the_environment_stays_one_value() {
    let config = read(
        "mcpServers:\n  a: {command: echo, args: ['${TOKEN}', \"x${TOKEN}\", '$${TOKEN}']}\n  b:\n    command: ${TOKEN}\n",
    );
    let args = |name: &str| match &config.servers[name].transport {
        ServerTransport::Stdio { command, args, .. } => (command.clone(), args.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(args("a").1, ["s3cr3t: {a} # b", "xs3cr3t: {a} # b", "${TOKEN}"]);
    assert_eq!(args("b").0, "s3cr3t: {a} # b");
}

#[test]
fn no_secret_shows_when_a_config_is_printed() {
    let config = read(
        "mcpServers:\n  a: {url: \"https://a.example/mcp?key=${TOKEN:-}x\", headers: {X-Key: abc123}}\n  \
         b: {command: npx, args: [abc123], env: {A: abc123}}\n"
            .replace("${TOKEN:-}x", "abc123")
            .as_str(),
    );
    let shown = format!("{config:?} {config:#?}");
    assert!(!shown.contains("abc123"), "{shown}");
}

#[test]
fn what_a_server_does_not_set_is_that_of_all() {
    let config = read(
        "limits: {call_timeout: 5s, max_response: 1MiB}\nmcpServers:\n  a: {builtin: demo}\n  \
         b: {builtin: demo, timeout: 1m, startup_timeout: 5m, max_response: 2MiB, prefix: \"\", max_concurrent: 3, required: true}\n",
    );
    let (a, b) = (&config.servers["a"], &config.servers["b"]);
    assert_eq!(a.call_timeout(&config.limits), Duration::from_secs(5));
    assert_eq!(b.call_timeout(&config.limits), Duration::from_secs(60));
    assert_eq!((a.startup(), b.startup()), (Duration::from_secs(60), Duration::from_secs(300)));
    assert_eq!((a.response_limit(&config.limits), b.response_limit(&config.limits)), (1 << 20, 2 << 20));
    assert_eq!((a.prefix.as_str(), b.prefix.as_str()), ("a", ""));
    assert_eq!((a.max_concurrent, b.max_concurrent, a.required, b.required), (None, Some(3), false, true));
    assert_eq!(config.limits.max_body, ByteSize::mib(4));
}

#[test]
fn tools_are_shown_hidden_and_renamed() {
    let config = read(
        "mcpServers:\n  a: {builtin: demo, tools: {allow: [\"read_*\", x], deny: [\"*_all\"], rename: {read_file: cat}}}\n",
    );
    let tools = &config.servers["a"].tools;
    for (tool, shown) in [("read_file", true), ("read_all", false), ("x", true), ("y", false)] {
        assert_eq!(tools.allows(tool), shown, "{tool}");
    }
    assert_eq!((tools.renamed("read_file"), tools.renamed("x")), ("cat", "x"));
    assert!(Tools::default().allows("anything"));
}

#[test]
fn anchors_aliases_and_merges_are_understood() {
    let config = read(
        "mcpServers:\n  a: &base {url: \"https://a.example\", timeout: 3s, headers: &h {X: y}}\n  \
         b: {<<: *base, url: \"https://b.example\"}\n  c: {url: \"https://c.example\", headers: *h}\n",
    );
    assert_eq!(config.servers["b"].timeout, Some(ConfigDuration::secs(3)));
    let hosts = config.servers.values().map(|server| match &server.transport {
        ServerTransport::Http { urls, headers } => (urls[0].host().to_owned(), headers.len()),
        other => panic!("{other:?}"),
    });
    assert_eq!(
        hosts.collect::<Vec<_>>(),
        [("a.example".into(), 1), ("b.example".into(), 1), ("c.example".into(), 1)]
    );
}

#[test]
fn parts_that_are_left_empty_are_as_if_they_were_not_there() {
    let config = read(
        "listen:\nlimits:\nlog:\ntoolsets:\nadmin:\ncors: ~\nmcpServers: {a: {builtin: demo, tools: }}\n",
    );
    let bare = read("mcpServers: {a: {builtin: demo}}\n");
    assert_eq!(config.changes(&bare), []);
}

#[test]
fn lists_of_origins_and_hosts_are_in_lower_case() {
    let config = read(
        "listen: {allowed_origins: [\"https://App.example\"], allowed_hosts: [GW.example]}\n\
         cors: {origins: [\"HTTPS://App.example\"], headers: [X-Key]}\nmcpServers: {}\n",
    );
    assert_eq!(config.listen.allowed_origins, Some(vec!["https://app.example".into()]));
    assert_eq!(config.listen.allowed_hosts, Some(vec!["gw.example".into()]));
    let cors = config.cors.expect("it was given");
    assert_eq!((cors.origins, cors.headers), (vec!["https://app.example".into()], vec!["x-key".into()]));
    assert_eq!(cors.methods, [CorsMethod::Get, CorsMethod::Post, CorsMethod::Delete]);
}

#[test]
fn the_hash_stands_for_the_text() {
    let one = read("mcpServers: {a: {builtin: demo}}");
    let same = read("mcpServers: {a: {builtin: demo}}");
    let other = read("mcpServers: {a: {builtin: demo}} ");
    assert_eq!((one.hash.len(), &one.hash), (16, &same.hash));
    assert_ne!(one.hash, other.hash);
    assert_eq!(hash(""), "cbf29ce484222325");
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let text = " ".repeat(MAX_FILE as usize + 1);
    let errors = parse("c", &text, &|_| None).expect_err("too large");
    assert_eq!(errors.list()[0].message, "the file is larger than 4MiB");
}

#[test]
fn an_unreadable_file_is_an_error() {
    let errors = load(Path::new("no/such/file.yaml")).expect_err("no such file");
    assert!(errors.to_string().contains(" --> no/such/file.yaml\n"), "{errors}");
}

/// Cuts, doubles and swaps parts of valid files. Every input gives a result, and a valid one can be printed
/// without a change of meaning.
#[test]
fn mutated_files_never_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % bound as u64) as usize
    };
    let pieces = [
        "{", "}", "[", "]", ":", "\n", "  ", "\"", "'", "&a ", "*a", "<<: ", "- ", "${", "é", "\t", "|", "#",
        "\0", "!x ", "? ", ",", "//", "/*", "*/", "=", "$X", "~/", "{env:", "true", "null", "url", "command",
        "tools",
    ];
    for (name, text, from, rounds) in [
        ("torn.yaml", include_str!("../../conf/toolgate.yaml"), 200, 300),
        ("torn.json", include_str!("../../tests/dialects/cline.json"), 0, 300),
        ("torn.json", include_str!("../../tests/dialects/vscode.json"), 0, 300),
        ("torn.json", include_str!("../../tests/dialects/zed-more.json"), 0, 300),
        ("torn.json", include_str!("../../tests/dialects/bare-block.json"), 0, 300),
        ("torn.yaml", include_str!("../../tests/dialects/goose.yaml"), 0, 300),
        ("torn.yaml", include_str!("../../tests/dialects/continue.yaml"), 0, 300),
        ("torn.toml", include_str!("../../tests/dialects/codex-more.toml"), 0, 300),
    ] {
        for _ in 0..rounds {
            let mut torn: Vec<char> = text.chars().collect();
            for _ in 0..1 + below(4) {
                let at = below(torn.len().max(1)).min(torn.len());
                match below(3) {
                    0 => drop(torn.drain(at..(at + below(40)).min(torn.len()))),
                    1 => drop(torn.splice(at..at, pieces[below(pieces.len())].chars())),
                    _ => torn.truncate(at.max(from)),
                }
            }
            let torn: String = torn.into_iter().collect();
            let environment = |name: &str| (name.len() < 12).then(|| "x".to_owned());
            match parse(name, &torn, &environment) {
                Err(errors) => assert!(!errors.list().is_empty() && !errors.to_string().is_empty()),
                Ok(_) => {
                    let written = canonical(name, &torn, &environment);
                    assert!(written.is_ok(), "{torn}\n{}", written.expect_err("it is not"));
                }
            }
        }
    }
}
