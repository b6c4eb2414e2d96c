//! The states of all budgets in this process. They outlive reloads.
//!
//! Memory is bounded: at most [`MAX_KEYS`] states (some 64 MiB). States without effect (a full budget, a
//! finished window, no concurrent call) are dropped when a shard would grow. It needs no thread: a shard is
//! swept by the insert that finds it twice as large as after the last sweep.
//!
//! If a whole shard is in use, a new key has no state of its own. All such keys of a rule share one budget,
//! the *overflow bucket*, until there is room again. So a flood of keys neither disables a limit nor locks
//! out known callers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::algorithms::{LimiterKind, Now};
use super::clock::{Clock, SystemClock};
use super::key::{Digest128, Secrets};

/// Most states.
const MAX_KEYS: usize = 1 << 20;
const SHARDS: usize = 64;
/// The shortest time between two sweeps of a full shard, since an attacker may keep it full.
const SWEEP_INTERVAL: u64 = Duration::from_millis(100).as_nanos() as u64;
/// Smaller ones are not worth a sweep.
const MIN_SWEEP: usize = 64;

pub struct Counters {
    shards: Box<[CounterShard]>,
    secrets: Secrets,
    clock: Arc<dyn Clock>,
    /// Most states of one shard.
    max_per_shard: usize,
}

/// On its own cache line: every call with a key here takes its lock (for reading).
#[repr(align(128))]
struct CounterShard(RwLock<States>);

struct States {
    cells: HashMap<u128, Cell, BuildHasherDefault<IdentityHasher>>,
    sweep_at: usize,
    swept: u64,
}

struct Cell {
    kind: LimiterKind,
    state: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock::default()), MAX_KEYS)
    }
}

impl Counters {
    /// With another clock, and room for about `max` states.
    pub fn new(clock: Arc<dyn Clock>, max: usize) -> Self {
        let shard = || {
            let states = States { cells: HashMap::default(), sweep_at: MIN_SWEEP, swept: 0 };
            CounterShard(RwLock::new(states))
        };
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            secrets: Secrets::default(),
            clock,
            max_per_shard: max.div_ceil(SHARDS),
        }
    }

    /// How many states there are, for a metric.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().cells.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(super) fn hash(&self, write: impl FnOnce(&mut Digest128)) -> u128 {
        self.secrets.hash(write)
    }

    /// The state of a key, or that of the overflow bucket; `work` receives the key in use.
    pub(super) fn with_state<R>(
        &self,
        kind: LimiterKind,
        key: u128,
        overflow: u128,
        work: impl Fn(u128, &AtomicU64) -> R,
    ) -> R {
        if let Some(done) = self.with_existing(key, |state| work(key, state)) {
            return done;
        }
        let mut states = self.shard(key).write();
        if key == overflow || states.has_room(&*self.clock, self.max_per_shard) {
            let cell = states.cells.entry(key).or_insert_with(|| Cell { kind, state: AtomicU64::new(0) });
            return work(key, &cell.state);
        }
        drop(states);
        self.with_state(kind, overflow, overflow, work)
    }

    /// Stores a state that may be forgotten: only if there is room.
    pub(super) fn remember(&self, kind: LimiterKind, key: u128, value: u64) {
        if self.with_existing(key, |state| state.fetch_max(value, Ordering::Relaxed)).is_some() {
            return;
        }
        let mut states = self.shard(key).write();
        if states.has_room(&*self.clock, self.max_per_shard) {
            states.cells.insert(key, Cell { kind, state: AtomicU64::new(value) });
        }
    }

    /// The state of a key that has one. It is not dropped while `work` has it.
    pub(super) fn with_existing<R>(&self, key: u128, work: impl FnOnce(&AtomicU64) -> R) -> Option<R> {
        self.shard(key).read().cells.get(&key).map(|cell| work(&cell.state))
    }

    fn shard(&self, key: u128) -> &CounterShard {
        // The map uses the lower half of the key.
        &self.shards[(key >> 64) as usize % SHARDS]
    }
}

impl CounterShard {
    fn read(&self) -> RwLockReadGuard<'_, States> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, States> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl States {
    fn has_room(&mut self, clock: &dyn Clock, max: usize) -> bool {
        let len = self.cells.len();
        let is_full = len >= max;
        if len < self.sweep_at && !is_full {
            return true;
        }
        let now = &Now { nanos: clock.nanos(), unix: clock.unix() };
        if !is_full || now.nanos >= self.swept.saturating_add(SWEEP_INTERVAL) {
            self.cells.retain(|_, cell| !cell.kind.is_idle(*cell.state.get_mut(), now));
            let left = self.cells.len();
            self.sweep_at = (2 * left).max(MIN_SWEEP);
            self.swept = now.nanos;
            if left < self.cells.capacity() / 8 {
                self.cells.shrink_to(2 * left);
            }
        }
        self.cells.len() < max
    }
}

/// Keys are hashes already.
#[derive(Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u128")
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
