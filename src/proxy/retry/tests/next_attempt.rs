//! Where the next attempt goes, over which connection, and what it knows of the one before.

use super::*;
use crate::upstream::http::pool::EndpointGuard;

#[tokio::test]
async fn a_connection_is_shared_only_where_nothing_without_an_id_can_come() {
    let gateway = gateway("");
    let (session, _client) = downstream(POST).await;
    // The server may say more than the answer; it is in doubt; it speaks HTTP/2; the call is of a session.
    for (logs, doubtful, streams, has_session, fresh, first_party) in [
        (false, false, false, false, false, false),
        (true, false, false, false, true, false),
        (false, true, false, false, true, false),
        (true, true, true, false, false, false),
        (false, false, false, true, false, true),
        (true, false, false, true, true, true),
        (false, false, true, true, false, false),
    ] {
        let mut ctx = called(&gateway, &[ONE], false);
        let request = ctx.request.as_mut().expect("a call");
        ctx.attempt.upstream_session = has_session.then(|| upstream_session(&request.server, "2025-06-18"));
        let call = call_of(request);
        (call.logs, call.session) = (logs, has_session.then(|| client_session(&gateway, "{}")));
        let peer = ctx.attempt.endpoint.take().expect("an endpoint").endpoint().peer.clone();
        if doubtful {
            peer.doubt();
        }
        peer.has_http2(if streams { http::Version::HTTP_2 } else { http::Version::HTTP_11 });
        let chosen = gateway.next_peer(&session, &mut ctx).await.expect("an address");
        let case = format!("{logs} {doubtful} {streams} {has_session}");
        assert_eq!((ctx.fresh, ctx.attempt.first_party), (fresh, first_party), "{case}");
        let group = match (fresh, first_party) {
            (true, _) => ctx.request_id | FRESH_SECS,
            (_, true) => 4711,
            _ => 0,
        };
        assert_eq!(chosen.group_key, group, "{case}");
        assert!(chosen.options.read_timeout.is_some_and(|left| left > Duration::from_secs(1)), "{case}");
    }
}

#[tokio::test]
async fn what_has_failed_at_one_endpoint_goes_to_the_other() {
    let gateway = gateway("");
    let (session, _client) = downstream(POST).await;
    for (failed, index) in [(0b01, 1), (0b10, 0)] {
        let mut ctx = called(&gateway, &[TWO], false);
        ctx.attempts.failed = failed;
        gateway.next_peer(&session, &mut ctx).await.expect("an address");
        assert_eq!(ctx.attempt.endpoint.as_ref().expect("an endpoint").index(), index);
    }
}

#[tokio::test]
async fn an_attempt_after_a_retry_holds_nothing_of_the_first() {
    let gateway = gateway("");
    let (session, _client) = downstream(POST).await;
    for has_session in [false, true] {
        let mut ctx = called(&gateway, &[TWO], true);
        begin_answer(&mut ctx);
        let first = &mut ctx.attempt;
        (first.socket, first.reused, first.first_party) = (Some(0), true, !has_session);
        first.bearer = Some(http::HeaderValue::from_static("Bearer first"));
        (first.waited, first.waiting) = (Duration::from_secs(7), Some(std::time::Instant::now()));
        first.buffered_response = Some(Bytes::from_static(b"the end"));
        let request = ctx.request.as_mut().expect("a call");
        let kept = has_session.then(|| upstream_session(&request.server, "2025-06-18"));
        call_of(request).session = has_session.then(|| client_session(&gateway, "{}"));
        ctx.attempt.upstream_session.clone_from(&kept);
        ctx.attempts.failed = u64::from(!has_session);

        gateway.next_peer(&session, &mut ctx).await.expect("an address");
        // Each field by its name: a field that is added has to be looked at here.
        let Attempt {
            endpoint,
            upstream_session,
            bearer,
            first_party,
            socket,
            reused,
            validator,
            waited,
            waiting,
            buffered_response,
        } = &ctx.attempt;
        assert_eq!(endpoint.as_ref().map(EndpointGuard::index), Some(usize::from(!has_session)));
        let (now, before) = (upstream_session.as_ref(), kept.as_ref());
        assert_eq!(now.map(|now| now.id), before.map(|kept| kept.id), "it stays where it is");
        assert_eq!((bearer, *first_party), (&None, has_session));
        assert_eq!((*socket, *reused), (None, false), "it has no connection yet");
        assert!(validator.is_none() && buffered_response.is_none(), "it has no answer yet");
        assert_eq!((*waited, *waiting), (Duration::ZERO, None));
    }
}
