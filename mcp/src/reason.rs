//! The reasons of rejections: one closed list, for the metrics, the access log and the `code` of errors off the
//! MCP paths. docs/protocol/errors.md explains each; a test compares the two.

macro_rules! reasons {
    ($($name:ident = $word:literal,)*) => {
        /// Why a request is rejected, as a label. Users have the words in dashboards and alerts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($name,)*
        }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

reasons! {
    AlgorithmNotAllowed = "algorithm_not_allowed",
    AmbiguousKey = "ambiguous_key",
    AmbiguousUri = "ambiguous_uri",
    ApprovalUnclear = "approval_unclear",
    BadCredentials = "bad_credentials",
    BadSignature = "bad_signature",
    BatchEmpty = "batch_empty",
    BatchIdTwice = "batch_id_twice",
    BatchMember = "batch_member",
    BatchTooLong = "batch_too_long",
    BodyBroken = "body_broken",
    BodyTimeout = "body_timeout",
    BodyTooLarge = "body_too_large",
    BodyUnwanted = "body_unwanted",
    Cancelled = "cancelled",
    CertificateEnded = "certificate_ended",
    ClientTooLong = "client_too_long",
    ContentType = "content_type",
    DefinitionChanged = "definition_changed",
    Descriptors = "descriptors",
    EraMismatch = "era_mismatch",
    FilterMissing = "filter_missing",
    HeaderDoubled = "header_doubled",
    HeaderMismatch = "header_mismatch",
    HeadersTooLarge = "headers_too_large",
    HostMissing = "host_missing",
    HostNotAllowed = "host_not_allowed",
    InputRefused = "input_refused",
    InsufficientScope = "insufficient_scope",
    Internal = "internal",
    InvalidArguments = "invalid_arguments",
    InvalidParams = "invalid_params",
    InvalidRequestState = "invalid_request_state",
    KeysUnavailable = "keys_unavailable",
    LengthAndEncoding = "length_and_encoding",
    LimitsUnavailable = "limits_unavailable",
    MaxBuffered = "max_buffered",
    MaxConnections = "max_connections",
    MetaMissing = "meta_missing",
    MethodDenied = "method_denied",
    MissingClaim = "missing_claim",
    NameMissing = "name_missing",
    NoAnswer = "no_answer",
    NoCredentials = "no_credentials",
    NoEndpoint = "no_endpoint",
    NoMetadata = "no_metadata",
    NoSession = "no_session",
    NotAcceptable = "not_acceptable",
    NotAnOperator = "not_an_operator",
    NotJson = "not_json",
    NotJsonRpc = "not_json_rpc",
    NotJsonType = "not_json_type",
    OriginNotAllowed = "origin_not_allowed",
    ProcessUnreachable = "process_unreachable",
    QuotaExceeded = "quota_exceeded",
    RateLimited = "rate_limited",
    RefMissing = "ref_missing",
    ResultBlocked = "result_blocked",
    RuleDenied = "rule_denied",
    RuleTooCostly = "rule_too_costly",
    SchemaUnusable = "schema_unusable",
    SecretInArguments = "secret_in_arguments",
    SessionMissing = "session_missing",
    Stopping = "stopping",
    SubscriptionRefused = "subscription_refused",
    TargetTooLong = "target_too_long",
    TasksUndeclared = "tasks_undeclared",
    TokenExchange = "token_exchange",
    TokenExpired = "token_expired",
    TokenMalformed = "token_malformed",
    TokenNeeded = "token_needed",
    TokenNotYetValid = "token_not_yet_valid",
    TooManyAtOnce = "too_many_at_once",
    TooManyParked = "too_many_parked",
    TooManySessions = "too_many_sessions",
    TooManySessionsOfCaller = "too_many_sessions_of_caller",
    TooManyStreams = "too_many_streams",
    TooManySubscriptions = "too_many_subscriptions",
    TransferEncoding = "transfer_encoding",
    UnexpectedResponse = "unexpected_response",
    UnknownApiKey = "unknown_api_key",
    UnknownCursor = "unknown_cursor",
    UnknownEvent = "unknown_event",
    UnknownKey = "unknown_key",
    UnknownLevel = "unknown_level",
    UnknownMethod = "unknown_method",
    UnknownPrompt = "unknown_prompt",
    UnknownResource = "unknown_resource",
    UnknownTask = "unknown_task",
    UnknownTool = "unknown_tool",
    UnsupportedVersion = "unsupported_version",
    UpstreamBusy = "upstream_busy",
    UpstreamCircuitOpen = "upstream_circuit_open",
    UpstreamCredentials = "upstream_credentials",
    UpstreamNonsense = "upstream_nonsense",
    UpstreamRedirects = "upstream_redirects",
    UpstreamSession = "upstream_session",
    UpstreamStarting = "upstream_starting",
    UpstreamTimeout = "upstream_timeout",
    UpstreamTooLarge = "upstream_too_large",
    UpstreamUnavailable = "upstream_unavailable",
    UpstreamUnreachable = "upstream_unreachable",
    UriMissing = "uri_missing",
    Verb = "verb",
    VersionMissing = "version_missing",
    WrongAudience = "wrong_audience",
    WrongIssuer = "wrong_issuer",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::rejection::code;

    /// The rows of docs/protocol/errors.md by reason: the columns HTTP and Code.
    fn rows() -> Vec<(&'static str, &'static str, Option<&'static str>)> {
        let page = include_str!("../../docs/protocol/errors.md");
        let mut rows = Vec::new();
        let mut columns: Vec<&str> = Vec::new();
        for line in page.lines().filter(|line| !line.starts_with("|---")) {
            let Some(row) = line.strip_prefix("| ").and_then(|row| row.strip_suffix(" |")) else {
                columns.clear();
                continue;
            };
            let cells: Vec<&str> = row.split(" | ").collect();
            if columns.is_empty() {
                columns = cells;
                continue;
            }
            if columns.last() != Some(&"`reason`") {
                continue;
            }
            assert_eq!(cells.len(), columns.len(), "{line}");
            let cell = |name| columns.iter().position(|column| *column == name).map(|at| cells[at]);
            let (status, code) = (cell("HTTP").expect("a column HTTP"), cell("Code"));
            let words = cells[cells.len() - 1].split('`').skip(1).step_by(2);
            let is_reason = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            rows.extend(words.filter(is_reason).map(|reason| (reason, status, code)));
        }
        rows
    }

    #[test]
    fn the_page_about_errors_has_each_reason_once_with_its_status() {
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for (reason, status, code) in rows() {
            *count.entry(reason).or_default() += 1;
            let known = ["from the server", "in the array", "in the stream"];
            let is_status = |part: &str| {
                known.contains(&part) || part.parse().is_ok_and(|s: u16| (400..600).contains(&s) || s == 200)
            };
            let status = status.replace(" at `/tools/pins`", "");
            let parts =
                status.split("; ").flat_map(|part| part.split(", or ")).flat_map(|part| part.split(", "));
            assert!(parts.flat_map(|part| part.split(" or ")).all(is_status), "{reason}: {status}");
            assert!(code.is_none_or(|code| !code.trim().is_empty()), "{reason} has no code");
        }
        let listed: Vec<_> = count.into_iter().collect();
        let mut all: Vec<_> = Reason::ALL.iter().map(|reason| (reason.as_str(), 1)).collect();
        all.sort_unstable();
        assert_eq!(listed, all);
    }

    /// Statuses and codes that the sources write beside a reason. `src/stdio` is a client: its errors are on
    /// no path of the gateway. Errors of admin paths have no code.
    #[test]
    fn the_page_about_errors_has_the_statuses_and_codes_of_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut texts = Vec::new();
        read_sources(&root.join("src"), &mut texts);
        read_sources(&root.join("filters/src"), &mut texts);
        let rows = rows();
        let mut found = 0;
        let mut missing = Vec::new();
        for (is_admin, text) in texts {
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
            for (at, _) in text.match_indices("Reason::") {
                let name = text[at + "Reason::".len()..].split(|c: char| !c.is_alphanumeric()).next();
                let reason = Reason::ALL.iter().find(|reason| name == Some(&*format!("{reason:?}")));
                let Some((status, code)) = reason.and(written_before(&text[..at])) else { continue };
                let reason = reason.expect("it is one").as_str();
                found += 1;
                let is_there = rows.iter().any(|(word, statuses, codes)| {
                    *word == reason
                        && statuses.contains(&status.to_string())
                        && codes.is_none_or(|codes| is_admin || codes.contains(&code.to_string()))
                });
                if !is_there {
                    missing.push(format!("{reason}: {status}, {code}"));
                }
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
        assert!(found > 60, "{found} places were found");
    }

    fn read_sources(folder: &Path, texts: &mut Vec<(bool, String)>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("src/stdio") {
                read_sources(&path, texts);
            } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).expect("a readable file");
                let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                texts.push((folder.ends_with("src/admin"), code));
            }
        }
    }

    /// The status and the code in `http(503, `, `new(400, code::PARSE, ` or `(502, `.
    fn written_before(text: &str) -> Option<(u16, i64)> {
        let arguments = text.strip_suffix(", ")?.rsplit('(').next()?;
        let (status, code) = arguments.split_once(", ").unwrap_or((arguments, ""));
        let status: u16 = status.parse().ok()?;
        let code = match code {
            "" => status.into(),
            "code::PARSE" => code::PARSE,
            "code::INVALID_REQUEST" => code::INVALID_REQUEST,
            "code::METHOD_NOT_FOUND" => code::METHOD_NOT_FOUND,
            "code::INVALID_PARAMS" => code::INVALID_PARAMS,
            "code::INTERNAL" => code::INTERNAL,
            "code::HEADER_MISMATCH" => code::HEADER_MISMATCH,
            "code::UNSUPPORTED_VERSION" => code::UNSUPPORTED_VERSION,
            other => panic!("a code that this test does not know: {other}"),
        };
        Some((status, code))
    }
}
