//! Five-level weights in 3 bits: the documented bytes, every tail, on every ISA; and the quantizer's own levels.

use hybridq::Error;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::{FiveLevelLimits, KernelTable, five_level_packed_len, reference};
use hybridq::quant::{Granularity, PackedFiveLevel, Precision, Quantizer};
use hybridq::tensor::RandomStream;
use proptest::prelude::*;

const SIZES: [usize; 13] = [0, 1, 2, 3, 15, 16, 17, 31, 63, 64, 65, 131, 257];

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

fn levels(count: usize, seed: u32) -> Vec<i8> {
    let mut stream = RandomStream::new(7, 97, 0, seed);
    (0..count).map(|_| (stream.next_u32() % 5) as i8 - 2).collect()
}

fn normal(count: usize, seed: u32) -> Vec<f32> {
    let mut stream = RandomStream::new(8, 97, 0, seed);
    (0..count).map(|_| stream.normal() as f32).collect()
}

#[test]
fn bytes_are_as_documented() {
    // Row 37 of the block, column 22: step 1, tile 2, row 5 of the tile, column 6 of the step: field 1 of low byte
    // 4 * 37 + 2, bit 4 * (5 % 2) + 2 of third byte 256 + 8 * (4 * 2 + 1) + 5 / 2.
    for (level, low, third) in [(-2i8, 0b00u8, 0u8), (-1, 0b01, 0), (0, 0b10, 0), (1, 0b11, 0), (2, 0b00, 1)] {
        let mut values = vec![0i8; 64 * 32];
        values[37 * 32 + 22] = level;
        let mut expected: Vec<u8> = [[0xAAu8; 256].as_slice(), &[0; 128]].concat().repeat(2);
        expected[384 + 4 * 37 + 2] = 0xAA & !(3 << 2) | low << 2;
        expected[384 + 256 + 8 * 9 + 2] = third << 6;
        for table in KernelTable::available() {
            let mut packed = vec![0xEE; 768];
            table.five_level_pack(&values, 64, 32, &mut packed);
            assert!(packed == expected, "{level} {}", table.isa().name());
        }
    }
}

#[test]
fn packs_quantizes_and_unpacks_at_every_tail() {
    for (rows, cols) in SIZES.into_iter().flat_map(|rows| SIZES.map(|cols| (rows, cols))) {
        let values = levels(rows * cols, 1);
        let weights = &normal(rows * cols + 1, 2)[1..];
        let by_row: Vec<FiveLevelLimits> =
            (0..rows).map(|r| FiveLevelLimits { inner: 0.01 * r as f32, outer: 0.02 * r as f32 + 0.3 }).collect();
        let one = [FiveLevelLimits { inner: 0.4, outer: 1.3 }];
        for table in KernelTable::available() {
            let at = format!("{} {rows} x {cols}", table.isa().name());
            let mut packed = vec![0xEE; five_level_packed_len(rows, cols) + 1];
            let (packed, canary) = packed.split_at_mut(five_level_packed_len(rows, cols));
            table.five_level_pack(&values, rows, cols, packed);
            assert_eq!(canary, [0xEE], "{at}");
            assert_eq!(table.five_level_find_invalid(packed), None, "{at}");
            for row in 0..rows.next_multiple_of(64) {
                for col in [0, cols / 2, cols] {
                    if col < cols.next_multiple_of(16) {
                        let inside = row < rows && col < cols;
                        let expected = if inside { values[row * cols + col] } else { 0 };
                        assert_eq!(reference::five_level_code(packed, cols, row, col), (expected + 2) as u8, "{at}");
                    }
                }
            }
            let mut back = vec![77i8; rows * cols + 2];
            table.five_level_unpack(packed, rows, cols, &mut back[1..=rows * cols]);
            assert!(back[1..=rows * cols] == values[..] && back[0] == 77 && back[rows * cols + 1] == 77, "{at}");
            for limits in [&by_row[..], &one] {
                if limits.is_empty() {
                    continue;
                }
                let level = |i: usize| {
                    let limits = limits[if limits.len() == 1 { 0 } else { i / cols }];
                    let w: f32 = weights[i];
                    (w.signum() as i8) * (i8::from(w.abs() > limits.inner) + i8::from(w.abs() > limits.outer))
                };
                let expected: Vec<i8> = (0..rows * cols).map(level).collect();
                let (mut quantized, mut found) = (vec![0xEE; packed.len()], vec![0; rows * cols]);
                table.five_level_quantize_pack(weights, rows, cols, limits, &mut quantized);
                table.five_level_unpack(&quantized, rows, cols, &mut found);
                assert!(found == expected, "quantize {at}");
                let mut again = vec![0x11; packed.len()];
                table.five_level_pack(&found, rows, cols, &mut again);
                assert!(again == quantized, "padding of quantize {at}");
            }
        }
    }
}

