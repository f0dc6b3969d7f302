//! Floats to int8 rows, floats to packed weights (ternary, five-level, GGUF's blocks), packing and unpacking.
#![forbid(unsafe_code)]

use hybridq::Result;
use hybridq::dispatch::{Context, StochasticRounding};
use hybridq::kernels::{
    FiveLevelLimits, GGUF_BLOCK, GgufTernary, KernelFamily, KernelTable, five_level_packed_len, ternary_packed_len,
};
use hybridq::quant::{Granularity, PackedTernary};

use super::oracle::{places, trits};
use super::{Job, Row, Suite};
use crate::bench::measure::{PageBuffer, Pages, fill_floats, random_floats};

/// Columns of the matrices.
const COLS: usize = 4096;
/// Bytes beyond which a buffer counts as being in no cache.
const BEYOND_CACHE: usize = 48 << 20;

pub fn jobs(_full: bool) -> Vec<Job> {
    [1 << 20, 16 << 20]
        .into_iter()
        .flat_map(|n: usize| -> [Job; 5] {
            let name = |what: &str| format!("{what} {} M", n >> 20);
            [
                (name("quantize"), Box::new(move |suite| int8_rows(suite, n))),
                (
                    name("quantize and pack"),
                    Box::new(move |suite| Pages::ALL.into_iter().try_for_each(|pages| quantize_pack(suite, n, pages))),
                ),
                (name("pack and unpack"), Box::new(move |suite| pack(suite, n))),
                (name("five levels"), Box::new(move |suite| five_level(suite, n))),
                (name("GGUF blocks"), Box::new(move |suite| gguf(suite, n))),
            ]
        })
        .collect()
}

/// GB/s of input that is read `reads` times, from where `n` floats lie.
fn ceiling(suite: &Suite<'_>, context: &Context, bytes: usize, pages: Pages, reads: f64) -> Result<f64> {
    let read = if bytes > BEYOND_CACHE {
        suite.ceilings.stream(pages, context)?.read
    } else {
        suite.ceilings.cached_read(context)?
    };
    Ok(read / reads)
}

