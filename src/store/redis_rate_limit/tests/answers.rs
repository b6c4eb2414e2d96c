//! Replies that the script cannot have given.

use super::*;

#[test]
fn only_what_the_script_can_say_is_an_answer() {
    let asks = [rate("r", 1, 10 * SEC, 1), quota("q", 5, Duration::from_secs(60))];
    let short = |ask, wait| Some(StoreOutcome::Denied { ask, wait });
    for (worst, micros, understood) in [
        (0, 0, Some(StoreOutcome::Granted)),
        (1, 10_000_000, short(0, 10 * SEC)),
        (1, 10_000_002, None),
        (2, 60_000_000, short(1, 60 * SEC)),
        (2, 60_000_001, None),
        (2, 0, None),
        (0, 5, None),
        (3, 1, None),
        (-1, 1, None),
        (-1, -1, None),
        (1, -1, None),
        (0, -1, None),
        (i64::MIN, i64::MIN, None),
        (i64::MAX, i64::MAX, None),
    ] {
        assert_eq!(parse_reply(&asks, worst, micros), understood, "{worst} {micros}");
    }
}

/// Speaks enough of the Redis protocol to answer each command; answers the script with two numbers that
/// become wrong.
async fn liar(socket: tokio::net::UnixListener, wrong: Arc<std::sync::atomic::AtomicBool>) {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    loop {
        let Ok((stream, _)) = socket.accept().await else { return };
        let wrong = wrong.clone();
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Some(parts) = line.strip_prefix('*').and_then(|n| n.parse::<usize>().ok()) else {
                    continue;
                };
                let mut command = String::new();
                for part in 0..parts {
                    let _length = lines.next_line().await;
                    let Ok(Some(word)) = lines.next_line().await else { return };
                    if part == 0 {
                        command = word;
                    }
                }
                let numbers = if wrong.load(Ordering::Relaxed) { "-1\r\n:-5" } else { "0\r\n:0" };
                let answer = match command.as_str() {
                    "EVALSHA" | "EVAL" => format!("*2\r\n:{numbers}\r\n"),
                    _ => "+OK\r\n".into(),
                };
                if write.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test]
async fn a_store_that_answers_below_zero_is_one_that_is_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = tokio::net::UnixListener::bind(folder.path().join("s")).expect("a socket");
    let wrong = Arc::new(std::sync::atomic::AtomicBool::new(false));
    tokio::spawn(liar(socket, wrong.clone()));
    let url = format!("redis+unix://{}", folder.path().join("s").display());
    let store = || async {
        let redis = Arc::new(Redis::new(&url, "t:", MAX_WAIT, Handle::current()).expect("a URL"));
        is_there(&redis).await;
        redis
    };
    for (on_failure, said) in [
        (OnFailure::Local, [Ok(()), Err(429)]),
        (OnFailure::Open, [Ok(()), Ok(())]),
        (OnFailure::Closed, [Err(503), Err(503)]),
    ] {
        wrong.store(false, Ordering::Relaxed);
        let redis = store().await;
        let limits = limits(redis.clone(), 1, on_failure);
        wrong.store(true, Ordering::Relaxed);
        assert_eq!([admitted(&limits).await, admitted(&limits).await], said, "{on_failure:?}");
        assert!(redis.failures() > 0);
    }
}
