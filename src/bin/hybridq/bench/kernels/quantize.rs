//! Floats to int8 rows, floats to packed ternary weights, packing and unpacking.
#![forbid(unsafe_code)]

use hybridq::Result;
use hybridq::dispatch::StochasticRounding;
use hybridq::kernels::{KernelFamily, ternary_packed_len};
use hybridq::quant::{Granularity, PackedTernary};

use super::oracle::{places, trits};
use super::{Job, Row, Suite};
use crate::bench::measure::{Pages, random_floats};

/// Columns of the matrices.
const COLS: usize = 4096;
/// Bytes beyond which a buffer counts as being in no cache.
const BEYOND_CACHE: usize = 48 << 20;

pub fn jobs(_full: bool) -> Vec<Job> {
    [1 << 20, 16 << 20]
        .into_iter()
        .flat_map(|n: usize| -> [Job; 3] {
            let name = |what: &str| format!("{what} {} M", n >> 20);
            [
                (name("quantize"), Box::new(move |suite| int8_rows(suite, n))),
                (name("quantize and pack"), Box::new(move |suite| quantize_pack(suite, n))),
                (name("pack and unpack"), Box::new(move |suite| pack(suite, n))),
            ]
        })
        .collect()
}

/// GB/s of input that is read `reads` times, from where `n` floats lie.
fn ceiling(suite: &Suite<'_>, context: &hybridq::dispatch::Context, bytes: usize, reads: f64) -> Result<Option<f64>> {
    let read = if bytes > BEYOND_CACHE {
        suite.ceilings.stream(Pages::Small, context)?.read
    } else {
        suite.ceilings.cached_read(context)?
    };
    Ok(Some(read / reads))
}

fn int8_rows(suite: &Suite<'_>, n: usize) -> Result<()> {
    let x = random_floats(7, n);
    let rows = n / COLS;
    let mut out = (vec![0i8; n], vec![0.0f32; rows], vec![0i32; rows]);
    for stochastic in [false, true] {
        for context in suite.contexts_for(KernelFamily::ActivationQuant, n as f64 / 1e8) {
            let shape = format!("int8 rows{}, {} M", if stochastic { ", stochastic" } else { "" }, n >> 20);
            let ceiling = ceiling(suite, context, 4 * n, 1.0)?;
            let row = Row { context, family: "quantize", shape, work: 4.0 * n as f64, unit: "GB/s", ceiling };
            let run = |(values, scales, sums): &mut (Vec<i8>, Vec<f32>, Vec<i32>)| {
                if stochastic {
                    let rounding = StochasticRounding::new(1, 2, 3, 4);
                    context.quantize_rows_stochastic(&x, COLS, rounding, values, scales, sums);
                } else {
                    context.quantize_rows(&x, COLS, values, scales, sums);
                }
            };
            // Largest distance from the float in units of the row's largest value, less the half (or whole) step of rounding.
            suite.measure(row, &mut out, run, |(values, ..)| {
                let step = if stochastic { 1.0 } else { 0.5 };
                let far = places(rows).into_iter().flat_map(|row| {
                    let x = &x[row * COLS..][..COLS];
                    let largest = f64::from(x.iter().fold(1e-5f32, |a, x| a.max(x.abs())));
                    let values = &values[row * COLS..][..COLS];
                    x.iter().zip(values).map(move |(x, q)| {
                        ((f64::from(*x) / largest * 127.0 - f64::from(*q)).abs() - step).max(0.0) / 127.0
                    })
                });
                far.fold(0.0, f64::max)
            })?;
        }
    }
    Ok(())
}

fn quantize_pack(suite: &Suite<'_>, n: usize) -> Result<()> {
    let (x, rows) = (random_floats(8, n), n / COLS);
    let scale = (x.iter().map(|x| f64::from(x.abs())).sum::<f64>() / n as f64).max(1e-5);
    let expected = |x: f32| i8::from(f64::from(x) > scale / 2.0) - i8::from(f64::from(x) < -scale / 2.0);
    for context in suite.contexts_for(KernelFamily::Ternary, n as f64 / 1e8) {
        let mut packed = PackedTernary::pack(context, &x, rows, COLS, Granularity::Tensor)?;
        let shape = format!("absmean, quantize, pack, {} M", n >> 20);
        // The mean is read for before anything can be packed.
        let ceiling = ceiling(suite, context, 4 * n, 2.0)?;
        let row = Row { context, family: "pack", shape, work: 4.0 * n as f64, unit: "GB/s", ceiling };
        let run = |packed: &mut PackedTernary| {
            // The weights are finite and of the right number.
            let _ = std::hint::black_box(packed.repack(context, &x));
        };
        suite.measure(row, &mut packed, run, |packed| {
            let found = packed.unpack(context);
            let wrong = found.iter().zip(&x).filter(|(q, x)| **q != expected(**x)).count();
            (wrong as f64 / n as f64).max((f64::from(packed.scales[0]) / scale - 1.0).abs())
        })?;
    }
    Ok(())
}

fn pack(suite: &Suite<'_>, n: usize) -> Result<()> {
    let (weights, rows) = (trits(9, n), n / COLS);
    let mut buffers = (vec![0u8; ternary_packed_len(rows, COLS)], vec![0i8; n]);
    for unpack in [false, true] {
        for context in suite.contexts_for(KernelFamily::Ternary, n as f64 / 1e8) {
            let shape = format!("{}, {} M", if unpack { "2 bits to trits" } else { "trits to 2 bits" }, n >> 20);
            let ceiling = ceiling(suite, context, n, 1.0)?;
            let row = Row { context, family: "pack", shape, work: n as f64, unit: "GB/s", ceiling };
            let run = |(packed, back): &mut (Vec<u8>, Vec<i8>)| {
                if unpack {
                    context.ternary_unpack(packed, rows, COLS, back);
                } else {
                    context.ternary_pack(&weights, rows, COLS, packed);
                }
            };
            suite.measure(row, &mut buffers, run, |(packed, back)| {
                if unpack {
                    return back.iter().zip(&weights).filter(|(found, weight)| found != weight).count() as f64;
                }
                // Each weight where the layout puts it (csrc/README.md).
                let code = |r: usize, c: usize| {
                    let steps = COLS.div_ceil(16);
                    let byte = r / 64 * steps * 256 + c / 16 * 256 + r % 64 / 16 * 64 + r % 16 * 4 + c % 4;
                    (packed[byte] >> (2 * (c % 16 / 4)) & 3) as i8 - 1
                };
                let wrong = places(n).into_iter().filter(|at| code(at / COLS, at % COLS) != weights[*at]).count();
                wrong as f64
            })?;
        }
    }
    Ok(())
}
