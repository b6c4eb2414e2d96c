//! What a message is about to touch, told before it is judged.
//!
//! It only looks: whether the caller may is the chain's matter, and where the call goes the door's. A name that no
//! list has is given to the server it would belong to, so that nobody learns of a server by a guessed name.

use std::cell::OnceCell;

use filters::{Call, CallTarget, TargetKind};
use mcp::{Era, MessageKind as Shape, Text};

use super::rejections::other_era;
use crate::catalog::{Endpoint, Target};
use mcp::method::Method;

/// What a call is about to touch.
#[derive(Clone, Copy)]
pub struct ResolvedTarget<'a> {
    pub aim: CallTarget<'a>,
    /// The entry of the catalog, where there is one.
    pub target: Option<&'a Target>,
}

/// The aim of a call at an endpoint. Names that are not written as they read are kept in `room`.
pub fn resolve_target<'a>(
    endpoint: &'a Endpoint,
    call: &Call<'a>,
    room: &'a OnceCell<String>,
) -> Option<ResolvedTarget<'a>> {
    if call.rpc.kind != Shape::Request {
        return None;
    }
    let (rpc, body) = (&call.rpc, call.body);
    let look = Resolver { endpoint, era: call.era, body, room };
    match Method::parse(&rpc.method_name(body)) {
        Method::ToolsCall => look.named(TargetKind::Tool, rpc.name?),
        Method::PromptsGet => look.named(TargetKind::Prompt, rpc.name?),
        Method::ResourcesRead | Method::Subscribe | Method::Unsubscribe => look.resource(rpc.uri?),
        Method::Complete => match rpc.reference.unwrap_or_default() {
            mcp::jsonrpc::request::Reference { name: Some(name), uri: None } => {
                look.named(TargetKind::Prompt, name)
            }
            mcp::jsonrpc::request::Reference { name: None, uri: Some(uri) } => look.resource(uri),
            _ => None,
        },
        Method::SetLevel
        | Method::TasksGet
        | Method::TasksResult
        | Method::TasksCancel
        | Method::TasksList
        | Method::TasksUpdate
        | Method::Other => {
            let server = endpoint.single.as_ref()?;
            Some(ResolvedTarget {
                aim: CallTarget { kind: TargetKind::Server, name: "", server: &server.name },
                target: None,
            })
        }
        _ => None,
    }
}

struct Resolver<'a> {
    endpoint: &'a Endpoint,
    era: Era,
    body: &'a [u8],
    room: &'a OnceCell<String>,
}

impl<'a> Resolver<'a> {
    fn named(&self, thing: TargetKind, name: Text) -> Option<ResolvedTarget<'a>> {
        let said = name.read(self.body);
        let find = |era| -> Option<&'a Target> {
            let view = self.endpoint.view(era);
            if thing == TargetKind::Tool { view.tools.get(&*said) } else { view.prompts.get(&*said) }
        };
        if let Some(target) = find(self.era).or_else(|| find(other_era(self.era))) {
            let aim = CallTarget { kind: thing, name: &target.qualified_name, server: &target.server.name };
            return Some(ResolvedTarget { aim, target: Some(target) });
        }
        let (server, full) = match &self.endpoint.single {
            Some(server) => (server, server.federated(&said)),
            None => {
                let owner = self.endpoint.members.iter().find(|server| server.owns_prefix(&said))?;
                (owner, said.into_owned())
            }
        };
        let aim = CallTarget { kind: thing, name: self.room.get_or_init(|| full), server: &server.name };
        Some(ResolvedTarget { aim, target: None })
    }

    fn resource(&self, uri: Text) -> Option<ResolvedTarget<'a>> {
        let said: &'a str = match uri.read(self.body) {
            std::borrow::Cow::Borrowed(said) => said,
            std::borrow::Cow::Owned(said) => self.room.get_or_init(|| said),
        };
        let find = |era| self.endpoint.view(era).resource(said);
        let target: Option<&'a Target> = find(self.era).or_else(|| find(other_era(self.era)));
        let server = target.map(|target| &target.server).or(self.endpoint.single.as_ref())?;
        Some(ResolvedTarget {
            aim: CallTarget { kind: TargetKind::Resource, name: said, server: &server.name },
            target,
        })
    }
}
