//! Content that older revisions do not have, as text: `audio` came with 2025-03-26, `resource_link` with 2025-06-18.
//! A client that meets an unknown type rejects the whole result.

use crate::json::object::Object;
use crate::json::quote::quote;
use crate::json::reader::{DEPTH_CEILING, JsonReader};
use crate::jsonrpc::message;
use crate::method::Method;

const AUDIO_SINCE: &str = "2025-03-26";
const LINK_SINCE: &str = "2025-06-18";

/// The result of `tools/call` or `prompts/get` for a client of this revision; `None` if it stays as it is.
pub fn to_older(version: &str, method: Method, result: &[u8]) -> Option<Vec<u8>> {
    if version >= LINK_SINCE {
        return None;
    }
    let object = Object::read(result)?;
    match method {
        Method::ToolsCall => {
            let content = elements(object.get("content")?, |block| as_text(version, block))?;
            Some(object.with(&[("content", &content)]))
        }
        Method::PromptsGet => {
            let messages = elements(object.get("messages")?, |message| {
                let message = Object::read(message)?;
                let text = as_text(version, message.get("content")?)?;
                Some(message.with(&[("content", &text)]))
            })?;
            Some(object.with(&[("messages", &messages)]))
        }
        _ => None,
    }
}

/// A list with some of its elements replaced; `None` if none is.
fn elements(list: &[u8], replace: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut reader = JsonReader::lenient(list, DEPTH_CEILING).ok()?;
    let (mut out, mut is_changed) = (vec![b'['], false);
    reader
        .array(|reader| {
            let element = reader.value()?.of(list);
            if out.len() > 1 {
                out.push(b',');
            }
            match replace(element) {
                Some(new) => {
                    out.extend_from_slice(&new);
                    is_changed = true;
                }
                None => out.extend_from_slice(element),
            }
            Ok(())
        })
        .ok()?;
    out.push(b']');
    is_changed.then_some(out)
}

/// A block of content that the revision does not have, as one of text.
fn as_text(version: &str, block: &[u8]) -> Option<Vec<u8>> {
    let block = Object::read(block)?;
    let word = |name: &str| block.get(name).and_then(message::string);
    let text = match word("type")?.as_str() {
        "audio" if version < AUDIO_SINCE => {
            let size = block.get("data").map_or(0, |data| data.len().saturating_sub(2));
            format!(
                "[audio, {}, {size} bytes in base64]",
                word("mimeType").unwrap_or_else(|| "of an unknown type".into())
            )
        }
        "resource_link" => {
            let named = [word("title").or_else(|| word("name")), word("description"), word("uri")];
            named.into_iter().flatten().collect::<Vec<_>>().join("\n")
        }
        _ => return None,
    };
    let rest: Vec<_> =
        ["annotations", "_meta"].iter().filter_map(|name| Some((*name, block.get(name)?))).collect();
    let text = quote(&text);
    let mut all: Vec<(&str, &[u8])> = vec![("type", br#""text""#), ("text", text.as_bytes())];
    all.extend(rest);
    Some(Object::read(b"{}")?.with(&all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn older(version: &str, method: Method, result: &str) -> Option<String> {
        to_older(version, method, result.as_bytes()).map(|text| String::from_utf8(text).expect("UTF-8"))
    }

    #[test]
    fn a_client_gets_the_types_of_its_revision() {
        let link = r#"{"type":"resource_link","uri":"a:b","name":"n","description":"d","annotations":{"priority":1}}"#;
        let audio = r#"{"type":"audio","data":"AAAA","mimeType":"audio/wav"}"#;
        let image = r#"{"type":"image","data":"AAAA","mimeType":"image/png"}"#;
        let result = format!(r#"{{"content":[{image}, {audio},{link}],"isError":false}}"#);
        let link_text = r#"{"type":"text","text":"n\nd\na:b","annotations":{"priority":1}}"#;
        let audio_text = r#"{"type":"text","text":"[audio, audio/wav, 4 bytes in base64]"}"#;
        assert_eq!(older("2025-11-25", Method::ToolsCall, &result), None);
        assert_eq!(older("2025-06-18", Method::ToolsCall, &result), None);
        assert_eq!(
            older("2025-03-26", Method::ToolsCall, &result),
            Some(format!(r#"{{"isError":false,"content":[{image},{audio},{link_text}]}}"#))
        );
        assert_eq!(
            older("2024-11-05", Method::ToolsCall, &result),
            Some(format!(r#"{{"isError":false,"content":[{image},{audio_text},{link_text}]}}"#))
        );
        let prompt = format!(r#"{{"messages":[{{"role":"user","content":{audio}}}]}}"#);
        assert_eq!(
            older("2024-11-05", Method::PromptsGet, &prompt),
            Some(format!(r#"{{"messages":[{{"role":"user","content":{audio_text}}}]}}"#))
        );
    }

    #[test]
    fn what_is_no_such_content_stays() {
        for result in [
            r#"{"content":[{"type":"text","text":"x"}]}"#,
            r#"{"content":{"type":"audio"}}"#,
            "{}",
            "[]",
            r#"{"content":[7]}"#,
        ] {
            assert_eq!(older("2024-11-05", Method::ToolsCall, result), None, "{result}");
        }
        assert_eq!(older("2024-11-05", Method::ResourcesRead, r#"{"content":[{"type":"audio"}]}"#), None);
    }
}
