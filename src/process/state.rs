//! The few facts about the process that requests and the operator's paths share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
pub struct State {
    present: AtomicUsize,
    connections: AtomicUsize,
    /// Listeners that accept no more.
    shut: AtomicUsize,
    /// Bytes of requests' bodies in memory.
    buffered: AtomicUsize,
    /// A successor serves in its place.
    handed: AtomicBool,
    /// Idle connections are closed from here on.
    quiet: CancellationToken,
    /// What still runs is waited for no longer.
    over: AtomicBool,
    config_fault: ArcSwapOption<String>,
}

/// One request that is under way.
pub struct Present(Arc<State>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Release);
    }
}

/// One open connection of a client.
pub struct Connection(Arc<State>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Release);
    }
}

/// The bytes of one request's body, as far as they are counted.
pub struct Load(Arc<State>, usize);

impl Load {
    /// Whether there is room for this many bytes now; none is taken.
    pub fn fits(&self, bytes: usize, most: usize) -> bool {
        self.0.buffered().saturating_add(bytes) <= most
    }

    /// Counts further bytes, unless that makes more than `most` of all requests together.
    pub fn grow(&mut self, bytes: usize, most: usize) -> bool {
        let before = self.0.buffered.fetch_add(bytes, Ordering::Relaxed);
        self.1 += bytes;
        // What was too much is given back with the whole.
        before.saturating_add(bytes) <= most
    }

    pub fn bytes(&self) -> usize {
        self.1
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.buffered.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl State {
    /// What still runs is waited for no longer.
    pub fn cut(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub fn load(self: &Arc<Self>) -> Load {
        Load(self.clone(), 0)
    }

    /// Bytes of requests' bodies in memory.
    pub fn buffered(&self) -> usize {
        self.buffered.load(Ordering::Relaxed)
    }

    pub fn enter(self: &Arc<Self>) -> Present {
        self.present.fetch_add(1, Ordering::Relaxed);
        Present(self.clone())
    }

    /// Requests that are under way.
    pub fn present(&self) -> usize {
        self.present.load(Ordering::Acquire)
    }

    pub fn connect(self: &Arc<Self>) -> Connection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connection(self.clone())
    }

    /// Connections of clients.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// A listener accepts no more; comes back when its idle connections are to be closed.
    pub async fn close_listener(&self) {
        self.shut.fetch_add(1, Ordering::Release);
        self.quiet.cancelled().await;
    }

    /// Listeners that accept no more.
    pub fn shut(&self) -> usize {
        self.shut.load(Ordering::Acquire)
    }

    /// A successor serves in the place of this process.
    pub fn hand_over(&self) {
        self.handed.store(true, Ordering::Relaxed);
    }

    pub fn is_handed_over(&self) -> bool {
        self.handed.load(Ordering::Relaxed)
    }

    /// Has idle connections closed.
    pub fn hush(&self) {
        self.quiet.cancel();
    }

    /// Why the file that was saved last is not what runs.
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
        let state = Arc::<State>::default();
        let (mut first, mut second) = (state.load(), state.load());
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
