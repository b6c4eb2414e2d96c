//! `toolgate explain`: the path of a call through the chain, filter by filter, with the rule and its line.
//!
//! Nothing is counted. The prefix of a name selects its server. Only that server is asked whether it has
//! such a tool or prompt, after all filters have accepted the call.

use std::path::Path;
use std::process::ExitCode;

use filters::rate_limit::Budget;
use filters::rbac::{AccessQuery, Decision, DecisionReason, Effect, RoleList};
use filters::{CallTarget, Caller, Chain, RequestHead, TargetKind};
use mcp::json::quote::quote;

use super::caller::CallerArgs;
use super::probe_server;
use super::probe_server::{ToolProbe, What};
use crate::config::{self, Config, Line, Pattern, Redaction, Validate};
use crate::runtime::filter_chain;
use crate::runtime::filter_chain::ReloadState;
use crate::upstream::gateway_meta;
use mcp::method::Method;

/// Prints the path of the call; exit 0 if the call passes, 1 if it does not, or if there is no such target.
pub fn explain(config: Config, file: &Path, who: CallerArgs, what: &What) -> ExitCode {
    match walk(&config, file, who, what) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(2)
        }
    }
}

fn walk(config: &Config, file: &Path, who: CallerArgs, what: &What) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let (chain, _) = filter_chain::build_chain(config, &ReloadState::default(), runtime.handle())?;
    let caller = who.caller();
    let body = body(what)?;
    let place = |line: Line| format!("{}:{line}", file.display());
    let printer = ExplainPrinter { config, place: &place };
    say!(
        "call      {}",
        [Some(&*what.method), what.name.as_deref()].map(Option::unwrap_or_default).join(" ").trim()
    );
    say!("caller    {}", printer.caller(&caller));

    let headers = http::HeaderMap::new();
    let http_method = http::Method::POST;
    let head = RequestHead {
        http_method: &http_method,
        path: "/mcp",
        headers: &headers,
        authority: None,
        peer: None,
        certificate: None,
        is_network: false,
    };
    runtime
        .block_on(chain.on_head_unauthenticated(&head))
        .map_err(|stop| stop.refused.rejection.message.into_owned())?;
    step("origin", "pass", "Host and Origin of real requests are checked");
    let call = chain.read(head, caller.clone(), body.as_bytes());
    let mut call = match call {
        Ok(call) => call,
        Err(stop) => {
            step("size", "refuse", &stop.refused.rejection.message);
            return Ok(false);
        }
    };
    let size = format!("{} of at most {}", config::ByteSize::of(body.len() as u64), config.limits.max_body);
    step("size", "pass", &size);
    step("auth", "pass", &printer.credentials());
    step("header_match", "pass", "headers of real requests must say what the body says");
    let target = call_target(config, what);
    call.target = target;
    printer.rates(&chain, &call);
    let query = AccessQuery {
        method: &what.method,
        target,
        arguments: call.rpc.arguments.map(|a| a.of(call.body)),
        ip: None,
    };
    let passes = printer.rbac(&chain, &caller, &query);
    if passes {
        printer.guard(what, target.as_ref());
    }
    if !passes {
        say!("verdict   the call is refused");
        return Ok(false);
    }
    let found = if what.offline { ToolProbe::NotAsked } else { probe_server::probe(config, what) };
    if let ToolProbe::Missing(why) = found {
        say!("verdict   the filters let the call pass, but {why}");
        return Ok(false);
    }
    say!("verdict   the call passes");
    match found {
        ToolProbe::Found(server) => say!("note      the server `{server}` has it"),
        ToolProbe::Unknown(why) => say!("note      {why}, so whether there is such a thing is not known"),
        ToolProbe::NotAsked | ToolProbe::Missing(_) => {
            if let Some(note) = note(what) {
                say!("note      {note}");
            }
        }
    }
    Ok(true)
}

/// Why a call that passes may still fail, for reasons that this command cannot check.
fn note(what: &What) -> Option<&'static str> {
    match (Method::parse(&what.method), &what.name) {
        (Method::Other, _) => {
            Some("MCP has no such method; only a server on a path of its own would be asked")
        }
        (Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead, None) => {
            Some("a real call says what it is for: give the NAME too")
        }
        (_, Some(_)) => Some("servers were not asked, so whether there is such a thing is not known"),
        _ => None,
    }
}

fn step(filter: &str, verdict: &str, why: &str) {
    say!("{filter:<9} {verdict:<7} {why}");
}

