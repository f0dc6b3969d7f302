//! Times of an operation's backends side by side: what calibration learns from and the benchmark judges by.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::config::{DispatchConfig, NEVER, Thresholds};
use super::{Backend, Context, Operation, Size, Workload};
use crate::Result;
use crate::kernels::KernelTable;

/// A backend this many times slower than the fastest at first sight is not timed further.
const HOPELESS: f64 = 3.0;
/// Calls whose least time is the first sight, unless one takes so many times as long as the fastest.
const FIRST_CALLS: usize = 5;
const FAR: f64 = 8.0;
/// Short calls, which chance disturbs most, are timed until the rounds have taken this long, but not more than so many times
/// as often as asked.
const LEAST_TIMING: Duration = Duration::from_millis(4);
const MORE_ROUNDS: usize = 5;

/// A backend of an operation, and a context that always takes it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The backend.
    pub backend: Backend,
    /// A context that uses it for calls of every size.
    pub context: Context,
}

impl Context {
    /// The different backends of `operation` on the CPU within this context: levels that share their kernels count once, as the
    /// highest of them.
    pub fn candidates(&self, operation: Operation) -> Result<Vec<Candidate>> {
        let cap = self.kernels();
        let mut levels: Vec<&KernelTable> = vec![cap];
        if let Some(family) = operation.family() {
            for table in KernelTable::available().iter().rev() {
                let within = cap.isa().includes(table.isa());
                if within && levels.iter().all(|level| !level.shares_kernels(table, family)) {
                    levels.push(table);
                }
            }
        }
        let directs: &[bool] = match operation {
            Operation::TernaryMatmul => &[false, true],
            Operation::TernaryMatvec => &[true],
            _ => &[false],
        };
        let mut found = Vec::new();
        for level in levels {
            for parallel in [false, true] {
                if parallel && self.threads() == 1 {
                    continue;
                }
                for &direct in directs {
                    let backend = Backend { isa: level.isa(), parallel, direct, cuda: false };
                    found.push(Candidate { backend, context: self.forced(operation, backend)? });
                }
            }
        }
        Ok(found)
    }

    fn forced(&self, operation: Operation, backend: Backend) -> Result<Context> {
        let mut config =
            DispatchConfig { direct_tokens: Some(if backend.direct { u32::MAX } else { 0 }), ..Default::default() };
        let serial_below = Some(if backend.parallel { 0 } else { NEVER });
        *config.of_mut(operation) = Thresholds { serial_below, isa: Some(backend.isa), ..Default::default() };
        self.with_dispatch(config)
    }
}

/// From where a call comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// A thread of the program: the context's threads, which may sleep, join in.
    Outside,
    /// One of the context's threads, as in a step of training.
    Inside,
}

impl Caller {
    /// Both.
    pub const ALL: [Caller; 2] = [Caller::Outside, Caller::Inside];

    /// Runs `work` on such a thread.
    pub fn call<R: Send>(self, context: &Context, work: impl FnOnce() -> R + Send) -> R {
        if self == Caller::Inside { context.install(work) } else { work() }
    }
}

/// Times of calls in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub(super) fn push(&mut self, time: f64) {
        self.0.push(time);
    }

    /// The time that `share` of them stay below; infinite if there are none.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(f64::INFINITY)
    }

    /// The lower quartile, which a busy machine disturbs less than the median; infinite if there are none.
    pub fn typical(&self) -> f64 {
        self.quantile(0.25)
    }
}

/// The backends of an operation and their times at several sizes.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The operation.
    pub operation: Operation,
    /// Its backends.
    pub candidates: Vec<Candidate>,
    /// Sizes, who calls, and the times of each candidate.
    pub cases: Vec<(Size, Caller, Vec<Times>)>,
}

impl Comparison {
    /// Of `candidates` (of one context) at `sizes`; nothing is timed yet.
    pub fn new(
        operation: Operation,
        candidates: Vec<Candidate>,
        sizes: impl IntoIterator<Item = (Size, Caller)>,
    ) -> Self {
        let untimed = |(size, caller)| (size, caller, vec![Times::default(); candidates.len()]);
        let cases = sizes.into_iter().map(untimed).collect();
        Comparison { operation, cases, candidates }
    }

    /// Adds the times of a call of every size on each candidate, turn by turn so that a slower spell of the machine meets all
    /// alike, in `rounds` or, of short calls, more. None of one that takes three times as long as another at first sight.
    pub fn time(&mut self, rounds: usize) {
        let (operation, candidates) = (self.operation, &self.candidates);
        let Some(first) = candidates.first() else { return };
        for (size, caller, times) in &mut self.cases {
            let mut workload = Workload::new(operation, *size);
            spread_threads(&first.context);
            caller.call(&first.context, || time_in_turn(&mut workload, candidates, rounds, times));
        }
    }
}

/// Keeps all threads busy for a moment: of threads that slept two may share a core, another one idle, until the system's
/// scheduler moves them apart.
fn spread_threads(context: &Context) {
    let end = Instant::now() + Duration::from_millis(4);
    context.install(|| {
        rayon::broadcast(|_| {
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        })
    });
}

fn time_in_turn(workload: &mut Workload, candidates: &[Candidate], rounds: usize, times: &mut [Times]) {
    const LEAST: Duration = Duration::from_micros(40);
    let mut time = |candidate: &Candidate, calls: u32| {
        let start = Instant::now();
        (0..calls).for_each(|_| workload.run(&candidate.context));
        start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
    };
    // The least of several: a machine that is busy for a moment must not make a candidate look hopeless.
    let (mut first, mut best) = (Vec::with_capacity(candidates.len()), f64::INFINITY);
    for candidate in candidates {
        let mut least = f64::INFINITY;
        for _ in 0..FIRST_CALLS {
            least = least.min(time(candidate, 1));
            if least > FAR * best {
                break;
            }
        }
        best = best.min(least);
        first.push(least);
    }
    let start = Instant::now();
    for round in 0..MORE_ROUNDS * rounds {
        if round >= rounds && start.elapsed() > LEAST_TIMING {
            break;
        }
        for (index, candidate) in candidates.iter().enumerate().filter(|(index, _)| first[*index] <= HOPELESS * best) {
            let calls = (LEAST.as_nanos() as f64 / first[index]).ceil().clamp(1.0, 1000.0);
            times[index].push(time(candidate, calls as u32));
        }
    }
}
