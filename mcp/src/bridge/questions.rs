//! The questions of a server to its client: requests in the legacy era, `inputRequests` of a result in the
//! modern one.

use serde_json::{Map, Value, json};

use crate::json::object::Object;
use crate::json::quote::quote;
use crate::jsonrpc::message;
use crate::method::Method;

/// Questions that one result may ask.
pub const MAX_QUESTIONS: usize = 16;
/// The longest key of a question, in bytes.
const MAX_KEY: usize = 256;

/// A question of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// How the server knows it.
    pub key: String,
    pub method: Method,
    /// A JSON object.
    pub params: Vec<u8>,
}

/// A result that asks for input (2026-07-28, `InputRequiredResult`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputRequired {
    pub questions: Vec<Question>,
    /// The server's state, as the JSON string that it wrote.
    pub state: Option<Vec<u8>>,
}

/// The methods by which a server asks its client.
fn is_question(method: Method) -> bool {
    matches!(method, Method::Elicit | Method::CreateMessage | Method::RootsList)
}

/// Reads a result that asks for input.
///
/// # Errors
///
/// What is wrong with it, for the log.
pub fn read(result: &[u8]) -> Result<InputRequired, String> {
    let object = Object::read(result).ok_or("it is no object")?;
    let state = match object.get("requestState") {
        None => None,
        Some(state) if message::string(state).is_some() => Some(state.to_vec()),
        Some(_) => return Err("its `requestState` is no string".into()),
    };
    let asked = Object::read(object.get("inputRequests").unwrap_or(b"{}"))
        .ok_or("its `inputRequests` are no object")?;
    let mut questions: Vec<Question> = Vec::new();
    for (key, request) in asked.iter() {
        if questions.len() == MAX_QUESTIONS {
            return Err(format!("it asks more than {MAX_QUESTIONS} questions at once"));
        }
        if key.len() > MAX_KEY {
            return Err(format!("the key of a question is longer than {MAX_KEY} bytes"));
        }
        if questions.iter().any(|question| question.key == *key) {
            return Err("it asks two questions of the same key".into());
        }
        let request = Object::read(request).ok_or("a question is no object")?;
        let word = request.get("method").and_then(message::string).ok_or("a question has no method")?;
        let method = Method::parse(&word);
        if !is_question(method) {
            return Err("a question is neither of elicitation, sampling nor roots".into());
        }
        let params = request.get("params").unwrap_or(b"{}");
        if Object::read(params).is_none() {
            return Err("the params of a question are no object".into());
        }
        questions.push(Question { key: key.into_owned(), method, params: params.to_vec() });
    }
    if questions.is_empty() && state.is_none() {
        return Err("it asks nothing, and has no `requestState`".into());
    }
    Ok(InputRequired { questions, state })
}

/// Whether a client with these capabilities may be asked this (2025-11-25 and 2026-07-28,
/// `ClientCapabilities`). An empty `elicitation` means forms.
pub fn is_declared(question: &Question, capabilities: &[u8]) -> bool {
    let Some(declared) = Object::read(capabilities) else { return false };
    let part = |name: &str| declared.get(name).and_then(Object::read);
    let params = Object::read(&question.params);
    let has = |name: &str| params.as_ref().is_some_and(|params| params.get(name).is_some());
    match question.method {
        Method::Elicit => part("elicitation").is_some_and(|part| match is_url(&question.params) {
            true => part.get("url").is_some(),
            false => part.get("form").is_some() || part.get("url").is_none(),
        }),
        Method::CreateMessage => part("sampling")
            .is_some_and(|part| part.get("tools").is_some() || !(has("tools") || has("toolChoice"))),
        Method::RootsList => part("roots").is_some(),
        _ => false,
    }
}

fn is_url(params: &[u8]) -> bool {
    message::member(params, "mode")
        .is_some_and(|mode| message::string(mode.of(params)).as_deref() == Some("url"))
}

