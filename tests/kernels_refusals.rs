//! Sizes that do not fit: the kernels' safe layer refuses them (a panic that names the call, before anything is written),
//! and the quantizers with typed errors. Sizes whose product overflows count as sizes that do not fit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use hybridq::Error;
use hybridq::dispatch::{Context, ContextOptions, StochasticRounding};
use hybridq::kernels::{FiveLevelLimits, GgufTernary, KernelTable};
use hybridq::quant::{
    GradientDraw, GradientQuantizer, Granularity, PackedTernary, Precision, QuantizedTensor, QuantizedWeight,
    Quantizer, Quantizer158Bit, quantize_gradients,
};

/// Two factors whose product is 0 in `usize`.
const HALF: usize = 1 << (usize::BITS / 2);

fn context() -> Context {
    Context::new(ContextOptions { threads: Some(1), isa: None }).unwrap()
}

/// Every call must panic with a message that holds its name.
fn assert_refused(calls: &mut [(&str, &mut dyn FnMut())]) {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcomes: Vec<_> = calls.iter_mut().map(|(name, call)| (*name, catch_unwind(AssertUnwindSafe(call)))).collect();
    std::panic::set_hook(quiet);
    for (at, (name, outcome)) in outcomes.into_iter().enumerate() {
        let Err(panic) = outcome else { panic!("call {at}, {name}, was not refused") };
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
        assert!(text.contains(name), "call {at}, {name}: {text}");
    }
}

#[test]
fn kernels_refuse_sizes_that_do_not_fit() {
    let rounding = StochasticRounding { key: [1, 2], step: 3, tensor: 4 };
    let limits = [FiveLevelLimits { inner: 0.5, outer: 1.5 }; 3];
    for table in KernelTable::available() {
        let (x, trits) = (&[1.0f32; 512][..], &[1i8; 512][..]);
        let (mut bytes, mut values) = (vec![0u8; 1024], vec![0i8; 512]);
        let (mut other_bytes, mut other_values) = (vec![0u8; 1024], vec![0i8; 512]);
        let (mut scales, mut sums, mut floats) = (vec![0.0f32; 4], vec![0i32; 4], vec![0.0f32; 512]);
        let (mut scales2, mut sums2, mut values2) = (vec![0.0f32; 2], vec![0i32; 2], vec![0i8; 512]);
        assert_refused(&mut [
            ("dot", &mut || {
                table.dot(&x[..3], &x[..4]);
            }),
            ("dot_i8", &mut || {
                table.dot_i8(&trits[..3], &x[..4]);
            }),
            ("ternary_pack", &mut || table.ternary_pack(&trits[..5], 2, 3, &mut bytes[..256])),
            ("ternary_pack", &mut || table.ternary_pack(&trits[..6], 2, 3, &mut other_bytes[..255])),
            ("ternary_unpack", &mut || table.ternary_unpack(&[0; 256], 2, 3, &mut values[..7])),
            ("ternary_unpack", &mut || table.ternary_unpack(&[0; 512], 2, 3, &mut other_values[..6])),
            ("ternary_unpack", &mut || table.ternary_unpack(&[], HALF, HALF, &mut [])),
            ("ternary_count_changed", &mut || {
                table.ternary_count_changed(&[0; 3], &[0; 4]);
            }),
        ]);
        assert_refused(&mut [
            ("ternary_quantize_pack", &mut || table.ternary_quantize_pack(&x[..6], 2, 3, &[], &mut bytes[..256])),
            ("ternary_quantize_pack", &mut || {
                table.ternary_quantize_pack(&x[..6], 3, 3, &[0.5], &mut other_bytes[..256]);
            }),
        ]);
        assert_refused(&mut [
            ("ternary_quantize_pack_sum", &mut || {
                table.ternary_quantize_pack_sum(&x[..6], 2, 3, &[0.5; 3], &mut bytes[..256]);
            }),
            ("ternary_quantize_pack_sum", &mut || {
                table.ternary_quantize_pack_sum(&[], HALF, HALF, &[0.5], &mut other_bytes[..0]);
            }),
        ]);
        assert_refused(&mut [
            ("five_level_quantize_pack", &mut || {
                table.five_level_quantize_pack(&x[..6], 2, 3, &limits, &mut bytes[..384]);
            }),
            ("five_level_pack", &mut || table.five_level_pack(&trits[..6], 2, 3, &mut other_bytes[..256])),
            ("five_level_unpack", &mut || table.five_level_unpack(&[0; 384], 2, 3, &mut values[..5])),
            ("five_level_find_invalid", &mut || {
                table.five_level_find_invalid(&[0; 383]);
            }),
        ]);
        for format in GgufTernary::ALL {
            let size = format.block_bytes();
            assert_refused(&mut [
                ("gguf_ternary_quantize", &mut || table.gguf_ternary_quantize(format, &x[..255], &mut bytes[..size])),
                ("gguf_ternary_dequantize", &mut || {
                    table.gguf_ternary_dequantize(format, &vec![0; size + 1], &mut floats[..256]);
                }),
                ("gguf_ternary_pack", &mut || {
                    table.gguf_ternary_pack(format, &trits[..512], &[1.0; 3], &mut other_bytes[..2 * size]);
                }),
                ("gguf_ternary_unpack", &mut || {
                    table.gguf_ternary_unpack(format, &vec![0; size], &mut values[..256], &mut scales[..2]);
                }),
            ]);
        }
        assert_refused(&mut [
            ("quantize_rows", &mut || {
                table.quantize_rows(&x[..7], 4, &mut values[..8], &mut scales[..2], &mut sums[..2])
            }),
            ("quantize_rows", &mut || table.quantize_rows(&[], usize::MAX / 2 + 1, &mut [], &mut scales2, &mut sums2)),
            ("quantize_rows_stochastic", &mut || {
                let (mut scales, mut sums) = ([0.0; 2], [0; 2]);
                table.quantize_rows_stochastic(&x[..8], 4, 0, rounding, &mut values2[..7], &mut scales, &mut sums);
            }),
            // A stride below the row, a last row that is cut off, a product that overflows.
            ("column_scales", &mut || table.column_scales(x, 3, &[1.0; 2], &mut [0.0; 4])),
            ("column_scales", &mut || table.column_scales(&x[..11], 8, &[1.0; 2], &mut [0.0; 4])),
            ("column_scales", &mut || table.column_scales(x, usize::MAX / 2 + 1, &[1.0; 3], &mut [0.0; 4])),
            ("quantize_columns_stochastic", &mut || {
                table.quantize_columns_stochastic(&x[..8], 0, &[1.0; 2], &[1.0; 4], rounding, &mut other_values[..9]);
            }),
            ("gradient_maxima", &mut || {
                table.gradient_maxima(&x[..7], &[1.0; 2], &[1.0; 4], &mut [0.0; 2], &mut [0.0; 4]);
            }),
            // A window beyond the stride, one that begins within a group, a last row that is cut off.
            ("quantize_gradient", &mut || gradient(table, 4, (0, 128), 12)),
            ("quantize_gradient", &mut || gradient(table, 8, (0, 4), 12)),
            ("quantize_gradient", &mut || gradient(table, 8, (0, 0), 11)),
        ]);
    }
}

