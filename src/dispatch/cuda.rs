//! The CUDA device of a context: which calls are worth their copies, and what becomes of them when the device fails.
//!
//! Operands and results lie in host memory, so a call pays for copies both ways. That can be worth it only where the work
//! grows faster than the bytes: products of many tokens and nearest centroids. Norms, clipping, scaling, quantizing, packing
//! and one token's product read every byte once: copying it takes longer than the CPU takes for all of it. An iteration of
//! k-means stays here for another reason: a device's sums round otherwise. What may go there has the same bits there.
#![forbid(unsafe_code)]

use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use super::config::DispatchConfig;
use super::operation::Operation;
use crate::gpu::{Device, HostCall, HostCalls};
use crate::kernels::ternary_packed_len;
use crate::{Error, Result};

/// A device is taken where it is expected to need less than this share of the CPU's time: the model is a rough one.
const WORTH: f64 = 0.8;

/// A CUDA device and what a call on it costs beside its work. Numbers that are 0 are not known: then only
/// [`super::Thresholds::cuda_from`] sends calls there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CudaDevice {
    /// Its number.
    pub device: u32,
    /// The name of the device that the numbers were learned on; a device of another name is not used. Empty: any.
    pub name: String,
    /// Nanoseconds of the smallest call: copies of a few bytes, launches, waits.
    pub latency_ns: u64,
    /// Bytes a second from host memory to the device.
    pub upload_per_s: u64,
    /// Bytes a second from the device to host memory.
    pub download_per_s: u64,
}

/// Bytes that a call copies to the device and back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Traffic {
    pub(super) up: usize,
    pub(super) down: usize,
}

impl Traffic {
    /// A ternary product of `tokens` with weights of `packed` bytes, from `k` values to `outputs`.
    pub(super) fn ternary(packed: usize, k: usize, outputs: usize, tokens: usize) -> Self {
        let up = packed.saturating_add(tokens.saturating_mul(k.saturating_add(8)));
        Traffic { up, down: tokens.saturating_mul(outputs).saturating_mul(4) }
    }

    /// A sum over `tokens` of products of int8, `m` by `n` of them.
    pub(super) fn int8(m: usize, n: usize, tokens: usize, accumulate: bool) -> Self {
        let down = m.saturating_mul(n).saturating_mul(4);
        let up = tokens.saturating_mul(m.saturating_add(n)).saturating_add(if accumulate { down } else { 0 });
        Traffic { up, down }
    }

    /// The nearest of `k` centroids for `n` points.
    pub(super) fn kmeans(n: usize, dim: usize, k: usize) -> Self {
        Traffic { up: n.saturating_add(k).saturating_mul(dim).saturating_mul(4), down: n.saturating_mul(8) }
    }

    /// Where no more is known than the work and the tokens or centroids: square weights, 64 coordinates.
    fn assumed(operation: Operation, work: usize, depth: usize) -> Self {
        let area = work / depth.max(1);
        let side = area.isqrt();
        match operation {
            Operation::Int8Matmul => Traffic::int8(side, side, depth, false),
            Operation::KmeansAssign => Traffic::kmeans(area / 64, 64, depth),
            _ => Traffic::ternary(ternary_packed_len(side, side), side, side, depth),
        }
    }
}

impl Operation {
    /// Whether it may run on a CUDA device: with the same bits, and more work than bytes.
    pub fn may_leave_the_cpu(self) -> bool {
        use Operation::{Int8Matmul, KmeansAssign, TernaryMatmul, TernaryMatmulTransposed};
        matches!(self, Int8Matmul | KmeansAssign | TernaryMatmul | TernaryMatmulTransposed)
    }
}

/// What does the calls of a device. Errors of kind [`Error::InvalidValue`] and [`Error::Shape`] mean that this call is the
/// CPU's; all others, that the device is not to be asked again.
pub(super) type Calls = Box<dyn Fn(HostCall<'_>) -> Result<()> + Send>;

/// A device that was opened.
pub(super) struct OpenDevice {
    pub(super) name: String,
    pub(super) calls: Calls,
}

/// Opens a device.
pub(super) type Open = fn(u32) -> Result<OpenDevice>;

/// The driver's devices; None where the build has no driver's place.
pub(super) const DRIVER: Option<Open> = if cfg!(feature = "cuda") { Some(open) } else { None };

fn open(device: u32) -> Result<OpenDevice> {
    let device = Device::open(device as usize)?;
    let calls = HostCalls::new(&device)?;
    Ok(OpenDevice { name: device.name().into(), calls: Box::new(move |call| calls.run(call)) })
}

/// How one operation chooses: from so much work on, or by the rates of both sides, in work a second.
#[derive(Clone, Copy, Debug, Default)]
struct Choice {
    from: Option<u64>,
    device_rate: u64,
    cpu_rate: u64,
}

/// The device of a configuration. It is opened by the first call that is worth it.
pub(super) struct Cuda {
    costs: CudaDevice,
    choices: [Choice; Operation::ALL.len()],
    open: Open,
    opened: Mutex<Option<OpenDevice>>,
    failure: OnceLock<String>,
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.costs, self.choices, self.failure)
    }
}

