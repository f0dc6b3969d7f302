//! The grids: which integer code a value gets, and what a code stands for.
//!
//! A code `c` of a grid stands for `c * unit * scale`.
#![forbid(unsafe_code)]

use super::Precision;

/// No scale is smaller: an all-zero matrix keeps a usable scale (BitNet b1.58).
pub(super) const MIN_SCALE: f32 = 1e-5;

impl Precision {
    /// What code 1 stands for at scale 1.
    pub(super) fn unit(self) -> f32 {
        match self {
            Precision::FiveLevel | Precision::Int2 => 0.5,
            _ => 1.0,
        }
    }

    /// The largest code; the smallest is its negative. `None`: not a grid.
    pub(super) fn largest_code(self) -> Option<i8> {
        match self {
            Precision::F32 => None,
            Precision::Ternary | Precision::Binary => Some(1),
            Precision::FiveLevel => Some(2),
            Precision::Int2 => Some(3),
            Precision::Int4 => Some(7),
            Precision::Int8 => Some(127),
        }
    }

    /// The codes of finite `values` at `scale`.
    pub(super) fn encode(self, values: &[f32], scale: f32, codes: &mut [i8]) {
        let clamped = |w: f32, largest: f32| nearest((w / scale).clamp(-largest, largest)) as i8;
        match self {
            Precision::F32 => unreachable!("f32 has no codes"),
            Precision::Ternary => {
                let threshold = 0.5 * scale;
                map(values, codes, |w| i8::from(w > threshold) - i8::from(w < -threshold));
            }
            Precision::Binary => map(values, codes, |w| if w < 0.0 { -1 } else { 1 }),
            Precision::FiveLevel => map(values, codes, |w| nearest((w / scale).clamp(-1.0, 1.0) * 2.0) as i8),
            // Only odd codes: the four levels lie half a step off zero.
            Precision::Int2 => map(values, codes, |w| 2 * ((w / scale).floor().clamp(-2.0, 1.0) as i8) + 1),
            Precision::Int4 => map(values, codes, |w| clamped(w, 7.0)),
            Precision::Int8 => map(values, codes, |w| clamped(w, 127.0)),
        }
    }
}

/// One loop for each rule, so that the compiler sees the rule inside the loop.
fn map(values: &[f32], codes: &mut [i8], rule: impl Fn(f32) -> i8) {
    codes.iter_mut().zip(values).for_each(|(code, &w)| *code = rule(w));
}

/// The nearest integer, half to even, of `|x| < 2^22`: adding 1.5 * 2^23 leaves no bits for a fraction. (`round_ties_even`
/// is a call on processors without SSE4.1.)
pub(super) fn nearest(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC) - MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_by_hand() {
        let codes = |precision: Precision, values: &[f32]| -> Vec<i8> {
            let mut codes = vec![0; values.len()];
            precision.encode(values, 2.0, &mut codes);
            codes
        };
        // The threshold of ternary is strict; the zero of binary is positive; ties go to even.
        assert_eq!(codes(Precision::Ternary, &[1.0, 1.001, -1.0, -1.001, 9.0, 0.0]), [0, 1, 0, -1, 1, 0]);
        assert_eq!(codes(Precision::Binary, &[0.0, -0.0, 3.0, -1e-9]), [1, 1, 1, -1]);
        assert_eq!(codes(Precision::FiveLevel, &[0.5, 0.51, 1.5, 1.49, 2.5, -9.0]), [0, 1, 2, 1, 2, -2]);
        assert_eq!(
            codes(Precision::Int2, &[0.0, 1.9, 2.0, 99.0, -0.1, -2.0, -2.1, -99.0]),
            [1, 1, 3, 3, -1, -1, -3, -3]
        );
        assert_eq!(codes(Precision::Int4, &[1.0, 3.0, 13.9, 99.0, -99.0]), [0, 2, 7, 7, -7]);
        assert_eq!(codes(Precision::Int8, &[254.0, 999.0, -999.0, 1.1]), [127, 127, -127, 1]);
    }
}
