//! ggml's element types.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Serialize, Serializer};

/// An element type by its number in files. Every type is known by name and size, so that any file can be listed; a few
/// are read and written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GgmlType(u32);

/// Number, name, elements of a block, bytes of a block.
type Row = (u32, &'static str, u64, u64);

#[rustfmt::skip]
const TYPES: &[Row] = &[
    (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22), (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34), (10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110), (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210), (15, "Q8_K", 256, 292), (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98), (19, "IQ1_S", 256, 50), (20, "IQ4_NL", 32, 18), (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82), (23, "IQ4_XS", 256, 136), (24, "I8", 1, 1), (25, "I16", 1, 2), (26, "I32", 1, 4),
    (27, "I64", 1, 8), (28, "F64", 1, 8), (29, "IQ1_M", 256, 56), (30, "BF16", 1, 2), (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66), (39, "MXFP4", 32, 17),
];

impl GgmlType {
    /// IEEE single.
    pub const F32: GgmlType = GgmlType(0);
    /// IEEE half.
    pub const F16: GgmlType = GgmlType(1);
    /// 32 int8 values under a half-precision scale.
    pub const Q8_0: GgmlType = GgmlType(8);
    /// The upper half of a single.
    pub const BF16: GgmlType = GgmlType(30);
    /// 256 ternary values in 54 bytes.
    pub const TQ1_0: GgmlType = GgmlType(34);
    /// 256 ternary values in 66 bytes.
    pub const TQ2_0: GgmlType = GgmlType(35);

    /// The type with this number, if it is known.
    pub fn from_number(number: u32) -> Option<Self> {
        TYPES.iter().any(|row| row.0 == number).then_some(GgmlType(number))
    }

    fn row(self) -> &'static Row {
        TYPES.iter().find(|row| row.0 == self.0).expect("made of known numbers only")
    }

    /// The number in files.
    pub fn number(self) -> u32 {
        self.0
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements of a block: rows are whole blocks.
    pub fn block(self) -> u64 {
        self.row().2
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> u64 {
        self.row().3
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for GgmlType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