fn int8_rows(suite: &Suite<'_>, n: usize) -> Result<()> {
    let x = random_floats(7, n);
    let rows = n / COLS;
    let mut out = (vec![0i8; n], vec![0.0f32; rows], vec![0i32; rows]);
    for stochastic in [false, true] {
        for context in suite.contexts_for(KernelFamily::ActivationQuant, n as f64 / 1e8) {
            let shape = format!("int8 rows{}, {} M", if stochastic { ", stochastic" } else { "" }, n >> 20);
            let ceiling = || ceiling(suite, context, 4 * n, Pages::Small, 1.0);
            let row = Row { context, family: "quantize", shape, work: 4.0 * n as f64, unit: "GB/s", ceiling: &ceiling };
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

fn quantize_pack(suite: &Suite<'_>, n: usize, pages: Pages) -> Result<()> {
    let mut buffer = PageBuffer::zeroed(4 * n, pages)?;
    fill_floats(8, buffer.floats_mut());
    let (x, rows) = (buffer.floats(), n / COLS);
    let scale = (x.iter().map(|x| f64::from(x.abs())).sum::<f64>() / n as f64).max(1e-5);
    let expected = |x: f32| i8::from(f64::from(x) > scale / 2.0) - i8::from(f64::from(x) < -scale / 2.0);
    for context in suite.contexts_for(KernelFamily::TernaryPack, n as f64 / 1e8) {
        let mut packed = PackedTernary::pack(context, x, rows, COLS, Granularity::Tensor)?;
        let shape = format!("absmean, quantize, pack, {} M, {}", n >> 20, pages.name());
        // The mean is read for before anything can be packed.
        let ceiling = || ceiling(suite, context, 4 * n, pages, 2.0);
        let row = Row { context, family: "pack", shape, work: 4.0 * n as f64, unit: "GB/s", ceiling: &ceiling };
        let run = |packed: &mut PackedTernary| {
            // The weights are finite and of the right number.
            let _ = std::hint::black_box(packed.repack(context, x));
        };
        suite.measure(row, &mut packed, run, |packed| {
            let found = packed.unpack(context);
            let wrong = found.iter().zip(x).filter(|(q, x)| **q != expected(**x)).count();
            (wrong as f64 / n as f64).max((f64::from(packed.scales[0]) / scale - 1.0).abs())
        })?;
    }
    Ok(())
}

/// A packed form of trits: name, bytes, and where it keeps a weight (csrc/README.md).
struct Form {
    name: &'static str,
    bytes: usize,
    code: fn(&[u8], usize, usize) -> i8,
    pack: fn(&Context, &[i8], &mut [u8]),
    unpack: fn(&Context, &[u8], &mut [i8]),
}

fn two_bits(packed: &[u8], r: usize, c: usize) -> i8 {
    let steps = COLS.div_ceil(16);
    let byte = r / 64 * steps * 256 + c / 16 * 256 + r % 64 / 16 * 64 + r % 16 * 4 + c % 4;
    (packed[byte] >> (2 * (c % 16 / 4)) & 3) as i8 - 1
}

fn five_a_byte(packed: &[u8], r: usize, c: usize) -> i8 {
    let steps = COLS.div_ceil(20);
    let byte = r / 64 * steps * 256 + c / 20 * 256 + r % 64 / 16 * 64 + r % 16 * 4 + c % 4;
    let shifted = u32::from(packed[byte]) * 3u32.pow((c % 20 / 4) as u32) % 256;
    (shifted * 3 / 256) as i8 - 1
}

fn pack(suite: &Suite<'_>, n: usize) -> Result<()> {
    let rows = n / COLS;
    let forms = [
        Form {
            name: "2 bits",
            bytes: ternary_packed_len(rows, COLS),
            code: two_bits,
            pack: |context, trits, packed| context.ternary_pack(trits, trits.len() / COLS, COLS, packed),
            unpack: |context, packed, trits| context.ternary_unpack(packed, trits.len() / COLS, COLS, trits),
        },
        Form {
            name: "5 a byte",
            bytes: KernelTable::pack5_bytes(rows, COLS),
            code: five_a_byte,
            pack: |context, trits, packed| context.pack5(trits, trits.len() / COLS, COLS, packed),
            unpack: |context, packed, trits| context.unpack5(packed, trits.len() / COLS, COLS, trits),
        },
    ];
    forms.iter().try_for_each(|form| pack_form(suite, n, form))
}

fn pack_form(suite: &Suite<'_>, n: usize, form: &Form) -> Result<()> {
    let weights = trits(9, n);
    let mut buffers = (vec![0u8; form.bytes], vec![0i8; n]);
    for unpack in [false, true] {
        for context in suite.contexts_for(KernelFamily::TernaryPack, n as f64 / 1e8) {
            let name = form.name;
            let what = if unpack { format!("{name} to trits") } else { format!("trits to {name}") };
            let shape = format!("{what}, {} M", n >> 20);
            let ceiling = || ceiling(suite, context, n, Pages::Small, 1.0);
            let row = Row { context, family: "pack", shape, work: n as f64, unit: "GB/s", ceiling: &ceiling };
            let run = |(packed, back): &mut (Vec<u8>, Vec<i8>)| {
                if unpack {
                    (form.unpack)(context, packed, back);
                } else {
                    (form.pack)(context, &weights, packed);
                }
            };
            suite.measure(row, &mut buffers, run, |(packed, back)| {
                if unpack {
                    return back.iter().zip(&weights).filter(|(found, weight)| found != weight).count() as f64;
                }
                let kept = |at: usize| (form.code)(packed, at / COLS, at % COLS);
                places(n).into_iter().filter(|&at| kept(at) != weights[at]).count() as f64
            })?;
        }
    }
    Ok(())
}

fn five_level(suite: &Suite<'_>, n: usize) -> Result<()> {
    let (x, rows) = (random_floats(10, n), n / COLS);
    let limits = [FiveLevelLimits { inner: 0.1, outer: 0.3 }];
    let level = |x: f32| (i8::from(x.abs() > 0.1) + i8::from(x.abs() > 0.3)) * if x < 0.0 { -1 } else { 1 };
    let mut buffers = (vec![0u8; five_level_packed_len(rows, COLS)], vec![0i8; n]);
    for unpack in [false, true] {
        for context in suite.contexts_for(KernelFamily::FiveLevel, n as f64 / 1e8) {
            let what = if unpack { "3 bits to five levels" } else { "five levels, quantize, pack" };
            let (shape, work) = (format!("{what}, {} M", n >> 20), if unpack { n } else { 4 * n });
            let ceiling = || ceiling(suite, context, work, Pages::Small, 1.0);
            let row = Row { context, family: "pack", shape, work: work as f64, unit: "GB/s", ceiling: &ceiling };
            let run = |(packed, back): &mut (Vec<u8>, Vec<i8>)| {
                if unpack {
                    context.five_level_unpack(packed, rows, COLS, back);
                } else {
                    context.five_level_quantize_pack(&x, rows, COLS, &limits, packed);
                }
            };
            // What was packed shows when it is unpacked.
            suite.measure(row, &mut buffers, run, |(packed, _)| {
                let mut back = vec![0i8; n];
                context.five_level_unpack(packed, rows, COLS, &mut back);
                back.iter().zip(&x).filter(|(found, x)| **found != level(**x)).count() as f64
            })?;
        }
    }
    Ok(())
}

fn gguf(suite: &Suite<'_>, n: usize) -> Result<()> {
    let x = random_floats(11, n);
    for format in GgufTernary::ALL {
        let mut buffers = (vec![0u8; n / GGUF_BLOCK * format.block_bytes()], vec![0.0f32; n]);
        for dequantize in [false, true] {
            for context in suite.contexts_for(KernelFamily::GgufTernary, n as f64 / 1e8) {
                let what = if dequantize { "dequantize" } else { "quantize" };
                let shape = format!("{what} GGUF {}, {} M", format.name(), n >> 20);
                let ceiling = || ceiling(suite, context, 4 * n, Pages::Small, 1.0);
                let row = Row { context, family: "pack", shape, work: 4.0 * n as f64, unit: "GB/s", ceiling: &ceiling };
                let run = |(bytes, back): &mut (Vec<u8>, Vec<f32>)| {
                    if dequantize {
                        context.gguf_ternary_dequantize(format, bytes, back);
                    } else {
                        context.gguf_ternary_quantize(format, &x, bytes);
                    }
                };
                // Distance from the float in units of the block's scale, less the half step of rounding and what half
                // precision takes from the scale.
                suite.measure(row, &mut buffers, run, |(bytes, _)| {
                    let mut back = vec![0.0f32; n];
                    context.gguf_ternary_dequantize(format, bytes, &mut back);
                    let blocks = x.chunks(GGUF_BLOCK).zip(back.chunks(GGUF_BLOCK));
                    let far = blocks.flat_map(|(x, y)| {
                        let scale = f64::from(x.iter().fold(1e-30f32, |a, x| a.max(x.abs())));
                        x.iter().zip(y).map(move |(x, y)| ((f64::from(x - y)).abs() / scale - 0.501).max(0.0))
                    });
                    far.fold(0.0, f64::max)
                })?;
            }
        }
    }
    Ok(())
}