/// The call as a message of the modern era.
fn body(what: &What) -> Result<String, String> {
    let named = match Method::parse(&what.method) {
        Method::Other => {
            let example = "expected one such as tools/call, prompts/get, resources/read or tools/list";
            return Err(format!("there is no method `{}`; {example}", what.method));
        }
        Method::ToolsCall => Some(("the name of a tool", "demo__echo")),
        Method::PromptsGet | Method::Complete => Some(("the name of a prompt", "files__review")),
        Method::ResourcesRead | Method::Subscribe | Method::Unsubscribe => {
            Some(("the URI of a resource", "file:///srv/report.txt"))
        }
        _ => None,
    };
    match (named, &what.name) {
        (Some((kind, example)), None) => {
            return Err(format!("{} needs {kind}, such as: explain {0} {example}", what.method));
        }
        (None, Some(name)) => {
            return Err(format!("{} goes without a name; `{name}` is too much", what.method));
        }
        _ => {}
    }
    let arguments = what.arguments.as_deref().unwrap_or("{}");
    let read: serde_json::Value =
        serde_json::from_str(arguments).map_err(|error| format!("the arguments are not JSON: {error}"))?;
    if !read.is_object() {
        return Err("the arguments must be a JSON object, such as '{\"message\": \"hi\"}'".into());
    }
    let name = match &what.name {
        None => String::new(),
        Some(uri) if what.method.starts_with("resources/") => format!(r#""uri":{},"#, quote(uri)),
        Some(name) => format!(r#""name":{},"arguments":{arguments},"#, quote(name)),
    };
    Ok(format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":{},"params":{{{name}"_meta":{}}}}}"#,
        quote(&what.method),
        gateway_meta()
    ))
}

/// The target of the call, as far as its name shows.
fn call_target<'a>(config: &'a Config, what: &'a What) -> Option<CallTarget<'a>> {
    let name = what.name.as_deref()?;
    let thing = match what.method.as_str() {
        "tools/call" => TargetKind::Tool,
        "prompts/get" | "completion/complete" => TargetKind::Prompt,
        method if method.starts_with("resources/") => TargetKind::Resource,
        _ => return None,
    };
    let owns =
        |prefix: &str| !prefix.is_empty() && name.strip_prefix(prefix).is_some_and(|r| r.starts_with("__"));
    let by_prefix =
        config.servers.iter().find(|(_, server)| thing != TargetKind::Resource && owns(&server.prefix));
    let bare = config.servers.iter().find(|(_, server)| server.prefix.is_empty());
    let only = config.servers.iter().next().filter(|_| config.servers.len() == 1);
    let server = by_prefix.or(bare).or(only).map_or("", |(name, _)| name.as_str());
    Some(CallTarget { kind: thing, name, server })
}

struct ExplainPrinter<'a> {
    config: &'a Config,
    place: &'a dyn Fn(Line) -> String,
}

