//! GGUF's ternary blocks, value by value, from the definition of the formats.
#![forbid(unsafe_code)]

use crate::kernels::GgufTernary;

/// Where value `i` of a block lies: its byte, and its digit (TQ1_0, the first is the highest) or field (TQ2_0).
fn place(format: GgufTernary, i: usize) -> (usize, usize) {
    match format {
        GgufTernary::Tq1_0 if i < 160 => (i % 32, i / 32),
        GgufTernary::Tq1_0 if i < 240 => (32 + (i - 160) % 16, (i - 160) / 16),
        GgufTernary::Tq1_0 => (48 + (i - 240) % 4, (i - 240) / 4),
        GgufTernary::Tq2_0 => (32 * (i / 128) + i % 32, i % 128 / 32),
    }
}

/// The bytes of a block of 256 trits under a scale that is given as the bits of a half.
pub fn gguf_ternary_pack(format: GgufTernary, trits: &[i8], half: u16) -> Vec<u8> {
    let scale_at = format.block_bytes() - 2;
    let mut values = vec![0u32; scale_at];
    for (i, &trit) in trits.iter().enumerate() {
        let (byte, digit) = place(format, i);
        let code = (i32::from(trit) + 1) as u32;
        values[byte] += match format {
            GgufTernary::Tq1_0 => code * 3u32.pow(4 - digit as u32),
            GgufTernary::Tq2_0 => code << (2 * digit),
        };
    }
    let byte = |value: u32| match format {
        GgufTernary::Tq1_0 => (value * 256).div_ceil(243) as u8,
        GgufTernary::Tq2_0 => value as u8,
    };
    values.into_iter().map(byte).chain(half.to_le_bytes()).collect()
}

/// The trits of a block (2 for code 3 of TQ2_0).
pub fn gguf_ternary_unpack(format: GgufTernary, block: &[u8]) -> Vec<i8> {
    let trit = |i: usize| {
        let (byte, digit) = place(format, i);
        let code = match format {
            GgufTernary::Tq1_0 => u32::from(block[byte]) * 3u32.pow(digit as u32) % 256 * 3 / 256,
            GgufTernary::Tq2_0 => u32::from(block[byte]) >> (2 * digit) & 3,
        };
        code as i8 - 1
    };
    (0..256).map(trit).collect()
}

/// The scale and trits llama.cpp gives 256 floats: `d = max|x|`, `round(x * (1 / d))`, ties away from zero.
pub fn gguf_ternary_quantize(x: &[f32]) -> (f32, Vec<i8>) {
    let scale = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    (scale, x.iter().map(|x| (x * inverse).round() as i8).collect())
}
