//! The commands for a policy's author: `explain`, `token`, and `tools` and `call` as a named caller.

use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::clients;
use crate::commands::{err, folder_with, out, toolgate};
use crate::harness::{Gateway, read};

const POLICY: &str = r#"mcpServers:
  demo: {builtin: demo}
  files: {command: "true", redact: {arguments: redact}, validate: enforce}
auth:
  api_keys:
    - {id: ann, sha256: "0000000000000000000000000000000000000000000000000000000000000001", user: ann, roles: [dev]}
rbac:
  roles:
    dev:
      allow:
        tools: ["demo__*"]
        prompts: ["files__ask_*"]
        resources: ["file:///srv/*"]
      deny:
        tools: [demo__fail]
    ops: {inherits: [dev], allow: {servers: [files]}}
  rules:
    - name: no-shouting
      when: call.tool == "demo__echo" && call.args.message.matches("^[A-Z !]+$")
      effect: deny
      message: please do not shout
    - {name: not-carl, when: 'caller.user == "carl"', effect: deny}
  scopes:
    - {tools: ["files__write*"], require: ["files:write", mcp]}
rate_limits:
  rules:
    - {name: slow, key: [user], limit: 30/1m, burst: 5}
    - {name: daily, key: [user], quota: 1000/1d, match: {tools: ["demo__*"]}}
    - {name: few, key: [user], concurrent: 4, match: {tools: ["files__*"]}}
"#;

/// The path of a call, and how it ended. The arguments are separated by spaces, so that a line can be
/// written here.
async fn explain(line: &str) -> (i32, String) {
    let folder = folder_with(POLICY);
    let message: Vec<&str> = ["explain", "--offline"].into_iter().chain(line.split(' ')).collect();
    let done = toolgate(folder.path(), &message).await;
    (done.status.code().expect("it ends by itself"), out(&done) + &err(&done))
}

/// The verdicts of one filter.
fn verdicts<'t>(output: &'t str, filter: &str) -> Vec<&'t str> {
    let lines = output.lines().filter_map(|line| line.split_once(' '));
    lines.filter(|(first, _)| *first == filter).map(|(_, rest)| rest.trim()).collect()
}

