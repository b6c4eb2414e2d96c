//! What is judged: the head of a request, who sent it, and what its body says.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, Method};

use mcp::era::Era;
use mcp::json::reader::Span;
use mcp::jsonrpc::request;
use mcp::jsonrpc::request::{Kind, Rpc, Unreadable, Why};
use mcp::rejection::{Refusal, code};

/// The head of a request. Callers inside the process have one too, with `outside` false.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub verb: &'a Method,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    /// HTTP/2 has the host in `:authority`, not in a header.
    pub authority: Option<&'a str>,
    /// The address of the client, by the connection or by the word of a trusted proxy.
    pub peer: Option<IpAddr>,
    /// The certificate of the connection, if there is one and it was verified.
    pub certificate: Option<&'a Certificate>,
    /// Came over a socket, so that headers mean something.
    pub outside: bool,
}

/// What a client's verified certificate says of who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its first URI, else its first DNS name, else its first e-mail address, else the common name of its subject.
    pub principal: String,
}

impl<'a> Head<'a> {
    /// The value of a header that stands once, without the white space around it.
    pub fn one(&self, name: &HeaderName) -> Result<Option<&'a str>, Doubtful> {
        let mut all = self.headers.get_all(name).iter();
        match (all.next(), all.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => {
                value.to_str().map(|v| Some(v.trim_matches([' ', '\t']))).map_err(|_| Doubtful)
            }
            _ => Err(Doubtful),
        }
    }
}

/// A header that stands more than once, or is not visible ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubtful;

/// Who calls. Cloned with each permit, so it is one pointer.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Known>);

#[derive(Debug)]
struct Known {
    identity: Identity,
    serial: u64,
}

/// What is known of a caller once its credentials are checked.
#[derive(Debug, Default)]
pub struct Identity {
    /// The user's name for logs, limits and audit.
    pub user: String,
    pub tenant: Option<String>,
    /// Names of roles, sorted, each once. Names that the configuration does not know mean nothing.
    pub roles: Vec<String>,
    /// OAuth scopes of the token, sorted, each once.
    pub scopes: Vec<String>,
    pub means: Means,
    /// Who vouches for the user: the issuer of a token. Two issuers' users of one name are two users.
    pub issuer: Option<String>,
    /// The id of the API key.
    pub key: Option<String>,
    /// The verified claims of a token, for rules.
    pub claims: serde_json::Map<String, serde_json::Value>,
}

/// By what a caller is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Means {
    #[default]
    Anonymous,
    Jwt,
    ApiKey,
    Certificate,
    /// The command line, on the word of whoever can read the configuration.
    Operator,
}

impl Means {
    /// The word of rules and logs.
    pub fn word(self) -> &'static str {
        match self {
            Means::Anonymous => "anonymous",
            Means::Jwt => "jwt",
            Means::ApiKey => "api_key",
            Means::Certificate => "certificate",
            Means::Operator => "operator",
        }
    }
}

impl Caller {
    pub fn new(identity: Identity) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(Arc::new(Known { identity, serial: NEXT.fetch_add(1, Ordering::Relaxed) }))
    }

    /// Tells this identity from every other one that was ever made in this process.
    pub fn serial(&self) -> u64 {
        self.0.serial
    }

    /// Whether both are the same user by the same means, whatever token or roles they have at the moment.
    pub fn is_same_as(&self, other: &Caller) -> bool {
        fn who(caller: &Caller) -> (Means, Option<&str>, Option<&str>, &str) {
            (caller.means, caller.issuer.as_deref(), caller.tenant.as_deref(), &caller.user)
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

/// What a call is about to touch, as the catalog knows it. The names are borrowed from the catalog or the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim<'a> {
    pub thing: Thing,
    /// The federated name of a tool or prompt (`files__read`), whatever the endpoint calls it; the URI of a
    /// resource or resource template; empty where a method goes to a server as a whole.
    pub name: &'a str,
    /// The configured name of the server.
    pub server: &'a str,
}

/// The kinds of things that roles and rules speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Thing {
    Tool,
    Prompt,
    Resource,
    /// A server as a whole.
    Server,
}

/// One message on its way through the chain.
pub struct Call<'a> {
    pub head: Head<'a>,
    pub caller: Caller,
    pub body: &'a [u8],
    /// It is large, and moved from hand to hand.
    pub rpc: Box<Rpc>,
    pub era: Era,
    /// Filled in from the catalog before the call is judged; `None` where it touches nothing that is known.
    pub aim: Option<Aim<'a>>,
}

impl Call<'_> {
    /// The id to answer under. That of a response is the server's own: an error under it would answer whatever
    /// the client itself asked under the same id.
    pub fn id(&self) -> Option<Span> {
        self.rpc.id.filter(|_| self.rpc.kind == Kind::Request)
    }
}

/// A refusal together with the id to answer under.
#[derive(Debug)]
pub struct Refused {
    pub id: Option<Span>,
    pub refusal: Box<Refusal>,
}

impl From<Unreadable> for Refused {
    fn from(unreadable: Unreadable) -> Self {
        let code = match unreadable.why {
            Why::Json(fault) if fault.what == mcp::json::reader::Flaw::Depth => code::INVALID_REQUEST,
            Why::Json(_) => code::PARSE,
            // JSON-RPC 2.0 §5.1: the request is one, only its parameters are not those of the method.
            Why::String(_) => code::INVALID_PARAMS,
            Why::Object(what) if what != "params" => code::INVALID_PARAMS,
            _ => code::INVALID_REQUEST,
        };
        let reason = match unreadable.why {
            Why::Json(_) => "not_json",
            Why::Duplicate(_) | Why::LookAlike(..) => "ambiguous_key",
            _ => "not_json_rpc",
        };
        let refusal = Refusal::new(400, code, reason, unreadable.why.to_string());
        Self { id: unreadable.id, refusal: Box::new(refusal) }
    }
}

/// Reads a body under the depth limit.
pub fn read(body: &[u8], max_depth: usize) -> Result<Box<Rpc>, Refused> {
    request::read(body, max_depth).map(Box::new).map_err(Refused::from)
}
