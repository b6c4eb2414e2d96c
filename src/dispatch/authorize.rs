//! From bytes to a permit: the message is read, its aim is looked up, what must not go on is taken out (`clean`), and
//! the chain judges what is then there. What was judged is what goes on.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;
use filters::guard;
use filters::rate_limit::Held;
use filters::{Aim, Call, Caller, Head, Permit, Stop};
use mcp::json::reader::Span;
use mcp::{Era, Refusal};

use super::target::{Aimed, aim};
use super::text_places;
use super::{Door, Told};
use crate::catalog::{Endpoint, Target};
use crate::config::Validate;
use crate::registry::House;
use mcp::jsonrpc::message;
use mcp::method::Method;

/// The label of what the guard refuses.
const GUARD: &str = "guard";

/// A message that may go on, and its bytes.
pub struct Judged {
    pub permit: Permit,
    pub body: Bytes,
    /// The id of a request, as written.
    pub id: Option<Bytes>,
}

/// Why a message may not go on.
#[derive(Debug)]
pub struct Halt {
    pub filter: &'static str,
    pub refusal: Box<Refusal>,
    /// The id to answer under, as written.
    pub id: Option<Bytes>,
}

impl Halt {
    pub fn of(stop: Stop, body: &[u8]) -> Self {
        Self { filter: stop.filter, refusal: stop.refused.refusal, id: written(stop.refused.id, body) }
    }
}

/// The places of a call that takes any, to be shared by all who go on with it.
pub fn kept(held: Held) -> Option<Arc<Held>> {
    (!held.is_empty()).then(|| Arc::new(held))
}

fn written(id: Option<Span>, body: &[u8]) -> Option<Bytes> {
    id.map(|id| Bytes::copy_from_slice(id.of(body)))
}

impl Door {
    /// Judges a message whose head was greeted already.
    pub async fn judge(
        &self,
        house: &House,
        endpoint: &Endpoint,
        head: Head<'_>,
        caller: Caller,
        mut body: Bytes,
        told: &mut Told,
    ) -> Result<Judged, Halt> {
        let chain = &house.plan.chain;
        let (id, clean, permit) = {
            let call = chain.read(head, caller.clone(), &body).map_err(|stop| Halt::of(stop, &body))?;
            let id = written(call.id(), &body);
            let room = OnceCell::new();
            let aimed = aim(endpoint, &call, &room);
            // Who was refused what is to be told too.
            tell(told, &call, aimed.as_ref());
            let aim = aimed.map(|aimed| aimed.aim);
            let clean = self.cleaned(house, endpoint, &call, aim.as_ref());
            let clean = clean.map_err(|refusal| Halt { filter: GUARD, refusal, id: id.clone() })?;
            let permit = match &clean {
                None => Some(self.admitted(house, endpoint, call, aim, None, id.as_ref()).await?),
                Some(_) => None,
            };
            (id, clean, permit)
        };
        if let Some(permit) = permit {
            return Ok(Judged { permit, body, id });
        }
        let said = std::mem::replace(&mut body, clean.unwrap_or_default());
        let call = chain.read(head, caller, &body).map_err(|stop| Halt::of(stop, &body))?;
        let room = OnceCell::new();
        let aim = aim(endpoint, &call, &room).map(|aimed| aimed.aim);
        let permit = self.admitted(house, endpoint, call, aim, Some(&said), id.as_ref()).await?;
        Ok(Judged { permit, body, id })
    }

    async fn admitted<'a>(
        &self,
        house: &House,
        endpoint: &Endpoint,
        mut call: Call<'a>,
        aim: Option<Aim<'a>>,
        came: Option<&Bytes>,
        id: Option<&Bytes>,
    ) -> Result<Permit, Halt> {
        call.aim = aim;
        let (era, body, head) = (call.era, call.body, call.head);
        let permit = house.plan.chain.admit(call).await.map_err(|stop| Halt::of(stop, body))?;
        let halt = |refusal| Halt { filter: GUARD, refusal: Box::new(refusal), id: id.cloned() };
        let Some(aim) = aim else { return Ok(permit) };
        // The head repeats what its sender wrote, secrets and all.
        let target = called(endpoint, &permit, body);
        mirrored(target, &permit, &head, body, came).map_err(halt)?;
        let Some(server) = house.servers.get(aim.server) else { return Ok(permit) };
        let place = || text_places::request(Method::of(&permit.rpc.method_name(body)));
        self.unblocked(house, server, body, place, era).map_err(|refusal| halt(*refusal))?;
        let arguments = permit.rpc.arguments.map(|arguments| arguments.of(body));
        self.fitting(target, era, arguments).map(|()| permit).map_err(halt)
    }

    /// Whether the arguments fit the tool's schema, where somebody wants to know.
    fn fitting(&self, target: Option<&Target>, era: Era, arguments: Option<&[u8]>) -> Result<(), Refusal> {
        let Some(target) = target else { return Ok(()) };
        let Some(schema) = &target.schema else { return Ok(()) };
        let name = &target.label;
        let refusal = match schema.get().map(|schema| schema.check(arguments)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(violations)) => guard::schema::refusal(name, &violations, era),
            Err(why) => {
                let words = format!("the inputSchema of `{name}` cannot be used: {why}");
                Refusal::http(502, "schema_unusable", words)
            }
        };
        if target.server.config.validate == Validate::Enforce {
            return Err(refusal);
        }
        tracing::warn!(server = %target.server.name, tool = %target.label, why = %refusal.message, "arguments do not fit the schema");
        Ok(())
    }
}

/// The tool that a permitted message calls.
fn called<'a>(endpoint: &'a Endpoint, permit: &Permit, body: &[u8]) -> Option<&'a Target> {
    permit.rpc.method.filter(|method| method.is(body, "tools/call"))?;
    endpoint.view(permit.era).tools.get(&*permit.rpc.name?.read(body))
}

/// Whether the head repeats the arguments that it must; `said` is the body as it came, where it was changed since.
fn mirrored(
    target: Option<&Target>,
    permit: &Permit,
    head: &Head<'_>,
    body: &[u8],
    said: Option<&Bytes>,
) -> Result<(), Refusal> {
    if !head.outside || permit.era != Era::Modern {
        return Ok(());
    }
    let Some(mirrors) = target.and_then(|target| target.mirrors.as_ref()) else { return Ok(()) };
    match said {
        None => mirrors.agree(head, permit.rpc.arguments.map(|arguments| arguments.of(body))),
        Some(said) => {
            let params = message::member(said, "params").map(|place| place.of(said)).unwrap_or_default();
            mirrors.agree(head, message::member(params, "arguments").map(|place| place.of(params)))
        }
    }
}

/// Notes what a call is about, in words of the catalog and never in those of its sender.
fn tell(told: &mut Told, call: &Call<'_>, aimed: Option<&Aimed<'_>>) {
    told.method = Method::of(&call.rpc.method_name(call.body)).word();
    if let Some(target) = aimed.and_then(|aimed| aimed.target) {
        told.server = Some(target.server.name.clone());
        told.tool = Some(target.label.clone());
        told.counted = told.method.eq(target.counted.method()).then(|| target.counted.clone());
    }
}

pub(super) fn unreadable() -> Refusal {
    Refusal::http(400, "not_json", "the message cannot be read")
}
