//! Learning the thresholds of this machine: every backend of every operation is timed from small to large, and the
//! thresholds that lose least against the best of each size are taken.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::config::{DispatchConfig, NEVER, Thresholds};
use super::cuda::DRIVER;
use super::{Backend, Context, Operation, Size, Workload, cuda_calibration};
use crate::Result;
use crate::gpu::device_count;
use crate::kernels::{Isa, KernelTable};

/// Sizes an operation is timed at.
const STEPS: usize = 18;
/// Tokens that reading packed weights as they are is tried at.
const DIRECT_TRIALS: [usize; 8] = [2, 4, 8, 16, 32, 64, 128, 256];
/// A backend this many times slower than the fastest at first sight is not timed further.
const HOPELESS: f64 = 3.0;
/// Calls whose least time is the first sight.
const FIRST_CALLS: usize = 5;
/// What a departure from the defaults must gain to be worth a line: the mean share of time over all sizes.
const WORTH: f64 = 0.02;

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
    /// A thread of the program: work for the context's threads is handed over to them.
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

/// Time of a call from `caller` in nanoseconds on each candidate (all of one context): the lower quartile, which a busy machine
/// disturbs less than the median, turn by turn so that a slower spell of the machine meets all alike. Infinite for one that
/// is hopeless at first sight.
pub fn time_candidates(workload: &mut Workload, candidates: &[Candidate], caller: Caller, rounds: usize) -> Vec<f64> {
    let Some(first) = candidates.first() else { return Vec::new() };
    spread_threads(&first.context);
    caller.call(&first.context, || time_in_turn(workload, candidates, rounds))
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

fn time_in_turn(workload: &mut Workload, candidates: &[Candidate], rounds: usize) -> Vec<f64> {
    const LEAST: Duration = Duration::from_micros(40);
    let mut time = |candidate: &Candidate, calls: u32| {
        let start = Instant::now();
        (0..calls).for_each(|_| workload.run(&candidate.context));
        start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
    };
    // The least of several: a machine that is busy for a moment must not make a candidate look hopeless.
    let mut least =
        |candidate: &Candidate| (0..FIRST_CALLS).fold(f64::INFINITY, |least, _| least.min(time(candidate, 1)));
    let first: Vec<f64> = candidates.iter().map(&mut least).collect();
    let best = first.iter().copied().fold(f64::INFINITY, f64::min);
    let mut times = vec![Vec::with_capacity(rounds); candidates.len()];
    for _ in 0..rounds {
        for (index, candidate) in candidates.iter().enumerate().filter(|(index, _)| first[*index] <= HOPELESS * best) {
            let calls = (LEAST.as_nanos() as f64 / first[index]).ceil().clamp(1.0, 1000.0);
            times[index].push(time(candidate, calls as u32));
        }
    }
    times
        .into_iter()
        .map(|mut times| {
            times.sort_by(f64::total_cmp);
            times.get(times.len() / 4).copied().unwrap_or(f64::INFINITY)
        })
        .collect()
}

/// One size of an operation, timed.
#[derive(Clone, Debug)]
struct Timed {
    work: u64,
    backends: Vec<(Backend, f64)>,
}

impl Timed {
    fn best(&self) -> f64 {
        self.backends.iter().map(|(_, time)| *time).fold(f64::INFINITY, f64::min)
    }

    fn of(&self, isa: Isa, parallel: bool) -> f64 {
        let same = |backend: &Backend| backend.isa == isa && backend.parallel == parallel;
        self.backends.iter().filter(|(backend, _)| same(backend)).map(|(_, time)| *time).fold(f64::INFINITY, f64::min)
    }

    /// How much longer than the best, as a logarithm; bounded, so that one outlier does not decide.
    fn loss(&self, time: f64) -> f64 {
        (time / self.best()).ln().min(3.0)
    }
}

/// The thresholds of this context's level and threads, learned by timing. `progress` is told each operation before it is
/// timed; an error of its own ends the work. What the first CUDA device costs is learned too, where there is one. A minute or
/// so; wants a quiet machine. Errors: `progress`'s.
pub fn calibrate(context: &Context, mut progress: impl FnMut(Operation) -> Result<()>) -> Result<DispatchConfig> {
    let (mut config, top) = (DispatchConfig::default(), context.kernels().isa());
    for operation in Operation::ALL {
        progress(operation)?;
        if operation == Operation::TernaryMatmul {
            config.direct_tokens = learn_direct_tokens(context)?;
        }
        let candidates = context.candidates(operation)?;
        let (mut outside, mut inside) = (Vec::new(), Vec::new());
        for step in 0..STEPS {
            let size = Size::along(operation, step, STEPS);
            // Of the two paths of a product only the one that will be taken counts.
            let direct = context.with_dispatch(config.clone())?.backend(operation, usize::MAX, size.depth).direct;
            let taken =
                |candidate: &&Candidate| operation != Operation::TernaryMatmul || candidate.backend.direct == direct;
            let candidates: Vec<Candidate> = candidates.iter().filter(taken).cloned().collect();
            let mut workload = Workload::new(operation, size);
            for (caller, sizes) in [(Caller::Outside, &mut outside), (Caller::Inside, &mut inside)] {
                // From outside only the hand-over is another: one level tells what it costs.
                let told = |candidate: &&Candidate| caller == Caller::Inside || candidate.backend.isa == top;
                let candidates: Vec<Candidate> = candidates.iter().filter(told).cloned().collect();
                let times = time_candidates(&mut workload, &candidates, caller, 7);
                let backends = candidates.iter().map(|candidate| candidate.backend).zip(times).collect();
                sizes.push(Timed { work: size.work(operation) as u64, backends });
            }
        }
        outside.sort_by_key(|timed| timed.work);
        inside.sort_by_key(|timed| timed.work);
        let mut thresholds = choose(&inside, top, context.threads() > 1);
        thresholds.serial_below_inside = thresholds.serial_below;
        thresholds.serial_below = choose(&outside, top, context.threads() > 1).serial_below;
        if thresholds != Thresholds::default() {
            *config.of_mut(operation) = thresholds;
        }
    }
    if let Some(open) = DRIVER
        && device_count().is_ok()
        && let Err(error) = cuda_calibration::learn(context, 0, open, cuda_calibration::large, &mut config)
    {
        tracing::warn!("{error}; no call will leave the CPU");
    }
    Ok(config)
}

/// The thresholds that lose least over `sizes` (ascending by work).
fn choose(sizes: &[Timed], top: Isa, threads: bool) -> Thresholds {
    let mut isas: Vec<Isa> = Vec::new();
    for (backend, _) in sizes.iter().flat_map(|timed| &timed.backends) {
        if !isas.contains(&backend.isa) {
            isas.push(backend.isa);
        }
    }
    let splits = if threads { sizes.len() } else { 0 };
    let (mut least, mut found) = (f64::INFINITY, (sizes.len(), 0, top, top));
    for &large in &isas {
        for &small in &isas {
            for small_count in 0..=if small == large { 0 } else { sizes.len() } {
                for serial_count in sizes.len() - splits..=sizes.len() {
                    let loss: f64 = sizes
                        .iter()
                        .enumerate()
                        .map(|(at, timed)| {
                            let isa = if at < small_count { small } else { large };
                            timed.loss(timed.of(isa, at >= serial_count))
                        })
                        .sum();
                    let departures = usize::from(large != top) + usize::from(small_count > 0);
                    let loss = loss / sizes.len() as f64 + WORTH * departures as f64;
                    if loss < least {
                        (least, found) = (loss, (serial_count, small_count, large, small));
                    }
                }
            }
        }
    }
    let (serial_count, small_count, large, small) = found;
    Thresholds {
        serial_below: threads.then(|| boundary(sizes, serial_count)),
        serial_below_inside: None,
        isa: (large != top).then_some(large),
        small_below: (small_count > 0).then(|| boundary(sizes, small_count)),
        small_isa: (small_count > 0).then_some(small),
        ..Default::default()
    }
}

/// The work between the first `count` sizes and the rest: their geometric middle.
fn boundary(sizes: &[Timed], count: usize) -> u64 {
    match (count.checked_sub(1).map(|last| sizes[last].work), sizes.get(count)) {
        (None, _) => 0,
        (Some(below), Some(above)) => (below as f64 * above.work as f64).sqrt().round() as u64,
        // Nothing was measured beyond.
        (Some(below), None) => below.saturating_mul(2),
    }
}

/// The number of tokens up to which reading packed weights as they are loses least; None if the kernels' own number is as
/// good.
fn learn_direct_tokens(context: &Context) -> Result<Option<u32>> {
    let candidates = context.candidates(Operation::TernaryMatmul)?;
    let top: Vec<Candidate> =
        candidates.into_iter().filter(|candidate| candidate.backend.isa == context.kernels().isa()).collect();
    let limits: Vec<usize> = [0].into_iter().chain(DIRECT_TRIALS).collect();
    let (mut losses, mut default_loss) = (vec![0.0; limits.len()], 0.0);
    for (rows, cols) in [(768, 768), (2048, 1024)] {
        for tokens in DIRECT_TRIALS {
            let mut workload = Workload::new(Operation::TernaryMatmul, Size { rows, cols, depth: tokens });
            let times = time_candidates(&mut workload, &top, Caller::Inside, 7);
            let fastest = |direct: bool| {
                let mine = top.iter().zip(&times).filter(|(candidate, _)| candidate.backend.direct == direct);
                mine.map(|(_, time)| *time).fold(f64::INFINITY, f64::min)
            };
            let (direct, panels) = (fastest(true), fastest(false));
            let loss = |limit: usize| {
                let taken = if tokens <= limit { direct } else { panels };
                (taken / direct.min(panels)).ln().min(3.0)
            };
            limits.iter().zip(&mut losses).for_each(|(&limit, sum)| *sum += loss(limit));
            default_loss += loss(context.kernels().ternary_direct_tokens());
        }
    }
    let least = limits.iter().zip(losses).min_by(|a, b| a.1.total_cmp(&b.1));
    let worth = WORTH * (2 * DIRECT_TRIALS.len()) as f64;
    Ok(least
        .filter(|(_, loss)| loss + worth < default_loss)
        .map(|(&limit, _)| if Some(&limit) == DIRECT_TRIALS.last() { u32::MAX } else { limit as u32 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serial time 1 a unit of work; threads twice as fast after 1000; `small` beats `large` by half below 64.
    fn made_up(threads: bool) -> Vec<Timed> {
        let works = (0..STEPS as u32).map(|step| 1u64 << step);
        works
            .map(|work| {
                let mut backends = Vec::new();
                for isa in [Isa::Avx512, Isa::Avx2] {
                    let slower = if (isa == Isa::Avx2) == (work < 64) { 1.0 } else { 1.5 };
                    let time = work as f64 * slower;
                    backends.push((Backend { isa, parallel: false, direct: false, cuda: false }, time));
                    if threads {
                        backends
                            .push((Backend { isa, parallel: true, direct: false, cuda: false }, 1000.0 + time / 2.0));
                    }
                }
                Timed { work, backends }
            })
            .collect()
    }

    #[test]
    fn thresholds_are_found_where_they_are() {
        let found = choose(&made_up(true), Isa::Avx512, true);
        assert!(matches!(found.serial_below, Some(1025..=2047)), "{found:?}");
        assert!(matches!(found.small_below, Some(33..=63)), "{found:?}");
        assert_eq!((found.isa, found.small_isa), (None, Some(Isa::Avx2)));
        let alone = choose(&made_up(false), Isa::Avx512, false);
        assert_eq!((alone.serial_below, alone.small_isa), (None, Some(Isa::Avx2)));
    }

    #[test]
    fn a_hair_is_not_worth_a_line() {
        let mut sizes = made_up(false);
        for timed in &mut sizes {
            let work = timed.work as f64;
            timed.backends = vec![
                (Backend { isa: Isa::Avx512, parallel: false, direct: false, cuda: false }, work),
                (Backend { isa: Isa::Avx2, parallel: false, direct: false, cuda: false }, 0.998 * work),
            ];
        }
        assert_eq!(choose(&sizes, Isa::Avx512, false), Thresholds::default());
    }

    #[test]
    fn sizes_grow_and_alternate() {
        for operation in Operation::ALL {
            let works: Vec<usize> = (0..40).map(|step| Size::along(operation, step, 40).work(operation)).collect();
            assert!(works[0] * 1000 < works[39], "{operation:?}: {works:?}");
            assert!(works.windows(4).all(|w| w[0] < w[3]), "{operation:?}: {works:?}");
        }
    }
}
