//! The demo server: a small but real MCP server inside the process, in both eras, for first steps and for
//! tests of timeouts and errors. `toolgate demo-server` serves the same tools by itself.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use mcp::Era;
use mcp::json::quote::quote;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{RpcOutcome, ServerHandshake, Upstream, UpstreamCall, UpstreamError};

/// Longest duration of the tool `sleep`, in seconds.
const MAX_SLEEP: f64 = 3600.0;

pub struct Demo;

fn tools() -> Value {
    json!([
        {
            "name": "calculator",
            "title": "Calculator",
            "description": "Adds, subtracts, multiplies or divides two numbers.",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "operation": {"type": "string", "enum": ["add", "subtract", "multiply", "divide"]},
                    "a": {"type": "number"},
                    "b": {"type": "number"}
                },
                "required": ["operation", "a", "b"],
                "additionalProperties": false
            },
            "annotations": {"readOnlyHint": true, "idempotentHint": true, "openWorldHint": false}
        },
        {
            "name": "echo",
            "title": "Echo",
            "description": "Gives back the message that it was given.",
            "inputSchema": {
                "type": "object",
                "properties": {"message": {"type": "string"}},
                "required": ["message"],
                "additionalProperties": false
            },
            "annotations": {"readOnlyHint": true, "idempotentHint": true, "openWorldHint": false}
        },
        {
            "name": "fail",
            "title": "Fail",
            "description": "Always fails, as a tool result (isError) or as a protocol error; for trying error paths.",
            "inputSchema": {
                "type": "object",
                "properties": {"how": {"type": "string", "enum": ["result", "protocol"], "default": "result"}},
                "additionalProperties": false
            },
            "annotations": {"readOnlyHint": true, "openWorldHint": false}
        },
        {
            "name": "sleep",
            "title": "Sleep",
            "description": "Answers after a number of seconds; for trying timeouts and cancellation.",
            "inputSchema": {
                "type": "object",
                "properties": {"seconds": {"type": "number", "minimum": 0, "maximum": MAX_SLEEP}},
                "required": ["seconds"],
                "additionalProperties": false
            },
            "annotations": {"readOnlyHint": true, "idempotentHint": true, "openWorldHint": false}
        },
        {
            "name": "time",
            "title": "Time",
            "description": "The present time in UTC, in the form of RFC 3339.",
            "inputSchema": {"type": "object", "properties": {}, "additionalProperties": false},
            "annotations": {"readOnlyHint": true, "openWorldHint": false}
        }
    ])
}

/// Runs one tool: returns its text, or the error message.
async fn run(name: &str, arguments: &Value) -> Option<Result<String, String>> {
    let number = |key: &str| arguments[key].as_f64().ok_or_else(|| format!("`{key}` must be a number"));
    Some(match name {
        "time" => Ok(Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)),
        "echo" => match arguments["message"].as_str() {
            Some(message) => Ok(message.to_owned()),
            None => Err("`message` must be a string".into()),
        },
        "calculator" => match (number("a"), number("b"), arguments["operation"].as_str()) {
            (Err(why), ..) | (_, Err(why), _) => Err(why),
            (Ok(a), Ok(b), Some("add")) => Ok((a + b).to_string()),
            (Ok(a), Ok(b), Some("subtract")) => Ok((a - b).to_string()),
            (Ok(a), Ok(b), Some("multiply")) => Ok((a * b).to_string()),
            (Ok(_), Ok(0.0), Some("divide")) => Err("division by zero".into()),
            (Ok(a), Ok(b), Some("divide")) => Ok((a / b).to_string()),
            _ => Err("`operation` must be one of add, subtract, multiply, divide".into()),
        },
        "sleep" => match number("seconds") {
            Ok(seconds) if (0.0..=MAX_SLEEP).contains(&seconds) => {
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                Ok(format!("slept for {seconds} s"))
            }
            Ok(_) => Err(format!("`seconds` must lie between 0 and {MAX_SLEEP}")),
            Err(why) => Err(why),
        },
        "fail" => Err("this tool always fails".into()),
        _ => return None,
    })
}

fn error(code: i64, message: &str) -> RpcOutcome {
    RpcOutcome::Error(Bytes::from(format!(r#"{{"code":{code},"message":{}}}"#, quote(message))))
}

#[async_trait]
impl Upstream for Demo {
    async fn connect(&self, server_era: Era, _: Instant) -> Result<ServerHandshake, UpstreamError> {
        let version = server_era.codec().newest_version();
        let info =
            json!({"name": "toolgate-demo", "title": "Toolgate demo", "version": env!("CARGO_PKG_VERSION")});
        Ok(ServerHandshake {
            version: version.to_owned(),
            capabilities: Bytes::from_static(br#"{"tools":{}}"#),
            server_info: Bytes::from(info.to_string()),
            instructions: None,
            faults: Vec::new(),
        })
    }

    async fn call(&self, call: UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError> {
        let mut result = match call.method {
            "tools/list" => json!({"tools": tools()}),
            "ping" => json!({}),
            "tools/call" => {
                let params: Value = serde_json::from_slice(&call.params)
                    .map_err(|e| UpstreamError::InvalidResponse(e.to_string()))?;
                let name = params["name"].as_str().unwrap_or_default();
                if name == "fail" && params["arguments"]["how"] == "protocol" {
                    return Ok(error(-32603, "this tool always fails"));
                }
                match tokio::time::timeout(call.timeout, run(name, &params["arguments"])).await {
                    Err(_) => return Err(UpstreamError::TimedOut(call.timeout)),
                    Ok(None) => return Ok(error(-32602, &format!("Unknown tool: {name}"))),
                    Ok(Some(Ok(text))) => {
                        json!({"content": [{"type": "text", "text": text}], "isError": false})
                    }
                    Ok(Some(Err(text))) => {
                        json!({"content": [{"type": "text", "text": text}], "isError": true})
                    }
                }
            }
            method => return Ok(error(-32601, &format!("Method not found: {method}"))),
        };
        if call.server_era == Era::Modern {
            result["resultType"] = "complete".into();
        }
        Ok(RpcOutcome::Result(Bytes::from(result.to_string())))
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_listed_tool_runs() {
        for tool in tools().as_array().expect("a list") {
            let name = tool["name"].as_str().expect("a name");
            let arguments = json!({"operation": "divide", "a": 1, "b": 0, "message": "m", "seconds": 0});
            assert!(run(name, &arguments).await.is_some(), "{name}");
        }
        let seven = run("calculator", &json!({"operation": "add", "a": 3, "b": 4})).await;
        assert_eq!(seven, Some(Ok("7".into())));
    }
}