#[tokio::test]
async fn explain_walks_through_all_filters() {
    let (code, output) = explain(r#"--sub ann --role dev tools/call demo__echo {"message":"hi"}"#).await;
    let expected = r#"call      tools/call demo__echo
caller    ann, roles dev
origin    pass    Host and Origin of real requests are checked
size      pass    313B of at most 4MiB
auth      pass    taken on your word; a real caller needs a token or a key
header_match pass    headers of real requests must say what the body says
rate      counts  `slow` (toolgate.yaml:27): 30 in 1m, at most 5 at once
rate      counts  `daily` (toolgate.yaml:28): 1000 in each 1d of the calendar (UTC)
rbac      pass    role `dev` allows the tools `demo__*` (toolgate.yaml:11)
guard     pass    server `demo`: nothing is looked at
verdict   the call passes
note      servers were not asked, so whether there is such a thing is not known
"#;
    assert_eq!((code, without_size(&output)), (0, without_size(expected)));
}

/// The size of the message includes the length of this version's name.
fn without_size(output: &str) -> String {
    output.lines().filter(|line| !line.starts_with("size ")).map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn explain_names_what_decided_and_its_line() {
    let unknown = "the caller is told that there is no such thing";
    for (line, code, rbac) in [
        (r#"--role dev tools/call demo__echo {"message":"HI"}"#, 1,
            "refuse  rule `no-shouting` (toolgate.yaml:18) denies it; the caller reads: please do not shout".to_owned()),
        ("--role dev tools/call demo__echo", 1,
            "refuse  rule `no-shouting` (toolgate.yaml:18) denies it, because it cannot be evaluated: no such key: message; the caller reads: please do not shout".into()),
        ("--role dev tools/call demo__fail", 1,
            format!("hide    role `dev` denies the tools `demo__fail` (toolgate.yaml:15); {unknown}")),
        ("--sub carl --role dev tools/call demo__time", 1,
            format!("hide    rule `not-carl` (toolgate.yaml:22) denies it; {unknown}")),
        ("tools/call demo__time", 1,
            format!("hide    no rule and no role of the caller speaks of it, and the default is deny; {unknown}")),
        ("--role ops --scope mcp tools/call files__write_all", 1,
            "refuse  it is allowed, but the caller's token lacks the scope `files:write` (toolgate.yaml:24)".into()),
        ("--role ops --scope mcp --scope files:write tools/call files__write_all", 0,
            "pass    role `ops` allows the servers `files` (toolgate.yaml:16)".into()),
        ("--role dev resources/read file:///srv/a", 0,
            "pass    role `dev` allows the resources `file:///srv/*` (toolgate.yaml:13)".into()),
        ("--role dev resources/read file:///etc/passwd", 1,
            format!("hide    no rule and no role of the caller speaks of it, and the default is deny; {unknown}")),
        ("--role dev prompts/get files__ask_me", 0,
            "pass    role `dev` allows the prompts `files__ask_*` (toolgate.yaml:12)".into()),
        ("--role dev tools/list", 0,
            "pass    nothing forbids the method; lists hold what the caller may use".into()),
    ] {
        let (ended, output) = explain(line).await;
        assert_eq!((ended, verdicts(&output, "rbac")), (code, vec![&*rbac]), "{line}\n{output}");
        let last = if code == 0 { "the call passes" } else { "the call is refused" };
        assert_eq!(verdicts(&output, "verdict"), [last], "{line}\n{output}");
        // Filters after a rejection are not reached.
        assert_eq!(verdicts(&output, "guard").len(), usize::from(code == 0), "{line}\n{output}");
    }
}

#[tokio::test]
async fn explain_tells_which_limits_count_and_what_is_looked_at() {
    let (_, output) = explain("--role ops tools/call files__read").await;
    let few = "counts  `few` (toolgate.yaml:29): 4 at a time";
    let slow = "counts  `slow` (toolgate.yaml:27): 30 in 1m, at most 5 at once";
    assert_eq!(verdicts(&output, "rate"), [slow, few], "{output}");
    let guard = "pass    server `files`: secrets in the arguments are taken out; arguments must fit the schema (not tried here)";
    assert_eq!(verdicts(&output, "guard"), [guard], "{output}");
    let (_, output) = explain("--role dev --role devv tools/call demo__time").await;
    assert_eq!(
        verdicts(&output, "caller"),
        ["anonymous, roles dev, devv (no such role: only conditions and limits look at it)"],
        "{output}"
    );
}

#[tokio::test]
async fn explain_says_what_is_wrong_with_the_question() {
    for (line, message) in [
        (r#"tools/call demo__echo {"a"#, "the arguments are not JSON: "),
        ("tools/call demo__echo [1]", r#"the arguments must be a JSON object, such as '{"message": "hi"}'"#),
        ("tools/call", "tools/call needs the name of a tool, such as: explain tools/call demo__echo"),
        ("resources/read", "resources/read needs the URI of a resource"),
        ("tools/list demo__echo", "tools/list goes without a name; `demo__echo` is too much"),
        ("demo__echo", "there is no method `demo__echo`; expected one such as tools/call"),
    ] {
        let (code, output) = explain(line).await;
        assert_eq!(code, 2, "{line}\n{output}");
        assert!(output.starts_with("error: ") && output.contains(message), "{line}\n{output}");
    }
}

/// Makes a key pair with openssl: `NAME.pem` and `NAME-public.pem`.
async fn key_pair(folder: &Path, name: &str, arguments: &[&str]) {
    let openssl = async |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        let done = clients::output(command.args(arguments).current_dir(folder), "").await;
        assert!(done.status.success(), "openssl {arguments:?}: {}", err(&done));
    };
    let private = format!("{name}.pem");
    openssl(&[arguments, &["-out", &private]].concat()).await;
    openssl(&["pkey", "-in", &private, "-pubout", "-out", &format!("{name}-public.pem")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minted_token_is_taken_by_the_gateway() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, arguments) in [
        ("rsa", &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..]),
        ("p256", &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
        ("p384", &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
        ("ed25519", &["genpkey", "-algorithm", "ED25519"]),
    ] {
        key_pair(folder.path(), name, arguments).await;
    }
    let names = ["secret", "rsa", "p256", "p384", "ed25519"];
    let issuers: Vec<Value> = names.iter().map(|name| {
        let file = |end: &str| folder.path().join(format!("{name}{end}.pem"));
        let mut issuer = json!({"issuer": format!("https://{name}.example.com"), "audience": ["toolgate", "other"],
            "claims": {"user": "profile.login", "roles": "realm_access.roles", "scopes": "realm_access.scp", "tenant": "org"}});
        match *name {
            "secret" => issuer["secret"] = json!("x".repeat(32)),
            _ => {
                issuer["public_key"] = json!(file("-public"));
                issuer["signing_key"] = json!(file(""));
            }
        }
        issuer
    }).collect();
    let rbac = json!({"roles": {"dev": {"allow": {"tools": ["demo__echo"]}}},
        "rules": [{"name": "ann-of-acme", "when": "caller.user == \"ann\" && caller.tenant == \"acme\" && call.tool == \"demo__time\"", "effect": "allow"}]});
    let config = format!(
        "mcpServers: {{demo: {{builtin: demo}}}}\nauth: {}\nrbac: {rbac}\n",
        json!({"jwt": issuers, "required_scopes": ["mcp"]})
    );
    let gateway = Gateway::start(&config).await;
    let place = gateway.folder.path();
    for name in names {
        let issuer = format!("https://{name}.example.com");
        let asked = [
            "token", "--sub", "ann", "--role", "dev", "--scope", "mcp", "--tenant", "acme", "--issuer",
            &issuer,
        ];
        let done = toolgate(place, &asked).await;
        assert_eq!((done.status.code(), err(&done)), (Some(0), String::new()), "{name}");
        let token = out(&done);
        let list = gateway.modern_request("/mcp", "tools/list", json!({})).bearer_auth(token.trim());
        let (status, answer) = read(list.send().await.expect("the gateway answers")).await;
        assert_eq!(status, 200, "{name}: {answer}");
        let tools: Vec<&str> = answer["result"]["tools"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|tool| tool["name"].as_str())
            .collect();
        assert_eq!(tools, ["demo__echo", "demo__time"], "{name}");
    }
    // The command reports that the gateway would reject the token.
    let done = toolgate(place, &["token", "--sub", "ann"]).await;
    assert_eq!(done.status.code(), Some(0));
    let warning = "warning: the gateway does not take this token: auth.required_scopes wants --scope mcp\n";
    assert_eq!(err(&done), warning);
    let list = gateway.modern_request("/mcp", "tools/list", json!({})).bearer_auth(out(&done).trim());
    assert_eq!(list.send().await.expect("the gateway answers").status(), 403);
    let pair = json!({"issuer": "https://i.example", "audience": "a",
        "public_key": folder.path().join("p256-public.pem"), "signing_key": folder.path().join("rsa.pem")});
    let unlike = folder_with(&format!("mcpServers: {{demo: {{builtin: demo}}}}\nauth: {{jwt: [{pair}]}}\n"));
    let done = toolgate(unlike.path(), &["token", "--sub", "ann"]).await;
    assert!(err(&done).starts_with("warning: the gateway does not take this token: "), "{}", err(&done));
}

#[tokio::test]
async fn a_token_that_cannot_be_minted_is_told_why() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, arguments) in [
        ("good", &["genpkey", "-algorithm", "ED25519"][..]),
        ("old", &["ecparam", "-name", "prime256v1", "-genkey", "-noout"]),
        ("p521", &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]),
    ] {
        key_pair(folder.path(), name, arguments).await;
    }
    let issuer = |more: &str| {
        format!(
            "auth: {{jwt: [{{issuer: \"https://i.example\", audience: a, public_key: good-public.pem{more}}}]}}\n"
        )
    };
    let keyless = "auth: {api_keys: [{id: a, sha256: \"0000000000000000000000000000000000000000000000000000000000000001\", user: a}]}\n".to_owned();
    let signed = |file: &str| issuer(&format!(", signing_key: {file}"));
    for (auth, more, message) in [
        (String::new(), "", "the configuration has no `auth`, so nobody needs a token"),
        (keyless, "", "auth.jwt is empty"),
        (
            issuer(""),
            "",
            "no issuer of auth.jwt has a key to sign with: give one a `secret` or a `signing_key`",
        ),
        (issuer(""), "--issuer https://i.example", "the issuer https://i.example has no key to sign with"),
        (
            signed("good.pem"),
            "--issuer https://j.example",
            "auth.jwt has no issuer https://j.example; it has https://i.example",
        ),
        (signed("gone.pem"), "", "cannot read gone.pem: No such file"),
        (signed("good-public.pem"), "", "good-public.pem holds no private key in PEM"),
        (signed("old.pem"), "", "older format; write it anew: openssl pkey -in old.pem -out NEW.pem"),
        (signed("p521.pem"), "", "the key in p521.pem fits none of the issuer's algorithms: RS256, "),
        (signed("good.pem"), "--ttl 5", "--ttl \"5\" is not a time; expected 30s, 5m or 1h"),
        (signed("good.pem"), "--tenant acme", "the issuer https://i.example has no claims.tenant"),
    ] {
        let config = format!("mcpServers: {{demo: {{builtin: demo}}}}\n{auth}");
        std::fs::write(folder.path().join("toolgate.yaml"), config).expect("it is written");
        let asked: Vec<&str> = ["token", "--sub", "ann"].into_iter().chain(more.split_whitespace()).collect();
        let done = toolgate(folder.path(), &asked).await;
        assert_eq!((done.status.code(), out(&done)), (Some(2), String::new()), "{}", err(&done));
        assert!(
            err(&done).starts_with("error: ") && err(&done).contains(message),
            "{message}: {}",
            err(&done)
        );
    }
}

#[tokio::test]
async fn tools_and_calls_are_those_of_the_named_roles() {
    let folder = folder_with(
        "mcpServers: {demo: {builtin: demo}}\nauth:\n  api_keys:\n    - {id: ann, sha256: \"0000000000000000000000000000000000000000000000000000000000000001\", user: ann}\n\
         rbac:\n  roles:\n    dev: {allow: {tools: [demo__echo]}}\n    ops: {allow: {tools: [demo__time]}}\n",
    );
    let run = async |arguments: &[&str]| {
        let done = toolgate(folder.path(), arguments).await;
        (done.status.code(), out(&done), err(&done))
    };
    let names = |listed: &str| -> Vec<String> {
        listed.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
    };
    let (code, listed, _) = run(&["tools", "--role", "dev"]).await;
    assert_eq!((code, names(&listed)), (Some(0), vec!["demo__echo".to_owned()]));
    let (_, listed, _) = run(&["tools", "--role", "dev", "--role", "ops"]).await;
    assert_eq!(names(&listed), ["demo__echo", "demo__time"]);
    let (_, listed, _) = run(&["tools"]).await;
    assert_eq!(names(&listed).len(), 5, "without a role all: {listed}");
    let (code, listed, output) = run(&["tools", "--role", "devv"]).await;
    assert_eq!((code, &*listed), (Some(0), ""));
    assert!(output.contains("rbac.roles has no role `devv`"), "{output}");

    let hi = r#"{"message": "hi"}"#;
    let (code, result, output) = run(&["call", "--as", "ann:dev", "demo__echo", hi]).await;
    assert_eq!(code, Some(0), "{output}");
    let result: Value = serde_json::from_str(&result).expect("the result as JSON");
    assert_eq!(result["content"][0]["text"], "hi");
    let (code, result, output) = run(&["call", "--as", "ann:ops", "demo__echo", hi]).await;
    assert_eq!((code, &*result), (Some(1), ""));
    assert!(
        output.contains("refused by `rbac`: Unknown tool: demo__echo") && output.contains("toolgate explain"),
        "{output}"
    );
    let (code, _, output) = run(&["call", "demo__echo", hi]).await;
    assert_eq!(code, Some(2));
    assert!(output.contains("asks for credentials; say who calls: --as USER:ROLE,ROLE"), "{output}");
}
