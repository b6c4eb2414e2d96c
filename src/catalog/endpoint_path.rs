//! The paths of an endpoint, as text: which of them a request may name, and what is served there.

/// What a path of an endpoint serves: `/mcp` Streamable HTTP, `/sse` and `/messages` the event stream and the messages
/// of HTTP+SSE, and the same under `/servers/NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointPath {
    Mcp,
    Sse,
    Messages,
}

impl EndpointPath {
    const ALL: [Self; 3] = [Self::Mcp, Self::Sse, Self::Messages];

    /// The part of a path before that of the endpoint itself, empty or `/servers/NAME`, and what is served there.
    pub fn split(path: &str) -> Option<(&str, Self)> {
        let path = path.strip_suffix('/').unwrap_or(path);
        Self::ALL.into_iter().find_map(|served| Some((path.strip_suffix(served.as_str())?, served)))
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mcp => "/mcp",
            Self::Sse => "/sse",
            Self::Messages => "/messages",
        }
    }

    /// The HTTP methods, for the header `Allow`.
    pub const fn methods(self) -> &'static str {
        match self {
            Self::Mcp => "POST, GET, DELETE",
            Self::Sse => "GET",
            Self::Messages => "POST",
        }
    }
}

/// What an endpoint that could be at this path serves there.
pub fn is_endpoint(path: &str) -> Option<EndpointPath> {
    let (scope, served) = EndpointPath::split(path)?;
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(letter);
    (scope.is_empty() || scope.strip_prefix("/servers/").is_some_and(is_name)).then_some(served)
}

/// The path of an endpoint without a trailing slash, which some clients add; any other path unchanged.
pub fn plain(path: &str) -> &str {
    path.strip_suffix('/').filter(|_| EndpointPath::split(path).is_some()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_serves_one_transport_with_and_without_a_slash_at_the_end() {
        use EndpointPath::{Mcp, Messages, Sse};
        for (path, short, scope, served) in [
            ("/mcp", "/mcp", "", Mcp),
            ("/mcp/", "/mcp", "", Mcp),
            ("/sse", "/sse", "", Sse),
            ("/sse/", "/sse", "", Sse),
            ("/messages/", "/messages", "", Messages),
            ("/messages", "/messages", "", Messages),
            ("/servers/sse/mcp", "/servers/sse/mcp", "/servers/sse", Mcp),
            ("/servers/a-b_1/sse", "/servers/a-b_1/sse", "/servers/a-b_1", Sse),
            ("/servers/mcp/messages/", "/servers/mcp/messages", "/servers/mcp", Messages),
        ] {
            assert_eq!((plain(path), is_endpoint(path)), (short, Some(served)), "{path}");
            assert_eq!(EndpointPath::split(path), Some((scope, served)), "{path}");
        }
    }

    #[test]
    fn other_paths_are_no_endpoints_and_stay() {
        for path in [
            "",
            "/",
            "/mcp/x",
            "/sse//",
            "/messages/1",
            "/servers//sse",
            "/servers/a/b/sse",
            "/servers/a%2f/mcp",
            "/x/mcp",
            "/x/sse",
            "/SSE",
            "/metrics/",
            "/xsse",
        ] {
            assert_eq!(is_endpoint(path), None, "{path}");
        }
        for path in ["/", "/metrics/", "/sse//", "/messages/1/"] {
            assert_eq!(plain(path), path);
        }
    }
}
