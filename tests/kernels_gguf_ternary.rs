//! GGUF's ternary blocks: byte for byte what llama.cpp's `gguf` package makes (tests/peers/gguf_blocks.py), on every ISA.

use half::f16;
use hybridq::Error;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::{GgufTernary, KernelTable, reference};
use hybridq::quant::{GgufTernaryMatrix, Granularity, PackedTernary};
use hybridq::tensor::RandomStream;

const BLOCKS: usize = 4;
const SCALES: [f32; BLOCKS] = [1.0, 0.02, 3e-6, 40000.0];

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

/// The values of the script: a generator of its own, exact in f32.
fn draw(mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        state as i32 as f32 / 2147483648.0
    };
    (0..BLOCKS * 256).map(|_| next()).collect()
}

fn values(kind: &str) -> Vec<f32> {
    let scaled = |values: Vec<f32>| values.iter().enumerate().map(|(i, v)| v * SCALES[i / 256]).collect();
    match kind {
        "random" => scaled(draw(1)),
        "ties" => scaled(draw(2).iter().map(|v| (v * 2.0).round_ties_even() / 2.0).collect()),
        "zeros" => vec![0.0; BLOCKS * 256],
        other => panic!("unknown kind {other}"),
    }
}

#[test]
fn blocks_are_those_of_the_gguf_package() {
    let mut lines = 0;
    for line in include_str!("peers/gguf_blocks.txt").lines() {
        let [name, kind, hex] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let golden: Vec<u8> =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        let format = GgufTernary::ALL.into_iter().find(|format| format.name() == name).unwrap();
        let x = values(kind);
        for table in KernelTable::available() {
            let mut bytes = vec![0xEE; golden.len()];
            table.gguf_ternary_quantize(format, &x, &mut bytes);
            assert!(bytes == golden, "{name} {kind} {}", table.isa().name());
        }
        let by_definition: Vec<u8> = x
            .chunks(256)
            .flat_map(|block| {
                let (scale, trits) = reference::gguf_ternary_quantize(block);
                reference::gguf_ternary_pack(format, &trits, f16::from_f32(scale).to_bits())
            })
            .collect();
        assert!(by_definition == golden, "{name} {kind} by the definition");
        lines += 1;
    }
    assert_eq!(lines, 6);
}

/// Any bytes, not only sound ones, decode as the definition says.
#[test]
fn any_bytes_decode_by_the_definition_on_every_isa() {
    let mut stream = RandomStream::new(5, 96, 0, 0);
    for format in GgufTernary::ALL {
        for blocks in [0, 1, 2, 7] {
            let bytes: Vec<u8> = (0..blocks * format.block_bytes()).map(|_| stream.next_u32() as u8).collect();
            let chunks = || bytes.chunks(format.block_bytes());
            let trits: Vec<i8> = chunks().flat_map(|block| reference::gguf_ternary_unpack(format, block)).collect();
            let half = |block: &[u8]| f16::from_le_bytes([block[block.len() - 2], block[block.len() - 1]]).to_f32();
            let scales: Vec<f32> = chunks().map(half).collect();
            for table in KernelTable::available() {
                let (mut found, mut found_scales) = (vec![9; trits.len() + 2], vec![0.0; blocks]);
                let inside = 1..=trits.len();
                table.gguf_ternary_unpack(format, &bytes, &mut found[inside.clone()], &mut found_scales);
                assert!(found[inside] == trits[..] && found[0] == 9 && found[trits.len() + 1] == 9);
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                assert!(found_scales.iter().zip(&scales).all(same), "{} {}", format.name(), table.isa().name());
                let mut y = vec![0.0; trits.len()];
                table.gguf_ternary_dequantize(format, &bytes, &mut y);
                let expected: Vec<f32> =
                    trits.iter().enumerate().map(|(i, &t)| f32::from(t) * scales[i / 256]).collect();
                assert!(y.iter().zip(&expected).all(same), "{} {}", format.name(), table.isa().name());
            }
        }
    }
}

/// Every half, and f32 around each of them and half-way between neighbours, through a block's scale.
#[test]
fn scales_round_to_half_as_ieee_says() {
    let table = KernelTable::available().last().unwrap();
    let mut scales = Vec::new();
    for bits in 0..=0x7C00u16 {
        let (here, next) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
        let middle = if next.is_finite() { here + (next - here) / 2.0 } else { 65520.0 };
        scales.extend([here, middle, middle.next_up(), middle.next_down()].map(|s: f32| s));
    }
    let trits = vec![1; 256 * scales.len()];
    let mut bytes = vec![0; 66 * scales.len()];
    table.gguf_ternary_pack(GgufTernary::Tq2_0, &trits, &scales, &mut bytes);
    for (scale, block) in scales.iter().zip(bytes.chunks(66)) {
        let found = u16::from_le_bytes([block[64], block[65]]);
        assert_eq!(found, f16::from_f32(*scale).to_bits(), "{scale:e}");
    }
}

