//! The only filter chain, and the permit that only it can make.
//!
//! Invariant 1: a [`Permit`] has a private field, so no code outside of this file can make one. Nothing
//! leaves the gateway without one.

use crate::auth::Auth;
use crate::filter::Filter;
use crate::header_match::HeaderMatch;
use crate::origin::Origin;
use crate::rate_limit::{Rate, Slots};
use crate::rbac::{Denial, Rbac};
use crate::request::{Call, Caller, RejectedMessage, RequestHead};
use crate::size_limits::Size;
use mcp::era::Era;
use mcp::json::reader::Span;
use mcp::jsonrpc::request::Rpc;
use mcp::rejection::Rejection;

/// The filters in their order.
pub struct Chain {
    pub origin: Origin,
    pub size: Size,
    pub auth: Auth,
    pub header_match: HeaderMatch,
    pub rate: Rate,
    pub rbac: Rbac,
}

/// A refusal, and the filter that spoke it.
#[derive(Debug)]
pub struct ChainRejection {
    pub filter: &'static str,
    pub refused: RejectedMessage,
}

impl Chain {
    /// Checks the head: returns the caller, or the rejection.
    pub async fn on_head(&self, head: &RequestHead<'_>) -> Result<Caller, ChainRejection> {
        self.on_head_unauthenticated(head).await?;
        self.auth.identify(head).await.map_err(|rejection| reject(crate::auth::NAME, None, rejection))
    }

    /// Checks the head of a request that needs no credentials.
    pub async fn on_head_unauthenticated(&self, head: &RequestHead<'_>) -> Result<(), ChainRejection> {
        run_on_head(&self.origin, head).await?;
        run_on_head(&self.size, head).await?;
        self.rate.on_head(head, head.peer).await.map_err(|rejection| reject(Rate::NAME, None, rejection))
    }

    /// The caller without credentials.
    pub fn anonymous(&self) -> Caller {
        self.auth.anonymous()
    }

    /// Parses the body as one message and determines its era.
    pub fn read<'a>(
        &self,
        head: RequestHead<'a>,
        caller: Caller,
        body: &'a [u8],
    ) -> Result<Call<'a>, ChainRejection> {
        let rpc = crate::request::read(body, self.size.max_depth)
            .map_err(|refused| ChainRejection { filter: Size::NAME, refused })?;
        let client_era = self.header_match.client_era(&head, &rpc, body);
        Ok(Call { head, caller, body, rpc, client_era, target: None })
    }

    /// Checks the whole call.
    pub async fn on_request(&self, mut call: Call<'_>) -> Result<Permit, ChainRejection> {
        let id = call.id();
        run_on_request(&self.header_match, &mut call).await?;
        let slots = self
            .rate
            .on_request(&call, call.head.peer)
            .await
            .map_err(|rejection| reject(Rate::NAME, id, rejection))?;
        match self.rbac.enforce(&call) {
            Ok(()) => {}
            Err(Denial::Rejected(rejection)) => return Err(reject(crate::rbac::NAME, id, rejection)),
            Err(Denial::MissingScopes(scopes)) => {
                let rejection = self.auth.insufficient_scope(call.head.path, &scopes);
                return Err(reject(crate::rbac::NAME, id, Box::new(rejection)));
            }
        }
        Ok(Permit {
            rpc: call.rpc,
            client_era: call.client_era,
            caller: call.caller,
            slots,
            proof: Proof(()),
        })
    }
}

async fn run_on_head<F: Filter>(filter: &F, head: &RequestHead<'_>) -> Result<(), ChainRejection> {
    match filter.on_head(head).await {
        Ok(()) => Ok(()),
        Err(rejection) => Err(rejected_by::<F>(None, rejection)),
    }
}

async fn run_on_request<F: Filter>(filter: &F, call: &mut Call<'_>) -> Result<(), ChainRejection> {
    match filter.on_request(call).await {
        Ok(()) => Ok(()),
        Err(rejection) => Err(rejected_by::<F>(call.id(), rejection)),
    }
}

fn rejected_by<F: Filter>(id: Option<Span>, rejection: Box<Rejection>) -> ChainRejection {
    reject(F::NAME, id, rejection)
}

fn reject(filter: &'static str, id: Option<Span>, rejection: Box<Rejection>) -> ChainRejection {
    ChainRejection { filter, refused: RejectedMessage { id, rejection } }
}

/// The right to send one message.
#[derive(Debug)]
pub struct Permit {
    pub rpc: Box<Rpc>,
    pub client_era: Era,
    pub caller: Caller,
    /// The call's slots in concurrency limits; given back on drop.
    pub slots: Slots,
    #[allow(dead_code, reason = "its privacy is its use: nobody else can write this struct")]
    proof: Proof,
}

#[derive(Debug)]
struct Proof(());
