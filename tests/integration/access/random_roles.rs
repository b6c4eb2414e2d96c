//! Random roles: a list contains an entry if and only if it can be used, and names of denied entries are
//! nowhere.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};

use super::{Caller, key};
use crate::harness::{Gateway, a_fixture, initialize, legacy_call, read};

/// The number of policies that are tried, each with a reload.
const ROUNDS: usize = 30;

/// A random number generator with a seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A list, the call of an entry, and the names of its entries.
struct Kind {
    list: &'static str,
    member: &'static str,
    key: &'static str,
    call: &'static str,
    /// The list of a role.
    lists: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind { list: "tools/list", member: "tools", key: "name", call: "tools/call", lists: "tools" },
    Kind { list: "prompts/list", member: "prompts", key: "name", call: "prompts/get", lists: "prompts" },
    Kind {
        list: "resources/list",
        member: "resources",
        key: "uri",
        call: "resources/read",
        lists: "resources",
    },
];
/// These would end the server, or take long.
const NOT_CALLED: [&str; 2] = ["fix__crash", "elsewhere__crash"];

/// All entries, by kind.
type Things = [Vec<String>; 3];

fn pattern(chance: &mut Chance, names: &[String]) -> String {
    let name = chance.of(names);
    match chance.below(6) {
        0 => "*".into(),
        1 | 2 => name.clone(),
        3 => format!("{}*", &name[..chance.below(name.len())]),
        4 => format!("*{}", &name[chance.below(name.len())..]),
        _ => format!("{}?{}", &name[..3], &name[4..]),
    }
}

fn lists(chance: &mut Chance, all: &Things, max: usize) -> Value {
    let mut lists = json!({});
    for (kind, names) in KINDS.iter().zip(all) {
        let patterns: BTreeSet<String> = (0..chance.below(max + 1)).map(|_| pattern(chance, names)).collect();
        if !patterns.is_empty() {
            lists[kind.lists] = json!(patterns);
        }
    }
    if chance.one_in(4) {
        lists["servers"] = json!([chance.of(&["fix", "demo", "f*"])]);
    }
    lists
}

fn policy(chance: &mut Chance, all: &Things) -> Value {
    let names = ["a", "b", "c"];
    let mut roles = json!({});
    for (number, name) in names.iter().enumerate() {
        let mut role = json!({"allow": lists(chance, all, 3)});
        if chance.one_in(2) {
            role["deny"] = lists(chance, all, 2);
        }
        if number > 0 && chance.one_in(2) {
            role["inherits"] = json!([names[chance.below(number)]]);
        }
        for part in ["allow", "deny"] {
            if role.get(part).is_some_and(|lists| lists.as_object().is_some_and(|lists| lists.is_empty())) {
                role.as_object_mut().expect("an object").remove(part);
            }
        }
        if role.as_object().is_some_and(|role| role.is_empty()) {
            role["allow"] = json!({"tools": ["nothing"]});
        }
        roles[name] = role;
    }
    let mut rules = Vec::new();
    for number in 0..chance.below(3) {
        let name = chance.of(&all[0]);
        let when = match chance.below(4) {
            0 => format!("call.tool == \"{name}\""),
            1 => format!("call.tool.startsWith(\"{}\") && \"b\" in caller.roles", &name[..5]),
            2 => format!(
                "caller.user == \"bob\" && server.name == \"{}\"",
                &name[..name.find('_').expect("a prefix")]
            ),
            _ => format!("call.prompt == \"{}\"", chance.of(&all[1])),
        };
        rules.push(
            json!({"name": format!("rule-{number}"), "when": when, "effect": chance.of(&["allow", "deny"])}),
        );
    }
    json!({"default": if chance.one_in(4) { "allow" } else { "deny" }, "roles": roles, "rules": rules})
}

/// Whether the call is answered as an unknown one; all of these responses are equal.
fn is_unknown(answer: &Value) -> bool {
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    ["Unknown tool", "Unknown prompt", "Unknown resource", "not found"]
        .iter()
        .any(|words| message.contains(words))
}

/// Everything that a caller reads without naming it first, in one text.
async fn read_all(caller: &Caller<'_>) -> String {
    let mut text = String::new();
    let mut keep = |answer: &Value| text += &answer.to_string();
    for method in
        ["server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list"]
    {
        for path in ["/mcp", "/servers/fix/mcp"] {
            keep(&caller.modern(path, method, json!({})).await.1);
        }
    }
    for path in ["/mcp", "/servers/fix/mcp"] {
        let body = initialize(json!({}));
        let response = caller.gateway.post(path, None, &body).bearer_auth(&caller.key).send().await;
        let response = response.expect("an answer");
        let session =
            response.headers().get("mcp-session-id").map(|id| id.to_str().expect("ASCII").to_owned());
        let (status, answer) = read(response).await;
        keep(&answer);
        let Some(session) = session else {
            assert_eq!(
                (path, status),
                ("/servers/fix/mcp", 404),
                "who may use nothing there is not told of it"
            );
            continue;
        };
        for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list"] {
            let list = json!({"jsonrpc": "2.0", "id": 1, "method": method});
            keep(&caller.say(path, &session, &list).await.1);
        }
        keep(&caller.say(path, &session, &legacy_call(1, "nowhere", json!({}))).await.1);
    }
    for (method, params) in [
        ("tools/call", json!({"name": "fix__nowhere", "arguments": {}})),
        ("tools/call", json!({"name": "fix__", "arguments": []})),
        ("prompts/get", json!({"name": "fix__nowhere"})),
        ("resources/read", json!({"uri": "test://nowhere"})),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "fix__nowhere"}, "argument": {"name": "a", "value": ""}}),
        ),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/resource", "uri": "test://"}, "argument": {"name": "a", "value": "test://"}}),
        ),
        ("tools/list", json!({"cursor": "nonsense"})),
        ("no/such/method", json!({})),
    ] {
        keep(&caller.modern("/mcp", method, params).await.1);
    }
    text
}

