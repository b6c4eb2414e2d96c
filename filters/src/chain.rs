//! The one chain that every call passes, and the permit that only it can give.
//!
//! Invariant 1: a [`Permit`] has a private field, so no code outside this file can make one, and no exit of the
//! gateway can be taken without one.

use crate::agree::Agree;
use crate::auth::Auth;
use crate::call::{Call, Caller, Era, Head, Refused};
use crate::origin::Origin;
use crate::rpc::Rpc;
use crate::size::Size;
use crate::verdict::{Refusal, Verdict};

/// One judge. It sees values and gives a verdict; the default is to have no opinion.
pub trait Filter {
    /// Label in metrics and logs.
    const NAME: &'static str;

    /// Judges the head, before one byte of the body is read.
    fn greet(&self, head: &Head<'_>) -> impl Future<Output = Verdict> + Send {
        let _ = head;
        std::future::ready(Verdict::Pass)
    }

    /// Judges the call as a whole.
    fn admit(&self, call: &mut Call<'_>) -> impl Future<Output = Verdict> + Send {
        let _ = call;
        std::future::ready(Verdict::Pass)
    }
}

/// The filters in the order in which they judge.
pub struct Chain {
    pub origin: Origin,
    pub size: Size,
    pub auth: Auth,
    pub agree: Agree,
    /// Who an unauthenticated caller is.
    pub anonymous: Caller,
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
        greet(&self.origin, head).await?;
        greet(&self.size, head).await?;
        let known = self.auth.identify(head).await;
        let caller =
            known.map_err(|refusal| Stop { filter: "auth", refused: Refused { id: None, refusal } })?;
        Ok(if caller.means == crate::Means::Anonymous { self.anonymous.clone() } else { caller })
    }

    /// Reads the body as one message and tells its era.
    pub fn read<'a>(&self, head: Head<'a>, caller: Caller, body: &'a [u8]) -> Result<Call<'a>, Stop> {
        let rpc = crate::call::read(body, self.size.max_depth)
            .map_err(|refused| Stop { filter: Size::NAME, refused })?;
        let era = self.agree.era(&head, &rpc, body);
        Ok(Call { head, caller, body, rpc, era, aim: None })
    }

    /// Judges the whole call.
    pub async fn admit(&self, mut call: Call<'_>) -> Result<Permit, Stop> {
        admit(&self.agree, &mut call).await?;
        Ok(Permit { rpc: call.rpc, era: call.era, caller: call.caller, proof: Proof(()) })
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

fn stop<F: Filter>(id: Option<crate::json::Span>, refusal: Box<Refusal>) -> Stop {
    Stop { filter: F::NAME, refused: Refused { id, refusal } }
}

/// The right to take one exit with one message.
#[derive(Debug)]
pub struct Permit {
    pub rpc: Rpc,
    pub era: Era,
    pub caller: Caller,
    #[allow(dead_code, reason = "its privacy is its use: nobody else can write this struct")]
    proof: Proof,
}

#[derive(Debug)]
struct Proof(());
