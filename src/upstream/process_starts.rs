//! Starts of processes of sessions: what the endpoint that asks for one and the adapter that starts it tell each
//! other beside their HTTP. So an error keeps its kind, and nothing about a caller goes to the program.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::UpstreamError;

/// What is known of a start.
#[derive(Clone, Copy, Debug)]
pub struct WantedProcess {
    /// The caller whose process it is; `None` for the gateway's own.
    pub owner: Option<u64>,
    /// For the start and `initialize` together.
    pub timeout: Duration,
}

type Starts = HashMap<Vec<u8>, (WantedProcess, Option<UpstreamError>)>;

/// The starts in progress, by the ids of their requests.
#[derive(Default)]
pub struct ProcessStarts(Mutex<Starts>);

impl ProcessStarts {
    fn starts(&self) -> MutexGuard<'_, Starts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request with this id will ask for a process.
    pub fn begin(self: &Arc<Self>, id: &str, wanted: WantedProcess) -> ProcessStart {
        self.starts().insert(id.as_bytes().to_vec(), (wanted, None));
        ProcessStart { starts: self.clone(), id: id.as_bytes().to_vec() }
    }

    /// What is wanted by the request; `None` if nobody waits for it.
    pub fn wanted(&self, id: &[u8]) -> Option<WantedProcess> {
        self.starts().get(id).map(|(wanted, _)| *wanted)
    }

    /// Why the request gets no process.
    pub fn fail(&self, id: &[u8], error: UpstreamError) {
        if let Some((_, why)) = self.starts().get_mut(id) {
            *why = Some(error);
        }
    }
}

/// A start in progress, until it is dropped.
pub struct ProcessStart {
    starts: Arc<ProcessStarts>,
    id: Vec<u8>,
}

impl ProcessStart {
    /// The reason of the adapter, else this one.
    pub fn explain(&self, error: UpstreamError) -> UpstreamError {
        self.starts.starts().get_mut(&self.id).and_then(|(_, why)| why.take()).unwrap_or(error)
    }
}

impl Drop for ProcessStart {
    fn drop(&mut self) {
        self.starts.starts().remove(&self.id);
    }
}
