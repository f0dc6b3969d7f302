//! The five-level layout by its definition.
#![forbid(unsafe_code)]

/// The code (level + 2) of `[row][col]` in a packed matrix of `cols` columns.
pub fn five_level_code(packed: &[u8], cols: usize, row: usize, col: usize) -> u8 {
    let step = &packed[384 * (row / 64 * cols.div_ceil(16) + col / 16)..][..384];
    let (row, field, column) = (row % 64, col % 16 / 4, col % 4);
    let low = step[4 * row + column] >> (2 * field) & 3;
    let third = step[256 + 8 * (4 * (row / 16) + field) + row % 16 / 2] >> (4 * (row % 2) + column) & 1;
    low + 4 * third
}
