//! int8 quantization of activations and gradients: against plain references, over every ISA, at awkward sizes.

use hybridq::dispatch::{Context, ContextOptions, StochasticRounding};
use hybridq::kernels::KernelTable;
use hybridq::tensor::{Philox, RandomStream};

const SIZES: [usize; 13] = [0, 1, 2, 15, 16, 17, 31, 64, 127, 128, 129, 257, 384];
const ROUNDING: StochasticRounding = StochasticRounding { key: [3, 5], step: 7, tensor: 11 };

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 90, 0, 0);
    (0..n).map(|_| stream.normal() as f32).collect()
}

/// The 16 random bits of (row, column) by the layout of csrc/philox_lanes.h.
fn draw(rounding: StochasticRounding, width: usize, row: usize, column: usize) -> u32 {
    let group = (row * width.div_ceil(128) + column / 128) as u64;
    let within = column % 128;
    let block = group * 16 + (within % 16) as u64;
    let words = Philox::new(rounding.key).block([block as u32, (block >> 32) as u32, rounding.tensor, rounding.step]);
    words[within / 32] >> (16 * (within / 16 % 2)) & 0xFFFF
}

fn stochastic(v: f32, bits: u32) -> i8 {
    (v + (2 * bits + 1) as f32 / 131072.0).floor().clamp(-127.0, 127.0) as i8
}

#[test]
fn rows_by_hand() {
    for table in KernelTable::available() {
        let (mut values, mut scales, mut sums) = ([9i8; 4], [0.0; 1], [0; 1]);
        // 127 / 254 = 1/2: halves go to even.
        table.quantize_rows(&[254.0, 1.0, 3.0, -5.0], 4, &mut values, &mut scales, &mut sums);
        assert_eq!((values, scales, sums), ([127, 0, 2, -2], [2.0], [127]), "{:?}", table.isa());
    }
}

#[test]
fn rows_follow_the_formula_on_every_isa() {
    for table in KernelTable::available() {
        for width in SIZES {
            for offset in [0, 1, 3] {
                let rows = 3;
                let stored = random(rows * width + offset, width as u64);
                let x = &stored[offset..];
                let mut values = vec![77i8; x.len() + 2];
                let (mut scales, mut sums) = (vec![0.0; rows], vec![0; rows]);
                let inside = 1..=x.len();
                table.quantize_rows(x, width, &mut values[inside.clone()], &mut scales, &mut sums);
                assert_eq!((values[0], values[x.len() + 1]), (77, 77), "canary");
                for row in 0..rows {
                    let x = &x[row * width..(row + 1) * width];
                    let a = x.iter().fold(1e-5f32, |a, v| a.max(v.abs()));
                    let expected: Vec<i8> = x.iter().map(|v| (v * (127.0 / a)).round_ties_even() as i8).collect();
                    assert_eq!(&values[inside.clone()][row * width..(row + 1) * width], &expected[..]);
                    assert_eq!(scales[row], a / 127.0);
                    assert_eq!(sums[row], expected.iter().map(|&q| i32::from(q)).sum::<i32>());
                }
            }
        }
    }
}

