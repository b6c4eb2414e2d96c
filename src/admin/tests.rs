use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::*;
use crate::proxy::gateway_for_tests::gateway;

#[tokio::test]
async fn each_path_has_its_response_as_a_value() {
    let gateway = gateway("");
    let snapshot = gateway.dispatcher.registry.snapshot();
    let admin = Admin {
        serves: ListenerRole::Admin,
        caller: None,
        snapshot: &snapshot,
        state: &gateway.state,
        dispatcher: &gateway.dispatcher,
    };
    for (path, method, status, allow) in [
        (AdminPath::Health, Method::GET, 200, None),
        (AdminPath::Health, Method::HEAD, 200, None),
        (AdminPath::Health, Method::POST, 405, Some("GET, HEAD")),
        (AdminPath::Metrics, Method::GET, 200, None),
        (AdminPath::Pins, Method::GET, 200, None),
        (AdminPath::Pins, Method::DELETE, 405, Some("GET, POST")),
    ] {
        let response = admin.answer(path, &method, b"").expect("it is allowed");
        assert_eq!((response.status, response.allow), (status, allow), "{path:?} {method}");
        assert_eq!(response.body.is_empty(), response.content_type.is_none(), "{path:?} {method}");
    }
    let rejected =
        |body: &[u8]| admin.answer(AdminPath::Pins, &Method::POST, body).err().map(|error| error.status);
    assert_eq!(rejected(b""), Some(400));
    assert_eq!(rejected(br#"{"tool": "x__y", "hash": "0"}"#), Some(404));
    assert_eq!(metadata(&snapshot, "/mcp").err().map(|error| error.status), Some(404));
}

#[tokio::test]
async fn a_body_is_read_only_for_an_approval_by_an_operator_in_json() {
    let gateway = gateway("");
    let snapshot = gateway.dispatcher.registry.snapshot();
    let json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let none = HeaderMap::new();
    for (serves, path, method, headers, expected) in [
        (ListenerRole::Admin, AdminPath::Pins, Method::POST, &json, Ok(true)),
        (ListenerRole::Admin, AdminPath::Pins, Method::POST, &none, Err(415)),
        (ListenerRole::All, AdminPath::Pins, Method::POST, &json, Err(403)),
        (ListenerRole::Admin, AdminPath::Pins, Method::GET, &json, Ok(false)),
        (ListenerRole::Admin, AdminPath::Health, Method::POST, &json, Ok(false)),
    ] {
        let (state, dispatcher) = (&*gateway.state, &*gateway.dispatcher);
        let admin = Admin { serves, caller: None, snapshot: &snapshot, state, dispatcher };
        let takes = admin.takes_body(path, &method, headers).map_err(|error| error.status);
        assert_eq!(takes, expected, "{serves:?} {path:?} {method}");
    }
}
