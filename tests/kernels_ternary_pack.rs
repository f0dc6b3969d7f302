//! Packing of the 2-bit layout on every ISA this machine runs: quantizing, unpacking, counting, checking; and what the
//! packed matrices make of it.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::{KernelTable, reference, ternary_packed_len};
use hybridq::quant::{Granularity, OutputScale, PackedTernary, Precision, QuantizedRows, QuantizedWeight};
use hybridq::tensor::RandomStream;
use proptest::prelude::*;

const SIZES: [usize; 14] = [0, 1, 3, 15, 16, 17, 31, 63, 64, 65, 97, 128, 131, 257];
const CANARY: f32 = 12345.5;

fn random(seed: u32) -> RandomStream {
    RandomStream::new(7, 0, 0, seed)
}

fn trits(count: usize, seed: u32) -> Vec<i8> {
    let mut stream = random(seed);
    (0..count).map(|_| (stream.next_u32() % 3) as i8 - 1).collect()
}

fn normal(count: usize, seed: u32) -> Vec<f32> {
    let mut stream = random(seed);
    (0..count).map(|_| stream.normal() as f32).collect()
}

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

fn pack(table: &KernelTable, trits: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let mut packed = vec![0xEE; ternary_packed_len(rows, cols) + 1];
    table.ternary_pack(trits, rows, cols, &mut packed[1..]);
    packed.remove(0);
    packed
}

#[test]
fn packs_quantizes_unpacks_and_counts() {
    for (rows, cols) in SIZES.into_iter().flat_map(|rows| SIZES.map(|cols| (rows, cols))) {
        let w = trits(rows * cols, 1);
        let mut stream = random(2);
        let weights: Vec<f32> = (0..=rows * cols).map(|_| stream.normal() as f32).collect();
        let thresholds: Vec<f32> = (0..rows).map(|r| 0.1 * r as f32).collect();
        for table in KernelTable::available() {
            let at = format!("{} {rows} x {cols}", table.isa().name());
            let packed = pack(table, &w, rows, cols);
            for (row, col) in (0..rows.next_multiple_of(64)).flat_map(|r| [(r, 0), (r, cols / 2), (r, cols)]) {
                if col < cols.next_multiple_of(16) {
                    let expected = if row < rows && col < cols { w[row * cols + col] + 1 } else { 1 };
                    assert_eq!(reference::ternary_code(&packed, cols, row, col), expected as u8, "pack {at}");
                }
            }
            let mut unpacked = vec![9; rows * cols + 2];
            table.ternary_unpack(&packed, rows, cols, &mut unpacked[1..=rows * cols]);
            assert!(unpacked[0] == 9 && unpacked[rows * cols + 1] == 9, "unpack {at}: wrote outside");
            assert_eq!(unpacked[1..=rows * cols], w, "unpack {at}");
            for thresholds in [&thresholds[..], &[0.5]] {
                if thresholds.is_empty() {
                    continue;
                }
                let expected = reference::ternary_quantize(&weights[1..], cols, thresholds);
                let mut quantized = vec![0xEE; packed.len()];
                table.ternary_quantize_pack(&weights[1..], rows, cols, thresholds, &mut quantized);
                assert!(quantized == pack(table, &expected, rows, cols), "quantize {at}");
                let changed = w.iter().zip(&expected).filter(|(a, b)| a != b).count();
                assert_eq!(table.ternary_count_changed(&packed, &quantized), changed, "changed {at}");
            }
        }
    }
}

#[test]
fn the_threshold_itself_and_nan_are_zero() {
    let next = f32::from_bits(0.5f32.to_bits() + 1);
    let row = [0.5, -0.5, next, -next, f32::NAN, 0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY];
    let weights: Vec<f32> = row.into_iter().cycle().take(9 * 20).collect();
    for table in KernelTable::available() {
        let mut packed = vec![0; ternary_packed_len(10, 18)];
        table.ternary_quantize_pack(&weights, 10, 18, &[0.5], &mut packed);
        let mut trits = vec![0; 180];
        table.ternary_unpack(&packed, 10, 18, &mut trits);
        assert_eq!(trits[..9], [0, 0, 1, -1, 0, 0, 0, 1, -1], "{}", table.isa().name());
        assert_eq!(trits[171..], [0, 0, 1, -1, 0, 0, 0, 1, -1], "{}", table.isa().name());
    }
}

