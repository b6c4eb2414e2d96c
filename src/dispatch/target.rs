//! Resolves the target of a message, before it is authorized.
//!
//! It only looks names up. The chain decides whether the caller may, and the dispatcher where the call goes.
//! An unknown name is attributed to the server that it would belong to, so that a guessed name reveals no
//! server.

use std::cell::OnceCell;

use filters::{Call, CallTarget, TargetKind};
use mcp::{Era, MessageKind as Shape, Text};

use crate::catalog::{Endpoint, Target};
use crate::tasks::handle::TaskHandle;
use mcp::method::Method;

/// The target of a call.
#[derive(Clone, Copy)]
pub struct ResolvedTarget<'a> {
    pub call_target: CallTarget<'a>,
    /// The entry of the catalog, if there is one.
    pub target: Option<&'a Target>,
}

/// The target of a call at an endpoint. Names with escapes are unescaped into `unescaped`. A request about a
/// `task` is one for the tool whose call the task is.
pub fn resolve_target<'a>(
    endpoint: &'a Endpoint,
    call: &Call<'a>,
    unescaped: &'a OnceCell<String>,
    task: Option<&'a TaskHandle>,
) -> Option<ResolvedTarget<'a>> {
    if call.rpc.kind != Shape::Request {
        return None;
    }
    let (rpc, body) = (&call.rpc, call.body);
    let resolver = Resolver { endpoint, client_era: call.client_era, body, unescaped };
    match Method::parse(&rpc.method_name(body)) {
        Method::ToolsCall => resolver.named(TargetKind::Tool, rpc.name?),
        Method::PromptsGet => resolver.named(TargetKind::Prompt, rpc.name?),
        Method::ResourcesRead | Method::Subscribe | Method::Unsubscribe => resolver.resource(rpc.uri?),
        Method::Complete => match rpc.reference.unwrap_or_default() {
            mcp::jsonrpc::request::Reference { name: Some(name), uri: None } => {
                resolver.named(TargetKind::Prompt, name)
            }
            mcp::jsonrpc::request::Reference { name: None, uri: Some(uri) } => resolver.resource(uri),
            _ => None,
        },
        Method::TasksGet | Method::TasksUpdate | Method::TasksCancel if call.client_era == Era::Modern => {
            let TaskHandle { tool, server, .. } = task?;
            Some(ResolvedTarget {
                call_target: CallTarget { kind: TargetKind::Tool, name: tool, server },
                target: None,
            })
        }
        Method::SetLevel
        | Method::TasksGet
        | Method::TasksResult
        | Method::TasksCancel
        | Method::TasksList
        | Method::TasksUpdate
        | Method::Other => {
            let server = endpoint.single.as_ref()?;
            Some(ResolvedTarget {
                call_target: CallTarget { kind: TargetKind::Server, name: "", server: &server.name },
                target: None,
            })
        }
        _ => None,
    }
}

struct Resolver<'a> {
    endpoint: &'a Endpoint,
    client_era: Era,
    body: &'a [u8],
    unescaped: &'a OnceCell<String>,
}

impl<'a> Resolver<'a> {
    fn named(&self, kind: TargetKind, name: Text) -> Option<ResolvedTarget<'a>> {
        let requested = name.read(self.body);
        let find = |era| -> Option<&'a Target> {
            let view = self.endpoint.view(era);
            if kind == TargetKind::Tool { view.tools.get(&*requested) } else { view.prompts.get(&*requested) }
        };
        if let Some(target) = find(self.client_era).or_else(|| find(self.client_era.other())) {
            let call_target = CallTarget { kind, name: &target.qualified_name, server: &target.server.name };
            return Some(ResolvedTarget { call_target, target: Some(target) });
        }
        let (server, qualified) = match &self.endpoint.single {
            Some(server) => (server, server.federated(&requested)),
            None => {
                let owner = self.endpoint.members.iter().find(|server| server.owns_prefix(&requested))?;
                (owner, requested.into_owned())
            }
        };
        let call_target =
            CallTarget { kind, name: self.unescaped.get_or_init(|| qualified), server: &server.name };
        Some(ResolvedTarget { call_target, target: None })
    }

    fn resource(&self, uri: Text) -> Option<ResolvedTarget<'a>> {
        let requested: &'a str = match uri.read(self.body) {
            std::borrow::Cow::Borrowed(requested) => requested,
            std::borrow::Cow::Owned(requested) => self.unescaped.get_or_init(|| requested),
        };
        let find = |era| self.endpoint.view(era).resource(requested);
        let target: Option<&'a Target> = find(self.client_era).or_else(|| find(self.client_era.other()));
        let server = target.map(|target| &target.server).or(self.endpoint.single.as_ref())?;
        Some(ResolvedTarget {
            call_target: CallTarget { kind: TargetKind::Resource, name: requested, server: &server.name },
            target,
        })
    }
}
