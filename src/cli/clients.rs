//! The configuration that a client needs to find this gateway, each in the client's format.
//!
//! The README and `docs/clients.md` show the same; a test compares all with the formats that the clients
//! read.

/// One client, where it looks, and what to put there.
pub struct ClientSnippet {
    pub name: &'static str,
    /// A file, or how to use a command line.
    pub place: &'static str,
    /// In one line, or for TOML in two.
    pub text: String,
}

/// All clients, for a gateway that serves MCP at this URL.
pub fn all(url: &str) -> [ClientSnippet; 7] {
    let client = |name, place, text: String| ClientSnippet { name, place, text };
    let ours = |server: String| format!(r#"{{"mcpServers": {{"toolgate": {server}}}}}"#);
    [
        client("Claude Code", "a command", format!("claude mcp add --transport http toolgate {url}")),
        client("Claude Code", ".mcp.json", ours(format!(r#"{{"type": "http", "url": "{url}"}}"#))),
        client(
            "VS Code",
            ".vscode/mcp.json",
            format!(r#"{{"servers": {{"toolgate": {{"type": "http", "url": "{url}"}}}}}}"#),
        ),
        client("Cursor", "~/.cursor/mcp.json", ours(format!(r#"{{"url": "{url}"}}"#))),
        client("Codex", "~/.codex/config.toml", format!("[mcp_servers.toolgate]\nurl = \"{url}\"")),
        client("Gemini CLI", "~/.gemini/settings.json", ours(format!(r#"{{"httpUrl": "{url}"}}"#))),
        client(
            "Claude Desktop",
            "claude_desktop_config.json",
            ours(format!(r#"{{"command": "toolgate", "args": ["stdio", "--url", "{url}"]}}"#)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::config;

    const URL: &str = "http://127.0.0.1:8000/mcp";

    /// The server that a client reads from its snippet, with the keys of its documentation and no others.
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct McpServers<S> {
        #[serde(rename = "mcpServers")]
        servers: BTreeMap<String, S>,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct VsCode {
        servers: BTreeMap<String, Typed>,
    }

    /// Claude Code and VS Code accept a URL only with its type.
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
    enum Typed {
        Http { url: String },
    }

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Cursor {
        url: String,
    }

    /// With `url` it would speak the old SSE transport.
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Gemini {
        #[serde(rename = "httpUrl")]
        http_url: String,
    }

    /// It starts programs, and accepts no URL.
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Desktop {
        command: String,
        args: Vec<String>,
    }

    fn only<S: DeserializeOwned>(text: &str) -> S {
        let read: McpServers<S> = serde_json::from_str(text).expect(text);
        let mut servers: Vec<_> = read.servers.into_iter().collect();
        assert_eq!((servers.len(), servers[0].0.as_str()), (1, "toolgate"));
        servers.remove(0).1
    }

    #[test]
    fn each_client_reads_what_it_is_given() {
        let [line, code, vscode, cursor, codex, gemini, desktop] = all(URL).map(|client| client.text);
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words, ["claude", "mcp", "add", "--transport", "http", "toolgate", URL]);
        assert_eq!(only::<Typed>(&code), Typed::Http { url: URL.into() });
        let mut servers = serde_json::from_str::<VsCode>(&vscode).expect("JSON").servers;
        assert_eq!((servers.len(), servers.remove("toolgate")), (1, Some(Typed::Http { url: URL.into() })));
        assert_eq!(only::<Cursor>(&cursor).url, URL);
        let table = toml::de::DeTable::parse(&codex).expect("TOML");
        let servers = table.get_ref().get("mcp_servers").and_then(|servers| servers.get_ref().as_table());
        let server =
            servers.and_then(|servers| servers.get("toolgate")?.get_ref().as_table()).expect("a table");
        let url = server.get("url").and_then(|url| url.get_ref().as_str());
        assert_eq!((table.get_ref().len(), server.len(), url), (1, 1, Some(URL)));
        assert_eq!(only::<Gemini>(&gemini).http_url, URL);
        let desktop: Desktop = only(&desktop);
        assert_eq!(
            (desktop.command.as_str(), desktop.args),
            ("toolgate", ["stdio", "--url", URL].map(String::from).to_vec())
        );
    }

    /// Toolgate reads the snippets for clients too, as the same server.
    #[test]
    fn what_is_given_to_clients_can_be_read_back() {
        for client in all(URL).into_iter().filter(|client| client.place != "a command") {
            let name = client.place.rsplit('/').next().unwrap_or_default();
            let read =
                config::parse(name, &client.text, &|_| None).unwrap_or_else(|faults| panic!("{faults}"));
            assert_eq!(read.servers.len(), 1, "{}", client.name);
            match &read.servers["toolgate"].transport {
                config::ServerTransport::Http { urls, .. } => assert_eq!(urls[0].to_string(), URL),
                config::ServerTransport::Stdio { args, .. } => assert_eq!(args[2], URL),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_readme_and_the_page_show_the_same() {
        for file in ["README.md", "docs/clients.md"] {
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            let page = std::fs::read_to_string(root.join(file)).expect(file);
            let section =
                page.split("**Paste this into your client.**").nth(1).expect("the section is there");
            let section = section.split("\n## ").next().expect("it ends");
            for client in all(URL) {
                assert!(section.contains(&client.text), "{file}: {}: {}", client.name, client.text);
                assert!(section.contains(client.name), "{file}: {}", client.name);
                assert!(
                    client.place == "a command" || section.contains(client.place),
                    "{file}: {}",
                    client.place
                );
            }
            // There are no further snippets.
            let blocks = section.matches("toolgate\": {").count() + section.matches("[mcp_servers.").count();
            assert_eq!(blocks, 6, "{file}: {section}");
        }
    }
}
