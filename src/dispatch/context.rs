//! The context: a thread pool, a kernel table and a dispatcher. Everything that computes takes one.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::backend::{Backend, Call, Dispatcher};
use super::cache::{ConfigSource, config_for};
use super::config::DispatchConfig;
use super::cuda::{Cuda, DRIVER, Open, Traffic};
use super::metrics::BackendMetrics;
use super::operation::Operation;
use super::parallel::{beside, spread, with_helpers};
use crate::gpu::HostCall;
use crate::kernels::{Isa, KernelTable};
use crate::{Error, Result};

/// The most threads a context accepts.
const MAX_THREADS: usize = 1024;

/// How a [`Context`] is made.
#[derive(Clone, Debug, Default)]
pub struct ContextOptions {
    /// Threads; `None`: as many as the process may use (its cgroup quota and affinity).
    pub threads: Option<usize>,
    /// Cap on the instruction set; `None`: `HYBRIDQ_ISA`, or the best this CPU has.
    pub isa: Option<Isa>,
}

/// Threads and kernels for computing, and the choice between them. Cheap to clone; clones share the threads and the
/// metrics.
#[derive(Clone, Debug)]
pub struct Context {
    table: &'static KernelTable,
    pool: Arc<rayon::ThreadPool>,
    dispatcher: Arc<Dispatcher>,
    source: ConfigSource,
}

impl Context {
    /// A context with its own threads, and the thresholds of the cache file ([`super::cache_path`]) or the defaults.
    /// Errors: more than 1,024 threads or none, an ISA this CPU lacks.
    pub fn new(options: ContextOptions) -> Result<Self> {
        Self::with_cache(options, None)
    }

