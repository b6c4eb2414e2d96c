//! TLS on the public listener, and clients with certificates. The certificates are made here, by CAs of the
//! tests.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::commands::err;
use crate::harness::{Process, free_port, initialize};
use crate::health::health;

const MAX_WAIT: Duration = Duration::from_secs(60);
const MUTUAL: &str = "cert: server.pem, key: server.key, client_ca: clients.pem";

/// A certificate authority.
pub struct TestCa {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub struct TestCert {
    pub cert: String,
    pub key: String,
}

impl TestCa {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn server(&self) -> TestCert {
        self.sign(CertificateParams::new(["localhost".into(), "127.0.0.1".into()]).expect("good names"))
    }

    pub fn client(&self, uri: &str) -> TestCert {
        self.sign(Self::named(uri))
    }

    fn named(uri: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
        params
    }

    pub fn sign(&self, params: CertificateParams) -> TestCert {
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        TestCert { cert, key: key.serialize_pem() }
    }
}

/// A gateway with TLS, and the CAs of its server and its clients.
struct Gate {
    process: Process,
    port: u16,
    folder: tempfile::TempDir,
    authority: TestCa,
}

fn put(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("the file is written");
}

fn put_pair(folder: &Path, pair: &TestCert) {
    put(folder, "server.pem", &pair.cert);
    put(folder, "server.key", &pair.key);
}

fn configuration(port: u16, tls: &str, rest: &str) -> String {
    format!(
        "listen: {{address: \"127.0.0.1:{port}\", tls: {{{tls}}}}}\nmcpServers: {{demo: {{builtin: demo}}}}\n{rest}\n"
    )
}

impl Gate {
    async fn start(tls: &str, rest: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (port, authority) = (free_port(), TestCa::new("the CA"));
        put_pair(folder.path(), &authority.server());
        put(folder.path(), "clients.pem", &authority.pem);
        put(folder.path(), "toolgate.yaml", &configuration(port, tls, rest));
        let mut command = Command::new(env!("CARGO_BIN_EXE_toolgate"));
        command.arg("run").current_dir(folder.path()).env("RUNTIME_DIRECTORY", folder.path());
        let mut process = Process::start(&mut command);
        process.wait_for("endpoint");
        let deadline = Instant::now() + MAX_WAIT;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(Instant::now() < deadline, "it does not listen:\n{}", process.output());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { process, port, folder, authority }
    }

    /// A client that trusts only this CA, with a certificate of its own or without.
    fn client_of(&self, authority: &TestCa, own: Option<&TestCert>) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(authority.pem.as_bytes()).expect("a certificate");
        let mut builder = reqwest::Client::builder().no_proxy().timeout(MAX_WAIT).tls_certs_only([root]);
        if let Some(pair) = own {
            let pem = format!("{}{}", pair.cert, pair.key);
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).expect("an identity"));
        }
        builder.build().expect("a client")
    }

    fn post(&self, client: &reqwest::Client) -> reqwest::RequestBuilder {
        client
            .post(format!("https://localhost:{}/mcp", self.port))
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .body(initialize(json!({})).to_string())
    }

    /// The status of an `initialize` with this certificate; `None` if there was no connection.
    async fn opens(&self, own: Option<&TestCert>) -> Option<u16> {
        let client = self.client_of(&self.authority, own);
        self.post(&client).send().await.ok().map(|response| response.status().as_u16())
    }
}

#[tokio::test]
async fn calls_come_over_https_and_only_so() {
    let mut gate = Gate::start("cert: server.pem, key: server.key", "").await;
    let banner = gate.process.wait_for("endpoint");
    assert!(banner.contains(&format!("https://127.0.0.1:{}/mcp", gate.port)), "{banner}");
    assert_eq!(gate.opens(None).await, Some(200));

    let other = TestCa::new("somebody else");
    let wary = gate.client_of(&other, None);
    assert!(gate.post(&wary).send().await.is_err(), "a client that does not trust the authority");
    let plain = reqwest::Client::builder().no_proxy().timeout(MAX_WAIT).build().expect("a client");
    let health = plain.get(format!("http://localhost:{}/health", gate.port)).send().await;
    assert!(health.is_err(), "plain HTTP");
    let client = gate.client_of(&gate.authority, None);
    let response = gate.post(&client).send().await.expect("an answer");
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    let root = reqwest::Certificate::from_pem(gate.authority.pem.as_bytes()).expect("a certificate");
    let old = reqwest::Client::builder().no_proxy().http1_only().tls_certs_only([root]).build();
    let response = gate.post(&old.expect("a client")).send().await.expect("an answer");
    assert_eq!((response.status().as_u16(), response.version()), (200, reqwest::Version::HTTP_11));
}