impl ExplainPrinter<'_> {
    fn caller(&self, caller: &Caller) -> String {
        let known =
            |role: &String| self.config.rbac.as_ref().is_none_or(|rbac| rbac.roles.contains_key(role));
        let roles: Vec<String> = caller
            .roles
            .iter()
            .map(|role| {
                if known(role) {
                    role.clone()
                } else {
                    format!("{role} (no such role: only conditions and limits look at it)")
                }
            })
            .collect();
        let roles =
            if roles.is_empty() { "no roles".to_owned() } else { format!("roles {}", roles.join(", ")) };
        let tenant = caller.tenant.as_ref().map(|tenant| format!(", tenant {tenant}")).unwrap_or_default();
        let scopes = if caller.scopes.is_empty() {
            String::new()
        } else {
            format!(", scopes {}", caller.scopes.join(" "))
        };
        format!("{}, {roles}{tenant}{scopes}", caller.user)
    }

    fn credentials(&self) -> String {
        match &self.config.auth {
            None => "the configuration has no `auth`: real callers are all anonymous".into(),
            Some(auth) => {
                let real = match auth.required {
                    true => "a real caller needs a token or a key",
                    false => "real callers without credentials are anonymous",
                };
                let scopes = match &auth.required_scopes[..] {
                    [] => String::new(),
                    [scope] => format!("; every token or key must have the scope {scope}"),
                    scopes => format!("; every token or key must have the scopes {}", scopes.join(" ")),
                };
                format!("taken on your word; {real}{scopes}")
            }
        }
    }

    fn rates(&self, chain: &Chain, call: &filters::Call<'_>) {
        let counting = chain.rate.counting_rules(call, None);
        let Some(limits) = self.config.rate_limits.as_ref().filter(|_| !counting.is_empty()) else {
            return step("rate", "pass", "no limit counts this call; those by address are not asked here");
        };
        for rule in limits.rules.iter().filter(|rule| counting.contains(&rule.name.as_str())) {
            let budget = match rule.budget {
                Budget::Rate { count, per, burst } => {
                    format!("{count} in {}, at most {burst} at once", config::ConfigDuration::from(per))
                }
                Budget::Concurrent(max) => format!("{max} at a time"),
                Budget::Quota { count, per } => {
                    format!("{count} in each {} of the calendar (UTC)", config::ConfigDuration::from(per))
                }
            };
            step("rate", "counts", &format!("`{}` ({}): {budget}", rule.name, (self.place)(rule.line)));
        }
    }

    fn rbac(&self, chain: &Chain, caller: &Caller, query: &AccessQuery<'_>) -> bool {
        match chain.rbac.decide(caller, query) {
            Decision::Allowed(ground) => {
                step("rbac", "pass", &self.ground(&ground));
                true
            }
            Decision::NotFound(ground) => {
                let words =
                    format!("{}; the caller is told that there is no such thing", self.ground(&ground));
                step("rbac", "hide", &words);
                false
            }
            Decision::Denied(ground, message) => {
                let message =
                    message.map(|message| format!("; the caller reads: {message}")).unwrap_or_default();
                step("rbac", "refuse", &format!("{}{message}", self.ground(&ground)));
                false
            }
            Decision::MethodDenied(ground) => {
                step("rbac", "refuse", &format!("the method is not allowed: {}", self.ground(&ground)));
                false
            }
            Decision::Ambiguous(odd) => {
                step("rbac", "refuse", &format!("the URI can be read as that of another resource: {odd}"));
                false
            }
            Decision::MissingScopes(scopes) => {
                let lacks: Vec<&String> =
                    scopes.iter().filter(|scope| !caller.scopes.contains(scope)).collect();
                let lacks: Vec<String> = lacks.iter().map(|scope| self.need(scope)).collect();
                step(
                    "rbac",
                    "refuse",
                    &format!("it is allowed, but the caller's token lacks {}", lacks.join(" and ")),
                );
                false
            }
        }
    }

    /// A missing scope, and where it is required.
    fn need(&self, scope: &String) -> String {
        let needs = self.config.rbac.iter().flat_map(|rbac| &rbac.scopes);
        let lines = needs.filter(|need| need.require.contains(scope)).map(|need| (self.place)(need.line));
        match lines.collect::<Vec<_>>() {
            lines if lines.is_empty() => format!("the scope `{scope}`"),
            lines => format!("the scope `{scope}` ({})", lines.join(", ")),
        }
    }

    fn ground(&self, ground: &DecisionReason) -> String {
        let Some(rbac) = &self.config.rbac else { return "no `rbac`: everything is allowed".into() };
        let rule = |index: usize| {
            let rule = &rbac.rules[index];
            let word = if rule.effect == Effect::Allow { "allows" } else { "denies" };
            format!("rule `{}` ({}) {word} it", rule.name, (self.place)(rule.line))
        };
        match ground {
            DecisionReason::Open => "nothing forbids the method; lists hold what the caller may use".into(),
            DecisionReason::Rule(index) => rule(*index),
            DecisionReason::Failed(index, why) => {
                format!("{}, because it cannot be evaluated: {why}", rule(*index))
            }
            DecisionReason::Unlisted => "the caller's roles list other methods only".into(),
            DecisionReason::Default => {
                let word = if rbac.default == Effect::Allow { "allow" } else { "deny" };
                format!("no rule and no role of the caller speaks of it, and the default is {word}")
            }
            DecisionReason::Role { role, effect, list, glob } => {
                let Some((name, role)) = rbac.roles.iter().nth(*role) else { return String::new() };
                let (word, lists) = match effect {
                    Effect::Allow => ("allows", &role.allow),
                    Effect::Deny => ("denies", &role.deny),
                };
                let (kind, patterns): (&str, &[Pattern]) = match list {
                    RoleList::Tools => ("tools", &lists.tools),
                    RoleList::Prompts => ("prompts", &lists.prompts),
                    RoleList::Resources => ("resources", &lists.resources),
                    RoleList::Methods => ("methods", &lists.methods),
                    RoleList::Servers => ("servers", &lists.servers),
                };
                match patterns.get(*glob) {
                    Some(pattern) => {
                        let place = (self.place)(pattern.line);
                        format!("role `{name}` {word} the {kind} `{}` ({place})", pattern.text)
                    }
                    // After its own patterns come those of its toolsets.
                    None => format!("role `{name}` ({}) {word} it by a toolset", (self.place)(role.line)),
                }
            }
        }
    }

    fn guard(&self, what: &What, target: Option<&CallTarget<'_>>) {
        let server = target
            .and_then(|target| self.config.servers.iter().find(|(name, _)| name.as_str() == target.server));
        let Some((name, server)) = server else { return step("guard", "pass", "nothing is looked at") };
        let mut looks = Vec::new();
        match server.redact.arguments {
            Redaction::Off => {}
            Redaction::Redact => looks.push("secrets in the arguments are taken out"),
            Redaction::Block => looks.push("secrets in the arguments stop the call"),
        }
        match server.validate {
            _ if Method::parse(&what.method) != Method::ToolsCall => {}
            Validate::Off => {}
            Validate::Warn => looks.push("arguments that do not fit the schema are logged"),
            Validate::Enforce => looks.push("arguments must fit the schema"),
        }
        let looks = match looks.is_empty() {
            true => "nothing is looked at".to_owned(),
            false => format!("{} (not tried here)", looks.join("; ")),
        };
        step("guard", "pass", &format!("server `{}`: {looks}", name.as_str()));
    }
}
