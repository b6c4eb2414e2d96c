//! Servers with a limit of concurrent calls.

use super::{HostileSetup, Status, Trick, ask, call, judge, setup, ways, works};
use crate::harness::Gateway;
use crate::mock_server::MockReply;
use crate::raw::Client;

fn stuck() -> Vec<Trick> {
    vec![("hangs", |_| MockReply::Hang(Vec::new()))]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_too_many_is_refused_until_another_is_done() {
    let HostileSetup { gateway, bad, _good } = setup(stuck(), ", timeout: 3s, max_concurrent: 2").await;
    let session = gateway.initialize("/mcp").await;
    let mut first = Client::connect(gateway.port).await;
    let mut second = Client::connect(gateway.port).await;
    let [short, _] = ways(&call("bad__hangs", None));
    let [_, long] = ways(&call("bad__hangs", Some(&session)));
    assert!(first.send(&short).await && second.send(&long).await, "the gateway reads");
    gateway.eventually("both calls reach the server", async |_| bad.calls().len() == 2).await;
    for session in [None, Some(session.as_str())] {
        let answer = ask(&gateway, "bad__tool", session).await.expect("an answer");
        assert_eq!(judge(&answer, 503, Status::Free), Ok(()));
        works(&gateway, "good__tool", session).await;
    }
    let (first, second) =
        (first.answer().await.expect("an answer"), second.answer().await.expect("an answer"));
    assert_eq!((judge(&first, 504, Status::Free), judge(&second, 504, Status::Free)), (Ok(()), Ok(())));
    assert_eq!(bad.count("tools/call"), 2, "what was refused did not reach the server");
    works(&gateway, "bad__tool", None).await;
    works(&gateway, "bad__tool", Some(&session)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_makes_room_for_another() {
    let HostileSetup { gateway, bad, _good } = setup(stuck(), ", timeout: 1h, max_concurrent: 1").await;
    for (turn, request) in ways(&call("bad__hangs", None)).iter().enumerate() {
        let mut client = Client::connect(gateway.port).await;
        assert!(client.send(request).await, "the gateway reads");
        let hangs =
            async |_: &Gateway| bad.calls().iter().filter(|seen| seen.tool() == "hangs").count() > turn;
        gateway.eventually("the call reaches the server", hangs).await;
        let answer = ask(&gateway, "bad__tool", None).await.expect("an answer");
        assert_eq!(judge(&answer, 503, Status::Free), Ok(()));
        drop(client);
        let there_is_room = async |_: &Gateway| {
            ask(&gateway, "bad__tool", None).await.is_some_and(|answer| answer.status == 200)
        };
        gateway.eventually("the next call is let in", there_is_room).await;
    }
}
