//! Valid settings of authentication, access and limits. Invalid files are in `tests/config_faults/`.

use std::time::Duration;

use filters::auth::Algorithm;
use filters::guard::Detector;
use filters::rate_limit::{Budget, KeyPart, OnFailure};
use filters::rbac::Effect;

use super::*;

/// Every setting at once, most of it in flow style, as users write it.
const FULL: &str = r#"
listen:
  trusted_proxies: ["10.0.0.0/8", "127.0.0.1"]
  public_url: "https://gateway.example.com"
auth:
  required: false
  anonymous: {roles: [guest]}
  required_scopes: [mcp]
  jwt:
    - issuer: https://id.example.com
      audience: https://gateway.example.com/mcp
      jwks_url: https://id.example.com/jwks.json
      algorithms: [RS256, ES256, EdDSA]
      leeway: 30s
      refresh: 5m
      claims: {user: sub, roles: "realm_access.roles", scopes: scope, tenant: tid}
    - {issuer: b, audience: [x, y], secret: "${JWT_SECRET}"}
    - {issuer: c, audience: x, public_key: "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n"}
    - {issuer: d, audience: x, jwks_file: keys.json, signing_key: private.pem}
  api_keys:
    - {id: ci, sha256: "0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef", user: ci-bot, tenant: acme, scopes: [mcp]}
    - {id: bare, sha256: "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
  resource_metadata: {resource: "https://gateway.example.com/mcp", authorization_servers: ["https://id.example.com"], scopes_supported: [mcp]}
  exchange: {token_endpoint: "https://id.example.com/token", client_id: gw, client_secret: "${S}"}
toolsets: {research: {tools: ["search__*"]}}
mcpServers:
  api: {url: "https://api.example.com/mcp", credentials: exchange, audience: "https://api.example.com"}
  any: {builtin: demo, circuit_breaker: {failures: 7}, max_stream: 64MiB, pinning: block, validate: enforce,
        redact: {arguments: block, results: redact}}
  bare: {builtin: demo}
rbac:
  default: deny
  roles:
    guest: {}
    reader: {allow: {tools: ["*__get_*"], resources: ["*"], prompts: ["*"]}}
    dev:    {inherits: [reader], allow: {tools: ["files__*"], toolsets: [research]}, deny: {tools: ["files__delete_*"]}}
    admin:  {allow: {servers: ["*"]}, admin: true}
  scopes:
    - {tools: ["files__write_*"], require: [files:write]}
  rules:
    - {name: no-prod-writes, when: 'call.tool.startsWith("db__") && call.args.env == "prod" && !("sre" in caller.roles)', effect: deny, message: "production is read-only"}
rate_limits:
  store: redis
  on_failure: closed
  timeout: 20ms
  rules:
    - {name: per-user,      key: [user],       limit: 600/1m, burst: 100}
    - {name: per-user-tool, key: [user, tool], limit: 30/1m, match: {tools: ["search__*"], roles: [dev]}}
    - {name: per-ip,        key: [ip],         limit: 50/1s}
    - {name: parallel,      key: [],           concurrent: 16}
    - {name: daily,         key: [tenant],     quota: 10000/1d}
redis: {url: "redis://:${S}@127.0.0.1:6379", prefix: "tg:"}
guard:
  detectors: [credit_card, email]
  patterns: [{name: ticket, regex: "TCK-[0-9]{6}"}]
  pins: {files__read: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
"#;

fn read(text: &str) -> Config {
    let environment = |name: &str| match name {
        "JWT_SECRET" => Some("hunter2hunter2hunter2hunter2hunter2".to_owned()),
        "S" => Some("hunter2".to_owned()),
        _ => None,
    };
    parse("test.yaml", text, &environment).unwrap_or_else(|errors| panic!("{errors}"))
}

fn texts(patterns: &[Pattern]) -> Vec<&str> {
    patterns.iter().map(|pattern| &*pattern.text).collect()
}

#[test]
fn authentication_is_read_with_its_defaults() {
    let config = read(FULL);
    let auth = config.auth.expect("it was given");
    assert!(!auth.required && auth.anonymous == ["guest"] && auth.required_scopes == ["mcp"]);
    let [a, b, c, d] = &auth.jwt[..] else { panic!("{:?}", auth.jwt) };
    assert_eq!(a.audience, ["https://gateway.example.com/mcp"]);
    assert_eq!(a.algorithms, [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]);
    assert_eq!((a.leeway, a.refresh), (ConfigDuration::secs(30), ConfigDuration::mins(5)));
    assert_eq!((&*a.claims.roles, a.claims.tenant.as_deref()), ("realm_access.roles", Some("tid")));
    assert!(matches!(&b.keys, KeyLocation::Secret(secret) if secret.expose().len() == 35));
    assert_eq!((b.audience.len(), &b.algorithms[..]), (2, &[Algorithm::HS256][..]));
    assert_eq!((&*b.claims.user, &*b.claims.roles, &*b.claims.scopes), ("sub", "roles", "scope"));
    assert!(matches!(&c.keys, KeyLocation::PublicKey(pem) if pem.contains('\n')));
    assert!(c.algorithms.len() == 9 && !c.algorithms.iter().any(|algorithm| algorithm.is_symmetric()));
    assert_eq!(d.keys, KeyLocation::JwksFile("keys.json".into()));
    assert_eq!(d.signing_key, Some("private.pem".into()));
    let [ci, bare] = &auth.api_keys[..] else { panic!("{:?}", auth.api_keys) };
    assert_eq!((&*ci.user, ci.tenant.as_deref(), &ci.sha256[..2]), ("ci-bot", Some("acme"), &[1, 0x23][..]));
    assert_eq!((&*bare.user, bare.roles.len(), bare.line.get()), ("bare", 0, ci.line.get() + 1));
    assert_eq!(auth.exchange.map(|exchange| exchange.client_id).as_deref(), Some("gw"));
    let metadata = auth.resource_metadata.expect("it was given");
    assert_eq!(metadata.resource.as_deref(), Some("https://gateway.example.com/mcp"));
    assert_eq!(metadata.authorization_servers, ["https://id.example.com"]);
    assert!(config.listen.trusts("10.1.2.3".parse().expect("an address")));
    assert_eq!(config.listen.base_url(), "https://gateway.example.com");
    let bare = read("mcpServers: {}\nauth: {jwt: [{issuer: a, audience: a, jwks_file: k}]}");
    assert!(bare.auth.expect("it was given").required);
}

#[test]
fn authorization_is_read_with_its_lines() {
    let rbac = read(FULL).rbac.expect("it was given");
    let (dev, admin) = (&rbac.roles["dev"], &rbac.roles["admin"]);
    let line = |needle: &str| FULL.lines().position(|line| line.contains(needle)).expect(needle) + 1;
    assert!(dev.inherits == ["reader"] && !dev.admin && admin.admin);
    assert_eq!(
        (texts(&dev.allow.tools), texts(&dev.deny.tools)),
        (vec!["files__*"], vec!["files__delete_*"])
    );
    assert_eq!(dev.allow.toolsets.iter().map(ServerName::as_str).collect::<Vec<_>>(), ["research"]);
    assert_eq!((dev.line.get(), dev.allow.tools[0].line.get()), (line("    dev:"), line("    dev:")));
    assert!(rbac.roles["guest"].allow.is_empty() && !admin.allow.is_empty());
    assert_eq!((rbac.default, rbac.rules[0].effect), (Effect::Deny, Effect::Deny));
    assert_eq!(rbac.rules[0].message.as_deref(), Some("production is read-only"));
    assert_eq!(rbac.rules[0].line.get(), line("no-prod-writes"));
    let need = &rbac.scopes[0];
    assert_eq!((texts(&need.matches.tools), &*need.require[0]), (vec!["files__write_*"], "files:write"));
    assert_eq!(need.line.get(), line("require: [files:write]"));
}

#[test]
fn rate_limits_are_read_with_their_defaults() {
    let config = read(FULL);
    let limits = config.rate_limits.expect("it was given");
    assert_eq!((limits.store, limits.on_failure), (CounterStore::Redis, OnFailure::Closed));
    let budgets: Vec<_> = limits.rules.iter().map(|rule| rule.budget).collect();
    let (second, minute, day) =
        (ConfigDuration::secs(1).get(), ConfigDuration::mins(1).get(), ConfigDuration::hours(24).get());
    assert_eq!(
        budgets,
        [
            Budget::Rate { count: 600, per: minute, burst: 100 },
            Budget::Rate { count: 30, per: minute, burst: 30 },
            Budget::Rate { count: 50, per: second, burst: 50 },
            Budget::Concurrent(16),
            Budget::Quota { count: 10_000, per: day },
        ]
    );
    let search = &limits.rules[1];
    assert_eq!(search.key, [KeyPart::User, KeyPart::Tool]);
    assert_eq!((texts(&search.match_.tools), &*search.match_.roles[0]), (vec!["search__*"], "dev"));
    assert_eq!((limits.rules[3].key.len(), &limits.rules[3].match_), (0, &MatchConfig::default()));
    let redis = config.redis.expect("it was given");
    assert_eq!((redis.url.expose(), &*redis.prefix), ("redis://:hunter2@127.0.0.1:6379", "tg:"));
    let bare = read("mcpServers: {}\nrate_limits: {}").rate_limits.expect("it was given");
    assert_eq!((bare.store, bare.on_failure), (CounterStore::Local, OnFailure::Local));
    assert_eq!(
        (bare.timeout.get(), limits.timeout.get()),
        (Duration::from_millis(50), Duration::from_millis(20))
    );
}

#[test]
fn the_guard_of_a_server_is_off_by_default() {
    let config = read(FULL);
    let (any, bare, api) = (&config.servers["any"], &config.servers["bare"], &config.servers["api"]);
    assert_eq!(any.circuit_breaker, Some(CircuitBreaker { failures: 7, open_for: ConfigDuration::secs(30) }));
    assert_eq!((any.max_stream, any.pinning), (Some(ByteSize::mib(64)), Pinning::Block));
    assert_eq!(any.validate, Validate::Enforce);
    assert_eq!(any.redact, Redact { arguments: Redaction::Block, results: Redaction::Redact });
    assert_eq!((bare.circuit_breaker, bare.max_stream), (None, None));
    assert_eq!((bare.pinning, bare.validate), (Pinning::Off, Validate::Off));
    assert_eq!(bare.redact, Redact { arguments: Redaction::Off, results: Redaction::Off });
    assert_eq!(api.credentials, CredentialsMode::Exchange);
    assert_eq!(api.audience.as_deref(), Some("https://api.example.com"));
    assert_eq!(config.guard.detectors, [Detector::CreditCard, Detector::Email]);
    assert_eq!(config.guard.patterns[0].name, "ticket");
    assert_eq!(config.guard.pins["files__read"][..2], [1, 0x23]);
    let usual = GuardConfig::default().detectors;
    let unusual: Vec<_> = Detector::ALL.iter().filter(|detector| !usual.contains(detector)).collect();
    assert_eq!(unusual, [&Detector::Email]);
}

#[test]
fn neither_secrets_nor_hashes_of_keys_show_when_a_config_is_printed() {
    let config = read(FULL);
    let shown = format!("{config:?} {config:#?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let auth = format!("{:?}", config.auth);
    assert!(auth.contains("sha256: \"***\"") && !auth.contains("[1, 35,"), "{auth}");
}

#[test]
fn blocks_that_are_left_empty_are_as_if_they_were_not_there() {
    let config = read("rate_limits:\nredis:\nguard:\nmcpServers: {a: {builtin: demo}}\n");
    assert_eq!(config.changes(&read("mcpServers: {a: {builtin: demo}}\n")), []);
    assert!(config.rate_limits.is_none() && config.redis.is_none());
    let secretless = "mcpServers: {}\nauth: {required: false, exchange: {token_endpoint: \"https://i/\", client_id: a, client_secret: \"\"}}";
    let exchange = read(secretless).auth.and_then(|auth| auth.exchange).expect("it was given");
    assert_eq!(exchange.client_secret, None);
}
