//! Ternary matrices as BitNet checkpoints hold them: four rows a byte. Of a matrix of `r` rows the byte `[i][c]` holds the
//! rows `i`, `i + n`, `i + 2n`, `i + 3n` (`n = ceil(r / 4)`) of column `c`, two bits each from the lowest on, as value + 1.
#![forbid(unsafe_code)]

pub(super) const ROWS_PER_BYTE: usize = 4;

/// Unpacks a `[rows, cols]` matrix; gives the first element that is none of -1, 0, 1.
pub(super) fn unpack(bytes: &[u8], rows: usize, cols: usize, out: &mut [f32]) -> Result<(), usize> {
    let stored = rows.div_ceil(ROWS_PER_BYTE);
    for (row, out) in out.chunks_exact_mut(cols).enumerate() {
        let (part, bytes) = (row / stored, &bytes[row % stored * cols..][..cols]);
        for (col, (out, byte)) in out.iter_mut().zip(bytes).enumerate() {
            let field = byte >> (2 * part) & 3;
            if field == 3 {
                return Err(row * cols + col);
            }
            *out = f32::from(field) - 1.0;
        }
    }
    Ok(())
}

/// Packs a `[rows, cols]` matrix of -1, 0, 1.
pub(super) fn pack(trits: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let stored = rows.div_ceil(ROWS_PER_BYTE);
    let mut bytes = vec![0; stored * cols];
    for (row, trits) in trits.chunks_exact(cols).enumerate() {
        let (part, bytes) = (row / stored, &mut bytes[row % stored * cols..][..cols]);
        bytes.iter_mut().zip(trits).for_each(|(byte, trit)| *byte |= ((trit + 1) as u8) << (2 * part));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_bytes_unpack() {
        // The example in transformers' integrations/bitnet.py.
        let bytes = [0b1010_0001, 0b0001_1000, 0b1001_0000, 0b0000_1010];
        let expected = [0, -1, -1, 1, -1, 1, -1, 1, 1, 0, 0, -1, 1, -1, 1, -1];
        let mut out = [0.0; 16];
        unpack(&bytes, 8, 2, &mut out).unwrap();
        assert_eq!(out.map(|value| value as i8), expected);
        assert_eq!(pack(&expected, 8, 2), bytes);
        assert_eq!(unpack(&[0, 0b11], 4, 2, &mut [0.0; 8]), Err(1));
        // Six rows in two stored ones: the last two fields are padding.
        let trits = [1, 0, -1, 0, 1, -1];
        assert_eq!(pack(&trits, 6, 1), [0b10_00_10, 0b00_01_01]);
    }
}