#[tokio::test]
async fn a_certificate_says_who_calls() {
    let mut gate = Gate::start(
        MUTUAL,
        "auth:\n  certificates:\n    - {subject: \"spiffe://prod/ci-*\", user: ci-bot, roles: [robot]}\n    \
         - {subject: \"spiffe://prod/*\"}",
    )
    .await;
    let ci = gate.authority.client("spiffe://prod/ci-7");
    assert_eq!(gate.opens(Some(&ci)).await, Some(200));
    gate.process.wait_for("\"caller\":\"ci-bot\"");
    let web = gate.authority.client("spiffe://prod/web");
    assert_eq!(gate.opens(Some(&web)).await, Some(200));
    gate.process.wait_for("\"caller\":\"spiffe://prod/web\"");
    let unmapped = gate.authority.client("spiffe://test/ci-7");
    assert_eq!(gate.opens(Some(&unmapped)).await, Some(401), "{}", gate.process.story());
}

#[tokio::test]
async fn without_a_good_certificate_there_is_no_connection() {
    let gate = Gate::start(MUTUAL, "").await;
    assert_eq!(gate.opens(Some(&gate.authority.client("spiffe://prod/a"))).await, Some(200));
    assert_eq!(gate.opens(None).await, None, "none");
    let other = TestCa::new("the CA");
    assert_eq!(gate.opens(Some(&other.client("spiffe://prod/a"))).await, None, "somebody else's");
    let mut old = TestCa::named("spiffe://prod/a");
    old.not_before = date_time_ymd(2019, 1, 1);
    old.not_after = date_time_ymd(2020, 1, 1);
    assert_eq!(gate.opens(Some(&gate.authority.sign(old))).await, None, "one that has ended");
}

#[tokio::test]
async fn a_connection_takes_no_more_requests_once_its_certificate_has_ended() {
    let gate = Gate::start(MUTUAL, "").await;
    for seconds in [3, 6, 12, 24] {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is right");
        let mut short = TestCa::named("spiffe://prod/a");
        short.not_after = date_time_ymd(1970, 1, 1) + started + Duration::from_secs(seconds);
        let client = gate.client_of(&gate.authority, Some(&gate.authority.sign(short)));
        if gate.post(&client).send().await.is_err() {
            // The machine was too busy to answer in time.
            continue;
        }
        tokio::time::sleep(Duration::from_secs(seconds + 1)).await;
        let late = gate.post(&client).send().await.expect("the connection stands");
        assert_eq!(late.status(), 403, "{}", gate.process.story());
        assert!(late.text().await.expect("a body").contains("has ended"));
        assert!(gate.post(&client).send().await.is_err(), "a new connection");
        return;
    }
    panic!("no certificate was taken in time");
}

