//! The few facts about the process that requests and the operator's paths share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;

#[derive(Default)]
pub struct State {
    present: AtomicUsize,
    config_fault: ArcSwapOption<String>,
}

/// One request that is under way.
pub struct Present(Arc<State>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Release);
    }
}

impl State {
    pub fn enter(self: &Arc<Self>) -> Present {
        self.present.fetch_add(1, Ordering::Relaxed);
        Present(self.clone())
    }

    /// Requests that are under way.
    pub fn present(&self) -> usize {
        self.present.load(Ordering::Acquire)
    }

    /// Why the file that was saved last is not what runs.
    pub fn config_fault(&self) -> Option<Arc<String>> {
        self.config_fault.load_full()
    }

    pub fn set_config_fault(&self, fault: Option<String>) {
        self.config_fault.store(fault.map(Arc::new));
    }
}
