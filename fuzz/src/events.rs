//! Server-sent events as WHATWG HTML §9.2.6 has them interpreted, step by step.

/// What a client is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub name: String,
    pub data: String,
}

/// All events of a stream that has ended.
pub fn interpret(stream: &[u8]) -> Vec<Told> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let (mut told, mut name, mut data) = (Vec::new(), String::new(), String::new());
    let mut rest = text;
    // What stands after the last line end is no line.
    while let Some(end) = rest.find(['\n', '\r']) {
        let line = &rest[..end];
        rest = rest[end..].strip_prefix("\r\n").unwrap_or(&rest[end + 1..]);
        if line.is_empty() {
            if !data.is_empty() {
                data.pop();
                told.push(Told { name: std::mem::take(&mut name), data: std::mem::take(&mut data) });
            }
            name.clear();
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
            _ => {}
        }
    }
    told
}