/// Whether the text holds the whole name, as a JSON string or between other words.
fn tells(text: &str, name: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '.');
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_some_and(inside);
        let after = text[at + name.len()..].chars().next().is_some_and(inside);
        !before && !after
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_roles_lists_hold_exactly_what_can_be_used() {
    let seed =
        std::env::var("TOOLGATE_SEED").map_or(20, |seed| seed.parse().expect("TOOLGATE_SEED is a number"));
    let (_fixture, url) = a_fixture().await;
    let keys = key("ann", "a") + &key("bob", "b") + &key("cat", "a, c") + &key("nil", "");
    let config = |round: usize, rbac: &Value| {
        // The name of the admin shows which file is in force.
        let admin = key(&format!("root-{round}"), "all");
        format!(
            "mcpServers: {{fix: {{url: \"{url}\"}}, demo: {{builtin: demo}}}}\nlog: {{level: warn}}\nauth:\n  api_keys:\n{keys}{admin}rbac: {rbac}\n"
        )
    };
    let everything = json!({"roles": {"a": {"allow": {"servers": ["*"]}}, "b": {}, "c": {}, "all": {"allow": {"servers": ["*"]}}}});
    let gateway = Gateway::start(&config(0, &everything)).await;
    let ann = Caller::new(&gateway, "ann");
    gateway
        .eventually("both servers are there", async |_| {
            let tools = ann.tools("/mcp").await;
            tools.contains(&"fix__echo".into()) && tools.contains(&"demo__echo".into())
        })
        .await;
    let mut all: Things = Default::default();
    for (names, kind) in all.iter_mut().zip(&KINDS) {
        *names = ann.names("/mcp", kind.list, kind.member, kind.key).await;
        assert!(names.len() > 2, "{names:?}");
    }
    let mut chance = Chance(seed);
    let (mut seen, mut hidden) = (0, 0);
    let began = Instant::now();
    for round in 1..=ROUNDS {
        let mut rbac = policy(&mut chance, &all);
        rbac["roles"]["all"] = json!({"allow": {"servers": ["*"]}});
        gateway.rewrite(&config(round, &rbac));
        let root = Caller::new(&gateway, &format!("root-{round}"));
        gateway
            .eventually("the file is read", async |_| {
                root.modern("/mcp", "tools/list", json!({})).await.0 == 200
            })
            .await;
        let story = format!("TOOLGATE_SEED={seed}, round {round}: {rbac}");
        for name in ["ann", "bob", "cat", "nil"] {
            let caller = Caller::new(&gateway, name);
            let mut denied = Vec::new();
            for (kind, names) in KINDS.iter().zip(&all) {
                let listed: BTreeSet<String> =
                    caller.names("/mcp", kind.list, kind.member, kind.key).await.into_iter().collect();
                let calls =
                    names.iter().filter(|name| !NOT_CALLED.contains(&name.as_str())).map(async |name| {
                        let mut params = json!({kind.key: name});
                        if kind.lists == "tools" {
                            // No arguments match, so an existing entry reports that at once.
                            params["arguments"] = json!({"no-such-argument": true});
                        }
                        (name, caller.modern("/mcp", kind.call, params).await.1)
                    });
                for (thing, answer) in futures::future::join_all(calls).await {
                    let there = listed.contains(thing);
                    assert_ne!(there, is_unknown(&answer), "{name}, {thing}: {answer}\n{story}");
                }
                denied.extend(names.iter().filter(|thing| !listed.contains(*thing)));
                seen += listed.len();
            }
            hidden += denied.len();
            let text = read_all(&caller).await;
            for thing in denied {
                assert!(!tells(&text, thing), "{name} reads {thing}\n{story}\n{text}");
                // On its own path, the server's tools have their own names.
                let own = thing.strip_prefix("fix__").map(|own| format!("\"name\":\"{own}\""));
                assert!(own.is_none_or(|own| !text.contains(&own)), "{name} reads {thing}\n{story}\n{text}");
            }
        }
    }
    eprintln!("{ROUNDS} policies in {:?}: {seen} things seen, {hidden} hidden", began.elapsed());
    assert!(seen > 1000 && hidden > 1000, "they are worth something: {seen} and {hidden}");
}