    /// As [`Context::new`] with another cache file. One that cannot serve costs a warning (`tracing`), never an error.
    pub fn with_cache(options: ContextOptions, cache: Option<&Path>) -> Result<Self> {
        let available = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = options.threads.unwrap_or(available);
        if threads == 0 || threads > MAX_THREADS {
            return Err(Error::invalid("threads", format!("1 to {MAX_THREADS}"), threads));
        }
        let table = match options.isa {
            Some(isa) => KernelTable::for_isa(isa)?,
            None => KernelTable::best()?,
        };
        let (config, mut source) = config_for(table.isa(), threads, cache);
        let dispatcher = Dispatcher::new(table, threads, config, DRIVER).or_else(|error| {
            // A cache file that somebody edited.
            tracing::warn!("{error}; the dispatcher uses its defaults");
            source = ConfigSource::Defaults;
            Dispatcher::new(table, threads, DispatchConfig::default(), DRIVER)
        })?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("hybridq-{index}"))
            .build()
            .map_err(|error| Error::Unsupported(format!("cannot start {threads} threads: {error}")))?;
        Ok(Context { table, pool: Arc::new(pool), dispatcher: Arc::new(dispatcher), source })
    }

    /// This context's threads under other thresholds and with metrics of its own. Errors: a level that this CPU or
    /// build lacks, or that lies above this context's.
    pub fn with_dispatch(&self, config: DispatchConfig) -> Result<Self> {
        self.with_devices(config, DRIVER)
    }

    /// The same with other CUDA devices than the driver's.
    pub(super) fn with_devices(&self, config: DispatchConfig, open: Option<Open>) -> Result<Self> {
        let dispatcher = Arc::new(Dispatcher::new(self.table, self.threads(), config, open)?);
        Ok(Context { dispatcher, source: ConfigSource::Given, ..self.clone() })
    }

    /// The thresholds in use.
    pub fn dispatch_config(&self) -> &DispatchConfig {
        &self.dispatcher.config
    }

    /// Where they come from.
    pub fn dispatch_source(&self) -> &ConfigSource {
        &self.source
    }

    /// Where a call of `operation` with `work` ([`Size::work`](super::Size::work)) from this thread runs. `tokens`: of a product, or the
    /// centroids of k-means. Where a CUDA device may be chosen, its copies are counted as those of square weights or of points with 64
    /// coordinates; a call counts its own.
    pub fn backend(&self, operation: Operation, work: usize, tokens: usize) -> Backend {
        if self.dispatcher.cuda.as_ref().is_some_and(|cuda| cuda.would_pay(operation, work, tokens)) {
            return Backend::CUDA;
        }
        self.dispatcher.choose(operation, work, self.is_direct(operation, tokens)).backend()
    }

    /// Whether a ternary product of `tokens` reads the packed weights as they are.
    fn is_direct(&self, operation: Operation, tokens: usize) -> bool {
        match operation {
            Operation::TernaryMatvec => true,
            Operation::TernaryMatmul => match self.dispatcher.config.direct_tokens {
                Some(most) => tokens as u64 <= u64::from(most),
                None => tokens <= self.table.ternary_direct_tokens(),
            },
            _ => false,
        }
    }

    /// The backend of a call, which ends when the value is dropped.
    #[inline]
    pub(super) fn call(&self, operation: Operation, work: usize) -> Call<'_> {
        self.dispatcher.call(operation, work, false)
    }

    /// As [`Context::call`] for a ternary product of `tokens`.
    #[inline]
    pub(super) fn product_call(&self, operation: Operation, work: usize, tokens: usize) -> Call<'_> {
        self.dispatcher.call(operation, work, self.is_direct(operation, tokens))
    }

    /// Runs a call on the CUDA device if there is one and it is worth its copies. False: it is the CPU's, whatever outputs hold.
    #[inline]
    pub(super) fn on_cuda(&self, operation: Operation, work: usize, traffic: Traffic, call: HostCall<'_>) -> bool {
        let Some(cuda) = &self.dispatcher.cuda else { return false };
        if !cuda.pays(operation, work, traffic) {
            return false;
        }
        let (metrics, start) = (&self.dispatcher.metrics, Instant::now());
        let done = cuda.run(operation, call);
        if done && metrics.is_enabled() {
            metrics.slot(operation, Backend::CUDA).record(start.elapsed());
        }
        done
    }

    /// Which operations go to a CUDA device where it pays, or that it has failed; None: no call leaves the CPU.
    pub fn cuda(&self) -> Option<String> {
        self.dispatcher.cuda.as_ref().map(Cuda::status)
    }

    /// Whether a CUDA device was asked and has failed.
    pub(super) fn cuda_has_failed(&self) -> bool {
        self.dispatcher.cuda.as_ref().is_some_and(Cuda::has_failed)
    }

    /// Runs `calls` on the context's threads if one of `operation` with `work` would use them: several calls then share one
    /// hand-over.
    pub(crate) fn region<R: Send>(&self, operation: Operation, work: usize, calls: impl FnOnce() -> R + Send) -> R {
        if self.dispatcher.choose(operation, work, false).parallel { self.install(calls) } else { calls() }
    }

    /// Turns the times of calls on or off (off at first: then a call costs one load more).
    pub fn set_metrics(&self, on: bool) {
        self.dispatcher.metrics.enable(on);
    }

    /// The calls since metrics were turned on or cleared, by operation and backend.
    pub fn metrics(&self) -> Vec<BackendMetrics> {
        self.dispatcher.metrics.snapshot()
    }

    /// Forgets the calls so far.
    pub fn clear_metrics(&self) {
        self.dispatcher.metrics.clear();
    }

    /// The kernels in use.
    pub fn kernels(&self) -> &'static KernelTable {
        self.table
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` on one of the context's threads; the others stay awake for what it hands out. Call it once around a whole
    /// step: [`Context::for_each`] inside then needs no hand-over.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let (mut work, mut result) = (Some(work), None);
        self.install_with_helpers(&mut || result = work.take().map(|work| work()));
        result.expect("the pool has run the work")
    }

    // Not generic: one instance of the pool's machinery serves all callers.
    #[inline(never)]
    fn install_with_helpers(&self, work: &mut (dyn FnMut() + Send)) {
        match self.pool.current_thread_index() {
            Some(_) => work(),
            None => self.pool.install(|| with_helpers(self.threads(), work)),
        }
    }

    /// Calls `share` with 0 to `threads - 1`, at once if as many are free. A caller from outside takes the first part itself
    /// while the others wake.
    #[inline(never)]
    pub(super) fn share_out(&self, threads: usize, share: &(dyn Fn(usize) + Sync)) {
        match self.pool.current_thread_index() {
            Some(_) => spread(0..threads, share),
            None => beside(&self.pool, || share(0), || spread(1..threads, share)),
        }
    }
}
