//! Elements as f32, and f32 as Q8_0 blocks.
#![forbid(unsafe_code)]

use half::{bf16, f16};

use super::tensor_type::GgmlType;
use crate::kernels::{Q8_0_BLOCK, Q8_0_BYTES};

/// Converts as many elements as `out` holds; `false` for a type that has no such conversion.
pub(super) fn to_f32(kind: GgmlType, bytes: &[u8], out: &mut [f32]) -> bool {
    match kind {
        GgmlType::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(bytes),
        GgmlType::F16 => words(bytes, out, |bits| f16::from_le_bytes(bits).to_f32()),
        GgmlType::BF16 => words(bytes, out, |bits| bf16::from_le_bytes(bits).to_f32()),
        GgmlType::Q8_0 => {
            for (block, out) in bytes.chunks_exact(Q8_0_BYTES).zip(out.chunks_mut(Q8_0_BLOCK)) {
                let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
                out.iter_mut().zip(&block[2..]).for_each(|(out, &value)| *out = f32::from(value as i8) * scale);
            }
        }
        _ => return false,
    }
    true
}

fn words(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; 2]) -> f32) {
    for (bytes, out) in bytes.chunks_exact(2).zip(out) {
        *out = convert([bytes[0], bytes[1]]);
    }
}

/// `weights`, whole blocks of 32, as ggml rounds them: `d = max|w| / 127`, `q = round(w / d)` with halves away from zero,
/// `d` stored in half precision.
///
/// # Panics
/// If there is a block that is not whole.
pub fn q8_0_bytes(weights: &[f32]) -> Vec<u8> {
    assert!(weights.len().is_multiple_of(Q8_0_BLOCK), "q8_0: {} weights are not whole blocks", weights.len());
    let mut bytes = Vec::with_capacity(weights.len() / Q8_0_BLOCK * Q8_0_BYTES);
    for block in weights.chunks_exact(Q8_0_BLOCK) {
        let scale = block.iter().fold(0f32, |most, weight| most.max(weight.abs())) / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        bytes.extend(f16::from_f32(scale).to_le_bytes());
        bytes.extend(block.iter().map(|weight| (weight * inverse).round() as i8 as u8));
    }
    bytes
}