/// The params of a question as a request to a legacy client of this revision. `elicitation_id` is for URL
/// elicitations, which have one there.
///
/// # Errors
///
/// Why a client of that revision cannot be asked this.
pub fn to_legacy(question: &Question, version: &str, elicitation_id: &str) -> Result<Vec<u8>, String> {
    let mut object = Object::read(&question.params).ok_or("the params are no object")?;
    object.remove(|name| name == "_meta");
    match question.method {
        Method::Elicit if version < "2025-06-18" => {
            Err(format!("a client of {version} cannot be asked for input"))
        }
        Method::Elicit if is_url(&question.params) => match version >= "2025-11-25" {
            true => Ok(object.with(&[("elicitationId", quote(elicitation_id).as_bytes())])),
            false => Err(format!("a client of {version} cannot be sent to a URL")),
        },
        Method::Elicit if version < "2025-11-25" => {
            object.remove(|name| name == "mode");
            let schema = object.get("requestedSchema").unwrap_or(b"{}");
            let mut schema: Value = serde_json::from_slice(schema).map_err(|error| error.to_string())?;
            let fields = schema.get_mut("properties").and_then(Value::as_object_mut);
            for (name, field) in fields.into_iter().flatten() {
                simplify(field).map_err(|why| format!("the field {} {why}", quote(name)))?;
            }
            Ok(object.with(&[("requestedSchema", schema.to_string().as_bytes())]))
        }
        Method::CreateMessage if version < "2025-11-25" => {
            let messages = object.get("messages").unwrap_or(b"[]");
            let mut messages: Value = serde_json::from_slice(messages).map_err(|error| error.to_string())?;
            for message in messages.as_array_mut().into_iter().flatten() {
                let Some(content) = message.get_mut("content") else { continue };
                match content {
                    Value::Array(blocks) if blocks.len() == 1 => *content = blocks.remove(0),
                    Value::Array(_) => {
                        return Err(format!("a client of {version} reads one part of content a message"));
                    }
                    _ => {}
                }
            }
            Ok(object.with(&[("messages", messages.to_string().as_bytes())]))
        }
        _ => Ok(object.with(&[])),
    }
}

/// A field of a form as 2025-06-18 has it (`PrimitiveSchemaDefinition`).
fn simplify(field: &mut Value) -> Result<(), &'static str> {
    let Some(members) = field.as_object_mut() else { return Ok(()) };
    if members.get("type").and_then(Value::as_str) == Some("array") {
        return Err("takes several choices, which a client of that revision cannot offer");
    }
    if members.get("type").and_then(Value::as_str) != Some("boolean") {
        members.remove("default");
    }
    let Some(choices) = members.remove("oneOf") else { return Ok(()) };
    let choices = choices.as_array().cloned().unwrap_or_default();
    let titles: Vec<Value> =
        choices.iter().map(|choice| choice.get("title").unwrap_or(&choice["const"]).clone()).collect();
    let values: Vec<Value> = choices.into_iter().map(|mut choice| choice["const"].take()).collect();
    members.insert("enum".into(), values.into());
    members.insert("enumNames".into(), titles.into());
    Ok(())
}

/// A legacy server's request as a member of `inputRequests`; `None` if it is none that a modern client can be
/// asked.
pub fn to_modern(method: Method, params: &[u8]) -> Option<Vec<u8>> {
    if !is_question(method) {
        return None;
    }
    let mut object = Object::read(params)?;
    object.remove(|name| ["_meta", "task", "elicitationId"].contains(&name));
    let params = object.with(&[]);
    Some([br#"{"method":"#, quote(method.as_str()).as_bytes(), br#","params":"#, &params, b"}"].concat())
}

/// The result that asks a modern client for input. `questions` are a key and a member of `inputRequests`
/// each; `state` is no JSON yet.
pub fn input_required(questions: &[(String, Vec<u8>)], state: &str) -> Vec<u8> {
    let mut out = br#"{"resultType":"input_required","inputRequests":{"#.to_vec();
    for (number, (key, request)) in questions.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        out.extend_from_slice(quote(key).as_bytes());
        out.push(b':');
        out.extend_from_slice(request);
    }
    out.extend_from_slice(br#"},"requestState":"#);
    out.extend_from_slice(quote(state).as_bytes());
    out.push(b'}');
    out
}

/// `inputResponses` of a retry: each key with the client's result.
pub fn input_responses(answers: &[(String, Vec<u8>)]) -> Vec<u8> {
    let named: Vec<(&str, &[u8])> = answers.iter().map(|(key, answer)| (key.as_str(), &**answer)).collect();
    Object::read(b"{}").map(|empty| empty.with(&named)).unwrap_or_default()
}

/// The URL elicitations of an error -32042 of a legacy server as questions; `None` if there are none.
pub fn of_error(error: &[u8]) -> Option<Vec<Vec<u8>>> {
    let error: Map<String, Value> = serde_json::from_slice(error).ok()?;
    let asked = error.get("data")?.get("elicitations")?.as_array()?;
    let asked: Option<Vec<Vec<u8>>> = asked
        .iter()
        .take(MAX_QUESTIONS)
        .map(|one| {
            let (message, url) = (one.get("message")?.as_str()?, one.get("url")?.as_str()?);
            let params = json!({"mode": "url", "message": message, "url": url});
            to_modern(Method::Elicit, params.to_string().as_bytes())
        })
        .collect();
    asked.filter(|asked| !asked.is_empty())
}

#[cfg(test)]
mod tests;
