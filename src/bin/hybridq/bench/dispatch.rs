//! `hybridq bench --suite dispatch`: what a choice costs, and how good the choices are. `--calibrate`.
#![forbid(unsafe_code)]

use std::time::Duration;

use hybridq::Result;
use hybridq::dispatch::{
    CALIBRATION_PASSES, CacheKey, Caller, Candidate, Comparison, Context, DispatchConfig, Operation, Size, Times,
    cache_path, calibrate, store_cached,
};
use hybridq::kernels::KernelTable;

use super::measure::median_ns;
use super::record::{Line, Report, nice_time};

/// Sizes an operation is judged at: others than calibration learns from.
const SIZES: usize = 40;
/// A choice this much slower than the best is still a good one.
const GOOD: f64 = 1.10;
/// How often all sizes of all operations are timed, and rounds of a size: slow spells of the machine last for seconds.
const PASSES: usize = 3;
const ROUNDS: usize = 3;

/// Learns thresholds and puts them into the cache file. Gives a context that uses them.
pub fn learn(report: &Report, context: &Context, cache: Option<&std::path::Path>) -> Result<Context> {
    report.expect(CALIBRATION_PASSES * Operation::ALL.len());
    let mut first = true;
    let config = calibrate(context, |operation| {
        report.begin(&format!("calibrating {}", operation.name()));
        if !std::mem::take(&mut first) {
            report.done();
        }
        Ok(())
    })?;
    let learned = context.with_dispatch(config.clone())?;
    match cache_path(cache) {
        Some(path) => {
            let key = CacheKey::of_this_machine(context.kernels().isa(), context.threads());
            store_cached(&path, &key, &config)?;
            report.say(&format!("thresholds of {} at {} threads, kept in {}", key.cpu, key.threads, path.display()))?;
        }
        None => report.say("thresholds, kept nowhere: no cache folder is known or allowed")?,
    }
    report.say(&config.to_toml())?;
    Ok(learned)
}

/// The choices among the CPU's backends.
pub fn run(report: &Report, context: &Context) -> Result<()> {
    let context = &context.with_dispatch(DispatchConfig { cuda: None, ..context.dispatch_config().clone() })?;
    overhead(report, context)?;
    report.expect(PASSES * Operation::ALL.len());
    // Called from outside and inside the context's threads in turn.
    let sizes = |op| (0..SIZES).map(move |step| (Size::along(op, step, SIZES), Caller::ALL[step % 2]));
    let compare = |op: Operation| Ok(Comparison::new(op, context.candidates(op)?, sizes(op)));
    let mut all = Operation::ALL.into_iter().map(compare).collect::<Result<Vec<_>>>()?;
    for _ in 0..PASSES {
        for compared in &mut all {
            report.begin(compared.operation.name());
            compared.time(ROUNDS);
            report.done();
        }
    }
    let sums = all.iter().map(|compared| judge(report, context, compared)).collect::<Result<Vec<_>>>()?;
    let (good, all) = sums.iter().fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1));
    line(report, context, "all operations".into(), (100.0 * good as f64 / all as f64, "% good"), None)
}

fn line(report: &Report, context: &Context, shape: String, value: (f64, &str), ns: Option<f64>) -> Result<()> {
    let line = Line::plain("dispatch", shape, context.kernels().isa().name(), context.threads(), value);
    report.line(Line { median_ns: ns, ..line })
}

/// Nanoseconds that a choice takes, and a choice with its clock.
fn overhead(report: &Report, context: &Context) -> Result<()> {
    const CALLS: usize = 100_000;
    let time = |work: &mut dyn FnMut(usize)| {
        median_ns(Duration::from_millis(50), || (0..CALLS).for_each(&mut *work)) / CALLS as f64
    };
    let choice = time(&mut |i| {
        std::hint::black_box(context.backend(Operation::ALL[i % Operation::ALL.len()], std::hint::black_box(i), 1));
    });
    line(report, context, "overhead of a choice".into(), (choice, "ns"), Some(choice))?;
    // The whole path of a call on no elements, less the bare kernel's.
    let mut nothing: [f32; 0] = [];
    let kernels = context.kernels();
    let bare = time(&mut |_| kernels.scale(std::hint::black_box(&mut nothing), 1.0));
    for (what, on) in [("overhead of a call, metrics off", false), ("overhead of a call, metrics on", true)] {
        let context = context.with_dispatch(context.dispatch_config().clone())?;
        context.set_metrics(on);
        let call = time(&mut |_| context.scale(std::hint::black_box(&mut nothing), 1.0)) - bare;
        line(report, &context, what.into(), (call, "ns"), Some(call))?;
    }
    Ok(())
}

/// Holds the dispatcher's choices against the best: the number of good choices and of all.
fn judge(report: &Report, context: &Context, compared: &Comparison) -> Result<(usize, usize)> {
    let Comparison { operation, candidates, cases } = compared;
    let name = operation.name();
    let (mut good, mut worst) = (0, 1.0f64);
    for (size, caller, times) in cases {
        let times: Vec<f64> = times.iter().map(Times::typical).collect();
        let best = (0..times.len()).min_by(|a, b| times[*a].total_cmp(&times[*b])).unwrap_or(0);
        let chosen = caller.call(context, || chosen(context, *operation, *size, candidates));
        let ratio = times[chosen] / times[best];
        good += usize::from(ratio <= GOOD);
        worst = worst.max(ratio);
        let from = if *caller == Caller::Inside { "inside" } else { "from outside" };
        let choice = format!("{name} {size} {from}: {}", candidates[chosen].backend);
        let sentence = match chosen == best {
            true => choice,
            false => format!("{choice}, best {}", candidates[best].backend),
        };
        let time = if ratio.is_finite() { nice_time(times[chosen]) } else { "not timed".into() };
        report.say(&format!("  {sentence:100} {time:>10} {:>5}", times_best(ratio)))?;
    }
    let shape = format!("{name}, {SIZES} sizes, worst {}", times_best(worst));
    line(report, context, shape, (100.0 * good as f64 / SIZES as f64, "% good"), None)?;
    Ok((good, SIZES))
}

/// How many times as long as the best; one that was not timed takes more than three times as long.
fn times_best(ratio: f64) -> String {
    if ratio.is_finite() { format!("{ratio:.2}") } else { "> 3".into() }
}

/// The candidate that the dispatcher takes.
fn chosen(context: &Context, operation: Operation, size: Size, candidates: &[Candidate]) -> usize {
    let backend = context.backend(operation, size.work(operation), size.depth);
    let same_kernels = |candidate: &Candidate| {
        let table = |isa| KernelTable::for_isa(isa).ok();
        match (table(candidate.backend.isa), table(backend.isa), operation.family()) {
            (Some(a), Some(b), Some(family)) => a.shares_kernels(b, family),
            _ => true,
        }
    };
    let same = |candidate: &Candidate| {
        let (a, b) = (candidate.backend, backend);
        a.parallel == b.parallel && a.direct == b.direct && same_kernels(candidate)
    };
    candidates.iter().position(same).unwrap_or(0)
}