#[test]
fn limits_nan_and_large_levels() {
    let weights = [0.5, -0.5, 0.5f32.next_up(), -1.5, (-1.5f32).next_down(), 1.5f32.next_up(), f32::NAN, -0.0];
    let limits = [FiveLevelLimits { inner: 0.5, outer: 1.5 }];
    for table in KernelTable::available() {
        let (mut packed, mut found) = (vec![0; 384], vec![0; 8]);
        table.five_level_quantize_pack(&weights, 1, 8, &limits, &mut packed);
        table.five_level_unpack(&packed, 1, 8, &mut found);
        assert_eq!(found, [0, 0, 1, -1, -2, 2, 0, 0], "{}", table.isa().name());
        table.five_level_pack(&[i8::MIN, -3, -2, 3, 2, i8::MAX, 0, 1], 1, 8, &mut packed);
        table.five_level_unpack(&packed, 1, 8, &mut found);
        assert_eq!(found, [-2, -2, -2, 2, 2, 2, 0, 1], "{}", table.isa().name());
    }
}

#[test]
fn packed_levels_are_the_quantizers() {
    for (rows, cols) in [(1, 1), (3, 50), (65, 33), (700, 900)] {
        let weights = normal(rows * cols, 3);
        for granularity in [Granularity::Tensor, Granularity::Row] {
            let quantizer = Quantizer::new(Precision::FiveLevel).granularity(granularity);
            let expected = quantizer.quantize(&context(1), &weights, rows, cols).unwrap();
            for threads in [1, 2] {
                let ctx = context(threads);
                let packed = PackedFiveLevel::pack(&ctx, &weights, rows, cols, granularity).unwrap();
                assert!(packed.unpack(&ctx) == expected.codes && packed.scales == expected.scales);
                let mut values = vec![0.0; rows * cols];
                packed.dequantize(&ctx, &mut values);
                assert_eq!(values, expected.dequantize(&ctx));
                let same =
                    PackedFiveLevel::from_levels(&ctx, &expected.codes, rows, cols, packed.scales.clone()).unwrap();
                assert!(same.data[..] == packed.data[..]);
            }
        }
    }
}

#[test]
fn bad_input_is_refused_by_name_and_place() {
    let ctx = context(1);
    let mut weights = normal(6, 4);
    let pack = |weights: &[f32], granularity| PackedFiveLevel::pack(&ctx, weights, 2, 3, granularity);
    assert!(matches!(pack(&weights[..5], Granularity::Tensor), Err(Error::Shape { .. })));
    assert!(matches!(pack(&weights, Granularity::Group(2)), Err(Error::InvalidValue { .. })));
    weights[4] = f32::INFINITY;
    assert!(matches!(pack(&weights, Granularity::Row), Err(Error::NonFinite { index: 4, .. })));
    for (rows, cols) in [(0, 0), (0, 5), (5, 0)] {
        for granularity in [Granularity::Tensor, Granularity::Row] {
            assert!(PackedFiveLevel::pack(&ctx, &[], rows, cols, granularity).unwrap().unpack(&ctx).is_empty());
        }
    }
    assert!(PackedFiveLevel::from_levels(&ctx, &[0, 3], 1, 2, vec![1.0]).is_err());
    assert!(PackedFiveLevel::from_levels(&ctx, &[0, 1], 1, 2, vec![1.0; 2]).is_err());
    assert!(PackedFiveLevel::from_levels(&ctx, &[0, 1], 1, 2, vec![f32::NAN]).is_err());

    let good = PackedFiveLevel::from_levels(&ctx, &levels(67 * 21, 5), 67, 21, vec![0.5]).unwrap();
    let read = |bytes: &[u8]| PackedFiveLevel::from_bytes(&ctx, "layers.3.up", bytes, 67, 21, vec![0.5]);
    assert!(read(&good.data).unwrap().data[..] == good.data[..]);
    let refusal = |at: usize, mask: u8| {
        let mut bad = good.data.to_vec();
        bad[at] |= mask;
        read(&bad).unwrap_err().to_string()
    };
    // Row 2, column 0: code 7.
    let mut bad = good.data.to_vec();
    bad[4 * 2] |= 3;
    bad[256 + 1] |= 1;
    let message = read(&bad).unwrap_err().to_string();
    assert!(message.starts_with("layers.3.up: byte 8:"), "{message}");
    // Row 67 is padding.
    let second_block = 2 * 384;
    assert!(refusal(second_block + 4 * 3, 1).contains(&format!("byte {}", second_block + 12)));
    assert!(read(&good.data[1..]).unwrap_err().to_string().contains("1536 bytes"));
    assert!(PackedFiveLevel::from_bytes(&ctx, "w", &[], usize::MAX, 9, vec![1.0]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn round_trips(rows in 0usize..150, cols in 0usize..150, seed: u32) {
        let ctx = context(1);
        let values = levels(rows * cols, seed);
        let packed = PackedFiveLevel::from_levels(&ctx, &values, rows, cols, vec![1.0]).unwrap();
        prop_assert_eq!(packed.unpack(&ctx), values);
    }
}