/// The sum of the kept magnitudes in the order of the contract: groups of four rows, steps of 16 columns, rows.
fn kept_sum(weights: &[f32], rows: usize, cols: usize, thresholds: &[f32]) -> f64 {
    let mut lane = [0f64; 16];
    for first in (0..rows).step_by(4) {
        for step in (0..cols).step_by(16) {
            for row in first..rows.min(first + 4) {
                for col in step..cols.min(step + 16) {
                    let magnitude = weights[row * cols + col].abs();
                    let threshold = if thresholds.len() == 1 { thresholds[0] } else { thresholds[row] };
                    lane[col % 16] += if magnitude > threshold { f64::from(magnitude) } else { 0.0 };
                }
            }
        }
    }
    let half: Vec<f64> = (0..8).map(|l| lane[l] + lane[l + 8]).collect();
    let quarter: Vec<f64> = (0..4).map(|l| half[l] + half[l + 4]).collect();
    (quarter[0] + quarter[2]) + (quarter[1] + quarter[3])
}

#[test]
fn quantizing_gives_the_sum_of_what_it_keeps_bit_for_bit() {
    for (rows, cols) in SIZES.into_iter().flat_map(|rows| SIZES.map(|cols| (rows, cols))) {
        let weights = normal(rows * cols, 11);
        let by_row: Vec<f32> = (0..rows).map(|r| 0.07 * r as f32).collect();
        for (table, thresholds) in KernelTable::available().iter().flat_map(|t| [(t, &by_row[..]), (t, &[0.6])]) {
            if thresholds.is_empty() {
                continue;
            }
            let at = format!("{} {rows} x {cols}", table.isa().name());
            let (mut plain, mut summed) = (vec![0xEE; ternary_packed_len(rows, cols)], vec![]);
            summed.clone_from(&plain);
            table.ternary_quantize_pack(&weights, rows, cols, thresholds, &mut plain);
            let kept = table.ternary_quantize_pack_sum(&weights, rows, cols, thresholds, &mut summed);
            assert!(plain == summed, "{at}");
            assert_eq!(kept, kept_sum(&weights, rows, cols, thresholds), "{at}");
            let expected = reference::ternary_quantize(&weights, cols, thresholds);
            let nonzero = expected.iter().filter(|&&trit| trit != 0).count();
            assert_eq!(table.ternary_count_nonzero(&plain), nonzero, "{at}");
        }
    }
}

#[test]
fn counts_and_finds_at_every_length_and_place() {
    for table in KernelTable::available() {
        let at = table.isa().name();
        for len in (0..70).chain([255, 256, 257, 600]) {
            let ones = vec![0xAAu8; len];
            let zeros = vec![0x55u8; len];
            assert_eq!(table.ternary_count_nonzero(&ones), 4 * len, "{at} {len}");
            assert_eq!(table.ternary_count_nonzero(&zeros), 0, "{at} {len}");
            assert_eq!(table.ternary_count_changed(&ones, &zeros), 4 * len, "{at} {len}");
            assert_eq!(table.ternary_find_invalid(&ones), None, "{at} {len}");
            for place in (0..len).step_by(7) {
                for byte in [0x03, 0x0C, 0x30, 0xC0, 0xFF, 0x7E] {
                    let mut bytes = ones.clone();
                    bytes[place] = byte;
                    let is_bad = (0..4).any(|f| byte >> (2 * f) & 3 == 3);
                    assert_eq!(table.ternary_find_invalid(&bytes), is_bad.then_some(place), "{at} {len} {byte:#x}");
                }
            }
        }
    }
    let mut bytes = vec![0x55; 5 << 20];
    for place in [(5 << 20) - 1, 3 << 20, 70] {
        bytes[place] = 0xC5;
        assert_eq!(context(2).ternary_find_invalid(&bytes), Some(place));
    }
}

