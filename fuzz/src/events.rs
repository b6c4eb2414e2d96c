//! Server-sent events as WHATWG HTML §9.2.6 has them interpreted, step by step.

/// An event as a client receives it.
#[derive(Debug, PartialEq, Eq)]
pub struct ExpectedEvent {
    pub name: String,
    pub data: String,
    /// The id of the event, if it has one. (A client remembers it, and the standard lets the next events
    /// have it too.)
    pub id: Option<String>,
}

/// All events of a stream that has ended.
pub fn interpret(stream: &[u8]) -> Vec<ExpectedEvent> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let (mut events, mut name, mut data, mut id) = (Vec::new(), String::new(), String::new(), None);
    let mut rest = text;
    // Text after the last line end is no line.
    while let Some(end) = rest.find(['\n', '\r']) {
        let line = &rest[..end];
        rest = rest[end..].strip_prefix("\r\n").unwrap_or(&rest[end + 1..]);
        if line.is_empty() {
            if !data.is_empty() {
                data.pop();
                let (name, data) = (std::mem::take(&mut name), std::mem::take(&mut data));
                events.push(ExpectedEvent { name, data, id: id.take() });
            }
            name.clear();
            id = None;
            continue;
        }
        let (field, value) = match line.split_once(':') {
            Some(("", _)) => continue,
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (line, ""),
        };
        match field {
            "event" => name = value.to_owned(),
            "data" => {
                data.push_str(value);
                data.push('\n');
            }
            "id" if !value.contains('\0') => id = Some(value.to_owned()),
            _ => {}
        }
    }
    events
}
