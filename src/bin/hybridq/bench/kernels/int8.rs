//! int8 x int8 products that sum over tokens: weight gradients.
#![forbid(unsafe_code)]

use hybridq::Result;
use hybridq::dispatch::Int8Matrix;
use hybridq::kernels::KernelFamily;

use super::oracle::{deviation, dot, places};
use super::{Job, Row, Suite};
use crate::bench::ceilings::Registers;
use crate::bench::measure::random_bytes;

/// Multiply-adds a second of the portable product on one core, about.
const PORTABLE_RATE: f64 = 4e9;

pub fn jobs(full: bool) -> Vec<Job> {
    let mut cases = vec![[768, 768, 1024], [1000, 777, 129], [4096, 4096, 512]];
    if full {
        cases.extend([[3072, 768, 1024], [768, 3072, 1024], [4096, 4096, 2048], [11008, 4096, 2048]]);
    }
    let name = |[m, n, tokens]: [usize; 3]| format!("int8 {m} x {n}, {tokens} tokens");
    cases.into_iter().map(|case| -> Job { (name(case), Box::new(move |suite| product(suite, case))) }).collect()
}

fn product(suite: &Suite<'_>, [m, n, tokens]: [usize; 3]) -> Result<()> {
    let (a, b) = (random_bytes(3, tokens * m), random_bytes(4, tokens * n));
    let scales: Vec<f32> = (0..m).map(|row| 0.5 + (row % 8) as f32 / 8.0).collect();
    let mut c = vec![0.0f32; m * n];
    let products = m as f64 * n as f64 * tokens as f64;
    for context in suite.contexts_for(KernelFamily::Int8, products / PORTABLE_RATE) {
        c.fill(f32::NAN);
        let shape = format!("{m} x {n}, {tokens} tokens");
        let ceiling = || suite.ceilings.registers(Registers::Int8Widened, context);
        let row = Row { context, family: "int8_matmul", shape, work: 2.0 * products, unit: "GOP/s", ceiling: &ceiling };
        let run = |c: &mut Vec<f32>| {
            let (a, b) = (Int8Matrix::transposed(&a, m), Int8Matrix::new(&b, n));
            context.int8_matmul((m, n, tokens), a, b, &scales, false, c, n);
        };
        suite.measure(row, &mut c, run, |c| {
            deviation(places(c.len()).into_iter().map(|at| {
                let (i, j) = (at / n, at % n);
                let sum = dot((&a[i..], m), (&b[j..], n), tokens);
                (f64::from(c[at]), sum * f64::from(scales[i]))
            }))
        })?;
    }
    Ok(())
}
