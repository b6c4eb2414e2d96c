//! A request of a modern client to a legacy server: a new call, or a retry of one that waits here or in another
//! process.

use std::sync::Arc;

use http::HeaderValue;
use mcp::Rejection;
use tokio::sync::mpsc;

use super::modern_client::{Leg, begin, resume};
use super::relay::relay;
use super::request_state::{self, Binding, Continuation};
use super::{Bridge, BridgedRequest, ModernClient};
use crate::streams::MessageStream;

pub(super) fn start(
    bridge: &Arc<Bridge>,
    call: BridgedRequest,
    client: ModernClient,
    bearer: Option<HeaderValue>,
) -> Result<MessageStream, Box<Rejection>> {
    let (out, items) = mpsc::channel(32);
    let stream = MessageStream { items, stream: false, abort_on_drop: None, final_message: None };
    let mut leg = Leg::new(&call, &client, out);
    leg.bearer = bearer;
    let continuation = match &client.request_state {
        None => None,
        Some(state) => {
            let binding = Binding::of(&client, call.method, &call.params);
            Some((request_state::open(&bridge.keyring.load(), &binding, state)?, binding.owner))
        }
    };
    match continuation {
        None | Some((Continuation::Repeated, _)) => begin(bridge, call, client, leg)?,
        Some((Continuation::Parked(process, place), owner)) => {
            let bridge = bridge.clone();
            let runtime = bridge.runtime.clone();
            match process == bridge.process {
                true => runtime.spawn(async move { resume(&bridge, place, owner, leg).await }),
                false => runtime.spawn(relay(bridge, process, place, owner, leg)),
            };
        }
    }
    Ok(stream)
}
