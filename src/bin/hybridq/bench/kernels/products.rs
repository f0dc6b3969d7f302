//! Ternary weights times many tokens, and the transposed product.
#![forbid(unsafe_code)]

use hybridq::Result;
use hybridq::kernels::{KernelFamily, ternary_packed_len};

use super::oracle::{deviation, dot, places, trits};
use super::{Job, Row, Suite};
use crate::bench::ceilings::Registers;
use crate::bench::measure::random_bytes;

/// Multiply-adds a second of the portable product on one core, about.
const PORTABLE_RATE: f64 = 5e9;

pub fn jobs(full: bool) -> Vec<Job> {
    let mut cases: Vec<[usize; 3]> = Vec::new();
    for (rows, cols) in [(4096, 4096), (11008, 4096)] {
        let quick: &[usize] = if rows == 4096 { &[8, 32, 128, 512] } else { &[512] };
        let tokens: &[usize] = if full { &[8, 32, 128, 512, 2048] } else { quick };
        cases.extend(tokens.iter().map(|&tokens| [rows, cols, tokens]));
    }
    cases.extend([[768, 768, 1024], [3072, 768, 1024], [768, 3072, 1024], [1000, 777, 129]]);
    let name = |[rows, cols, tokens]: [usize; 3]| format!("products {rows} x {cols}, {tokens} tokens");
    cases.into_iter().map(|case| -> Job { (name(case), Box::new(move |suite| products(suite, case))) }).collect()
}

fn products(suite: &Suite<'_>, [rows, cols, tokens]: [usize; 3]) -> Result<()> {
    let weights = trits(1, rows * cols);
    let mut packed = vec![0; ternary_packed_len(rows, cols)];
    suite.contexts[0].ternary_pack(&weights, rows, cols, &mut packed);
    let products = rows as f64 * cols as f64 * tokens as f64;
    let shape = format!("{rows} x {cols}, {tokens} tokens");
    for transposed in [false, true] {
        let (inner, outer, scale) = if transposed { (rows, cols, 1.0) } else { (cols, rows, 0.25) };
        let family = if transposed { "ternary_matmul_t" } else { "ternary_matmul" };
        let x = random_bytes(2, tokens * inner);
        let sums: Vec<i32> = x.chunks_exact(inner).map(|row| row.iter().map(|&x| i32::from(x)).sum()).collect();
        let scales: Vec<f32> = (0..tokens).map(|t| 0.5 + (t % 8) as f32 / 8.0).collect();
        let mut y = vec![0.0f32; tokens * outer];
        for context in suite.contexts_for(KernelFamily::Ternary, products / PORTABLE_RATE) {
            y.fill(f32::NAN);
            let ceiling = || suite.ceilings.registers(Registers::Int8, context);
            let row =
                Row { context, family, shape: shape.clone(), work: 2.0 * products, unit: "GOP/s", ceiling: &ceiling };
            let run = |y: &mut Vec<f32>| {
                if transposed {
                    context.ternary_matmul_transposed(&packed, rows, cols, &x, &scales, &sums, y);
                } else {
                    context.ternary_matmul(&packed, rows, cols, &[scale as f32], &x, &scales, &sums, y);
                }
            };
            suite.measure(row, &mut y, run, |y| {
                deviation(places(y.len()).into_iter().map(|at| {
                    let (t, o) = (at / outer, at % outer);
                    let weights = if transposed { (&weights[o..], cols) } else { (&weights[o * cols..], 1) };
                    let expected = dot(weights, (&x[t * inner..], 1), inner) * f64::from(scales[t]) * scale;
                    (f64::from(y[at]), expected)
                }))
            })?;
        }
    }
    Ok(())
}
