//! Times of calls, per operation and backend.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

use super::backend::Backend;
use super::operation::Operation;

/// Calls of one operation on one backend.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct BackendMetrics {
    /// What was called.
    pub operation: Operation,
    /// Where it ran.
    #[serde(flatten)]
    pub backend: Backend,
    /// Number of calls.
    pub count: u64,
    /// Mean time of a call in nanoseconds.
    pub mean_ns: f64,
    /// Shortest call.
    pub min_ns: u64,
    /// Longest call.
    pub max_ns: u64,
    /// All calls together.
    pub total_ns: u64,
}

/// Counters of every operation on every backend; off at first.
#[derive(Debug)]
pub(super) struct Metrics {
    enabled: AtomicBool,
    slots: Vec<Slot>,
}

#[derive(Debug)]
pub(super) struct Slot {
    count: AtomicU64,
    total: AtomicU64,
    min: AtomicU64,
    max: AtomicU64,
}

impl Slot {
    pub(super) fn record(&self, time: Duration) {
        let ns = time.as_nanos() as u64;
        self.count.fetch_add(1, Relaxed);
        self.total.fetch_add(ns, Relaxed);
        self.min.fetch_min(ns, Relaxed);
        self.max.fetch_max(ns, Relaxed);
    }

    fn clear(&self) {
        for (counter, start) in [(&self.count, 0), (&self.total, 0), (&self.min, u64::MAX), (&self.max, 0)] {
            counter.store(start, Relaxed);
        }
    }
}

impl Metrics {
    pub(super) fn new() -> Self {
        let slot = || Slot {
            count: AtomicU64::new(0),
            total: AtomicU64::new(0),
            min: AtomicU64::new(u64::MAX),
            max: AtomicU64::new(0),
        };
        let slots = Operation::ALL.len() * Backend::COUNT;
        Metrics { enabled: AtomicBool::new(false), slots: std::iter::repeat_with(slot).take(slots).collect() }
    }

    pub(super) fn enable(&self, on: bool) {
        self.enabled.store(on, Relaxed);
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    pub(super) fn slot(&self, operation: Operation, backend: Backend) -> &Slot {
        &self.slots[operation as usize * Backend::COUNT + backend.index()]
    }

    pub(super) fn clear(&self) {
        self.slots.iter().for_each(Slot::clear);
    }

    /// What was called at least once, in the order of operations.
    pub(super) fn snapshot(&self) -> Vec<BackendMetrics> {
        let backends = || (0..Backend::COUNT).map(Backend::from_index);
        let all = Operation::ALL.into_iter().flat_map(|operation| backends().map(move |backend| (operation, backend)));
        all.filter_map(|(operation, backend)| {
            let slot = self.slot(operation, backend);
            let (count, total_ns) = (slot.count.load(Relaxed), slot.total.load(Relaxed));
            (count > 0).then(|| BackendMetrics {
                operation,
                backend,
                count,
                mean_ns: total_ns as f64 / count as f64,
                min_ns: slot.min.load(Relaxed),
                max_ns: slot.max.load(Relaxed),
                total_ns,
            })
        })
        .collect()
    }
}
