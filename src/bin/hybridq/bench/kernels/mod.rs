//! `hybridq bench --suite kernels`: families x shapes x instruction set levels x threads.
#![forbid(unsafe_code)]

mod clusters;
mod int8;
mod matvec;
mod norms;
mod oracle;
mod products;
mod quantize;

use std::time::Duration;

use hybridq::Result;
use hybridq::dispatch::{Context, ContextOptions, DispatchConfig};
use hybridq::kernels::{KernelFamily, KernelTable};

use super::ceilings::Ceilings;
use super::measure::{median_ns, spread_threads};
use super::record::{Line, Report};
use crate::process_memory::{peak_memory, reset_peak_memory};

/// What the jobs share.
pub struct Suite<'a> {
    report: &'a Report,
    ceilings: Ceilings<'a>,
    /// One context a level and number of threads, weakest level first.
    contexts: Vec<Context>,
    full: bool,
}

/// A family at one shape, on every level.
type Job = (String, Box<dyn Fn(&Suite<'_>) -> Result<()>>);

/// One measurement, but for its time and error.
struct Row<'a> {
    context: &'a Context,
    family: &'static str,
    shape: String,
    /// Work of a run and what a unit of it a nanosecond is called.
    work: f64,
    unit: &'static str,
    /// The machine's limit in the same unit, asked for before and after.
    ceiling: &'a dyn Fn() -> Result<f64>,
}

pub fn run(report: &Report, context: &Context, full: bool) -> Result<()> {
    let suite = Suite { report, ceilings: Ceilings::new(report), contexts: contexts(context)?, full };
    let mut jobs: Vec<Job> = Vec::new();
    jobs.extend(quantize::jobs(full));
    jobs.extend(norms::jobs(full));
    jobs.extend(matvec::jobs(full));
    jobs.extend(products::jobs(full));
    jobs.extend(int8::jobs(full));
    jobs.extend(clusters::jobs(full));
    report.expect(jobs.len() + 1);
    report.heading()?;
    report.begin("ceilings");
    suite.ceilings.measure(&suite.contexts)?;
    report.done();
    for (name, job) in &jobs {
        report.begin(name);
        job(&suite)?;
        report.done();
    }
    report.summary()
}

/// A context for every level within the cap, on one thread and on all, with the thresholds of this machine but no level
/// other than its own.
fn contexts(context: &Context) -> Result<Vec<Context>> {
    let mut threads = vec![1, context.threads()];
    threads.dedup();
    let cap = context.kernels().isa();
    let mut contexts = Vec::new();
    for table in KernelTable::available().iter().filter(|table| cap.includes(table.isa())) {
        for &threads in &threads {
            let context = Context::new(ContextOptions { threads: Some(threads), isa: Some(table.isa()) })?;
            let mut config: DispatchConfig = context.dispatch_config().clone();
            for thresholds in config.operations.values_mut() {
                (thresholds.isa, thresholds.small_below, thresholds.small_isa) = (None, None, None);
            }
            contexts.push(context.with_dispatch(config)?);
        }
    }
    Ok(contexts)
}

impl Suite<'_> {
    /// The contexts whose kernels of `family` are their own: a level that shares those of a lower one is left out. A run
    /// on one core of the portable level takes about `portable_seconds`: if that is too long it is left out too.
    fn contexts_for(&self, family: KernelFamily, portable_seconds: f64) -> Vec<&Context> {
        let longest = if self.full { 3.0 } else { 0.25 };
        let mut kept: Vec<&KernelTable> = Vec::new();
        let mut found = Vec::new();
        for context in &self.contexts {
            let table = context.kernels();
            let known = kept.iter().any(|other| other.isa() == table.isa());
            if !known && kept.iter().any(|other| other.shares_kernels(table, family)) {
                continue;
            }
            kept.push(table);
            if table.isa().name() != "portable" || portable_seconds <= longest {
                found.push(context);
            }
        }
        found
    }

    /// Times `run` on `state`, called as within a step (on one of the context's threads), and prints the line; `error`
    /// compares what it left there with an independent calculation.
    fn measure<S: Send>(
        &self,
        row: Row<'_>,
        state: &mut S,
        mut run: impl FnMut(&mut S) + Send,
        error: impl FnOnce(&S) -> f64,
    ) -> Result<()> {
        let least = Duration::from_millis(if self.full { 150 } else { 50 });
        let before = (row.ceiling)()?;
        spread_threads(row.context);
        reset_peak_memory();
        let ns = row.context.install(|| median_ns(least, || run(state)));
        let peak_mib = peak_memory();
        let after = (row.ceiling)()?;
        let (isa, threads) = (row.context.kernels().isa().name(), row.context.threads());
        let line = Line::plain(row.family, row.shape, isa, threads, (row.work / ns, row.unit));
        self.report.line(Line {
            median_ns: Some(ns),
            ceiling: Some((before + after) / 2.0),
            error: Some(error(state)),
            peak_mib,
            ..line
        })
    }
}
