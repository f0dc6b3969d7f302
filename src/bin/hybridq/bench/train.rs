//! `hybridq bench --suite train`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use hybridq::dispatch::Context;
use hybridq::kernels::Isa;
use hybridq::nn::StepRandomness;
use hybridq::optim::{Optimizer, OptimizerConfig, OptimizerKind, TrainingState};
use hybridq::tensor::RandomStream;
use hybridq::train::{LanguageModelTrainer, Objective, RunPlace, TrainConfig};
use hybridq::{Error, Result};

use super::Arguments;
use super::ceilings::{Ceilings, Registers};
use super::measure::median;
use super::record::{Line, Report};
use crate::process_memory::{MIB, peak_memory, plan_memory, reset_peak_memory};

/// Steps before the clock counts.
const WARM_UP: usize = 2;
/// Fewest steps a median is taken of.
const LEAST_STEPS: usize = 5;
/// Pairs of updates whose times are compared.
const COST_PAIRS: usize = 40;
/// Bytes of made-up text.
const TEXT_BYTES: usize = 1 << 20;

pub fn run(report: &Report, context: &Context, arguments: &Arguments) -> Result<()> {
    if arguments.steps < LEAST_STEPS || arguments.steps > 100_000 {
        return Err(Error::invalid("--steps", format!("{LEAST_STEPS} to 100000"), arguments.steps));
    }
    reset_peak_memory();
    let text = tempfile::NamedTempFile::new().map_err(|error| Error::io(std::env::temp_dir(), error))?;
    std::fs::write(text.path(), made_up_text()).map_err(|error| Error::io(text.path(), error))?;
    let config = TrainConfig {
        data: Some(text.path().to_path_buf()),
        batch_size: arguments.batch,
        seq_length: arguments.seq,
        gradient_checkpointing: arguments.gradient_checkpointing,
        threads: Some(context.threads()),
        // At the full learning rate from the start, the trust region has something to do.
        warmup_steps: 0,
        ..TrainConfig::for_model(&arguments.model)
    };
    let config = config.overlaid(&TrainConfig::fields_of(arguments.config.as_deref())?)?;
    let mut trainer = LanguageModelTrainer::open(context, config, RunPlace::Nowhere)?;
    let (memory, beside) = plan_memory(&mut trainer);
    for _ in 0..WARM_UP {
        trainer.step()?;
    }
    let before = operation_times(&trainer);
    let seconds_before = trainer.history().steps.last().map_or(0.0, |step| step.seconds);
    for _ in 0..arguments.steps {
        trainer.step()?;
    }
    let after = operation_times(&trainer);
    let steps = &trainer.history().steps[WARM_UP..];
    let mut speeds: Vec<f64> = steps.iter().map(|step| step.tokens_per_s).collect();
    let speed = median(&mut speeds);
    let active = steps.iter().filter(|step| step.constraint_active).count() as f64 / steps.len() as f64;
    let tokens = (arguments.batch * arguments.seq) as f64;
    let mut shape = format!("{} {} x {}", arguments.model, arguments.batch, arguments.seq);
    if arguments.gradient_checkpointing > 0 {
        shape += &format!(", checkpoints every {}", arguments.gradient_checkpointing);
    }
    let (isa, threads) = (context.kernels().isa().name(), context.threads());
    let line = |what: &str, median_ns: Option<f64>, value: f64, unit: &str| {
        let shape = if what.is_empty() { shape.clone() } else { format!("{shape}: {what}") };
        report.line(Line { median_ns, ..Line::plain("train", shape, isa, threads, (value, unit)) })
    };
    line("", Some(tokens / speed * 1e9), speed, "tokens/s")?;
    let total = steps.last().map_or(0.0, |step| step.seconds) - seconds_before;
    let mut rest = total;
    for (name, &time) in &after {
        let time = time.saturating_sub(before.get(name).copied().unwrap_or_default()).as_secs_f64();
        rest -= time;
        line(name, Some(time * 1e9 / arguments.steps as f64), 100.0 * time / total, "% of a step")?;
    }
    let what = "batch, clip, optimizer, quantize";
    line(what, Some(rest * 1e9 / arguments.steps as f64), 100.0 * rest / total, "% of a step")?;
    line("constraint active", None, 100.0 * active, "% of steps")?;
    for (name, bytes) in memory.parts() {
        line(name, None, bytes as f64 / MIB, "MiB")?;
    }
    if let (Some(beside), Some(peak)) = (beside, peak_memory()) {
        let planned = beside + memory.step() as f64 / MIB;
        line("planned peak", None, planned, "MiB")?;
        line("peak memory of the process", None, peak, "MiB")?;
        line("planned over measured", None, 100.0 * planned / peak, "%")?;
    }
    // After the peak: what follows needs memory of its own.
    for (name, limit, time) in limits(report, context, &trainer, &after, &before, arguments)? {
        let time = time.unwrap_or(total / arguments.steps as f64);
        line(&format!("arithmetic limit, {name}"), Some(limit * 1e9), 100.0 * limit / time, "% of its time")?;
    }
    let cost = hybrid_cost(context, &mut trainer)?;
    line(
        "hybrid optimizer beyond AdamW",
        Some(cost * 1e9),
        100.0 * cost / (total / arguments.steps as f64),
        "% of a step",
    )?;
    let scales = learned_scales_time(context, &trainer);
    line(
        "gradients of learned scales",
        Some(scales * 1e9),
        100.0 * scales / (total / arguments.steps as f64),
        "% of a step",
    )?;
    let interval = trainer.config().reduction_probe_interval as f64;
    let probe = probe_time(context, &mut trainer)? / interval;
    line(
        "reduction probes (trust_radius_rule = \"reduction-ratio\")",
        Some(probe * 1e9),
        100.0 * probe / (total / arguments.steps as f64),
        "% of a step",
    )?;
    Ok(())
}

