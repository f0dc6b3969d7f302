//! The dense f32 product, on one thread, through the crate `gemm` (which picks its instruction set itself).

/// A row-major matrix operand, or its transpose.
#[derive(Clone, Copy, Debug)]
pub struct DenseMatrix<'a> {
    /// Elements; row `r`, column `c` of the stored matrix at `r * stride + c`.
    pub data: &'a [f32],
    /// Elements from one stored row to the next.
    pub stride: usize,
    /// Whether the product uses the transpose of the stored matrix.
    pub transposed: bool,
}

impl<'a> DenseMatrix<'a> {
    /// The matrix as stored.
    pub fn new(data: &'a [f32], stride: usize) -> Self {
        DenseMatrix { data, stride, transposed: false }
    }

    /// The transpose of the stored matrix.
    pub fn transposed(data: &'a [f32], stride: usize) -> Self {
        DenseMatrix { data, stride, transposed: true }
    }

    /// Checks that the operand holds a `rows x cols` matrix; gives (row stride, column stride).
    fn strides(&self, rows: usize, cols: usize) -> (isize, isize) {
        let (stored_rows, stored_cols) = if self.transposed { (cols, rows) } else { (rows, cols) };
        assert!(stored_rows == 0 || stored_cols <= self.stride, "dense_matmul: stride smaller than a row");
        let needed = if stored_rows == 0 { 0 } else { (stored_rows - 1) * self.stride + stored_cols };
        assert!(self.data.len() >= needed, "dense_matmul: operand of {} elements, {needed} needed", self.data.len());
        let stride = self.stride as isize;
        if self.transposed { (1, stride) } else { (stride, 1) }
    }
}

/// Elements of the reduction that gemm packs at a time, and what a thread keeps for blocks of the left operand.
const PACKED_REDUCTION: usize = 512;
const LEFT_BLOCKS: usize = 1 << 20;

/// Bytes that gemm takes on a thread while it computes a product of this shape `(m, n, k)`, about: the right operand packed,
/// the left one if it is short, and blocks of it.
pub fn dense_packing_bytes((m, n, k): (usize, usize, usize)) -> usize {
    LEFT_BLOCKS + size_of::<f32>() * (m + n) * k.min(PACKED_REDUCTION)
}

/// `c = a * b` (or `c += a * b` with `accumulate`), `a`: `m x k`, `b`: `k x n`, `c`: `m x n` row-major with `c_stride`
/// elements from row to row. f32 arithmetic; the order of additions depends on the shape alone.
///
/// # Panics
/// If an operand is too short for its shape.
pub fn dense_matmul(
    (m, n, k): (usize, usize, usize),
    a: DenseMatrix<'_>,
    b: DenseMatrix<'_>,
    accumulate: bool,
    c: &mut [f32],
    c_stride: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    let (a_rows, a_cols) = a.strides(m, k);
    let (b_rows, b_cols) = b.strides(k, n);
    assert!(n <= c_stride && c.len() >= (m - 1) * c_stride + n, "dense_matmul: output too short");
    // SAFETY: all three operands were checked against their shapes and strides above; `c` is borrowed mutably and so
    // overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a_cols,
            a_rows,
            b.data.as_ptr(),
            b_cols,
            b_rows,
            if accumulate { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
