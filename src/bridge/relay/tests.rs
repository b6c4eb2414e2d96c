use super::*;

#[test]
fn items_are_the_same_after_their_way() {
    let rejection = Rejection::http(503, Reason::TooManyParked, "full")
        .with_data("{}".into())
        .retry_after(Duration::from_secs(3));
    for item in [
        StreamItem::Message("{}".into()),
        StreamItem::Final(r#"{"a":"é"}"#.into()),
        StreamItem::Accepted,
        StreamItem::Rejected(Box::new(rejection)),
    ] {
        let shown = format!("{item:?}");
        let text = serde_json::to_string(&RelayedItem::of(item)).expect("JSON");
        let back: RelayedItem = serde_json::from_str(&text).expect("an item");
        assert_eq!(format!("{:?}", back.into_item()), shown);
    }
    assert_eq!(elsewhere("x").code, mcp::rejection::code::INVALID_PARAMS);
}