#[tokio::test]
async fn where_certificates_are_optional_a_bad_one_is_still_refused() {
    let hash: String = Sha256::digest("s3cr3t").iter().map(|byte| format!("{byte:02x}")).collect();
    let mut gate = Gate::start(
        &format!("{MUTUAL}, client_auth: optional"),
        &format!(
            "auth:\n  certificates: [{{subject: \"spiffe://prod/*\", user: ci-bot}}]\n  \
             api_keys: [{{id: kim, sha256: {hash}}}]"
        ),
    )
    .await;
    assert_eq!(gate.opens(None).await, Some(401), "nothing at all");
    let foreign = TestCa::new("the CA").client("spiffe://prod/a");
    assert_eq!(gate.opens(Some(&foreign)).await, None, "a certificate that is not good");
    let bare = gate.client_of(&gate.authority, None);
    let response = gate.post(&bare).header("x-api-key", "s3cr3t").send().await.expect("an answer");
    assert_eq!(response.status(), 200, "a key alone");
    gate.process.wait_for("\"caller\":\"kim\"");

    let certified = gate.client_of(&gate.authority, Some(&gate.authority.client("spiffe://prod/a")));
    let wrong = gate.post(&certified).header("x-api-key", "wrong").send().await.expect("an answer");
    assert_eq!(wrong.status(), 401, "a wrong key beside a good certificate");
    assert!(!gate.process.output().contains("\"caller\":\"ci-bot\""), "{}", gate.process.story());
    assert_eq!(gate.post(&certified).send().await.expect("an answer").status(), 200, "a certificate alone");
    gate.process.wait_for("\"caller\":\"ci-bot\"");
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_a_restart_and_a_bad_one_is_not() {
    let mut gate = Gate::start("cert: server.pem, key: server.key", "").await;
    assert_eq!(gate.opens(None).await, Some(200));
    let next = TestCa::new("the next CA");
    put_pair(gate.folder.path(), &next.server());
    gate.process.signal(libc::SIGHUP);
    let deadline = Instant::now() + MAX_WAIT;
    loop {
        // An open connection would not do: each check uses a new client.
        let client = gate.client_of(&next, None);
        if gate.post(&client).send().await.is_ok_and(|response| response.status() == 200) {
            break;
        }
        assert!(Instant::now() < deadline, "{}", gate.process.story());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(gate.opens(None).await, None, "the old certificate is gone");

    put(gate.folder.path(), "server.pem", "-----BEGIN CERTIFICATE-----\nnonsense");
    gate.process.signal(libc::SIGHUP);
    let output = gate.process.wait_for("the old ones stay");
    assert!(output.contains("server.pem"), "{output}");
    gate.authority = next;
    assert_eq!(gate.opens(None).await, Some(200), "the good one stays");
}

#[tokio::test]
async fn a_client_gets_the_certificate_for_the_name_that_it_asks_for() {
    let pair = "cert: server.pem, key: server.key";
    let gate = Gate::start(pair, "").await;
    let (first, other) = (gate.authority.server(), TestCa::new("another CA"));
    put_pair(gate.folder.path(), &first);
    let named =
        CertificateParams::new(["*.other.example".into(), "other.example".into()]).expect("good names");
    let named = other.sign(named);
    put(gate.folder.path(), "other.pem", &named.cert);
    put(gate.folder.path(), "other.key", &named.key);
    let more = format!("{pair}, certificates: [{{cert: other.pem, key: other.key}}]");
    let rest = "mcpServers: {demo: {builtin: demo}}\n";
    let config = configuration(gate.port, &more, "").replace("address:", "allowed_hosts: [\"*\"], address:");
    assert!(config.contains(rest));
    put(gate.folder.path(), "toolgate.yaml", &config);
    gate.process.signal(libc::SIGHUP);
    let ask = async |host: &str, authority: &TestCa| {
        let root = reqwest::Certificate::from_pem(authority.pem.as_bytes()).expect("a certificate");
        let client = reqwest::Client::builder().no_proxy().timeout(MAX_WAIT).tls_certs_only([root]);
        let client = client.resolve(host, ([127, 0, 0, 1], gate.port).into()).build().expect("a client");
        let asked = client.get(format!("https://{host}:{}/health", gate.port)).send().await;
        asked.is_ok_and(|answer| answer.status() == 200)
    };
    let deadline = Instant::now() + MAX_WAIT;
    while !ask("a.other.example", &other).await {
        assert!(Instant::now() < deadline, "{}", gate.process.story());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (host, authority, works) in [
        ("other.example", &other, true),
        ("a.other.example", &gate.authority, false),
        ("localhost", &gate.authority, true),
        ("localhost", &other, false),
        ("b.a.other.example", &other, false),
    ] {
        assert_eq!(ask(host, authority).await, works, "{host}");
    }
    // One of the keys does not match: nothing of it is used.
    put(gate.folder.path(), "other.key", &first.key);
    put(gate.folder.path(), "server.pem", &gate.authority.server().cert);
    let mut gate = gate;
    gate.process.signal(libc::SIGHUP);
    let output = gate.process.wait_for("the old ones stay");
    assert!(output.contains("server.key") || output.contains("other.key"), "{output}");
}

#[tokio::test]
async fn an_authority_that_is_taken_out_vouches_for_nobody_any_more() {
    let gate = Gate::start(MUTUAL, "").await;
    let own = gate.authority.client("spiffe://prod/a");
    let root = reqwest::Certificate::from_pem(gate.authority.pem.as_bytes()).expect("a certificate");
    let identity = format!("{}{}", own.cert, own.key);
    let identity = reqwest::Identity::from_pem(identity.as_bytes()).expect("an identity");
    let old = reqwest::Client::builder().no_proxy().http1_only().tls_certs_only([root]).identity(identity);
    let clients = [gate.client_of(&gate.authority, Some(&own)), old.build().expect("a client")];
    for client in &clients {
        let answer = gate.post(client).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.bytes().await.expect("all of it");
    }
    put(gate.folder.path(), "clients.pem", &TestCa::new("another").pem);
    gate.process.signal(libc::SIGHUP);
    let deadline = Instant::now() + MAX_WAIT;
    while gate.opens(Some(&own)).await.is_some() {
        assert!(Instant::now() < deadline, "{}", gate.process.story());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Not on an existing connection either, over HTTP/1.1 and HTTP/2.
    for client in clients {
        let late = gate.post(&client).send().await.expect("the connection stands");
        assert_eq!(late.status(), 403, "{}", gate.process.story());
        assert!(late.text().await.expect("a body").contains("not vouched for any more"));
        assert!(gate.post(&client).send().await.is_err(), "a new connection");
    }
}

#[tokio::test]
async fn connections_stand_that_are_vouched_for_still() {
    let gate = Gate::start(MUTUAL, "").await;
    let own = gate.authority.client("spiffe://prod/a");
    let client = gate.client_of(&gate.authority, Some(&own));
    assert_eq!(gate.post(&client).send().await.expect("an answer").status(), 200);
    let more = TestCa::new("another");
    put(gate.folder.path(), "clients.pem", &format!("{}{}", gate.authority.pem, more.pem));
    gate.process.signal(libc::SIGHUP);
    let theirs = more.client("spiffe://prod/b");
    let deadline = Instant::now() + MAX_WAIT;
    while gate.opens(Some(&theirs)).await.is_none() {
        assert!(Instant::now() < deadline, "{}", gate.process.story());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(gate.post(&client).send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_client_that_is_silent_in_the_handshake_is_dropped_in_time() {
    let gate = Gate::start("cert: server.pem, key: server.key", "limits: {header_timeout: 1s}").await;
    for first in [&b""[..], b"\x16\x03\x01"] {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", gate.port)).await.expect("a connection");
        stream.write_all(first).await.expect("it is written");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still open after 30 s");
        assert!(begun.elapsed() >= Duration::from_millis(900), "closed after {:?}", begun.elapsed());
    }
    assert_eq!(gate.opens(None).await, Some(200));
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_at_the_start_and_by_check() {
    let (authority, other) = (TestCa::new("the CA"), TestCa::new("another"));
    let good = authority.server();
    let cases = [
        (None, Some(good.key.clone()), ["listen.tls.cert", "server.pem"]),
        (Some(good.key.clone()), Some(good.key.clone()), ["server.pem", "holds no certificate"]),
        (Some(good.cert.clone()), None, ["listen.tls.key", "server.key"]),
        (Some(good.cert.clone()), Some(good.cert.clone()), ["server.key", "holds no private key"]),
        (Some(good.cert.clone()), Some(other.server().key), ["server.key", "is not the key of"]),
    ];
    for (cert, key, message) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [("server.pem", cert), ("server.key", key)] {
            if let Some(text) = text {
                put(folder.path(), name, &text);
            }
        }
        let config = configuration(free_port(), "cert: server.pem, key: server.key", "");
        put(folder.path(), "toolgate.yaml", &config);
        for (command, code) in [("run", 1), ("check", 0)] {
            let mut toolgate = Command::new(env!("CARGO_BIN_EXE_toolgate"));
            let done = toolgate.arg(command).current_dir(folder.path()).output().expect("it runs");
            let output = [done.stdout, done.stderr].concat();
            let output = String::from_utf8_lossy(&output);
            assert_eq!(done.status.code(), Some(code), "{output}");
            assert!(message.iter().all(|word| output.contains(word)), "{message:?}: {output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_comes_over_tls_and_trusts_whom_it_finds() {
    let gate = Gate::start("cert: server.pem, key: server.key", "").await;
    let folder = gate.folder.path();
    let empty = tempfile::tempdir().expect("a folder");
    let port = gate.port.to_string();
    let at = format!("127.0.0.1:{port}");
    for (runtime, message) in [
        (folder, &[][..]),
        (folder, &["--live"]),
        (empty.path(), &["--live"]),
        (empty.path(), &["--tls", "--address", &at]),
    ] {
        let done = health(folder, runtime, message).await;
        assert_eq!(done.status.code(), Some(0), "{message:?}: {}", err(&done));
    }
    // If clients must show certificates, a check without one learns that the gateway is alive.
    let gate = Gate::start(MUTUAL, "").await;
    let folder = gate.folder.path();
    let done = health(folder, folder, &["--live"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", err(&done));
    let done = health(folder, folder, &[]).await;
    assert_eq!(done.status.code(), Some(1));
    assert!(err(&done).contains("--live"), "{}", err(&done));
}
