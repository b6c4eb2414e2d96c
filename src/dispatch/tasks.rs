//! Calls that may become tasks, and requests about tasks (SEP-2663). `tasks/` sends them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use filters::rate_limit::Slots;
use filters::rbac::AccessQuery;
use filters::{Call, CallTarget, RequestHead, TargetKind};
use http::{HeaderName, HeaderValue};
use mcp::jsonrpc::message;
use mcp::method::Method;
use mcp::rejection::code;
use mcp::{Era, Reason, Rejection, Span, tasks};

use super::authorize::{Authorized, share_slots};
use super::rejections::unknown_method;
use super::{AuthorizedRequest, Dispatch, Dispatcher, RequestLabels, Response};
use crate::catalog::{Endpoint, Target, TaskSupport};
use crate::server::Server;
use crate::streams::notifications::FollowedTask;
use crate::tasks::elsewhere::{self, FoundTask};
use crate::tasks::handle::{self, TaskHandle, TaskKeeper, TaskOwner};
use crate::tasks::kept::TaskKey;
use crate::tasks::{ACCEPTED, SentCall, TaskCall, TaskMatter};

/// Tasks that one stream of notifications follows; others are polled.
const MAX_FOLLOWED: usize = 128;

/// How often a task may go to another process while a request about it is at work.
const MAX_MOVES: usize = 3;

impl AuthorizedRequest<'_> {
    fn task_owner(&self) -> TaskOwner {
        TaskOwner::new(&self.permit.caller, self.client, &self.endpoint.path)
    }

    /// Whether the client declares the extension on this request.
    fn declares_tasks(&self) -> bool {
        let capabilities = self.permit.rpc.meta.client_capabilities;
        capabilities.is_some_and(|capabilities| tasks::is_declared(capabilities.of(&self.body)))
    }
}

impl Dispatcher {
    /// The task that a request of a modern client is about, if its id was given to this caller here.
    pub(super) fn requested_task(&self, endpoint: &Endpoint, call: &Call<'_>) -> Option<TaskHandle> {
        if call.client_era != Era::Modern {
            return None;
        }
        let id = call.rpc.task_id?;
        if !Method::parse(&call.rpc.method_name(call.body)).is_of_task() {
            return None;
        }
        let owner = TaskOwner::new(&call.caller, call.head.peer, &endpoint.path);
        TaskHandle::open(&self.tasks.keyring.load(), &owner, &id.read(call.body))
    }

    /// Whether this call may be answered with a task.
    pub(super) fn may_become_task(authorized: &AuthorizedRequest<'_>, target: &Target) -> bool {
        target.tasks != TaskSupport::None
            && authorized.permit.client_era == Era::Modern
            && authorized.declares_tasks()
    }

