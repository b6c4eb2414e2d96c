//! The one chain that every call passes, and the permit that only it can give.
//!
//! Invariant 1: a [`Permit`] has a private field, so no code outside this file can make one, and no exit of the
//! gateway can be taken without one.

use crate::auth::Auth;
use crate::filter::Filter;
use crate::header_match::Agree;
use crate::origin::Origin;
use crate::rate_limit::{Held, Rate};
use crate::rbac::{Denied, Rbac};
use crate::request::{Call, Caller, Head, Refused};
use crate::size_limits::Size;
use mcp::era::Era;
use mcp::json::reader::Span;
use mcp::jsonrpc::request::Rpc;
use mcp::rejection::{Refusal, Verdict};

/// The filters in the order in which they judge.
pub struct Chain {
    pub origin: Origin,
    pub size: Size,
    pub auth: Auth,
    pub agree: Agree,
    pub rate: Rate,
    pub rbac: Rbac,
}

/// A refusal, and the filter that spoke it.
#[derive(Debug)]
pub struct Stop {
    pub filter: &'static str,
    pub refused: Refused,
}

impl Chain {
    /// Judges the head: gives the caller, or why there is none.
    pub async fn greet(&self, head: &Head<'_>) -> Result<Caller, Stop> {
        self.glance(head).await?;
        self.auth.identify(head).await.map_err(|refusal| halt(crate::auth::NAME, None, refusal))
    }

    /// Judges the head of a request that needs no credentials.
    pub async fn glance(&self, head: &Head<'_>) -> Result<(), Stop> {
        greet(&self.origin, head).await?;
        greet(&self.size, head).await?;
        self.rate.greet(head, head.peer).await.map_err(|refusal| halt(Rate::NAME, None, refusal))
    }

    /// Who a caller without credentials is.
    pub fn anonymous(&self) -> Caller {
        self.auth.anonymous()
    }

    /// Reads the body as one message and tells its era.
    pub fn read<'a>(&self, head: Head<'a>, caller: Caller, body: &'a [u8]) -> Result<Call<'a>, Stop> {
        let rpc = crate::request::read(body, self.size.max_depth)
            .map_err(|refused| Stop { filter: Size::NAME, refused })?;
        let era = self.agree.era(&head, &rpc, body);
        Ok(Call { head, caller, body, rpc, era, aim: None })
    }

    /// Judges the whole call.
    pub async fn admit(&self, mut call: Call<'_>) -> Result<Permit, Stop> {
        let id = call.id();
        admit(&self.agree, &mut call).await?;
        let held =
            self.rate.admit(&call, call.head.peer).await.map_err(|refusal| halt(Rate::NAME, id, refusal))?;
        match self.rbac.admit(&call) {
            Ok(()) => {}
            Err(Denied::Refusal(refusal)) => return Err(halt(crate::rbac::NAME, id, refusal)),
            Err(Denied::Scopes(scopes)) => {
                let refusal = self.auth.insufficient_scope(call.head.path, &scopes);
                return Err(halt(crate::rbac::NAME, id, Box::new(refusal)));
            }
        }
        Ok(Permit { rpc: call.rpc, era: call.era, caller: call.caller, held, proof: Proof(()) })
    }
}

async fn greet<F: Filter>(filter: &F, head: &Head<'_>) -> Result<(), Stop> {
    match filter.greet(head).await {
        Verdict::Pass => Ok(()),
        Verdict::Refuse(refusal) => Err(stop::<F>(None, refusal)),
    }
}

async fn admit<F: Filter>(filter: &F, call: &mut Call<'_>) -> Result<(), Stop> {
    match filter.admit(call).await {
        Verdict::Pass => Ok(()),
        Verdict::Refuse(refusal) => Err(stop::<F>(call.id(), refusal)),
    }
}

fn stop<F: Filter>(id: Option<Span>, refusal: Box<Refusal>) -> Stop {
    halt(F::NAME, id, refusal)
}

fn halt(filter: &'static str, id: Option<Span>, refusal: Box<Refusal>) -> Stop {
    Stop { filter, refused: Refused { id, refusal } }
}

/// The right to take one exit with one message.
#[derive(Debug)]
pub struct Permit {
    pub rpc: Box<Rpc>,
    pub era: Era,
    pub caller: Caller,
    /// The places that the call takes up in limits of what runs at a time; given back when this is dropped.
    pub held: Held,
    #[allow(dead_code, reason = "its privacy is its use: nobody else can write this struct")]
    proof: Proof,
}

#[derive(Debug)]
struct Proof(());
