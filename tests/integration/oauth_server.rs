//! The authorization server of `tests/oauth/server.mjs`.

use std::process::Command;

use serde_json::Value;

use crate::clients::{Ran, Sdk, drive};
use crate::harness::{Process, node, root};

/// The client that needs no user.
const SERVICE: (&str, &str) = ("service", "guards-nothing");

pub struct OauthServer {
    pub issuer: String,
    http: reqwest::Client,
    _process: Process,
}

impl OauthServer {
    pub async fn start() -> Self {
        let start = || {
            let mut command = Command::new(node());
            command.arg(root().join("tests/oauth/server.mjs"));
            let mut process = Process::start(&mut command);
            let line = process.wait_for("issuer ");
            (process, line)
        };
        let (process, line) = tokio::task::spawn_blocking(start).await.expect("the server starts");
        let issuer = line.rsplit(' ').next().expect("a URL at the end").to_owned();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { issuer, http, _process: process }
    }

    /// Sends it a command: `rotate`, `hang`, `resume` or `ttl`, with their parameters.
    pub async fn order(&self, what: &str) {
        let response = self.http.post(format!("{}/test/{what}", self.issuer)).send().await;
        assert_eq!(response.expect("the server answers").status(), 200);
    }

    /// The number of key requests.
    pub async fn key_requests(&self) -> u64 {
        self.requests("jwks").await
    }

    /// The number of requests at this path, such as `token`.
    pub async fn requests(&self, place: &str) -> u64 {
        let response = self.http.get(format!("{}/test/counts", self.issuer)).send().await;
        response_json(response).await["counts"][place].as_u64().unwrap_or(0)
    }

    /// A token of this user for this resource, which counts as no request.
    pub async fn token_of(&self, person: &str, resource: &str) -> String {
        let place = format!("{}/test/token?sub={person}&resource={resource}", self.issuer);
        let output = response_json(self.http.post(place).send().await).await;
        output["token"].as_str().unwrap_or_else(|| panic!("no token: {output}")).to_owned()
    }

    /// A token of the service for this resource.
    pub async fn token(&self, resource: &str) -> String {
        let form = format!("grant_type=client_credentials&scope=mcp&resource={resource}");
        let request = self
            .http
            .post(format!("{}/token", self.issuer))
            .basic_auth(SERVICE.0, Some(SERVICE.1))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        let text = request.send().await.expect("the server answers").text().await.expect("a body");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        answer["access_token"].as_str().unwrap_or_else(|| panic!("no token: {text}")).to_owned()
    }

    /// Runs a plan with a client that logs in by itself, as a user (`code`) or as the service (`service`).
    pub async fn log_in(&self, sdk: Sdk, url: &str, how: &str, plan: &[Value]) -> Ran {
        let env =
            [("SERVICE_ISSUER", &*self.issuer), ("SERVICE_ID", SERVICE.0), ("SERVICE_SECRET", SERVICE.1)];
        drive(sdk, "oauth", url, how, &env, plan).await
    }
}

async fn response_json(response: reqwest::Result<reqwest::Response>) -> Value {
    let text = response.expect("the server answers").text().await.expect("a body");
    serde_json::from_str(&text).expect("JSON")
}