/// Least seconds of a step's matrix products at the peaks of this machine, measured here, and the seconds they took: of the
/// linear layers, of the head, and (without a time) of the whole step. What gradient checkpointing computes once more does
/// not count as work.
fn limits<'a>(
    report: &Report,
    context: &Context,
    trainer: &LanguageModelTrainer,
    after: &BTreeMap<String, Duration>,
    before: &BTreeMap<String, Duration>,
    arguments: &Arguments,
) -> Result<[(&'a str, f64, Option<f64>); 3]> {
    let ceilings = Ceilings::new(report);
    let int8 = ceilings.registers(Registers::Int8, context)?;
    let f32 = ceilings.registers(Registers::F32, context)?;
    // vdpbf16ps has two products where a multiply-add has one; elsewhere bf16 products are multiply-adds.
    let bf16 = if context.kernels().isa() == Isa::Avx512Bf16 { 2.0 * f32 } else { f32 };
    let plan = &trainer.objective().model().plan;
    let least = |kinds: &[&str]| -> f64 {
        let of_kinds =
            plan.operations().iter().filter(|operation| kinds.is_empty() || kinds.contains(&operation.name()));
        let products = of_kinds.flat_map(|op| op.products(plan, arguments.batch * arguments.seq, arguments.seq));
        products.map(|work| 2e-9 * (work.int8 / int8 + work.bf16 / bf16 + work.f32 / f32)).sum()
    };
    let taken = |kind: &str| {
        let time = |times: &BTreeMap<String, Duration>| -> f64 {
            let passes = ["forward", "backward"].map(|pass| times.get(&format!("{kind} {pass}")).copied());
            passes.into_iter().flatten().map(|time| time.as_secs_f64()).sum()
        };
        Some((time(after) - time(before)) / arguments.steps as f64)
    };
    let (linear, head) = ("linear", "language_model_head");
    Ok([(linear, least(&[linear]), taken(linear)), (head, least(&[head]), taken(head)), ("step", least(&[]), None)])
}

/// Seconds that an update with every part of the hybrid takes longer than AdamW's alone: median over pairs of updates of the
/// trained model from its last gradients.
fn hybrid_cost(context: &Context, trainer: &mut LanguageModelTrainer) -> Result<f64> {
    let config = trainer.config().optimizer_config();
    let state = TrainingState { loss: 1.0, learning_rate: 1e-6, gradient_norm: 1.0, ..TrainingState::default() };
    let store = trainer.objective_mut().store_mut();
    let mut hybrid = config.build(store)?;
    let mut plain = OptimizerConfig { optimizer: OptimizerKind::AdamW, ..config }.build(store)?;
    let mut time = |optimizer: &mut dyn Optimizer| -> Result<f64> {
        let start = Instant::now();
        context.install(|| optimizer.step(context, store, &state))?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut differences = Vec::new();
    for pair in 0..COST_PAIRS {
        // In turn: the second of two finds more in the caches.
        differences.push(match pair % 2 {
            0 => time(hybrid.as_mut())? - time(plain.as_mut())?,
            _ => -time(plain.as_mut())? + time(hybrid.as_mut())?,
        });
    }
    Ok(median(&mut differences))
}

/// Seconds of what learned scales add to a step: the inner products of the matrices with their gradients. Median of several.
fn learned_scales_time(context: &Context, trainer: &LanguageModelTrainer) -> f64 {
    let store = trainer.objective().store();
    let mut times = [0.0; COST_PAIRS].map(|_| {
        let start = Instant::now();
        context.install(|| {
            for id in store.ids() {
                if let Some(quantized) = store.quantized(id) {
                    black_box(quantized.inner_product(context, &store.gradient_values(id)));
                }
            }
        });
        start.elapsed().as_secs_f64()
    });
    median(&mut times)
}

/// Seconds of one look at the loss of a step's batch: median of several.
fn probe_time(context: &Context, trainer: &mut LanguageModelTrainer) -> Result<f64> {
    let examples: Vec<usize> = (0..trainer.config().batch_size).map(|i| i % trainer.objective().examples()).collect();
    let mut times = Vec::new();
    for _ in 0..=LEAST_STEPS {
        let start = Instant::now();
        trainer.objective_mut().loss(context, &examples, StepRandomness::default())?;
        times.push(start.elapsed().as_secs_f64());
    }
    // The first one makes its memory.
    Ok(median(&mut times[1..]))
}

/// Time in each kind of operation so far, forward and backward apart.
fn operation_times(trainer: &LanguageModelTrainer) -> BTreeMap<String, Duration> {
    let objective = trainer.objective();
    let mut times = BTreeMap::new();
    if let Some(executor) = objective.executor() {
        for (operation, [forward, backward]) in objective.model().plan.operations().iter().zip(executor.times()) {
            *times.entry(format!("{} forward", operation.name())).or_default() += *forward;
            *times.entry(format!("{} backward", operation.name())).or_default() += *backward;
        }
    }
    times
}

/// Words of made-up letters: enough structure for losses and gradients of a usual size.
fn made_up_text() -> Vec<u8> {
    let mut stream = RandomStream::new(3, 0, 0, 0);
    let mut text = Vec::with_capacity(TEXT_BYTES);
    while text.len() < TEXT_BYTES {
        for _ in 0..1 + stream.below(8) {
            // Squared, so that some letters are common.
            text.push(b'a' + (26.0 * stream.uniform() * stream.uniform()) as u8);
        }
        text.push(if stream.below(12) == 0 { b'\n' } else { b' ' });
    }
    text
}
