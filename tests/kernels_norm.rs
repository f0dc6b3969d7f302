//! Norms and clipping: 16-lane sums, the same bits on every ISA and thread count.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::KernelTable;
use hybridq::tensor::RandomStream;

fn random(n: usize) -> Vec<f32> {
    let mut stream = RandomStream::new(2, 95, 0, 0);
    (0..n).map(|_| stream.normal() as f32).collect()
}

/// The contract: element i in lane i mod 16, lanes added as a fixed tree.
fn lanes(terms: impl Iterator<Item = f64>) -> f64 {
    let mut lane = [0.0; 16];
    terms.enumerate().for_each(|(i, term)| lane[i % 16] += term);
    let half: Vec<f64> = (0..8).map(|l| lane[l] + lane[l + 8]).collect();
    let quarter: Vec<f64> = (0..4).map(|l| half[l] + half[l + 4]).collect();
    (quarter[0] + quarter[2]) + (quarter[1] + quarter[3])
}

#[test]
fn kernels_give_the_contract_bit_for_bit() {
    for table in KernelTable::available() {
        for n in [0, 1, 15, 16, 17, 31, 97, 1000] {
            for offset in [0, 1] {
                let (x, y) = (&random(n + 1)[offset..n + offset], &random(n + 9)[9..]);
                let wide = |v: &f32| f64::from(*v);
                assert_eq!(table.abs_sum(x), lanes(x.iter().map(|v| wide(v).abs())));
                assert_eq!(table.sum_squares(x), lanes(x.iter().map(|v| wide(v) * wide(v))));
                assert_eq!(table.abs_and_square_sums(x), [table.abs_sum(x), table.sum_squares(x)]);
                assert_eq!(table.dot(x, y), lanes(x.iter().zip(y).map(|(x, y)| wide(x) * wide(y))));
                let codes: Vec<i8> = x.iter().map(|v| (60.0 * v) as i8).collect();
                let parts = codes.chunks(256).zip(y.chunks(256));
                let sum = parts.map(|(c, y)| lanes(c.iter().zip(y).map(|(c, y)| f64::from(*c) * wide(y)))).sum::<f64>();
                assert_eq!(table.dot_i8(&codes, y), sum);
                let mut scaled = x.to_vec();
                table.scale(&mut scaled, 0.3);
                assert!(scaled.iter().zip(x).all(|(s, x)| *s == x * 0.3));
            }
        }
    }
}

#[test]
fn clips_and_reports() {
    let x = random(200_001);
    let mut norms = Vec::new();
    for threads in [1, 2] {
        let context = Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap();
        let mut clipped = x.clone();
        let norm = context.clip_norm(&mut clipped, 1.0);
        norms.push((norm, context.abs_sum(&x), context.dot(&x, &clipped)));
        assert_eq!(context.abs_and_square_sums(&x), [context.abs_sum(&x), context.sum_squares(&x)]);
        assert!((norm - 200_001f64.sqrt()).abs() < 5.0);
        assert!((context.norm(&clipped) - 1.0).abs() < 1e-6);
        let mut same = x.clone();
        assert_eq!(context.clip_norm(&mut same, norm), norm);
        assert_eq!(same, x);
        same[70_000] = f32::NAN;
        assert!(context.clip_norm(&mut same, 1.0).is_nan() && same[0] == x[0]);
        same[70_000] = f32::INFINITY;
        assert!(context.clip_norm(&mut same, 1.0) == f64::INFINITY && same[0] == x[0]);
    }
    assert_eq!(norms[0], norms[1]);
}
