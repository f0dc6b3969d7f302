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
}
