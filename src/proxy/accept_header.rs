//! The `Accept` header of a client (RFC 9110 §12.5.1): JSON, a stream of events, or both.
//!
//! This header concerns only the client and the gateway. Requests to servers always name both types,
//! because the gateway reads both.

use http::HeaderMap;
use http::header::ACCEPT;
use pingora::proxy::Session;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedTypes {
    pub json: bool,
    pub events: bool,
}

impl AcceptedTypes {
    pub fn of(session: &Session) -> Self {
        Self::read(&session.req_header().headers)
    }

    /// Without the header, any type is acceptable. A client that accepts neither type gets JSON, which it
    /// may still be able to use. The standard allows a server to disregard the header.
    fn read(headers: &HeaderMap) -> Self {
        let mut all = headers.get_all(ACCEPT).iter();
        // The SDKs write it so.
        if all.next().is_some_and(|one| one == "application/json, text/event-stream") && all.next().is_none()
        {
            return Self { json: true, events: true };
        }
        let (mut json, mut events) = (MediaRange::default(), MediaRange::default());
        let mut named = false;
        for value in headers.get_all(ACCEPT) {
            for range in
                value.to_str().unwrap_or_default().split(',').filter(|range| !range.trim().is_empty())
            {
                named = true;
                json.meet("application", "json", range);
                events.meet("text", "event-stream", range);
            }
        }
        if !named {
            return Self { json: true, events: true };
        }
        let (json, events) = (json.takes, events.takes);
        Self { json: json || !events, events }
    }

    /// Whether the client accepts both types.
    pub fn both(self) -> bool {
        self.json && self.events
    }
}

/// The preference for one media type, from the range that matches it best.
#[derive(Default)]
struct MediaRange {
    /// 1 for `*/*`, 2 for `type/*`, 3 for the type itself.
    fits: u8,
    takes: bool,
}

impl MediaRange {
    fn meet(&mut self, kind: &str, sub: &str, range: &str) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let (first, second) = name.split_once('/').unwrap_or((name, ""));
        let fits = match (first, second) {
            ("*", "*") => 1,
            (first, "*") if first.eq_ignore_ascii_case(kind) => 2,
            (first, second) if first.eq_ignore_ascii_case(kind) && second.eq_ignore_ascii_case(sub) => 3,
            _ => return,
        };
        let weight = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
        });
        // Other parameters do not matter here. An invalid weight counts as 1.
        let takes = weight.and_then(|weight| weight.parse::<f32>().ok()).is_none_or(|weight| weight > 0.0);
        if fits > self.fits {
            *self = Self { fits, takes };
        } else if fits == self.fits {
            self.takes |= takes;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_client_gets_what_it_takes() {
        let (json, events) =
            (AcceptedTypes { json: true, events: false }, AcceptedTypes { json: false, events: true });
        let both = AcceptedTypes { json: true, events: true };
        for (accept, takes) in [
            ("application/json, text/event-stream", both),
            ("application/json", json),
            ("Application/JSON; charset=utf-8", json),
            ("application/*", json),
            ("text/event-stream", events),
            ("text/*", events),
            ("*/*", both),
            ("", both),
            (" , ", both),
            ("*/*;q=0.1, application/json", both),
            ("*/*, text/event-stream;q=0", json),
            ("*/*, text/*; q=0.000", json),
            ("text/event-stream, */*;q=0", events),
            ("application/json;q=0, */*", events),
            ("text/*;q=0, text/event-stream", events),
            ("application/json;q=0.5, text/event-stream;q=1.0", both),
            ("application/json;q=x", json),
            // Neither type: JSON.
            ("text/html", json),
            ("application/json;q=0, text/event-stream;q=0", json),
            ("application/jsonx, text/event-streams", json),
            ("*", json),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(AcceptedTypes::read(&headers), takes, "{accept}");
        }
        assert_eq!(AcceptedTypes::read(&HeaderMap::new()), both);
        let mut lines = HeaderMap::new();
        lines.append(ACCEPT, HeaderValue::from_static("application/json"));
        lines.append(ACCEPT, HeaderValue::from_static("text/event-stream"));
        assert_eq!(AcceptedTypes::read(&lines), both);
    }
}
