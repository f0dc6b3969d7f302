//! What this machine can do at best, measured in the same run as the kernels that are held against it.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hybridq::Result;
use hybridq::dispatch::Context;
use hybridq::kernels::KernelTable;

use super::measure::{PageBuffer, Pages, least_ns, median_ns, spread_threads};
use super::record::{Line, Report};

/// Bytes of a stream: far beyond every cache.
const STREAM_BYTES: usize = 256 << 20;
/// Bytes read again and again from the shared cache.
const CACHED_BYTES: usize = 4 << 20;
/// Rounds of a register loop in one run: some milliseconds.
const ROUNDS: usize = 1 << 19;
const TIME: Duration = Duration::from_millis(60);

/// A loop on registers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Registers {
    /// int8 products, widened as late as exactness allows.
    Int8,
    /// int8 products, each widened to 32 bits.
    Int8Widened,
    /// f32 multiply-adds.
    F32,
}

impl Registers {
    const ALL: [Registers; 3] = [Registers::Int8, Registers::Int8Widened, Registers::F32];

    fn name(self) -> &'static str {
        match self {
            Registers::Int8 => "int8 dot product in registers",
            Registers::Int8Widened => "int8 dot product widened to 32 bits",
            Registers::F32 => "f32 multiply-add in registers",
        }
    }
}

/// GB/s of memory on one kind of page.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Reading.
    pub read: f64,
    /// Bytes updated in place a nanosecond: each is read and written.
    pub update: f64,
}

impl Stream {
    /// Bytes of a buffer a nanosecond when it is read once and then updated in place.
    pub fn read_then_update(self) -> f64 {
        1.0 / (1.0 / self.read + 1.0 / self.update)
    }
}

/// What was measured so far, by threads: registers and caches once, memory whenever it is asked for, since other programs
/// and machines take more or less of it from minute to minute.
pub struct Ceilings<'a> {
    report: &'a Report,
    registers: RefCell<HashMap<(Registers, &'static str, usize), f64>>,
    streams: RefCell<HashSet<(Pages, usize)>>,
    cached: RefCell<HashMap<usize, f64>>,
}

impl<'a> Ceilings<'a> {
    pub fn new(report: &'a Report) -> Self {
        let (registers, streams, cached) = Default::default();
        Ceilings { report, registers, streams, cached }
    }

    /// Measures and prints the ceilings of each context (one per level and number of threads); memory with the best level.
    pub fn measure(&self, contexts: &[Context]) -> Result<()> {
        for context in contexts {
            for which in Registers::ALL {
                self.registers(which, context)?;
            }
        }
        let best = contexts.last().map(|context| context.kernels().isa());
        for context in contexts.iter().filter(|context| Some(context.kernels().isa()) == best) {
            self.cached_read(context)?;
            for pages in Pages::ALL {
                self.stream(pages, context)?;
            }
        }
        Ok(())
    }

    fn line(&self, shape: String, context: &Context, value: f64, unit: &str) -> Result<()> {
        let (isa, threads) = (context.kernels().isa().name(), context.threads());
        self.report.line(Line::plain("ceiling", shape, isa, threads, (value, unit)))
    }

    /// Operations a nanosecond on all threads of `context` together, two a product.
    pub fn registers(&self, which: Registers, context: &Context) -> Result<f64> {
        let (kernels, threads) = (context.kernels(), context.threads());
        let key = (which, kernels.isa().name(), threads);
        if let Some(found) = self.registers.borrow().get(&key) {
            return Ok(*found);
        }
        let work = |kernels: &KernelTable| match which {
            Registers::Int8 => kernels.ceiling_int8(ROUNDS),
            Registers::Int8Widened => kernels.ceiling_int8_widened(ROUNDS),
            Registers::F32 => kernels.ceiling_f32(ROUNDS),
        };
        spread_threads(context);
        let mut operations = 0u64;
        let ns =
            context.install(|| least_ns(TIME, || operations = rayon::broadcast(|_| work(kernels)).into_iter().sum()));
        let value = operations as f64 / ns;
        self.registers.borrow_mut().insert(key, value);
        let unit = if which == Registers::F32 { "GFLOP/s" } else { "GOP/s" };
        self.line(which.name().into(), context, value, unit)?;
        Ok(value)
    }

    /// Memory that is in no cache, now; the first time with lines of its own.
    pub fn stream(&self, pages: Pages, context: &Context) -> Result<Stream> {
        let mut buffer = PageBuffer::zeroed(STREAM_BYTES, pages)?;
        buffer.bytes_mut().fill(1);
        spread_threads(context);
        let read = context.install(|| STREAM_BYTES as f64 / median_ns(TIME, || read_parts(context, buffer.bytes())));
        let update =
            context.install(|| STREAM_BYTES as f64 / median_ns(TIME, || update_parts(context, buffer.bytes_mut())));
        let found = Stream { read, update };
        if !self.streams.borrow_mut().insert((pages, context.threads())) {
            return Ok(found);
        }
        self.line(format!("read, {}", pages.name()), context, read, "GB/s")?;
        self.line(format!("update in place, {}", pages.name()), context, update, "GB/s")?;
        self.line(format!("read, then update, {}", pages.name()), context, found.read_then_update(), "GB/s")?;
        Ok(found)
    }

    /// Reading what lies in the shared cache, GB/s.
    pub fn cached_read(&self, context: &Context) -> Result<f64> {
        if let Some(found) = self.cached.borrow().get(&context.threads()) {
            return Ok(*found);
        }
        let buffer = vec![1; CACHED_BYTES];
        let value = CACHED_BYTES as f64 / context.install(|| least_ns(TIME, || read_parts(context, &buffer)));
        self.cached.borrow_mut().insert(context.threads(), value);
        self.line(format!("read {} MiB again", CACHED_BYTES >> 20), context, value, "GB/s")?;
        Ok(value)
    }
}

/// To be called within [`Context::install`].
fn read_parts(context: &Context, bytes: &[u8]) {
    let part = bytes.len().div_ceil(context.threads());
    let read = |of: usize| {
        let first = (of * part).min(bytes.len());
        context.kernels().ceiling_read(&bytes[first..(first + part).min(bytes.len())])
    };
    std::hint::black_box(rayon::broadcast(|thread| read(thread.index())));
}

fn update_parts(context: &Context, bytes: &mut [u8]) {
    let part = bytes.len().div_ceil(context.threads());
    context.for_each(bytes.chunks_mut(part), |part| context.kernels().ceiling_update(part));
}
