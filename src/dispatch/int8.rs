//! int8 x int8 products on the context's threads: weight gradients, and the head of a large vocabulary.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use super::backend::Call;
use super::cuda::Traffic;
use super::{Context, Operation, Size};
use crate::gpu::HostCall;
use crate::kernels::KernelTable;
use crate::tensor::AlignedBuffer;

/// Tokens summed in integers before the sum goes to floats.
const SECTION: usize = 1 << 16;
const _: () = assert!(SECTION <= KernelTable::INT8_LONGEST_SUM);

/// Most columns packed at a time, whole cache lines of each row, and most bytes of them.
const STRIP: usize = 192;
const STRIP_BYTES: usize = 1 << 19;

/// Most left panels of a block, and most bytes of them: half of a second-level cache.
const BLOCK_PANELS: usize = 32;
const BLOCK_BYTES: usize = 1 << 19;

/// Blocks that each thread has, at least.
const BLOCKS_A_THREAD: usize = 2;

thread_local! {
    /// Panels of both factors, of products in bf16 too: kept, so that a step allocates nothing.
    pub(super) static PANELS: RefCell<AlignedBuffer<u8>> = RefCell::default();
}

/// An int8 operand of a product, row-major with `stride` elements from row to row.
#[derive(Clone, Copy, Debug)]
pub struct Int8Matrix<'a> {
    /// Elements; row `r`, column `c` of the stored matrix at `r * stride + c`.
    pub data: &'a [i8],
    /// Elements from one stored row to the next.
    pub stride: usize,
    /// Whether the product uses the transpose of the stored matrix.
    pub transposed: bool,
}

impl<'a> Int8Matrix<'a> {
    /// The matrix as stored.
    pub fn new(data: &'a [i8], stride: usize) -> Self {
        Int8Matrix { data, stride, transposed: false }
    }

    /// The transpose of the stored matrix.
    pub fn transposed(data: &'a [i8], stride: usize) -> Self {
        Int8Matrix { data, stride, transposed: true }
    }

    /// The elements `first..first + len` of every sum.
    fn section(self, sums_in_rows: bool, cols: usize, first: usize, len: usize) -> Packing<'a> {
        let data = &self.data[if sums_in_rows { first } else { first * self.stride }..];
        Packing { data, stride: self.stride, sums_in_rows, len, cols, width: 0, bytes: 0 }
    }

    /// Whether the operand is a `rows x cols` matrix, neither of them 0.
    fn holds(&self, rows: usize, cols: usize) -> bool {
        let (rows, cols) = if self.transposed { (cols, rows) } else { (rows, cols) };
        let needed = (rows - 1).saturating_mul(self.stride).saturating_add(cols);
        cols <= self.stride && needed <= self.data.len()
    }
}

/// Panels of one factor: `width` columns of `len` summed elements each.
#[derive(Clone, Copy)]
struct Packing<'a> {
    data: &'a [i8],
    stride: usize,
    /// Whether the elements of a sum lie side by side; else those of a column do not, but the columns do.
    sums_in_rows: bool,
    len: usize,
    cols: usize,
    /// Columns of a panel, and its bytes.
    width: usize,
    bytes: usize,
}

impl Packing<'_> {
    fn panels_of_strip(&self) -> usize {
        (STRIP.min(STRIP_BYTES / self.len) / self.width).max(1)
    }

    /// Packs the strip of columns that fills `panels`, the `strip`th of the factor, by `pack` or, where the elements of a sum
    /// lie side by side, by `pack_rows`.
    fn pack(
        &self,
        strip: usize,
        panels: &mut [u8],
        pack: impl Fn(&[i8], usize, &mut [u8]),
        pack_rows: impl Fn(&[i8], usize, &mut [u8]),
    ) {
        let first = strip * self.panels_of_strip() * self.width;
        let cols = (panels.len() / self.bytes * self.width).min(self.cols - first);
        if self.sums_in_rows {
            pack_rows(&self.data[first * self.stride..], cols, panels);
        } else {
            pack(&self.data[first..], cols, panels);
        }
    }
}

impl Context {
    /// Bytes of panels that a product of this shape needs and its thread keeps.
    pub fn int8_panel_bytes(&self, (m, n, k): (usize, usize, usize)) -> usize {
        let (shape, len) = (self.kernels().int8_panels(), k.min(SECTION));
        let of = |width: usize, cols: usize| cols.div_ceil(width) * shape.bytes(width, len);
        of(shape.a_width, m) + of(shape.b_width, n)
    }

