//! int8 quantization of activations and gradients: against plain references, over every ISA, at awkward sizes.

use hybridq::dispatch::{Context, ContextOptions, Gradient, StochasticRounding};
use hybridq::kernels::KernelTable;
use hybridq::tensor::{Philox, RandomStream};

const SIZES: [usize; 13] = [0, 1, 2, 15, 16, 17, 31, 64, 127, 128, 129, 257, 384];
const ROUNDING: StochasticRounding = StochasticRounding { key: [3, 5], step: 7, tensor: 11 };

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 90, 0, 0);
    (0..n).map(|_| stream.normal() as f32).collect()
}

/// The 15 random bits of (row, column) as csrc/README.md gives them.
fn draw(rounding: StochasticRounding, width: usize, row: usize, column: usize) -> u32 {
    let group = (row * width.div_ceil(128) + column / 128) as u64;
    let within = column % 128;
    let block = group / 2 * 16 + (within % 16) as u64;
    let words = Philox::new(rounding.key).block([block as u32, (block >> 32) as u32, rounding.tensor, rounding.step]);
    words[(group % 2) as usize * 2 + within / 64].rotate_left(8 * (within / 16 % 4) as u32) >> 17
}

/// In f64, where everything but the rounding to units of 2^-15 is exact.
fn stochastic(v: f32, bits: u32) -> i8 {
    let units = (f64::from(v) * 32768.0).round_ties_even();
    ((units + f64::from(bits)) / 32768.0).floor() as i8
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
fn the_chance_of_rounding_up_is_the_fraction_to_a_unit() {
    // Over all draws a value between two quanta is rounded up in as many cases as its fraction has units of 2^-15.
    for fraction in [0.0, 1.0, 2.0, 100.25, 16384.0, 16384.5, 32766.0, 32767.0] {
        let ups = (0..1 << 15).filter(|&bits| stochastic(5.0 + (fraction / 32768.0) as f32, bits) == 6).count();
        assert!((ups as f64 - fraction).abs() <= 0.5, "{ups} of {fraction}");
    }
}

/// Neighbours by 16 columns share all but the upper byte of their draws: still, their roundings hardly depend on each other.
#[test]
fn roundings_of_one_word_are_nearly_independent() {
    let table = KernelTable::best().unwrap();
    let x: Vec<f32> = (0..64).map(|c| if c == 0 { 127.0 } else { 0.5 }).collect();
    let (mut both, mut alone, repeats) = ([0u32; 3], [0u32; 3], 40_000u32);
    let (mut values, mut scales, mut sums) = ([0i8; 64], [0.0; 1], [0; 1]);
    for step in 0..repeats {
        let rounding = StochasticRounding { step, ..ROUNDING };
        table.quantize_rows_stochastic(&x, 64, 0, rounding, &mut values, &mut scales, &mut sums);
        for lag in 0..3 {
            both[lag] += u32::from(values[5] == 1 && values[5 + 16 * (lag + 1)] == 1);
            alone[lag] += u32::from(values[5 + 16 * (lag + 1)] == 1);
        }
    }
    // Covariance of two indicators of chance 1/2: at most 2^-10 by their shared byte, and five deviations of 1/4.
    let bound = 1.0 / 1024.0 + 5.0 * 0.25 / f64::from(repeats).sqrt();
    for lag in 0..3 {
        let (both, alone) = (f64::from(both[lag]) / f64::from(repeats), f64::from(alone[lag]) / f64::from(repeats));
        assert!((both - 0.5 * alone).abs() < bound && (alone - 0.5).abs() < 2.0 * bound, "{both} {alone}");
    }
}

#[test]
fn a_gradient_is_rounded_both_ways_on_every_isa() {
    for table in KernelTable::available() {
        for width in SIZES.into_iter().chain([1025, 2304]) {
            let (rows, first) = (5, 1001);
            let x = random(rows * width, width as u64);
            let (row_factors, column_factors) = (random(rows, 1), random(width, 2));
            let (mut row_maxima, mut column_maxima) = (vec![0.0; rows], vec![0.0; width]);
            table.gradient_maxima(&x, &row_factors, &column_factors, &mut row_maxima, &mut column_maxima);
            let row_scales: Vec<f32> = row_maxima.iter().map(|&max| KernelTable::gradient_scale(max)).collect();
            let column_scales: Vec<f32> = column_maxima.iter().map(|&max| KernelTable::gradient_scale(max)).collect();
            // A canary at each end of everything written.
            let (mut by_row, mut by_column) = (vec![77i8; x.len() + 2], vec![77i8; x.len() + 2]);
            let (mut sums, inside) = (vec![-7; rows + 2], 1..=x.len());
            table.quantize_gradient(
                &x,
                width,
                (first, 0),
                &row_factors,
                &column_factors,
                &row_scales,
                &column_scales,
                ROUNDING,
                &mut by_row[inside.clone()],
                &mut by_column[inside.clone()],
                &mut sums[1..=rows],
            );
            // Columns from 128 on, as part of the whole.
            for (from, to) in [(128, width), (128, width.min(300))].into_iter().filter(|(from, to)| from < to) {
                let (mut part_by_row, mut part_by_column) =
                    (vec![0i8; rows * (to - from)], vec![0i8; rows * (to - from)]);
                table.quantize_gradient(
                    &x[from..],
                    width,
                    (first, from),
                    &row_factors,
                    &column_factors[from..to],
                    &row_scales,
                    &column_scales[from..to],
                    ROUNDING,
                    &mut part_by_row,
                    &mut part_by_column,
                    &mut vec![0; rows],
                );
                for row in 0..rows {
                    let (part, whole) = (row * (to - from)..(row + 1) * (to - from), row * width + 1..);
                    assert_eq!(part_by_row[part.clone()], by_row[whole.start + from..whole.start + to]);
                    assert_eq!(part_by_column[part], by_column[whole.start + from..whole.start + to]);
                }
            }
            let ends = |values: &[i8]| (values[0], values[values.len() - 1]);
            assert_eq!((ends(&by_row), ends(&by_column), sums[0], sums[rows + 1]), ((77, 77), (77, 77), -7, -7));
            let of_row = |row: usize, column: usize| x[row * width + column] * column_factors[column];
            let of_column = |row: usize, column: usize| x[row * width + column] * row_factors[row];
            for row in 0..rows {
                let max = (0..width).fold(0.0f32, |max, column| max.max(of_row(row, column).abs()));
                let (mut sum, units) = (0, 1.0 / row_scales[row]);
                assert_eq!(row_maxima[row], max);
                for column in 0..width {
                    let (at, bits) = (1 + row * width + column, draw(ROUNDING, width, first + row, column));
                    let max = (0..rows).fold(0.0f32, |max, row| max.max(of_column(row, column).abs()));
                    assert_eq!((column_maxima[column], column_scales[column]), (max, max / 127.0));
                    assert_eq!(by_row[at], stochastic(of_row(row, column) * units, bits));
                    assert_eq!(by_column[at], stochastic(of_column(row, column) * (1.0 / column_scales[column]), bits));
                    sum += i32::from(by_row[at]);
                }
                assert_eq!(sums[1 + row], sum, "{:?} {width} {row}", table.isa());
            }
        }
    }
}

/// The largest magnitude is 127 to the unit however its scale was rounded.
#[test]
fn the_largest_of_a_row_or_column_is_never_beyond_127() {
    let table = KernelTable::best().unwrap();
    for (sign, step) in [(1.0, 0), (-1.0, 1), (1.0, 2), (-1.0, 3)] {
        let x: Vec<f32> = (0..40_000).map(|i| sign * (1.0 + i as f32 * 2.7e-5)).collect();
        let (ones, rounding) = (vec![1.0; x.len()], StochasticRounding { step, ..ROUNDING });
        let scales: Vec<f32> = x.iter().map(|x| KernelTable::gradient_scale(x.abs())).collect();
        let (mut by_row, mut by_column) = (vec![0i8; x.len()], vec![0i8; x.len()]);
        let (mut row_scales, mut sums) = (vec![0.0; x.len()], vec![0; x.len()]);
        table.quantize_rows_stochastic(&x, 1, 0, rounding, &mut by_row, &mut row_scales, &mut sums);
        table.quantize_columns_stochastic(&x, 0, &[1.0], &scales, rounding, &mut by_column);
        let expected = vec![(127.0 * sign) as i8; x.len()];
        assert!(by_row == expected && by_column == expected && row_scales == scales);
        table.quantize_gradient(
            &x,
            1,
            (0, 0),
            &ones,
            &[1.0],
            &scales,
            &[2.1 / 127.0],
            rounding,
            &mut by_row,
            &mut by_column,
            &mut sums,
        );
        assert!(by_row == expected && sums.iter().all(|&sum| sum == i32::from(expected[0])));
    }
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
            let (mut maxima, mut column_maxima, mut by_column) = ([0.0; 2], vec![0.0; 100], vec![1i8; 200]);
            let ones = [1.0; 100];
            table.gradient_maxima(&x, &[1.0, 1.0], &ones, &mut maxima, &mut column_maxima);
            let scales = maxima.map(KernelTable::gradient_scale);
            let found: Vec<f32> = column_maxima.into_iter().map(KernelTable::gradient_scale).collect();
            assert!(scales[0].is_nan() && scales[1] == 0.0 && found[3].is_nan() && found[4..] == columns[4..]);
            let (rounded, sums) = ((&mut values, &mut by_column), &mut sums);
            table.quantize_gradient(
                &x,
                100,
                (0, 0),
                &[1.0, 1.0],
                &ones,
                &scales,
                &columns,
                ROUNDING,
                rounded.0,
                rounded.1,
                sums,
            );
            assert!(values.iter().all(|&q| q == 0) && *sums == [0, 0]);
            assert!(by_column[3] == 0 && by_column[103] == 0 && by_column[..100].iter().any(|&q| q != 0));
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
        let (mut by_row, mut by_column, mut scratch) =
            (vec![0i8; x.len()], vec![0i8; x.len()], vec![0.0; Context::gradient_scratch(width)]);
        let gradient =
            Gradient { values: &x, stride: width, first_column: 0, row_factors: &factors, column_factors: &x[..width] };
        let (mut row_scales, mut row_sums, mut both_scales) = (vec![0.0; tokens], vec![0; tokens], vec![0.0; width]);
        context.gradient_scales(gradient, &mut row_scales, &mut both_scales, &mut scratch);
        assert_eq!(both_scales, column_scales);
        let (by, sums_by) = ((&mut by_row, &mut by_column), &mut row_sums);
        context.quantize_gradient(gradient, &row_scales, &both_scales, ROUNDING, by.0, by.1, sums_by);
        (values, scales, sums, columns, column_scales, by_row, by_column, row_scales, row_sums)
    };
    assert!(run(1) == run(2));
}