#[test]
fn stochastic_rows_and_columns_follow_the_formula_on_every_isa() {
    for table in KernelTable::available() {
        for width in SIZES {
            let (rows, first) = (5, 1000);
            let x = random(rows * width, width as u64);
            let (mut values, mut scales, mut sums) = (vec![0i8; x.len()], vec![0.0; rows], vec![0; rows]);
            table.quantize_rows_stochastic(&x, width, first, ROUNDING, &mut values, &mut scales, &mut sums);
            for row in 0..rows {
                let line = &x[row * width..(row + 1) * width];
                let a = line.iter().fold(0.0f32, |a, v| a.max(v.abs()));
                let (mut sum, factor) = (0, 127.0 / a);
                for (column, v) in line.iter().enumerate() {
                    let expected = stochastic(v * factor, draw(ROUNDING, width, first + row, column));
                    assert_eq!(values[row * width + column], expected, "{:?} {width} {row} {column}", table.isa());
                    sum += i32::from(expected);
                }
                assert_eq!((sums[row], scales[row]), (sum, a / 127.0));
            }
            let factors = random(rows, 1);
            let mut scales = vec![0.0; width];
            table.column_scales(&x, width, &factors, &mut scales);
            table.quantize_columns_stochastic(&x, first, &factors, &scales, ROUNDING, &mut values);
            for column in 0..width {
                let product = |row: usize| x[row * width + column] * factors[row];
                let a = (0..rows).fold(0.0f32, |a, row| a.max(product(row).abs()));
                assert_eq!(scales[column], a / 127.0);
                for row in 0..rows {
                    let expected =
                        stochastic(product(row) * (1.0 / scales[column]), draw(ROUNDING, width, first + row, column));
                    assert_eq!(values[row * width + column], expected);
                }
            }
        }
    }
}

#[test]
fn stochastic_rounding_is_unbiased() {
    let context = Context::new(ContextOptions::default()).unwrap();
    let x = random(256, 4);
    let (mut total, repeats) = (vec![0.0f64; 256], 4000u32);
    let (mut values, mut scales, mut sums) = (vec![0i8; 256], [0.0; 1], [0; 1]);
    for step in 0..repeats {
        let rounding = StochasticRounding::new(1, 91, step, 0);
        context.quantize_rows_stochastic(&x, 256, rounding, &mut values, &mut scales, &mut sums);
        total.iter_mut().zip(&values).for_each(|(total, &q)| *total += f64::from(q));
    }
    // A rounding has standard deviation 1/2 at most: five of the mean's.
    let bound = 5.0 * 0.5 / f64::from(repeats).sqrt();
    let mut mean_error = 0.0;
    for (total, x) in total.iter().zip(&x) {
        let error = total / f64::from(repeats) - f64::from(*x) / f64::from(scales[0]);
        assert!(error.abs() < bound, "{error} {bound}");
        mean_error += error / 256.0;
    }
    assert!(mean_error.abs() < bound / 16.0, "{mean_error}");
}

#[test]
fn not_a_number_poisons_the_scale_and_zero_stays_zero() {
    for table in KernelTable::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = random(200, 5);
            x[3] = bad;
            x[100..].fill(0.0);
            let (mut values, mut scales, mut sums) = (vec![1i8; 200], [0.0; 2], [0; 2]);
            table.quantize_rows(&x, 100, &mut values, &mut scales, &mut sums);
            assert!(scales[0].is_nan() && values.iter().all(|&q| q == 0) && sums == [0, 0]);
            assert_eq!(scales[1], 1e-5 / 127.0);
            table.quantize_rows_stochastic(&x, 100, 0, ROUNDING, &mut values, &mut scales, &mut sums);
            assert!(scales[0].is_nan() && scales[1] == 0.0 && values.iter().all(|&q| q == 0));
            let mut columns = vec![0.0; 100];
            table.column_scales(&x, 100, &[1.0, 1.0], &mut columns);
            table.quantize_columns_stochastic(&x, 0, &[1.0, 1.0], &columns, ROUNDING, &mut values);
            assert!(columns[3].is_nan() && columns[4] > 0.0 && values[3] == 0 && values[103] == 0);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (tokens, width) = (301, 333);
    let (x, factors) = (random(tokens * width, 6), random(tokens, 7));
    let run = |threads| {
        let context = Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap();
        let (mut values, mut scales, mut sums) = (vec![0i8; x.len()], vec![0.0; tokens], vec![0; tokens]);
        context.quantize_rows_stochastic(&x, width, ROUNDING, &mut values, &mut scales, &mut sums);
        let (mut columns, mut column_scales) = (vec![0i8; x.len()], vec![0.0; width]);
        context.quantize_columns_stochastic(&x, width, &factors, ROUNDING, &mut columns, &mut column_scales);
        (values, scales, sums, columns, column_scales)
    };
    assert!(run(1) == run(2));
}
