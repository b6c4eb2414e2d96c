//! The public keys of a token issuer, read from its JWKS URL (RFC 7517 §5) in the background.
//!
//! Only a token with an unknown key waits for the issuer, and not for long. The last good set stays until
//! there is a newer one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use filters::auth::{KeySet, KeySource};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Timeout of one read.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a token with an unknown key waits for a read.
const REFRESH_WAIT: Duration = Duration::from_secs(1);
/// Unknown keys trigger a read at most this often: they cost an attacker nothing.
const MIN_REFRESH: Duration = Duration::from_secs(5);
/// The first pause after a failed read; it doubles up to the regular interval.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Longest key set that is read, in bytes.
const MAX_SET: usize = 1 << 20;

pub struct JwksFetcher {
    url: String,
    interval: Duration,
    keys: ArcSwap<KeySet>,
    refresh_wanted: Arc<Notify>,
    /// A read was requested and has not ended.
    pending: AtomicBool,
    /// Counts the reads that ended, successful or not.
    readings: watch::Sender<u64>,
    /// Milliseconds from `started` to the last requested read, plus one.
    asked: AtomicU64,
    started: Instant,
}

impl JwksFetcher {
    /// Starts to read `url`, now and every `interval`, on `runtime`; until the value is dropped.
    pub fn start(url: &str, interval: Duration, runtime: &Handle) -> Result<Arc<Self>, String> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| error.to_string())?;
        let wanted = Arc::new(Notify::new());
        let remote = Arc::new(Self {
            url: url.to_owned(),
            interval,
            keys: ArcSwap::from_pointee(KeySet::empty()),
            refresh_wanted: wanted.clone(),
            pending: AtomicBool::new(true),
            readings: watch::Sender::new(0),
            asked: AtomicU64::new(0),
            started: Instant::now(),
        });
        let weak = Arc::downgrade(&remote);
        runtime.spawn(async move {
            let (mut last, mut pause, mut failing) = (Vec::new(), RETRY_INTERVAL, false);
            loop {
                let Some(remote) = weak.upgrade() else { return };
                let read = fetch(&client, &remote.url).await;
                pause = match read.and_then(|text| remote.apply(text, &mut last)) {
                    Ok(()) => {
                        if std::mem::take(&mut failing) {
                            tracing::info!(url = remote.url, "the keys of the issuer can be read again");
                        }
                        remote.interval
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(
                                url = remote.url,
                                error,
                                "the keys of the issuer cannot be read; those that were read before stay"
                            );
                        }
                        (pause * 2).clamp(RETRY_INTERVAL, remote.interval)
                    }
                };
                remote.pending.store(false, Ordering::Release);
                remote.readings.send_modify(|count| *count += 1);
                // No reference is held during the sleep, so that a reload can end it.
                drop(remote);
                let _ = tokio::time::timeout(pause, wanted.notified()).await;
            }
        });
        Ok(remote)
    }

    fn apply(&self, text: Vec<u8>, last: &mut Vec<u8>) -> Result<(), String> {
        if text == *last {
            return Ok(());
        }
        let set = KeySet::from_jwks(&text).map_err(|error| error.to_string())?;
        self.keys.store(Arc::new(set));
        *last = text;
        Ok(())
    }

    /// Whether a read may be requested now; records it as requested.
    fn may_refresh(&self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        let last = self.asked.load(Ordering::Acquire);
        let due = last == 0 || now.saturating_sub(last - 1) >= MIN_REFRESH.as_millis() as u64;
        due && self.asked.compare_exchange(last, now + 1, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl KeySource for JwksFetcher {
    fn current(&self) -> Arc<KeySet> {
        self.keys.load_full()
    }

    fn refresh(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async {
            let mut readings = self.readings.subscribe();
            let before = *readings.borrow_and_update();
            if !self.pending.load(Ordering::Acquire) {
                if !self.may_refresh() {
                    // The last read was recent, and the key was not in it.
                    return false;
                }
                self.pending.store(true, Ordering::Release);
                self.refresh_wanted.notify_one();
            }
            let read = readings.wait_for(|count| *count > before);
            tokio::time::timeout(REFRESH_WAIT, read).await.is_ok_and(|read| read.is_ok())
        })
    }
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<Vec<u8>, String> {
    let describe = |error: reqwest::Error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{}{cause}", error.without_url())
    };
    let mut response = client
        .get(url)
        .header("accept", "application/jwk-set+json, application/json")
        .send()
        .await
        .map_err(describe)?;
    if response.status() != 200 {
        return Err(format!("HTTP {}", response.status().as_u16()));
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
        if text.len() + chunk.len() > MAX_SET {
            return Err(format!("the key set is longer than {MAX_SET} bytes"));
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}