impl Cuda {
    /// None where the configuration names no device, or none can be opened in this build. Errors: a threshold for an
    /// operation that never leaves the CPU.
    pub(super) fn of(config: &DispatchConfig, open: Option<Open>) -> Result<Option<Self>> {
        let mut choices = [Choice::default(); Operation::ALL.len()];
        for (&operation, wanted) in &config.operations {
            if wanted.cuda_from.is_some() && !operation.may_leave_the_cpu() {
                let may = Operation::ALL.into_iter().filter(|operation| operation.may_leave_the_cpu());
                let may = may.map(Operation::name).collect::<Vec<_>>().join(", ");
                let name = format!("operations.{}.cuda_from", operation.name());
                return Err(Error::invalid(name, format!("one of {may}"), operation.name()));
            }
            choices[operation as usize] = Choice {
                from: wanted.cuda_from,
                device_rate: wanted.cuda_work_per_s.unwrap_or(0),
                cpu_rate: wanted.cpu_work_per_s.unwrap_or(0),
            };
        }
        let (Some(costs), Some(open)) = (config.cuda.clone(), open) else { return Ok(None) };
        Ok(Some(Cuda { costs, choices, open, opened: Mutex::new(None), failure: OnceLock::new() }))
    }

    /// Whether a call is worth its copies.
    pub(super) fn pays(&self, operation: Operation, work: usize, traffic: Traffic) -> bool {
        let choice = self.choices[operation as usize];
        if self.has_failed() || !operation.may_leave_the_cpu() {
            return false;
        }
        if let Some(from) = choice.from {
            return work as u64 >= from;
        }
        let &CudaDevice { latency_ns, upload_per_s, download_per_s, .. } = &self.costs;
        if [upload_per_s, download_per_s, choice.device_rate, choice.cpu_rate].contains(&0) {
            return false;
        }
        let seconds = |amount: usize, rate: u64| amount as f64 / rate as f64;
        let copies = seconds(traffic.up, upload_per_s) + seconds(traffic.down, download_per_s);
        let there = latency_ns as f64 * 1e-9 + copies + seconds(work, choice.device_rate);
        there < WORTH * seconds(work, choice.cpu_rate)
    }

    /// [`Cuda::pays`] where no more is known than the work and the tokens of a product or the centroids.
    pub(super) fn would_pay(&self, operation: Operation, work: usize, depth: usize) -> bool {
        self.pays(operation, work, Traffic::assumed(operation, work, depth))
    }

    /// Runs a call on the device, one at a time; false: the CPU is to do it. A device that fails is closed, which frees its
    /// memory, and not asked again.
    pub(super) fn run(&self, operation: Operation, call: HostCall<'_>) -> bool {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_failed() {
            return false;
        }
        let device = match &mut *opened {
            Some(device) => Ok(&*device),
            closed => self.open_device().map(|device| &*closed.insert(device)),
        };
        match device.and_then(|device| (device.calls)(call)) {
            Ok(()) => true,
            Err(Error::InvalidValue { .. } | Error::Shape { .. }) => false,
            Err(error) => {
                let _ = self.failure.set(format!("{}: {error}", operation.name()));
                *opened = None;
                tracing::warn!("{}", self.status());
                false
            }
        }
    }

    fn open_device(&self) -> Result<OpenDevice> {
        let CudaDevice { device, name, .. } = &self.costs;
        let opened = (self.open)(*device)?;
        if name.is_empty() || *name == opened.name {
            return Ok(opened);
        }
        let why = format!(
            "what calls cost was learned on {name:?}, this is {:?}; hybridq bench --calibrate learns it anew",
            opened.name
        );
        Err(Error::Device(why))
    }

    /// Which operations may go to which device, or why none does any more: one line.
    pub(super) fn status(&self) -> String {
        let device = self.costs.device;
        if let Some(failure) = self.failure.get() {
            return format!("cuda:{device} failed and is not asked again, the CPU goes on: {failure}");
        }
        let goes = |operation: &Operation| {
            let choice = self.choices[*operation as usize];
            choice.from.is_some() || (choice.device_rate > 0 && choice.cpu_rate > 0)
        };
        let names: Vec<&str> = Operation::ALL.into_iter().filter(goes).map(Operation::name).collect();
        format!("cuda:{device} where it pays: {}", if names.is_empty() { "never".into() } else { names.join(", ") })
    }

    /// Whether it has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }
}