#[test]
fn packed_matrices_go_there_and_back() {
    let mut stream = RandomStream::new(6, 96, 0, 0);
    let (rows, cols) = (37, 512);
    let weights: Vec<f32> = (0..rows * cols).map(|_| stream.normal() as f32).collect();
    for granularity in [Granularity::Tensor, Granularity::Row] {
        let ctx = context(2);
        let packed = PackedTernary::pack(&ctx, &weights, rows, cols, granularity).unwrap();
        for format in GgufTernary::ALL {
            let blocks = GgufTernaryMatrix::from_packed(&ctx, format, &packed).unwrap();
            assert_eq!(blocks.bytes.len(), rows * 2 * format.block_bytes());
            let back = blocks.to_packed(&ctx).unwrap();
            assert!(back.data[..] == packed.data[..]);
            let halves: Vec<f32> = packed.scales.iter().map(|&s| f16::from_f32(s).to_f32()).collect();
            assert_eq!(back.scales, halves);
            let mut expected = vec![0.0; rows * cols];
            back.dequantize(&ctx, &mut expected);
            assert_eq!(blocks.dequantize(&ctx), expected);
            let read = GgufTernaryMatrix::from_bytes("w", format, &blocks.bytes, rows, cols).unwrap();
            assert_eq!(read, blocks);
            // Threads do not matter.
            let alone = GgufTernaryMatrix::quantize(&context(1), format, &weights, rows, cols).unwrap();
            assert_eq!(alone, GgufTernaryMatrix::quantize(&ctx, format, &weights, rows, cols).unwrap());
            assert!(matches!(alone.to_packed(&ctx), Err(Error::Unsupported(_))), "blocks of different scales");
        }
    }
}

#[test]
fn bad_input_is_refused_by_name_and_place() {
    let ctx = context(1);
    let mut weights = vec![1.0f32; 512];
    for format in GgufTernary::ALL {
        let quantize = |weights: &[f32], rows, cols| GgufTernaryMatrix::quantize(&ctx, format, weights, rows, cols);
        assert!(matches!(quantize(&weights, 2, 255), Err(Error::Shape { .. })));
        assert!(matches!(quantize(&weights[..510], 2, 255), Err(Error::Shape { argument: "cols", .. })));
        assert!(quantize(&[], 0, 256).is_ok() && quantize(&[], 3, 0).is_ok());
        for (bad, index) in [(f32::NAN, 300), (f32::INFINITY, 0), (f32::NEG_INFINITY, 511)] {
            weights[index] = bad;
            assert!(matches!(quantize(&weights, 2, 256), Err(Error::NonFinite { index: i, .. }) if i == index));
            weights[index] = 65520.0;
            let message = quantize(&weights, 2, 256).unwrap_err().to_string();
            assert!(message.contains(&format!("weights[{index}]")), "{message}");
            weights[index] = 1.0;
        }
        let size = format.block_bytes();
        let good = quantize(&weights, 2, 256).unwrap().bytes;
        let read = |bytes: &[u8]| GgufTernaryMatrix::from_bytes("blk.0.ffn_up", format, bytes, 2, 256);
        let refusal = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(refusal(&good[1..]).contains("blk.0.ffn_up"));
        let mut bad = good.clone();
        bad[2 * size - 1] = 0x7C;
        assert!(refusal(&bad).contains(&format!("byte {}", 2 * size - 2)), "{}", refusal(&bad));
        let mut bad = good.clone();
        bad[size + 5] = 0xFF;
        match format {
            GgufTernary::Tq1_0 => assert!(read(&bad).is_ok(), "every byte is five trits"),
            GgufTernary::Tq2_0 => assert!(refusal(&bad).contains(&format!("byte {}", size + 5))),
        }
        assert!(GgufTernaryMatrix::from_bytes("w", format, &[], usize::MAX, 1 << 20).is_err());
        let tiny = PackedTernary::from_trits(&ctx, &[1; 256], 1, 256, vec![1e-9]).unwrap();
        assert!(GgufTernaryMatrix::from_packed(&ctx, format, &tiny).is_err());
    }
}
