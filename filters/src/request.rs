//! A request as the filters see it: its head, its caller, and its body.

use mcp::Reason;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, Method};

use mcp::era::Era;
use mcp::json::reader::Span;
use mcp::jsonrpc::request;
use mcp::jsonrpc::request::{MessageKind, ParseError, ParseErrorKind, Rpc};
use mcp::rejection::{Rejection, code};

/// The head of a request. Callers inside the process have one too, with `outside` false.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    pub http_method: &'a Method,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    /// HTTP/2 has the host in `:authority`, not in a header.
    pub authority: Option<&'a str>,
    /// The address of the client, by the connection or from a trusted proxy.
    pub peer: Option<IpAddr>,
    /// The certificate of the connection, if there is one and it was verified.
    pub certificate: Option<&'a ClientCertificate>,
    /// It came over a socket, so that headers have meaning.
    pub is_network: bool,
}

/// The identity in a client's verified certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its first URI, else its first DNS name, else its first e-mail address, else the common name of its
    /// subject.
    pub principal: String,
}

impl<'a> RequestHead<'a> {
    /// The value of a header that is present once, without surrounding white space.
    pub fn single(&self, name: &HeaderName) -> Result<Option<&'a str>, AmbiguousHeader> {
        let mut all = self.headers.get_all(name).iter();
        match (all.next(), all.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => {
                value.to_str().map(|v| Some(v.trim_matches([' ', '\t']))).map_err(|_| AmbiguousHeader)
            }
            _ => Err(AmbiguousHeader),
        }
    }
}

/// A duplicate header, or one that is not visible ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmbiguousHeader;

/// The caller. Each permit clones it, so it is one pointer.
#[derive(Clone, Debug)]
pub struct Caller(Arc<CallerInner>);

#[derive(Debug)]
struct CallerInner {
    identity: Identity,
    id: u64,
}

/// The known facts of an authenticated caller.
#[derive(Debug, Default)]
pub struct Identity {
    /// The user's name for logs, limits and audit.
    pub user: String,
    pub tenant: Option<String>,
    /// Names of roles, sorted and unique. Unknown names have no effect.
    pub roles: Vec<String>,
    /// OAuth scopes of the token, sorted, each once.
    pub scopes: Vec<String>,
    pub auth_method: AuthMethod,
    /// The issuer of the token. Users with the same name of two issuers are two users.
    pub issuer: Option<String>,
    /// The id of the API key.
    pub api_key_id: Option<String>,
    /// The verified claims of a token, for rules.
    pub claims: serde_json::Map<String, serde_json::Value>,
}

/// How the caller was authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    #[default]
    Anonymous,
    Jwt,
    ApiKey,
    Certificate,
    /// The command line: a user who can read the configuration names the caller.
    Operator,
}

impl AuthMethod {
    /// The value in rules and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMethod::Anonymous => "anonymous",
            AuthMethod::Jwt => "jwt",
            AuthMethod::ApiKey => "api_key",
            AuthMethod::Certificate => "certificate",
            AuthMethod::Operator => "operator",
        }
    }
}

impl Caller {
    pub fn new(identity: Identity) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(Arc::new(CallerInner { identity, id: NEXT.fetch_add(1, Ordering::Relaxed) }))
    }

    /// Unique among all identities of this process.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Whether both are the same user by the same method, whatever their current tokens and roles.
    pub fn same_principal(&self, other: &Caller) -> bool {
        fn who(caller: &Caller) -> (AuthMethod, Option<&str>, Option<&str>, &str) {
            (caller.auth_method, caller.issuer.as_deref(), caller.tenant.as_deref(), &caller.user)
        }
        Arc::ptr_eq(&self.0, &other.0) || who(self) == who(other)
    }
}

impl std::ops::Deref for Caller {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0.identity
    }
}

/// The target of a call, from the catalog. The names are borrowed from the catalog or the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallTarget<'a> {
    pub kind: TargetKind,
    /// The qualified name of a tool or prompt (`files__read`), whatever its name on the endpoint; the URI of
    /// a resource or resource template; empty if the method concerns a whole server.
    pub name: &'a str,
    /// The configured name of the server.
    pub server: &'a str,
}

/// The kinds of targets of roles and rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetKind {
    Tool,
    Prompt,
    Resource,
    /// A server as a whole.
    Server,
}

/// One message on its way through the chain.
pub struct Call<'a> {
    pub head: RequestHead<'a>,
    pub caller: Caller,
    pub body: &'a [u8],
    /// It is large, and moved from hand to hand.
    pub rpc: Box<Rpc>,
    pub client_era: Era,
    /// Filled in from the catalog before the decision; `None` without a known target.
    pub target: Option<CallTarget<'a>>,
}

impl Call<'_> {
    /// The id of the response. A response of the client has the server's own id: an error with it would
    /// answer the client's own request with the same id.
    pub fn id(&self) -> Option<Span> {
        self.rpc.id.filter(|_| self.rpc.kind == MessageKind::Request)
    }
}

/// A rejection with the id of its response.
#[derive(Debug)]
pub struct RejectedMessage {
    pub id: Option<Span>,
    pub rejection: Box<Rejection>,
}

impl From<ParseError> for RejectedMessage {
    fn from(error: ParseError) -> Self {
        let code = match error.kind {
            ParseErrorKind::Json(fault) if fault.kind == mcp::json::reader::JsonErrorKind::Depth => {
                code::INVALID_REQUEST
            }
            ParseErrorKind::Json(_) => code::PARSE,
            // JSON-RPC 2.0 §5.1: the request is one, only its parameters are not those of the method.
            ParseErrorKind::String(_) => code::INVALID_PARAMS,
            ParseErrorKind::Object(what) if what != "params" => code::INVALID_PARAMS,
            _ => code::INVALID_REQUEST,
        };
        let reason = match error.kind {
            ParseErrorKind::Json(_) => Reason::NotJson,
            ParseErrorKind::DuplicateKey(_) | ParseErrorKind::LookalikeKey(..) => Reason::AmbiguousKey,
            _ => Reason::NotJsonRpc,
        };
        let rejection = Rejection::new(400, code, reason, error.kind.to_string());
        Self { id: error.id, rejection: Box::new(rejection) }
    }
}

/// Parses a body within the depth limit.
pub fn read(body: &[u8], max_depth: usize) -> Result<Box<Rpc>, RejectedMessage> {
    request::read(body, max_depth).map(Box::new).map_err(RejectedMessage::from)
}
