//! The upstream of a server, by its configured transport.

use std::sync::Arc;

use crate::config::{self, CredentialsMode, ServerTransport};
use crate::upstream::demo::Demo;
use crate::upstream::http::pool::{Pool, PoolSettings};
use crate::upstream::http::tls::UpstreamTls;
use crate::upstream::http_or_sse::{HttpOrSse, SseSettings};
use crate::upstream::isolated_stdio::IsolatedStdio;
use crate::upstream::sse::Sse;
use crate::upstream::stdio::{ServerCommand, Stdio};
use crate::upstream::{Upstream, UpstreamLimits};

/// Makes the upstream; nothing is connected yet. `before`: the endpoints of the same server in the
/// configuration before. With the hash of its TLS files, if it has read them.
///
/// # Errors
///
/// A message for the author of the configuration.
pub(super) fn upstream(
    name: &str,
    config: &config::ServerConfig,
    limits: &UpstreamLimits,
    before: Option<&Pool>,
) -> Result<(Arc<dyn Upstream>, Option<u64>), String> {
    match &config.transport {
        ServerTransport::Builtin(config::Builtin::Demo) => Ok((Arc::new(Demo), None)),
        ServerTransport::Http { urls, .. } => {
            let tls = upstream_tls(name, config)?;
            let (fingerprint, headers) = (tls.fingerprint(), config.transport.header_map());
            let old = SseSettings {
                name: name.to_owned(),
                url: urls[0].uri().to_string(),
                headers: headers.clone(),
                limits: limits.clone(),
                tls: tls.clone(),
            };
            let pool = Pool::new(PoolSettings { name, urls, headers, limits, config, tls }, before)?;
            // The older transport has one connection for all callers, and several endpoints are equal ones of
            // the newer.
            let by_caller =
                matches!(config.credentials, CredentialsMode::Passthrough | CredentialsMode::Exchange);
            let may_be_sse =
                urls.len() == 1 && config.era.is_legacy() && config.retry.is_none() && !by_caller;
            let upstream: Arc<dyn Upstream> = match may_be_sse {
                true => Arc::new(HttpOrSse::new(pool, old)),
                false => Arc::new(pool),
            };
            Ok((upstream, Some(fingerprint)))
        }
        ServerTransport::Sse { url, .. } => {
            let tls = upstream_tls(name, config)?;
            let fingerprint = tls.fingerprint();
            let (url, headers) = (url.uri().to_string(), config.transport.header_map());
            Ok((Arc::new(Sse::new(name, &url, headers, limits, tls)?), Some(fingerprint)))
        }
        ServerTransport::Stdio { command, args, env, env_pass, cwd, isolation, limits: own } => {
            // Variables that are not set, or not UTF-8, are not passed on.
            let passed = env_pass.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)));
            let set = env.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
            let command = ServerCommand {
                program: command.clone(),
                args: args.clone(),
                env: passed.chain(set).collect(),
                cwd: cwd.clone(),
                max_line: limits.max_line,
                name: name.to_owned(),
                limits: own.process,
            };
            if own.process.processes.is_some() && nix::unistd::geteuid().is_root() {
                tracing::warn!(
                    server = name,
                    "limits.processes has no effect on processes of root, and the gateway runs as root"
                );
            }
            let upstream: Arc<dyn Upstream> = match isolation {
                config::Isolation::Shared => Arc::new(Stdio::new(command, limits.timeout)),
                config::Isolation::Session => {
                    let tls = upstream_tls(name, config)?;
                    Arc::new(IsolatedStdio::new(name, command, *own, limits, config, tls)?)
                }
            };
            Ok((upstream, None))
        }
    }
}

/// The TLS settings of a server, read from their files.
fn upstream_tls(name: &str, config: &config::ServerConfig) -> Result<Arc<UpstreamTls>, String> {
    let upstream_tls = UpstreamTls::read(config).map_err(|error| error.to_string())?;
    if config.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify) {
        tracing::warn!(
            server = name,
            "tls.insecure_skip_verify: the server's certificate is not verified; \
             a man in the middle could read and change all calls and credentials"
        );
    }
    Ok(Arc::new(upstream_tls))
}
