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
    let method = call.method.as_str();
    let binding = Binding::new(&client.caller, client.address, &client.endpoint, method, &call.params);
    let mut leg = Leg::new(&call, &client, out);
    leg.bearer = bearer;
    let continuation = match &client.request_state {
        None => None,
        Some(state) => Some(request_state::open(&bridge.keyring.load(), &binding, state)?),
    };
    match continuation {
        None | Some(Continuation::Repeated) => begin(bridge, call, client, binding, leg)?,
        Some(Continuation::Parked(process, place)) => {
            let (bridge, owner) = (bridge.clone(), binding.owner);
            let runtime = bridge.runtime.clone();
            match process == bridge.process {
                true => runtime.spawn(async move { resume(&bridge, place, owner, leg).await }),
                false => runtime.spawn(relay(bridge, process, place, owner, leg)),
            };
        }
    }
    Ok(stream)
}
