//! The choice itself: a configuration resolved to kernels, and the call that carries a choice.
#![forbid(unsafe_code)]

use std::time::Instant;

use serde::Serialize;

use super::config::{DispatchConfig, NEVER};
use super::cuda::{Cuda, Open};
use super::metrics::{Metrics, Slot};
use super::operation::Operation;
use crate::kernels::{Isa, KernelTable};
use crate::{Error, Result};

/// Where a call runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct Backend {
    /// Instruction set level of the kernels.
    pub isa: Isa,
    /// On the context's threads, or on the calling one alone.
    pub parallel: bool,
    /// Ternary products: straight from the packed weights, token by token, instead of through panels.
    pub direct: bool,
    /// On the context's CUDA device; the other fields say nothing then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cuda: bool,
}

impl Backend {
    pub(super) const CUDA: Self = Backend { isa: Isa::Portable, parallel: false, direct: false, cuda: true };
    pub(super) const COUNT: usize = 4 * Isa::ALL.len() + 1;

    /// The instruction set level, or "cuda".
    pub fn name(self) -> &'static str {
        if self.cuda { "cuda" } else { self.isa.name() }
    }

    pub(super) fn index(self) -> usize {
        if self.cuda {
            return Self::COUNT - 1;
        }
        4 * self.isa as usize + 2 * usize::from(self.direct) + usize::from(self.parallel)
    }

    pub(super) fn from_index(index: usize) -> Self {
        if index == Self::COUNT - 1 {
            return Self::CUDA;
        }
        Backend { isa: Isa::ALL[index / 4], direct: index & 2 != 0, parallel: index & 1 != 0, cuda: false }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.cuda {
            return f.write_str("cuda");
        }
        let threads = if self.parallel { "threads" } else { "serial" };
        write!(f, "{} {threads}{}", self.isa.name(), if self.direct { " direct" } else { "" })
    }
}

/// How one operation chooses.
#[derive(Clone, Copy, Debug)]
struct Choice {
    serial_below: u64,
    serial_below_inside: u64,
    small_below: u64,
    small: &'static KernelTable,
    large: &'static KernelTable,
}

impl Choice {
    /// The least work that is shared out, as far as it matters for a call of `work`: which thread calls is looked up only
    /// where that decides.
    #[inline]
    fn least_shared(&self, work: u64) -> u64 {
        let decided = (work >= self.serial_below) == (work >= self.serial_below_inside);
        if decided || rayon::current_thread_index().is_none() { self.serial_below } else { self.serial_below_inside }
    }
}

/// A configuration resolved for one context, and its counters.
#[derive(Debug)]
pub(super) struct Dispatcher {
    choices: [Choice; Operation::ALL.len()],
    /// Whether there is another thread to share work with.
    shares: bool,
    pub(super) cuda: Option<Cuda>,
    pub(super) config: DispatchConfig,
    pub(super) metrics: Metrics,
}

impl Dispatcher {
    /// `open`: of CUDA devices, where the build has them. Errors: a level that this CPU or build lacks, or that lies above the
    /// cap `table`; a CUDA threshold of an operation that stays on the CPU.
    pub(super) fn new(
        table: &'static KernelTable,
        threads: usize,
        config: DispatchConfig,
        open: Option<Open>,
    ) -> Result<Self> {
        let mut choices =
            [Choice { serial_below: NEVER, serial_below_inside: NEVER, small_below: 0, small: table, large: table };
                Operation::ALL.len()];
        for operation in Operation::ALL {
            let wanted = config.of(operation);
            let large = capped(operation, table, wanted.isa)?;
            let serial_below = wanted.serial_below.unwrap_or(operation.default_serial_below());
            choices[operation as usize] = Choice {
                serial_below,
                serial_below_inside: wanted.serial_below_inside.unwrap_or(serial_below),
                small_below: wanted.small_below.unwrap_or(0),
                small: if wanted.small_isa.is_some() { capped(operation, table, wanted.small_isa)? } else { large },
                large,
            };
        }
        let cuda = Cuda::of(&config, open)?;
        Ok(Dispatcher { choices, shares: threads > 1, cuda, config, metrics: Metrics::new() })
    }

    /// The choice for `operation` with `work`, called from this thread; `direct`: whether packed weights are read as they are.
    #[inline]
    pub(super) fn choose(&self, operation: Operation, work: usize, direct: bool) -> Call<'_> {
        let choice = &self.choices[operation as usize];
        let work = work as u64;
        let kernels = if work < choice.small_below { choice.small } else { choice.large };
        let parallel = self.shares && work >= choice.least_shared(work);
        Call { kernels, parallel, direct, timing: None }
    }

    /// The same, with a running clock if metrics are on.
    #[inline]
    pub(super) fn call(&self, operation: Operation, work: usize, direct: bool) -> Call<'_> {
        let mut call = self.choose(operation, work, direct);
        if self.metrics.is_enabled() {
            call.timing = Some((self.metrics.slot(operation, call.backend()), Instant::now()));
        }
        call
    }
}

fn capped(operation: Operation, cap: &'static KernelTable, wanted: Option<Isa>) -> Result<&'static KernelTable> {
    let Some(isa) = wanted else { return Ok(cap) };
    if isa != cap.isa() && !cap.isa().includes(isa) {
        let expected = format!("a level within {}", cap.isa().name());
        return Err(Error::invalid(format!("operations.{}.isa", operation.name()), expected, isa.name()));
    }
    KernelTable::for_isa(isa)
}

/// One call of an operation: its backend, and its clock if metrics are on.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// The kernels to call.
    pub(super) kernels: &'static KernelTable,
    /// Whether to use the context's threads.
    pub(super) parallel: bool,
    /// Whether to read packed weights token by token.
    pub(super) direct: bool,
    timing: Option<(&'a Slot, Instant)>,
}

impl Call<'_> {
    pub(super) fn backend(&self) -> Backend {
        Backend { isa: self.kernels.isa(), parallel: self.parallel, direct: self.direct, cuda: false }
    }
}

impl Drop for Call<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some((slot, start)) = self.timing {
            slot.record(start.elapsed());
        }
    }
}
