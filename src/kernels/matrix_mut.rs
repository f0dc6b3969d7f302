//! A rectangle of a row-major matrix to write, which splits into disjoint rectangles: what one task of a product owns.

use std::marker::PhantomData;

/// A mutable `rows x cols` window of a row-major matrix whose rows lie `stride` elements apart. Several windows of one
/// matrix may be alive at a time, but only disjoint ones: they come from splitting.
#[derive(Debug)]
pub struct MatrixMut<'a, T> {
    start: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrows: PhantomData<&'a mut [T]>,
}

// SAFETY: a window is the only access to its elements, as a mutable slice of them would be.
unsafe impl<T: Send> Send for MatrixMut<'_, T> {}

impl<'a, T> MatrixMut<'a, T> {
    /// The dense matrix `[rows, cols]` stored in `data`.
    ///
    /// # Panics
    /// If `data` does not hold exactly `rows * cols` elements.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "matrix of {rows} x {cols}: wrong number of elements");
        MatrixMut { start: data.as_mut_ptr(), rows, cols, stride: cols, borrows: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from a row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The first element. Valid for `rows` times `cols` elements, `stride` apart, if both are above zero.
    pub(super) fn as_mut_ptr(&mut self) -> *mut T {
        self.start
    }

    /// The first `at` rows and the rest.
    ///
    /// # Panics
    /// If `at` exceeds the rows.
    pub fn split_rows_at(self, at: usize) -> (Self, Self) {
        assert!(at <= self.rows, "split at row {at} of {}", self.rows);
        let below = self.start.wrapping_add(at * self.stride);
        (MatrixMut { rows: at, ..self }, MatrixMut { start: below, rows: self.rows - at, ..self })
    }

    /// The first `at` columns and the rest.
    ///
    /// # Panics
    /// If `at` exceeds the columns.
    pub fn split_cols_at(self, at: usize) -> (Self, Self) {
        assert!(at <= self.cols, "split at column {at} of {}", self.cols);
        let right = self.start.wrapping_add(at);
        (MatrixMut { cols: at, ..self }, MatrixMut { start: right, cols: self.cols - at, ..self })
    }

    /// Windows of at most `rows x cols` that together are this one, each with the row and the column it begins at: row by row.
    ///
    /// # Panics
    /// If `rows` or `cols` is 0.
    pub fn tiles(
        self,
        rows: usize,
        cols: usize,
    ) -> impl ExactSizeIterator<Item = (usize, usize, Self)> + DoubleEndedIterator
    where
        T: Send,
    {
        let across = self.cols.div_ceil(cols);
        (0..self.rows.div_ceil(rows) * across).map(move |index| {
            // The window as a whole: its pointer alone may not go to another thread.
            let whole = &self;
            let (row, col) = (index / across * rows, index % across * cols);
            let start = whole.start.wrapping_add(row * whole.stride + col);
            let (rows, cols) = (rows.min(whole.rows - row), cols.min(whole.cols - col));
            // Every index comes once: the tiles are disjoint.
            (row, col, MatrixMut { start, rows, cols, ..*whole })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_a_window_once() {
        for (rows, cols, tile_rows, tile_cols) in
            [(7, 10, 3, 4), (6, 8, 2, 8), (1, 5, 9, 1), (4, 3, 9, 9), (0, 3, 1, 1), (3, 0, 1, 1)]
        {
            // Inside a larger matrix, whose other elements stay as they are.
            let mut data = vec![0u32; (rows + 2) * (cols + 3)];
            let whole = MatrixMut::new(&mut data, rows + 2, cols + 3);
            let window = whole.split_rows_at(1).1.split_rows_at(rows).0.split_cols_at(2).1.split_cols_at(cols).0;
            for (row, col, mut tile) in window.tiles(tile_rows, tile_cols) {
                assert!(
                    tile.rows() <= tile_rows
                        && tile.cols() <= tile_cols
                        && row % tile_rows == 0
                        && col % tile_cols == 0
                );
                let (tile_rows, tile_cols, stride, start) =
                    (tile.rows(), tile.cols(), tile.stride(), tile.as_mut_ptr());
                for (r, c) in (0..tile_rows).flat_map(|r| (0..tile_cols).map(move |c| (r, c))) {
                    // SAFETY: within the tile.
                    unsafe { *start.add(r * stride + c) += ((row + r) * cols + col + c + 1) as u32 };
                }
            }
            let inside = |r: usize, c: usize| (1..=rows).contains(&r) && (2..2 + cols).contains(&c);
            for (index, &found) in data.iter().enumerate() {
                let (r, c) = (index / (cols + 3), index % (cols + 3));
                assert_eq!(found, if inside(r, c) { ((r - 1) * cols + c - 2 + 1) as u32 } else { 0 });
            }
        }
    }
}
