//! Milliseconds of orthogonal factors on one thread, in f32 and int8 products, and how far apart they are:
//! `cargo run --release --example newton_schulz`.

use std::time::Instant;

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::optim::{NewtonSchulz, NewtonSchulzPrecision};
use hybridq::tensor::RandomStream;

const ROUNDS: usize = 15;

fn main() -> hybridq::Result<()> {
    let context = Context::new(ContextOptions { threads: Some(1), isa: None })?;
    println!("rows x cols, iterations: f32 ms, int8 ms, relative distance of the results");
    for (rows, cols) in [(128, 512), (512, 512), (512, 1536), (1536, 512), (2048, 512)] {
        for iterations in [1, 2, 3] {
            let mut stream = RandomStream::new(1, 1, 0, 0);
            let x: Vec<f32> = (0..rows * cols).map(|_| stream.normal() as f32).collect();
            let forms = [NewtonSchulzPrecision::F32, NewtonSchulzPrecision::Int8]
                .map(|precision| NewtonSchulz::new(iterations).with_precision(precision));
            let (mut times, mut results) = ([vec![], vec![]], [vec![], vec![]]);
            for _ in 0..ROUNDS {
                for (form, (times, result)) in forms.iter().zip(times.iter_mut().zip(&mut results)) {
                    *result = x.clone();
                    let start = Instant::now();
                    form.orthogonalize(&context, rows, cols, 1.0, result);
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
            let [f32, int8] = times.map(|mut times| {
                times.sort_by(f64::total_cmp);
                times[ROUNDS / 2]
            });
            let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
            let difference = squares(&mut results[0].iter().zip(&results[1]).map(|(a, b)| a - b));
            let distance = difference / squares(&mut results[0].iter().copied());
            println!("{rows} x {cols}, {iterations}: {f32:.2}, {int8:.2}, {distance:.4}");
        }
    }
    Ok(())
}