    /// `c = scales * (a * b)` with one scale for each row of `a`, or `c += ...` with `accumulate`. `a`: `m x k`, `b`:
    /// `k x n`, `c`: `m x n` with `c_stride` elements from row to row. Integer sums are exact; where k is beyond 65,536 the
    /// sections' sums are added in f32, in order.
    ///
    /// # Panics
    /// If the lengths do not fit.
    #[allow(clippy::too_many_arguments)]
    pub fn int8_matmul(
        &self,
        (m, n, k): (usize, usize, usize),
        a: Int8Matrix<'_>,
        b: Int8Matrix<'_>,
        row_scales: &[f32],
        accumulate: bool,
        c: &mut [f32],
        c_stride: usize,
    ) {
        assert_eq!(row_scales.len(), m, "int8_matmul: not one scale a row");
        if m == 0 || n == 0 {
            return;
        }
        assert!(n <= c_stride && c.len() > (m - 1) * c_stride + n - 1, "int8_matmul: c is not m x n");
        if k == 0 {
            if !accumulate {
                c.chunks_mut(c_stride).for_each(|row| row[..n].fill(0.0));
            }
            return;
        }
        assert!(a.holds(m, k), "int8_matmul: a is not m x k");
        assert!(b.holds(k, n), "int8_matmul: b is not k x n");
        let work = Size { rows: m, cols: n, depth: k }.work(Operation::Int8Matmul);
        // A device takes the form of weight gradients, rows without gaps.
        let dense = a.transposed && !b.transposed && (a.stride, b.stride, c_stride) == (m, n, n);
        if dense {
            let (a, b, c) = (&a.data[..k * m], &b.data[..k * n], &mut c[..m * n]);
            let call = HostCall::Int8MatmulTn { a, b, shape: (k, m, n), scales: row_scales, accumulate, c };
            if self.on_cuda(Operation::Int8Matmul, work, Traffic::int8(m, n, k, accumulate), call) {
                return;
            }
        }
        let call = self.call(Operation::Int8Matmul, work);
        let mut panels = PANELS.take();
        for first in (0..k).step_by(SECTION) {
            let (len, accumulate) = (SECTION.min(k - first), accumulate || first > 0);
            // The elements of a sum lie side by side in `a` as stored and in the transpose of `b`.
            let (left, right) = (a.section(!a.transposed, m, first, len), b.section(b.transposed, n, first, len));
            section_product(self, &call, left, right, row_scales, accumulate, c, c_stride, &mut panels);
        }
        PANELS.set(panels);
    }
}

#[allow(clippy::too_many_arguments)]
fn section_product(
    context: &Context,
    call: &Call<'_>,
    left: Packing<'_>,
    right: Packing<'_>,
    scales: &[f32],
    accumulate: bool,
    c: &mut [f32],
    c_stride: usize,
    panels: &mut AlignedBuffer<u8>,
) {
    let (len, n, kernels) = (left.len, right.cols, call.kernels);
    let shape = kernels.int8_panels();
    let (a_bytes, b_bytes) = (shape.bytes(shape.a_width, len), shape.bytes(shape.b_width, len));
    let left = Packing { width: shape.a_width, bytes: a_bytes, ..left };
    let right = Packing { width: shape.b_width, bytes: b_bytes, ..right };
    let a_total = left.cols.div_ceil(left.width) * a_bytes;
    let total = a_total + n.div_ceil(right.width) * b_bytes;
    if panels.len() < total {
        *panels = AlignedBuffer::zeroed(total);
    }
    let (a_panels, b_panels) = panels[..total].split_at_mut(a_total);
    let pack_left = |(strip, panels): (usize, &mut [u8])| {
        let pack = |x: &[i8], cols, panels: &mut [u8]| kernels.int8_pack_a(x, len, left.stride, cols, panels);
        let pack_rows = |x: &[i8], cols, panels: &mut [u8]| kernels.int8_pack_a_rows(x, len, left.stride, cols, panels);
        left.pack(strip, panels, pack, pack_rows);
    };
    let pack_right = |(strip, panels): (usize, &mut [u8])| {
        let pack = |x: &[i8], cols, panels: &mut [u8]| kernels.int8_pack_b(x, len, right.stride, cols, panels);
        let pack_rows =
            |x: &[i8], cols, panels: &mut [u8]| kernels.int8_pack_b_rows(x, len, right.stride, cols, panels);
        right.pack(strip, panels, pack, pack_rows);
    };
    let (left_strip, right_strip) = (left.panels_of_strip() * a_bytes, right.panels_of_strip() * b_bytes);
    context.for_each_if(call.parallel, a_panels.chunks_mut(left_strip).enumerate(), pack_left);
    context.for_each_if(call.parallel, b_panels.chunks_mut(right_strip).enumerate(), pack_right);
    // A block of output rows goes through all right panels: the block's left panels stay in the second-level cache.
    // Blocks are of one size and as many for each thread: all end together.
    let (panels, most) = (left.cols.div_ceil(left.width), (BLOCK_BYTES / a_bytes).clamp(1, BLOCK_PANELS));
    let blocks =
        panels.div_ceil(most).next_multiple_of(if call.parallel { BLOCKS_A_THREAD * context.threads() } else { 1 });
    let block_panels = panels.div_ceil(blocks);
    let block_rows = block_panels * left.width;
    let multiply = |((c, scales), a_panels): ((&mut [f32], &[f32]), &[u8])| {
        for (panel, b_panel) in b_panels.chunks(b_bytes).enumerate() {
            let first = panel * right.width;
            let cols = right.width.min(n - first);
            let tiles = c.chunks_mut(left.width * c_stride).zip(scales.chunks(left.width));
            for ((c, scales), a_panel) in tiles.zip(a_panels.chunks(a_bytes)) {
                kernels.int8_product(a_panel, b_panel, len, cols, scales, accumulate, &mut c[first..], c_stride);
            }
        }
    };
    let blocks = c.chunks_mut(block_rows * c_stride).zip(scales.chunks(block_rows));
    context.for_each_if(call.parallel, blocks.zip(a_panels.chunks(block_panels * a_bytes)), multiply);
}
