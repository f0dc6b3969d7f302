//! The context: a thread pool and a kernel table. Everything that computes takes one.
#![forbid(unsafe_code)]

use std::sync::Arc;

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

/// Threads and kernels for computing. Cheap to clone; clones share the threads.
#[derive(Clone, Debug)]
pub struct Context {
    table: &'static KernelTable,
    pool: Arc<rayon::ThreadPool>,
}

impl Context {
    /// A context with its own threads. Errors: more than 1,024 threads or none, an ISA this CPU lacks.
    pub fn new(options: ContextOptions) -> Result<Self> {
        let available = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = options.threads.unwrap_or(available);
        if threads == 0 || threads > MAX_THREADS {
            return Err(Error::invalid("threads", format!("1 to {MAX_THREADS}"), threads));
        }
        let table = match options.isa {
            Some(isa) => KernelTable::for_isa(isa)?,
            None => KernelTable::best()?,
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("hybridq-{index}"))
            .build()
            .map_err(|error| Error::Unsupported(format!("cannot start {threads} threads: {error}")))?;
        Ok(Context { table, pool: Arc::new(pool) })
    }

    /// The kernels in use.
    pub fn kernels(&self) -> &'static KernelTable {
        self.table
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` on the context's threads: rayon's parallel iterators inside use them. Call it once around a whole
    /// step; nested calls are free.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}
