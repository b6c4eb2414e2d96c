use bytes::Bytes;

use super::*;
use crate::catalog::Lists;

fn lists_with(capabilities: &'static str) -> Option<Arc<ServerLists>> {
    let handshake = ServerHandshake {
        version: String::new(),
        capabilities: Bytes::from_static(capabilities.as_bytes()),
        server_info: Bytes::new(),
        instructions: None,
        faults: Vec::new(),
    };
    Some(Arc::new(ServerLists { handshake, lists: Lists::default(), events: false, era: mcp::Era::Legacy }))
}

#[test]
fn a_server_of_both_eras_is_checked_in_turn() {
    let both = [lists_with("{}"), lists_with("{}")];
    let mut asked = vec![stagger(&both, Era::Modern)];
    for _ in 0..3 {
        asked.push(stagger(&both, asked[asked.len() - 1]));
    }
    assert_eq!(asked, [Era::Legacy, Era::Modern, Era::Legacy, Era::Modern]);
    for last in ERAS {
        assert_eq!(stagger(&[lists_with("{}"), None], Era::Legacy), Era::Legacy);
        assert_eq!(stagger(&[None, lists_with("{}")], last), Era::Modern);
    }
}

#[test]
fn lists_are_read_again_soon_without_notifications() {
    let notifying = r#"{"tools":{"listChanged":true},"resources":{"listChanged":true}}"#;
    for (capabilities, quiet, time) in [
        (notifying, [false; 2], NOTIFIED_RELIST),
        (notifying, [true, false], RELIST),
        (r#"{"tools":{"listChanged":true},"prompts":{}}"#, [false; 2], RELIST),
        (r#"{"tools":{}}"#, [false; 2], RELIST),
        (r#"{"tools":{"listChanged":false}}"#, [false; 2], RELIST),
    ] {
        assert_eq!(
            refresh_interval(&[lists_with(capabilities), None], quiet),
            time,
            "{capabilities} {quiet:?}"
        );
    }
    assert_eq!(refresh_interval(&[lists_with(notifying), lists_with(r#"{"tools":{}}"#)], [false; 2]), RELIST);
    assert_eq!(
        refresh_interval(&[lists_with(notifying), lists_with(notifying)], [false; 2]),
        NOTIFIED_RELIST
    );
}
