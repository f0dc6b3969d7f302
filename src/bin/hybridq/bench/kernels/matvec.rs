//! One token: weights in the caches, and weights in memory that no cache holds, at 2 and at 1.6 bits.
#![forbid(unsafe_code)]

use hybridq::Result;
use hybridq::dispatch::Context;
use hybridq::kernels::{Activations, KernelFamily, KernelTable, ternary_packed_len};

use super::oracle::{deviation, dot, places, trits};
use super::{Job, Row, Suite};
use crate::bench::ceilings::Registers;
use crate::bench::measure::{PageBuffer, Pages, random_bytes};

/// Bytes of all copies of a matrix that is read from memory, at least.
const COPIES_BYTES: usize = 256 << 20;
/// Weights a second of the portable product on one core, about.
const PORTABLE_RATE: f64 = 1e9;

/// Where the weights lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Cache,
    Memory(Pages),
}

/// How weights are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    TwoBits,
    FiveTrits,
}

impl Form {
    const ALL: [Form; 2] = [Form::TwoBits, Form::FiveTrits];

    fn name(self) -> &'static str {
        match self {
            Form::TwoBits => "",
            Form::FiveTrits => ", 1.6 bits",
        }
    }

    fn bytes(self, rows: usize, cols: usize) -> usize {
        match self {
            Form::TwoBits => ternary_packed_len(rows, cols),
            Form::FiveTrits => KernelTable::pack5_bytes(rows, cols),
        }
    }

    fn pack(self, context: &Context, trits: &[i8], rows: usize, cols: usize, packed: &mut [u8]) {
        match self {
            Form::TwoBits => context.ternary_pack(trits, rows, cols, packed),
            Form::FiveTrits => context.pack5(trits, rows, cols, packed),
        }
    }

    fn product(self, context: &Context, packed: &[u8], cols: usize, x: Activations<'_>, y: &mut [f32]) {
        let Activations { values, scales, sums } = x;
        match self {
            Form::TwoBits => context.ternary_matmul(packed, y.len(), cols, &[0.25], values, scales, sums, y),
            Form::FiveTrits => context.pack5_matvec(packed, cols, &[0.25], x, y),
        }
    }
}

pub fn jobs(full: bool) -> Vec<Job> {
    let mut shapes = vec![(1024, 2048), (4096, 4096)];
    if full {
        shapes.push((11008, 4096));
    }
    let job = |(rows, cols)| -> Job {
        (
            format!("one token, {rows} x {cols}"),
            Box::new(move |suite| {
                Form::ALL.into_iter().try_for_each(|form| matvec(suite, rows, cols, Place::Cache, form))?;
                if rows < 4096 {
                    return Ok(());
                }
                let places = Pages::ALL.into_iter().flat_map(|pages| Form::ALL.map(|form| (pages, form)));
                places.into_iter().try_for_each(|(pages, form)| matvec(suite, rows, cols, Place::Memory(pages), form))
            }),
        )
    };
    shapes.into_iter().map(job).collect()
}

fn matvec(suite: &Suite<'_>, rows: usize, cols: usize, place: Place, form: Form) -> Result<()> {
    let weights = trits(1, rows * cols);
    let bytes = form.bytes(rows, cols);
    let (copies, pages, name) = match place {
        Place::Cache => (1, Pages::Small, "caches".to_owned()),
        Place::Memory(pages) => (COPIES_BYTES.div_ceil(bytes), pages, format!("memory, {}", pages.name())),
    };
    let mut packed = PageBuffer::zeroed(copies * bytes, pages)?;
    let (first, rest) = packed.bytes_mut().split_at_mut(bytes);
    form.pack(&suite.contexts[0], &weights, rows, cols, first);
    rest.chunks_exact_mut(bytes).for_each(|copy| copy.copy_from_slice(first));
    let x = random_bytes(2, cols);
    let sums = [x.iter().map(|&x| i32::from(x)).sum::<i32>()];
    let mut y = vec![0.0f32; rows];
    let count = (rows * cols * copies) as f64;
    for context in suite.contexts_for(KernelFamily::Matvec, count / PORTABLE_RATE) {
        // A weight takes one multiply-add and a quarter or a fifth of a byte; the nearer of both limits counts.
        let ceiling = || {
            let arithmetic = suite.ceilings.registers(Registers::Int8, context)? / 2.0;
            let reading = match place {
                // A matrix within the cores' own caches is not held back by the shared one.
                Place::Cache if rows * cols < 1 << 22 => return Ok(arithmetic),
                Place::Cache => suite.ceilings.cached_read(context)?,
                Place::Memory(pages) => suite.ceilings.stream(pages, context)?.read,
            };
            Ok(arithmetic.min((rows * cols) as f64 / bytes as f64 * reading))
        };
        let shape = format!("{rows} x {cols}, {name}{}", form.name());
        y.fill(f32::NAN);
        let row = Row { context, family: "ternary_matvec", shape, work: count, unit: "GW/s", ceiling: &ceiling };
        let run = |y: &mut Vec<f32>| {
            for packed in packed.bytes().chunks_exact(bytes).take(copies) {
                form.product(context, packed, cols, Activations { values: &x, scales: &[2.0], sums: &sums }, y);
            }
        };
        suite.measure(row, &mut y, run, |y| {
            let expected = |row: usize| 0.5 * dot((&weights[row * cols..], 1), (&x, 1), cols);
            deviation(places(rows).into_iter().map(|row| (f64::from(y[row]), expected(row))))
        })?;
    }
    Ok(())
}