#[test]
fn repacking_tells_what_it_did_at_every_thread_count() {
    let (rows, cols) = (700, 901);
    let (before, after) = (normal(rows * cols, 12), normal(rows * cols, 13));
    let found = [1, 2, 3].map(|threads| {
        let ctx = context(threads);
        let mut packed = vec![0x55; ternary_packed_len(rows, cols)];
        ctx.ternary_repack(&before, rows, cols, &[0.5], &mut packed);
        let found = ctx.ternary_repack_sums(&after, rows, cols, &[0.5], &mut packed);
        let mut plain = vec![0xEE; packed.len()];
        ctx.ternary_quantize_pack(&after, rows, cols, &[0.5], &mut plain);
        assert!(plain == packed);
        assert_eq!(ctx.ternary_repack(&after, rows, cols, &[0.5], &mut plain), 0);
        (found, packed)
    });
    assert!(found[0] == found[1] && found[0] == found[2]);
    let (old, new) =
        (reference::ternary_quantize(&before, cols, &[0.5]), reference::ternary_quantize(&after, cols, &[0.5]));
    assert_eq!(found[0].0.changed, old.iter().zip(&new).filter(|(a, b)| a != b).count());
    assert_eq!(found[0].0.nonzero, new.iter().filter(|&&trit| trit != 0).count());
    let kept: f64 = after.iter().filter(|w| w.abs() > 0.5).map(|w| f64::from(w.abs())).sum();
    assert!((found[0].0.nonzero_sum / kept - 1.0).abs() < 1e-12);
}

/// The error that falls out of the sums is the error of the values.
#[test]
fn requantizing_measures_the_distance_to_the_codes() {
    let ctx = context(2);
    let (rows, cols) = (130, 77);
    for precision in [Precision::Ternary, Precision::Binary, Precision::FiveLevel, Precision::Int8] {
        let weights = normal(rows * cols, 14);
        let mut matrix = QuantizedWeight::zeroed(precision, rows, cols).unwrap();
        let found = matrix.requantize(&ctx, precision, OutputScale::default(), &weights).unwrap();
        let mut values = vec![0.0; rows * cols];
        matrix.dequantize(&ctx, &mut values);
        let sum = |f: &dyn Fn(usize) -> f64| (0..rows * cols).map(|i| f(i).powi(2)).sum::<f64>();
        let error = sum(&|i| f64::from(weights[i]) - f64::from(values[i]));
        let squares = sum(&|i| f64::from(weights[i]));
        assert!((found.squared_error / error - 1.0).abs() < 1e-5, "{precision}: {found:?} {error}");
        assert!((found.squares / squares - 1.0).abs() < 1e-12, "{precision}");
        // Weights that are on the grid already lose nothing.
        let again = matrix.requantize(&ctx, precision, OutputScale::default(), &vec![0.25; rows * cols]).unwrap();
        assert!(again.squared_error <= 1e-12 * again.squares || precision == Precision::FiveLevel, "{precision}");
    }
}

