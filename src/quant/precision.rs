//! The forms a weight matrix can take.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The form a matrix takes in the forward pass; the latent weights of training are always f32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Not quantized.
    F32,
    /// {-1, 0, 1} times an absmean scale: the 1.58-bit form (BitNet b1.58).
    #[default]
    Ternary,
    /// {-1, -1/2, 0, 1/2, 1} times a scale: 2.32 bits.
    FiveLevel,
    /// sign times absmean: 1 bit.
    Binary,
    /// {-3/2, -1/2, 1/2, 3/2} times a step: 2 bits.
    Int2,
    /// Symmetric 4-bit integers, -7 to 7.
    Int4,
    /// Symmetric 8-bit integers, -127 to 127.
    Int8,
}

impl Precision {
    /// Every form, from the smallest to the largest.
    pub const ALL: [Precision; 7] = [
        Precision::Binary,
        Precision::Ternary,
        Precision::Int2,
        Precision::FiveLevel,
        Precision::Int4,
        Precision::Int8,
        Precision::F32,
    ];

    /// Information in one value: the width of the integer forms, `log2(3)` and `log2(5)` for ternary and five-level.
    /// What storage takes is more (`compression`): 1.6 bits at five trits a byte, say.
    pub fn bits(self) -> f64 {
        match self {
            Precision::Binary => 1.0,
            Precision::Ternary => 1.584_962_500_721_156,
            Precision::Int2 => 2.0,
            Precision::FiveLevel => 2.321_928_094_887_362,
            Precision::Int4 => 4.0,
            Precision::Int8 => 8.0,
            Precision::F32 => 32.0,
        }
    }

    /// The name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Ternary => "ternary",
            Precision::FiveLevel => "five-level",
            Precision::Binary => "binary",
            Precision::Int2 => "int2",
            Precision::Int4 => "int4",
            Precision::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    /// Reads a name as [`Precision::name`] writes it.
    fn from_str(text: &str) -> Result<Self, Error> {
        Precision::ALL.into_iter().find(|precision| precision.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Precision::ALL.iter().map(|precision| precision.name()).collect();
            Error::invalid("precision", format!("one of {}", names.join(", ")), text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_bits_rise() {
        for precision in Precision::ALL {
            assert_eq!(precision.name().parse::<Precision>().unwrap(), precision);
            assert_eq!(serde_json::to_value(precision).unwrap(), precision.name());
        }
        assert!(Precision::ALL.windows(2).all(|pair| pair[0].bits() < pair[1].bits()));
        let error = "float16".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("float16") && error.contains("five-level"), "{error}");
    }
}
