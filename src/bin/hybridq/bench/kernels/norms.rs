//! Clipping to a norm: one read when nothing is due, else a read and an update.
#![forbid(unsafe_code)]

use hybridq::Result;
use hybridq::kernels::KernelFamily;

use super::oracle::deviation;
use super::{Job, Row, Suite};
use crate::bench::measure::{PageBuffer, Pages, fill_floats};

/// The gradients of GPT-2 small.
const GRADIENTS: usize = 124 << 20;
const PORTABLE_RATE: f64 = 1e9;

pub fn jobs(_full: bool) -> Vec<Job> {
    let job = |pages: Pages| -> Job { (format!("clip, {}", pages.name()), Box::new(move |suite| clip(suite, pages))) };
    Pages::ALL.into_iter().map(job).collect()
}

fn clip(suite: &Suite<'_>, pages: Pages) -> Result<()> {
    let mut buffer = PageBuffer::zeroed(4 * GRADIENTS, pages)?;
    fill_floats(5, buffer.floats_mut());
    let squares = |x: &[f32]| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    let norm = squares(buffer.floats()).sqrt();
    for context in suite.contexts_for(KernelFamily::Norm, GRADIENTS as f64 / PORTABLE_RATE) {
        let bytes = 4.0 * GRADIENTS as f64;
        for due in [false, true] {
            let ceiling = || {
                let stream = suite.ceilings.stream(pages, context)?;
                Ok(if due { stream.read_then_update() } else { stream.read })
            };
            // The bound shrinks by so little each time that the values stay what they are, to 1 in 10,000.
            let mut state = (&mut buffer, norm, norm);
            let shape = format!("124M, {}, {}", if due { "clipped" } else { "not due" }, pages.name());
            let row = Row { context, family: "norm_clip", shape, work: bytes, unit: "GB/s", ceiling: &ceiling };
            let run = |(buffer, bound, found): &mut (&mut PageBuffer, f64, f64)| {
                *bound = if due { *bound * (1.0 - 1e-6) } else { norm * 2.0 };
                *found = context.clip_norm(buffer.floats_mut(), *bound);
            };
            suite.measure(row, &mut state, run, |(buffer, bound, found)| {
                let now = squares(buffer.floats()).sqrt();
                // The norm told is that of before; the norm left is the bound, if it was due.
                let told = deviation([(*found, norm)].into_iter());
                if due { deviation([(now, *bound)].into_iter()) } else { told }
            })?;
        }
        fill_floats(5, buffer.floats_mut());
    }
    Ok(())
}