    /// A call of a tool, in which the server may create a task.
    pub(super) fn call_with_tasks(
        &self,
        authorized: AuthorizedRequest<'_>,
        target: &Target,
        safe: bool,
        renamed: Option<(Span, Arc<str>)>,
        param_headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Dispatch, Box<Rejection>> {
        let (owner, slots) = (authorized.task_owner(), authorized.slots.clone());
        let tool = target.qualified_name.clone();
        let about = match target.tasks {
            // A copy: the message is changed in place.
            TaskSupport::Gateway(after) => {
                TaskMatter::LongCall { tool, call: Bytes::copy_from_slice(&authorized.body), after }
            }
            TaskSupport::Server | TaskSupport::None => TaskMatter::Call { tool },
        };
        let sent = if target.server_era == authorized.permit.client_era {
            self.build(authorized, target.server.clone(), safe, renamed, param_headers, None)?
        } else {
            self.bridged(authorized, target.server.clone(), Some(target), Method::ToolsCall, renamed)?
        };
        let server = target.server.clone();
        Ok(with_tasks(sent, |sent| TaskCall { sent, server, owner, about, slots }))
    }

    /// A request of a modern client about a task. The chain has judged it as one of the tool whose call the
    /// task is.
    pub(super) async fn task_request(
        &self,
        authorized: AuthorizedRequest<'_>,
        method: Method,
        labels: &mut RequestLabels,
    ) -> Result<Dispatch, Box<Rejection>> {
        if !authorized.endpoint.modern.has_tasks {
            return Err(unknown_method(Era::Modern));
        }
        if !authorized.declares_tasks() {
            return Err(undeclared());
        }
        let place = authorized.permit.rpc.task_id.ok_or_else(handle::unknown)?;
        let outward = place.read(&authorized.body).into_owned();
        let owner = authorized.task_owner();
        let opened = TaskHandle::open(&self.tasks.keyring.load(), &owner, &outward);
        let task = opened.ok_or_else(handle::unknown)?;
        let is_member = |server: &&Arc<Server>| *server.name == *task.server;
        let server = authorized.endpoint.members.iter().find(is_member).ok_or_else(handle::unknown)?.clone();
        labels.server = Some(server.name.clone());
        if task.keeper == TaskKeeper::Gateway {
            return self.kept_task_request(authorized, method, server, owner, task.id, &outward).await;
        }
        let slots = authorized.slots.clone();
        let renamed = Some((place.span, Arc::from(task.id.as_str())));
        let safe = method == Method::TasksGet;
        let sent = self.build(authorized, server.clone(), safe, renamed, Vec::new(), None)?;
        let about = TaskMatter::Request { id: task.id, handle: outward };
        Ok(with_tasks(sent, |sent| TaskCall { sent, server, owner, about, slots }))
    }

    /// A request about a task that the gateway keeps.
    async fn kept_task_request(
        &self,
        authorized: AuthorizedRequest<'_>,
        method: Method,
        server: Arc<Server>,
        owner: TaskOwner,
        key: TaskKey,
        outward: &str,
    ) -> Result<Dispatch, Box<Rejection>> {
        let id = authorized.permit.rpc.id.expect("a request has an id").of(&authorized.body);
        let id = Bytes::copy_from_slice(id);
        let respond = |result: &[u8]| Ok(Dispatch::Respond(Response::ok(message::result(&id, result))));
        let answers = authorized.permit.rpc.input_responses.map(|answers| answers.of(&authorized.body));
        for _ in 0..MAX_MOVES {
            let task = match (self.tasks.find(&key, &owner).await?, method) {
                (FoundTask::Here(task), _) => task,
                (FoundTask::Elsewhere(remote), Method::TasksCancel) => {
                    self.tasks.cancel_elsewhere(&key, owner, remote).await?;
                    return respond(ACCEPTED);
                }
                (FoundTask::Elsewhere(remote), Method::TasksUpdate) => {
                    let taken = self.tasks.take_over(&key, owner, server.clone(), remote).await?;
                    let Some(task) = taken else { return respond(ACCEPTED) };
                    task
                }
                (FoundTask::Elsewhere(remote), _) => {
                    return respond(&remote.view.text(outward, Some("complete")));
                }
            };
            match method {
                Method::TasksCancel => {
                    task.cancel();
                    if task.is_moved() {
                        continue;
                    }
                    // Its client may read it at another process next.
                    let _ = self.tasks.save(&key, &task).await;
                }
                Method::TasksUpdate => {
                    let Some(answered) = answers.and_then(|answers| task.answer(answers)) else {
                        if task.is_moved() {
                            continue;
                        }
                        let _ = self.tasks.save(&key, &task).await;
                        return respond(ACCEPTED);
                    };
                    let _ = self.tasks.save(&key, &task).await;
                    return match self.call_again(&authorized, answered.call.clone()).await {
                        Ok((sent, slots)) => {
                            let about = TaskMatter::Answers { task, id };
                            Ok(with_tasks(sent, |sent| TaskCall { sent, server, owner, about, slots }))
                        }
                        Err(rejection) => {
                            task.take_back(answered);
                            Err(rejection)
                        }
                    };
                }
                _ => {
                    // What is told is what others tell: while this process was stopped, another one may have
                    // ended the task.
                    let _ = self.tasks.save(&key, &task).await;
                    if task.is_moved() {
                        continue;
                    }
                    return respond(&task.view().text(outward, Some("complete")));
                }
            }
            return respond(ACCEPTED);
        }
        Err(elsewhere::moved())
    }

    /// The call of a task once more, with the answers of its client. It passes the whole chain, as the retry of
    /// a client does (2026-07-28, basic/utilities/mrtr).
    async fn call_again(
        &self,
        request: &AuthorizedRequest<'_>,
        body: Bytes,
    ) -> Result<(Dispatch, Option<Arc<Slots>>), Box<Rejection>> {
        let headers = http::HeaderMap::new();
        let head = RequestHead {
            http_method: &http::Method::POST,
            path: &request.endpoint.path,
            headers: &headers,
            authority: None,
            peer: request.client,
            certificate: None,
            // The message does not come from the network: no head repeats it.
            is_network: false,
        };
        let caller = request.permit.caller.clone();
        let labels = &mut RequestLabels::default();
        let authorized = self.authorize(request.snapshot, request.endpoint, head, caller, body, labels).await;
        let Authorized { mut permit, body, .. } = authorized.map_err(|rejected| rejected.rejection)?;
        let slots = share_slots(std::mem::take(&mut permit.slots));
        let authorized = AuthorizedRequest {
            snapshot: request.snapshot,
            endpoint: request.endpoint,
            session: None,
            sse_client: None,
            client: request.client,
            permit,
            slots: slots.clone(),
            body,
            events: true,
        };
        match self.dispatch_tool_call(authorized, labels) {
            Ok(dispatched) => dispatched.map(|dispatch| (dispatch, slots)),
            // The tool is gone.
            Err(_) => Err(handle::unknown()),
        }
    }

    /// The tasks whose changes a `subscriptions/listen` asks for, as far as they are the caller's.
    ///
    /// # Errors
    ///
    /// The client asks for tasks and has not declared the extension.
    pub(super) async fn followed_tasks(
        &self,
        authorized: &AuthorizedRequest<'_>,
    ) -> Result<Vec<FollowedTask>, Box<Rejection>> {
        let wanted =
            authorized.permit.rpc.notifications.map(|span| span.of(&authorized.body)).unwrap_or_default();
        let Some(ids) = message::member(wanted, "taskIds").map(|ids| ids.of(wanted)) else {
            return Ok(Vec::new());
        };
        if !authorized.endpoint.modern.has_tasks {
            return Ok(Vec::new());
        }
        if !authorized.declares_tasks() {
            return Err(undeclared());
        }
        let (owner, keyring) = (authorized.task_owner(), self.tasks.keyring.load_full());
        let rbac = &authorized.snapshot.config.chain.rbac;
        let mut decided: BTreeMap<(String, String), bool> = BTreeMap::new();
        let mut followed = Vec::new();
        for outward in message::strings(ids).unwrap_or_default().into_iter().take(MAX_FOLLOWED) {
            let Some(task) = TaskHandle::open(&keyring, &owner, &outward) else { continue };
            let target = CallTarget { kind: TargetKind::Tool, name: &task.tool, server: &task.server };
            let query = AccessQuery {
                method: Method::TasksGet.as_str(),
                target: Some(target),
                arguments: None,
                ip: authorized.client,
            };
            // One decision for each tool, however many tasks it has.
            let is_allowed = *decided
                .entry((task.server.clone(), task.tool.clone()))
                .or_insert_with(|| rbac.decide(&authorized.permit.caller, &query).is_allowed());
            let mut members = authorized.endpoint.members.iter().filter(|_| is_allowed);
            let found = members.find(|server| *server.name == *task.server);
            let Some(server) = found.cloned() else { continue };
            let kept = match task.keeper {
                TaskKeeper::Server => None,
                TaskKeeper::Gateway => match self.tasks.follow(&task.id, owner, &outward).await {
                    Some(changes) => Some(changes),
                    None => continue,
                },
            };
            followed.push(FollowedTask { server, id: task.id, handle: outward, kept });
        }
        Ok(followed)
    }
}

fn undeclared() -> Box<Rejection> {
    let message = "the client must declare the extension io.modelcontextprotocol/tasks on this request";
    let status = Era::Modern.codec().status_of(code::MISSING_CAPABILITY);
    let rejection = Rejection::new(status, code::MISSING_CAPABILITY, Reason::TasksUndeclared, message);
    Box::new(rejection.with_data(tasks::REQUIRED.to_owned()))
}

/// A dispatch whose response is about a task.
fn with_tasks(sent: Dispatch, call: impl FnOnce(SentCall) -> TaskCall) -> Dispatch {
    let sent = match sent {
        Dispatch::Forward(request) => SentCall::Forward(Box::new(request)),
        Dispatch::Stream(messages) => SentCall::Stream(messages),
        Dispatch::Bridge(bridged) => SentCall::Bridge(bridged),
        // A task is made of the call of a task once only.
        Dispatch::Task(inner) => inner.sent,
        other @ Dispatch::Respond(_) => return other,
    };
    Dispatch::Task(Box::new(call(sent)))
}