#[test]
fn scales_are_means_and_repack_counts_flips() {
    let ctx = context(2);
    let mut weights = vec![1.0f32, -0.5, 0.25, 0.25, 4.0, 0.0, -2.0, -2.0];
    let tensor = PackedTernary::pack(&ctx, &weights, 2, 4, Granularity::Tensor).unwrap();
    assert_eq!((tensor.scales.as_slice(), tensor.unpack(&ctx)), (&[1.25f32][..], vec![1, 0, 0, 0, 1, 0, -1, -1]));
    let mut rows = PackedTernary::pack(&ctx, &weights, 2, 4, Granularity::Row).unwrap();
    assert_eq!((rows.scales.as_slice(), rows.unpack(&ctx)), (&[0.5f32, 2.0][..], vec![1, -1, 0, 0, 1, 0, -1, -1]));
    assert_eq!(rows.repack(&ctx, &weights).unwrap(), 0);
    weights[0] = -1.0;
    weights[7] = 2.0;
    assert_eq!(rows.repack(&ctx, &weights).unwrap(), 2);
    let before = rows.data.to_vec();
    weights[5] = f32::NAN;
    let error = rows.repack(&ctx, &weights).unwrap_err().to_string();
    assert_eq!(error, "ternary weights: element 5 is NaN, expected a finite number");
    assert_eq!((rows.data.to_vec(), &rows.scales[..]), (before, &[0.5f32, 2.0][..]));
    let zeros = PackedTernary::pack(&ctx, &[0.0; 6], 2, 3, Granularity::Tensor).unwrap();
    assert_eq!((&zeros.scales[..], zeros.unpack(&ctx)), (&[1e-5f32][..], vec![0; 6]));
    assert!(PackedTernary::pack(&ctx, &weights, 3, 3, Granularity::Tensor).is_err());
    assert!(PackedTernary::from_trits(&ctx, &[0, 2], 1, 2, vec![1.0]).is_err());
    for (rows, cols) in [(0, 0), (0, 5), (5, 0)] {
        let empty = PackedTernary::pack(&ctx, &[], rows, cols, Granularity::Row).unwrap();
        let mut y = vec![CANARY; rows];
        let x = QuantizedRows::zeroed(1, cols);
        empty.matmul(&ctx, &x, 1, &mut y);
        assert!(y.iter().all(|&y| y == 0.0), "an empty sum is zero");
    }
}

#[test]
fn bytes_from_elsewhere_are_checked() {
    let ctx = context(1);
    let (rows, cols) = (67, 21);
    let good = PackedTernary::from_trits(&ctx, &trits(rows * cols, 15), rows, cols, vec![0.5]).unwrap();
    let read =
        |bytes: &[u8], rows, cols, scales| PackedTernary::from_bytes(&ctx, "layers.3.up", bytes, rows, cols, scales);
    let same = read(&good.data, rows, cols, vec![0.5]).unwrap();
    assert!(same.data[..] == good.data[..] && same.scales == [0.5]);
    let refusal = |bytes: &[u8], rows, cols, scales| read(bytes, rows, cols, scales).unwrap_err().to_string();
    let mut bad = good.data.to_vec();
    bad[517] |= 0x30;
    assert_eq!(refusal(&bad, rows, cols, vec![0.5]).split(':').next(), Some("layers.3.up"));
    assert!(
        refusal(&bad, rows, cols, vec![0.5]).contains("byte 517")
            && refusal(&bad, rows, cols, vec![0.5]).contains("code 3")
    );
    // Padding: a row past the last one, a column past the last one.
    for (row, col) in [(67, 0), (100, 20), (0, 21), (66, 31), (127, 31)] {
        let mut bad = good.data.to_vec();
        let at = row / 64 * 512 + col / 16 * 256 + row % 64 * 4 + col % 4;
        bad[at] ^= 1 << (2 * (col % 16 / 4));
        let message = refusal(&bad, rows, cols, vec![0.5]);
        assert!(message.contains(&format!("byte {at}")) && message.contains("padding"), "{message}");
    }
    assert!(refusal(&good.data[1..], rows, cols, vec![0.5]).contains("1024 bytes"));
    assert!(refusal(&good.data, rows, cols, vec![0.5; 3]).contains("scales"));
    assert!(refusal(&good.data, rows, cols, vec![f32::NAN]).contains("scales"));
    assert!(read(&good.data, usize::MAX, usize::MAX, vec![1.0]).is_err());
    assert!(read(&[], 0, 7, vec![1.0]).is_ok());
    assert!(PackedTernary::pack(&ctx, &[1.0; 4], 2, 2, Granularity::Group(2)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn packing_round_trips(rows in 0usize..200, cols in 0usize..200, seed: u32) {
        let w = trits(rows * cols, seed);
        let ctx = context(1);
        let packed = PackedTernary::from_trits(&ctx, &w, rows, cols, vec![1.0]).unwrap();
        prop_assert_eq!(packed.unpack(&ctx), w);
    }
}
