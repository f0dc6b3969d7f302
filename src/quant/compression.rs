//! Codes as dense bytes, and honest ratios.
#![forbid(unsafe_code)]

use super::{Precision, QuantizedTensor};
use crate::{Error, Result};

impl Precision {
    /// Codes in one byte of the dense form; `None` for f32. As many digits of the grid's base as a byte holds: 8 binary,
    /// 5 ternary (1.6 bits each), 4 two-bit, 3 five-level (2.67 bits), 2 four-bit, 1 eight-bit.
    pub fn codes_per_byte(self) -> Option<usize> {
        let levels = self.levels()?;
        Some((1..=8).rev().find(|&count| levels.pow(count as u32) <= 256).unwrap_or(1))
    }

    /// Number of levels of the grid.
    fn levels(self) -> Option<u64> {
        match self {
            Precision::Binary => Some(2),
            Precision::Int2 => Some(4),
            _ => self.largest_code().map(|largest| 2 * largest as u64 + 1),
        }
    }

    /// Difference of neighbouring codes.
    fn code_spacing(self) -> i32 {
        if matches!(self, Precision::Binary | Precision::Int2) { 2 } else { 1 }
    }

    /// Bytes of the dense form of `elements` values with `scales` f32 scales.
    pub fn packed_bytes(self, elements: usize, scales: usize) -> usize {
        match self.codes_per_byte() {
            Some(count) => elements.div_ceil(count) + 4 * scales,
            None => 4 * elements,
        }
    }
}

impl QuantizedTensor {
    /// The codes as dense bytes, row-major, [`Precision::codes_per_byte`] a byte, the first code the lowest digit:
    /// for storage and exchange. (The products read [`super::PackedTernary`].) Scales are not included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (Some(levels), Some(largest)) = (self.precision.levels(), self.precision.largest_code()) else {
            return Vec::new();
        };
        let count = self.precision.codes_per_byte().unwrap_or(1);
        let spacing = self.precision.code_spacing();
        let digit = |code: i8| ((i32::from(code) + i32::from(largest)) / spacing) as u64;
        let byte = |codes: &[i8]| codes.iter().rev().fold(0, |byte, &code| byte * levels + digit(code)) as u8;
        self.codes.chunks(count).map(byte).collect()
    }

    /// Reads back `count` codes written by [`QuantizedTensor::to_bytes`]. Errors: another number of bytes, a byte no
    /// codes give, [`Precision::F32`].
    pub fn codes_from_bytes(precision: Precision, bytes: &[u8], count: usize) -> Result<Vec<i8>> {
        let (Some(levels), Some(largest), Some(per_byte)) =
            (precision.levels(), precision.largest_code(), precision.codes_per_byte())
        else {
            return Err(Error::invalid("precision", "a quantized form", precision));
        };
        if bytes.len() != count.div_ceil(per_byte) {
            let expected = format!("{} for {count} codes", count.div_ceil(per_byte));
            return Err(Error::shape("codes_from_bytes", "bytes", expected, bytes.len()));
        }
        let mut codes = Vec::with_capacity(count);
        for (index, &byte) in bytes.iter().enumerate() {
            let mut rest = u64::from(byte);
            for _ in 0..per_byte.min(count - codes.len()) {
                let code = (rest % levels) as i32 * precision.code_spacing() - i32::from(largest);
                codes.push(code as i8);
                rest /= levels;
            }
            if rest != 0 {
                return Err(Error::invalid(format!("byte {index}"), format!("{per_byte} {precision} codes"), byte));
            }
        }
        Ok(codes)
    }

    /// Bytes of codes and scales.
    pub fn packed_bytes(&self) -> usize {
        self.precision.packed_bytes(self.codes.len(), self.scales.len())
    }

    /// Bytes in f32 over bytes of codes and scales: 20.0 at most for ternary (five trits a byte). The 20.25 often quoted
    /// is 32 / 1.58, a bound that no form in whole bytes reaches.
    pub fn compression_ratio(&self) -> f64 {
        compression_ratio(self.codes.len(), self.packed_bytes())
    }
}

/// Bytes of `elements` f32 values over `bytes`: pass the real size of a file or buffer.
pub fn compression_ratio(elements: usize, bytes: usize) -> f64 {
    4.0 * elements as f64 / bytes.max(1) as f64
}