/// [`KernelTable::quantize_gradient`] of two rows of four columns in `len` floats.
fn gradient(table: &KernelTable, stride: usize, place: (usize, usize), len: usize) {
    let rounding = StochasticRounding { key: [0; 2], step: 0, tensor: 0 };
    let (rows, columns, mut values) = ([1.0; 2], [1.0; 4], [[0i8; 8]; 2]);
    let [by_row, by_column] = &mut values;
    let (x, sums) = (&[1.0; 12][..len], &mut [0; 2]);
    table.quantize_gradient(x, stride, place, &rows, &columns, &rows, &columns, rounding, by_row, by_column, sums);
}

#[test]
fn quantizers_refuse_with_typed_errors() {
    let ctx = context();
    let shape = |result: Result<(), Error>| matches!(result, Err(Error::Shape { .. }));
    let granularities = [Granularity::Tensor, Granularity::Row];
    for granularity in granularities {
        assert!(shape(PackedTernary::pack(&ctx, &[1.0; 5], 2, 3, granularity).map(drop)));
        assert!(shape(PackedTernary::pack(&ctx, &[], HALF, HALF, granularity).map(drop)));
        let mut packed = [0; 256];
        assert!(shape(PackedTernary::pack_into(&ctx, &[1.0; 6], 2, 3, granularity, &mut packed[1..]).map(drop)));
        // Where a weight is not finite, the bytes stay as they were.
        let weights = [1.0, 2.0, 3.0, f32::NEG_INFINITY, 5.0, f32::NAN];
        let error = PackedTernary::pack_into(&ctx, &weights, 2, 3, granularity, &mut packed).unwrap_err();
        assert!(matches!(error, Error::NonFinite { index: 3, .. }) && packed == [0; 256], "{error}");
    }
    assert!(shape(PackedTernary::from_trits(&ctx, &[0; 5], 2, 3, vec![1.0]).map(drop)));
    for precision in Precision::ALL {
        let quantizer = Quantizer::new(precision);
        assert!(quantizer.quantize(&ctx, &[1.0; 5], 2, 3).is_err(), "{precision}");
        assert!(quantizer.quantize(&ctx, &[], HALF, HALF).is_err(), "{precision}");
        assert!(shape(QuantizedWeight::quantize(&ctx, precision, &[1.0; 5], 2, 3).map(drop)), "{precision}");
        if precision == Precision::F32 {
            continue;
        }
        for (granularity, bad) in [(Granularity::Tensor, f32::NAN), (Granularity::Group(2), f32::INFINITY)] {
            let error = quantizer.granularity(granularity).quantize(&ctx, &[1.0, bad, 1.0], 1, 3).unwrap_err();
            assert!(matches!(error, Error::NonFinite { index: 1, .. }), "{precision}: {error}");
        }
        assert!(shape(QuantizedTensor::codes_from_bytes(precision, &[0; 2], 1).map(drop)), "{precision}");
    }
    assert!(Quantizer158Bit::new(-1.0).is_err());
    let draw = GradientDraw::default();
    for levels in [0, 128] {
        let quantizer = GradientQuantizer { levels, ..Default::default() };
        assert!(quantize_gradients(&ctx, &quantizer, draw, &mut [1.0]).is_err());
    }
    let error = quantize_gradients(&ctx, &GradientQuantizer::default(), draw, &mut [1.0, f32::NAN]).unwrap_err();
    assert!(matches!(error, Error::NonFinite { index: 1, .. }));
}
