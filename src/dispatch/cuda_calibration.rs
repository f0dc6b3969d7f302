//! Learning what calls on a CUDA device cost: copies, the smallest call, and the rates of both sides.
#![forbid(unsafe_code)]

use std::time::Instant;

use super::config::DispatchConfig;
use super::cuda::{CudaDevice, Open, OpenDevice, Traffic};
use super::{Context, Operation, Size, Workload};
use crate::gpu::HostCall;
use crate::kernels::ternary_packed_len;
use crate::{Error, Result};

/// Bytes whose copies are timed: far beyond what a copy's start takes.
const COPIED: usize = 1 << 26;
/// Calls of which the shortest counts; one before them warms up.
const CALLS: usize = 4;
/// The kernel's part of a call is this share of it, at least: a difference of two times is no better known.
const LEAST_SHARE: f64 = 0.02;

/// Sizes at which both sides work at full speed, or nearly.
pub(super) fn large(operation: Operation) -> Size {
    match operation {
        Operation::KmeansAssign => Size { rows: 1 << 16, cols: 64, depth: 64 },
        _ => Size { rows: 2048, cols: 2048, depth: 512 },
    }
}

/// What a call at `size` copies, as [`Context`]'s operations count it.
fn traffic(operation: Operation, Size { rows, cols, depth }: Size) -> Traffic {
    let packed = ternary_packed_len(rows, cols);
    match operation {
        Operation::Int8Matmul => Traffic::int8(rows, cols, depth, false),
        Operation::KmeansAssign => Traffic::kmeans(rows, cols, depth),
        Operation::TernaryMatmulTransposed => Traffic::ternary(packed, rows, cols, depth),
        _ => Traffic::ternary(packed, cols, rows, depth),
    }
}

/// Seconds of the shortest of several runs.
fn shortest(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    (0..CALLS).try_fold(f64::INFINITY, |least, _| {
        let start = Instant::now();
        run()?;
        Ok(least.min(start.elapsed().as_secs_f64()))
    })
}

fn rate(amount: f64, seconds: f64) -> u64 {
    (amount / seconds.max(1e-12)).min(i64::MAX as f64) as u64
}

/// Adds to `config` what calls on `device` cost, and the rates of both sides for every operation that may go there, timed at
/// `size`. The rates of the CPU are those of `context` under `config` as it is. A second or two. Errors: the device's; `config`
/// is as it was then.
pub(super) fn learn(
    context: &Context,
    device: u32,
    open: Open,
    size: fn(Operation) -> Size,
    config: &mut DispatchConfig,
) -> Result<()> {
    let here = context.with_devices(config.clone(), None)?;
    let mut forced = DispatchConfig { cuda: Some(CudaDevice { device, ..Default::default() }), ..Default::default() };
    let operations: Vec<Operation> = Operation::ALL.into_iter().filter(|op| op.may_leave_the_cpu()).collect();
    for &operation in &operations {
        forced.of_mut(operation).cuda_from = Some(0);
    }
    let there = context.with_devices(forced, Some(open))?;
    let on_device = |operation: Operation, size: Size| {
        let mut workload = Workload::new(operation, size);
        shortest(|| {
            workload.run(&there);
            // The CPU has done it then.
            if there.cuda_has_failed() { Err(Error::Device(there.cuda().unwrap_or_default())) } else { Ok(()) }
        })
    };

    let OpenDevice { name, calls } = open(device)?;
    let mut bytes = vec![1u8; COPIED];
    let upload = rate(COPIED as f64, shortest(|| calls(HostCall::Upload(&bytes)))?);
    let download = rate(COPIED as f64, shortest(|| calls(HostCall::Download(&mut bytes)))?);
    drop((calls, bytes));
    let mut latency = 0.0f64;
    for &operation in &operations {
        latency = latency.max(on_device(operation, Size { rows: 16, cols: 16, depth: 2 })?);
    }
    let mut rates = Vec::new();
    for &operation in &operations {
        let (size, work) = (size(operation), size(operation).work(operation) as f64);
        let Traffic { up, down } = traffic(operation, size);
        let whole = on_device(operation, size)?;
        let copies = up as f64 / upload as f64 + down as f64 / download as f64;
        let kernel = (whole - latency - copies).max(LEAST_SHARE * whole);
        let mut workload = Workload::new(operation, size);
        let cpu = shortest(|| {
            workload.run(&here);
            Ok(())
        })?;
        rates.push((operation, rate(work, kernel), rate(work, cpu)));
    }
    let latency_ns = (latency * 1e9) as u64;
    config.cuda = Some(CudaDevice { device, name, latency_ns, upload_per_s: upload, download_per_s: download });
    for (operation, device_rate, cpu_rate) in rates {
        let thresholds = config.of_mut(operation);
        (thresholds.cuda_work_per_s, thresholds.cpu_work_per_s) = (Some(device_rate), Some(cpu_rate));
    }
    Ok(())
}
