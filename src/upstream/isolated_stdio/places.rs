//! How many processes of one server run for callers, and how many of these for one caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::StdioLimits;
use crate::upstream::UpstreamError;

pub(super) struct ProcessPlaces {
    limits: StdioLimits,
    /// By caller; none is 0.
    taken: Mutex<HashMap<u64, usize>>,
}

impl ProcessPlaces {
    pub fn new(limits: StdioLimits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a process of this caller. The gateway's own process, which lists the tools, needs none: the
    /// processes of callers must not keep it from starting.
    pub fn take(self: &Arc<Self>, owner: Option<u64>) -> Result<ProcessPlace, UpstreamError> {
        if let Some(owner) = owner {
            let (all, each) = (self.limits.max_processes(), self.limits.share());
            let mut taken = self.taken();
            if taken.get(&owner).is_some_and(|own| *own >= each) {
                return Err(UpstreamError::TooManyProcessesOfCaller(each));
            }
            if taken.values().sum::<usize>() >= all {
                return Err(UpstreamError::TooManyProcesses(all));
            }
            *taken.entry(owner).or_default() += 1;
        }
        Ok(ProcessPlace { places: self.clone(), owner })
    }
}

/// Given back when it is dropped.
pub(super) struct ProcessPlace {
    places: Arc<ProcessPlaces>,
    owner: Option<u64>,
}

impl Drop for ProcessPlace {
    fn drop(&mut self) {
        let Some(owner) = self.owner else { return };
        let mut taken = self.places.taken();
        if let Some(own) = taken.get_mut(&owner) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_cannot_take_all_places_and_a_place_comes_back() {
        let limits = StdioLimits {
            max_processes: Some(5),
            max_processes_per_caller: Some(3),
            ..StdioLimits::default()
        };
        let places = ProcessPlaces::new(limits);
        let error = |owner| places.take(Some(owner)).err();
        let mut ones: Vec<_> = (0..3).map(|_| places.take(Some(1)).expect("its share")).collect();
        assert_eq!(error(1), Some(UpstreamError::TooManyProcessesOfCaller(3)));
        let _twos: Vec<_> = (0..2).map(|_| places.take(Some(2)).expect("the rest")).collect();
        assert_eq!(error(2), Some(UpstreamError::TooManyProcesses(5)));
        assert!(places.take(None).is_ok(), "the gateway's own");
        ones.pop();
        let _again = places.take(Some(3)).expect("one was given back");
        assert_eq!(error(1), Some(UpstreamError::TooManyProcesses(5)));
    }

    #[test]
    fn the_share_is_a_quarter_but_at_least_four_and_never_more_than_all() {
        for (all, own, share) in
            [(None, None, 16), (Some(8), None, 4), (Some(2), None, 2), (Some(8), Some(100), 8)]
        {
            let limits =
                StdioLimits { max_processes: all, max_processes_per_caller: own, ..StdioLimits::default() };
            assert_eq!(limits.share(), share, "{limits:?}");
        }
    }
}
