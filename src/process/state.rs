//! The state of the process that requests and the admin paths share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
pub struct ProcessState {
    requests: AtomicUsize,
    connections: AtomicUsize,
    /// Listeners that accept no more.
    closed_listeners: AtomicUsize,
    /// Bytes of request bodies in memory.
    buffered: AtomicUsize,
    /// A successor serves in its place.
    handed: AtomicBool,
    /// Idle connections are closed once this is cancelled.
    close_idle: CancellationToken,
    /// Running requests are not awaited any longer.
    over: AtomicBool,
    config_fault: ArcSwapOption<String>,
}

/// One request in flight.
pub struct RequestGuard(Arc<ProcessState>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Release);
    }
}

/// One open connection of a client.
pub struct ConnectionGuard(Arc<ProcessState>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Release);
    }
}

/// The counted bytes of one request's body.
pub struct BufferedBytes(Arc<ProcessState>, usize);

impl BufferedBytes {
    /// Whether this many bytes fit now; none is taken.
    pub fn fits(&self, bytes: usize, max: usize) -> bool {
        self.0.buffered().saturating_add(bytes) <= max
    }

    /// Counts further bytes; false if all requests together then exceed `max`.
    pub fn grow(&mut self, bytes: usize, max: usize) -> bool {
        let before = self.0.buffered.fetch_add(bytes, Ordering::Relaxed);
        self.1 += bytes;
        // The excess is released with the whole.
        before.saturating_add(bytes) <= max
    }

    pub fn bytes(&self) -> usize {
        self.1
    }
}

impl Drop for BufferedBytes {
    fn drop(&mut self) {
        self.0.buffered.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl ProcessState {
    /// Stops waiting for running requests.
    pub fn close_idle_token(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn buffer(self: &Arc<Self>) -> BufferedBytes {
        BufferedBytes(self.clone(), 0)
    }

    /// Bytes of request bodies in memory.
    pub fn buffered(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    pub fn begin_request(self: &Arc<Self>) -> RequestGuard {
        self.requests.fetch_add(1, Ordering::Relaxed);
        RequestGuard(self.clone())
    }

    /// Requests in flight.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    pub fn connect(self: &Arc<Self>) -> ConnectionGuard {
        self.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionGuard(self.clone())
    }

    /// Connections of clients.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// Called when a listener accepts no more; returns when its idle connections must be closed.
    pub async fn close_listener(&self) {
        self.closed_listeners.fetch_add(1, Ordering::Release);
        self.close_idle.cancelled().await;
    }

    /// Listeners that accept no more.
    pub fn closed_listeners(&self) -> usize {
        self.closed_listeners.load(Ordering::Acquire)
    }

    /// A successor serves in the place of this process.
    pub fn hand_over(&self) {
        self.handed.store(true, Ordering::Relaxed);
    }

    pub fn is_handed_over(&self) -> bool {
        self.handed.load(Ordering::Relaxed)
    }

    /// Closes idle connections.
    pub fn close_idle(&self) {
        self.close_idle.cancel();
    }

    /// Why the file that was saved last does not run.
    pub fn config_fault(&self) -> Option<Arc<String>> {
        self.config_fault.load_full()
    }

    pub fn set_config_fault(&self, fault: Option<String>) {
        self.config_fault.store(fault.map(Arc::new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_together_and_given_back() {
        let state = Arc::<ProcessState>::default();
        let (mut first, mut second) = (state.buffer(), state.buffer());
        assert!(first.grow(60, 100) && second.grow(40, 100));
        assert!(!second.fits(1, 100) && !second.grow(1, 100), "that is one too many");
        drop(second);
        assert_eq!(state.buffered(), 60);
        assert!(first.grow(40, 100));
        assert_eq!(first.bytes(), 100);
        drop(first);
        assert_eq!(state.buffered(), 0);
    }
}
