//! Learning the thresholds of this machine: every backend of every operation is timed from small to large, and the
//! thresholds that lose least against the best of each size are taken.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::config::{DispatchConfig, Thresholds};
use super::cuda::DRIVER;
use super::timing::{Caller, Candidate, Comparison, Times};
use super::{Backend, Context, Operation, Size, cuda_calibration};
use crate::Result;
use crate::gpu::device_count;
use crate::kernels::Isa;

/// Sizes an operation is timed at, of so many steps: the largest take longest, and thresholds lie far below them.
const STEPS: usize = 18;
const ALL_STEPS: usize = 20;
/// How often [`calibrate`] goes through all operations: a machine that shares its cores has slow spells of many seconds, and one
/// must not meet all that is known of an operation.
pub const CALIBRATION_PASSES: usize = 3;
/// Rounds of a size in one pass.
const ROUNDS: usize = 3;
/// Calls, before each operation of each pass, that tell what threads lose that were not kept awake.
const WAKING_CALLS: usize = 16;
/// Tokens that reading packed weights as they are is tried at.
const DIRECT_TRIALS: [usize; 8] = [2, 4, 8, 16, 32, 64, 128, 256];
const DIRECT_ROUNDS: usize = 7;
/// What a departure from the defaults must gain to be worth a line: the mean share of time over all sizes.
const WORTH: f64 = 0.02;

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

/// The thresholds of `context` for an operation; sharing costs a call from outside `waking` nanoseconds more.
fn thresholds(context: &Context, compared: &Comparison, waking: f64) -> Thresholds {
    let Comparison { operation, candidates, cases } = compared;
    let timed = |more: f64| {
        let mut sizes: Vec<Timed> = Vec::new();
        for (size, _, times) in cases {
            // Of the two paths of a product only the one that will be taken counts.
            let direct = context.backend(*operation, usize::MAX, size.depth).direct;
            let pairs = candidates.iter().map(|candidate| candidate.backend).zip(times);
            let taken = pairs.filter(|(backend, _)| *operation != Operation::TernaryMatmul || backend.direct == direct);
            let backends =
                taken.map(|(backend, times)| (backend, times.typical() + if backend.parallel { more } else { 0.0 }));
            sizes.push(Timed { work: size.work(*operation) as u64, backends: backends.collect() });
        }
        sizes.sort_by_key(|timed| timed.work);
        choose(&sizes, context.kernels().isa(), context.threads() > 1)
    };
    let inside = timed(0.0);
    Thresholds { serial_below: timed(waking).serial_below, serial_below_inside: inside.serial_below, ..inside }
}

/// Nanoseconds by which calls from outside took longer than within a step: of three in a row after a pause in which the threads
/// went to sleep, with work of about 40 microseconds each, which is where sharing begins to matter.
fn time_waking(context: &Context, samples: &mut Times) {
    let spin = |time: Duration| {
        let start = Instant::now();
        while start.elapsed() < time {
            std::hint::spin_loop();
        }
    };
    let calls = || {
        let start = Instant::now();
        (0..3).for_each(|_| context.for_each(0..40, |_| spin(Duration::from_micros(1))));
        start.elapsed().as_secs_f64() * 1e9 / 3.0
    };
    let mut inside = Times::default();
    context.install(|| (0..WAKING_CALLS).for_each(|_| inside.push(calls())));
    for _ in 0..WAKING_CALLS {
        spin(Duration::from_micros(100));
        samples.push(calls() - inside.typical());
    }
}

/// The thresholds of this context's level and threads, learned by timing. `progress` is told each operation before it is
/// timed, [`CALIBRATION_PASSES`] times; an error of its own ends the work. What the first CUDA device costs is learned too, where
/// there is one. A minute or so; wants a quiet machine. Errors: `progress`'s.
pub fn calibrate(context: &Context, mut progress: impl FnMut(Operation) -> Result<()>) -> Result<DispatchConfig> {
    let compare = |operation| {
        let sizes = (0..STEPS).map(|step| (Size::along(operation, step, ALL_STEPS), Caller::Inside));
        Ok(Comparison::new(operation, context.candidates(operation)?, sizes))
    };
    let mut operations = Operation::ALL.into_iter().map(compare).collect::<Result<Vec<_>>>()?;
    let mut waking = Times::default();
    for _ in 0..CALIBRATION_PASSES {
        for compared in &mut operations {
            progress(compared.operation)?;
            if context.threads() > 1 {
                time_waking(context, &mut waking);
            }
            compared.time(ROUNDS);
        }
    }
    let waking = if context.threads() > 1 { waking.quantile(0.5).max(0.0) } else { 0.0 };
    tracing::debug!("calls from outside lose {waking:.0} ns to waking threads");
    let mut config = DispatchConfig { direct_tokens: learn_direct_tokens(context)?, ..Default::default() };
    let context = context.with_dispatch(config.clone())?;
    for compared in &operations {
        let thresholds = thresholds(&context, compared, waking);
        if thresholds != Thresholds::default() {
            *config.of_mut(compared.operation) = thresholds;
        }
    }
    if let Some(open) = DRIVER
        && device_count().is_ok()
        && let Err(error) = cuda_calibration::learn(&context, 0, open, cuda_calibration::large, &mut config)
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
    let shapes = [(768, 768), (2048, 1024)];
    let sizes = shapes.into_iter().flat_map(|(rows, cols)| DIRECT_TRIALS.map(|depth| Size { rows, cols, depth }));
    let mut compared = Comparison::new(Operation::TernaryMatmul, top, sizes.map(|size| (size, Caller::Inside)));
    compared.time(DIRECT_ROUNDS);
    let limits: Vec<usize> = [0].into_iter().chain(DIRECT_TRIALS).collect();
    let (mut losses, mut default_loss) = (vec![0.0; limits.len()], 0.0);
    for (size, _, times) in &compared.cases {
        let fastest = |direct: bool| {
            let mine =
                compared.candidates.iter().zip(times).filter(|(candidate, _)| candidate.backend.direct == direct);
            mine.map(|(_, times)| times.typical()).fold(f64::INFINITY, f64::min)
        };
        let (direct, panels) = (fastest(true), fastest(false));
        let loss = |limit: usize| {
            let taken = if size.depth <= limit { direct } else { panels };
            (taken / direct.min(panels)).ln().min(3.0)
        };
        limits.iter().zip(&mut losses).for_each(|(&limit, sum)| *sum += loss(limit));
        default_loss += loss(context.kernels().ternary_direct_tokens());
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
            let sizes = (0..40).map(|step| Size::along(operation, step, 40));
            let works: Vec<usize> = sizes.map(|size| size.rows * size.cols * size.depth).collect();
            assert!(works[0] * 1000 < works[39], "{operation:?}: {works:?}");
            assert!(works.windows(4).all(|w| w[0] < w[3]), "{operation:?}: {works:?}");
        }
    }
}
