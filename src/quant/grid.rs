//! The grids: which integer code a value gets, and what a code stands for.
//!
//! A code `c` of a grid stands for `c * unit * scale`.
#![forbid(unsafe_code)]

use super::Precision;

/// No scale is smaller: an all-zero matrix keeps a usable scale (BitNet b1.58).
pub(super) const MIN_SCALE: f32 = 1e-5;

/// The code of a value at a scale.
pub(super) type CodeFunction = fn(f32, f32) -> i8;

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

    /// The rounding rule, as a function to call in a loop. Finite input only.
    pub(super) fn code_function(self) -> CodeFunction {
        match self {
            Precision::F32 => |_, _| unreachable!("f32 has no codes"),
            Precision::Ternary => |w, scale| if w.abs() > 0.5 * scale { w.signum() as i8 } else { 0 },
            Precision::Binary => |w, _| if w < 0.0 { -1 } else { 1 },
            Precision::FiveLevel => |w, scale| ((w / scale).clamp(-1.0, 1.0) * 2.0).round_ties_even() as i8,
            // Only odd codes: the four levels lie half a step off zero.
            Precision::Int2 => |w, scale| 2 * ((w / scale).floor().clamp(-2.0, 1.0) as i8) + 1,
            Precision::Int4 => |w, scale| (w / scale).round_ties_even().clamp(-7.0, 7.0) as i8,
            Precision::Int8 => |w, scale| (w / scale).round_ties_even().clamp(-127.0, 127.0) as i8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_by_hand() {
        let codes = |precision: Precision, values: &[f32]| -> Vec<i8> {
            values.iter().map(|&w| precision.code_function()(w, 2.0)).collect()
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
