//! int8 x int8 products that sum over tokens, on the context's threads: weight gradients.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use rayon::prelude::*;

use super::backend::Call;
use super::{Context, Operation};
use crate::kernels::KernelTable;
use crate::tensor::AlignedBuffer;

/// Tokens summed in integers before the sum goes to floats.
const SECTION: usize = 1 << 16;
const _: () = assert!(SECTION <= KernelTable::INT8_LONGEST_SUM);

/// Most columns packed at a time, whole cache lines of each row, and most bytes of them.
const STRIP: usize = 192;
const STRIP_BYTES: usize = 1 << 19;

thread_local! {
    /// Panels of both factors: kept, so that a step allocates nothing.
    static PANELS: RefCell<AlignedBuffer<u8>> = RefCell::default();
    /// A strip of columns on its way into panels.
    static COLUMNS: RefCell<AlignedBuffer<i8>> = RefCell::default();
}

/// Panels of one factor `x` `[tokens, width of x]`.
struct Packing<'a> {
    x: &'a [i8],
    tokens: usize,
    /// Columns of a panel, and its bytes.
    width: usize,
    bytes: usize,
}

impl Packing<'_> {
    fn panels_of_strip(&self) -> usize {
        (STRIP.min(STRIP_BYTES / self.tokens) / self.width).max(1)
    }

    /// Packs the strip of columns that fills `panels`, the `strip`th of the factor. The strip is copied first: panel by
    /// panel, rows that lie a power of two apart would push each other out of the caches.
    fn pack(&self, strip: usize, panels: &mut [u8], pack: impl Fn(&[i8], usize, usize, &mut [u8])) {
        let stride = self.x.len() / self.tokens;
        let first = strip * self.panels_of_strip() * self.width;
        let cols = (panels.len() / self.bytes * self.width).min(stride - first);
        let mut columns = COLUMNS.take();
        if columns.len() < self.tokens * cols {
            columns = AlignedBuffer::zeroed(self.tokens * cols);
        }
        let copied = &mut columns[..self.tokens * cols];
        for (to, row) in copied.chunks_exact_mut(cols).zip(self.x.chunks_exact(stride)) {
            to.copy_from_slice(&row[first..first + cols]);
        }
        for (panel, packed) in panels.chunks_mut(self.bytes).enumerate() {
            let at = panel * self.width;
            pack(&copied[at..], cols, self.width.min(cols - at), packed);
        }
        COLUMNS.set(columns);
    }
}

impl Context {
    /// `c[m][n] = a_column_scales[m] * sum over t of a[t][m] * b[t][n]`, or `c += ...` with `accumulate`. `a`:
    /// `[tokens, m]`, `b`: `[tokens, n]`, `c`: `[m, n]`, `m = a_column_scales.len()`. Integer sums are exact; beyond
    /// 65,536 tokens the sections' sums are added in f32, in order.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn int8_matmul_tn(
        &self,
        a: &[i8],
        b: &[i8],
        tokens: usize,
        a_column_scales: &[f32],
        c: &mut [f32],
        accumulate: bool,
    ) {
        let m = a_column_scales.len();
        assert_eq!(a.len(), tokens * m, "int8_matmul_tn: a is not [tokens, m]");
        if m == 0 {
            return;
        }
        let n = c.len() / m;
        assert!(c.len() == m * n && b.len() == tokens * n, "int8_matmul_tn: b is not [tokens, n] or c not [m, n]");
        if n == 0 {
            return;
        }
        if tokens == 0 {
            if !accumulate {
                c.fill(0.0);
            }
            return;
        }
        let call = self.call(Operation::Int8Matmul, c.len().saturating_mul(tokens));
        let mut sections = || {
            let mut panels = PANELS.take();
            for (section, (a, b)) in a.chunks(SECTION * m).zip(b.chunks(SECTION * n)).enumerate() {
                let accumulate = accumulate || section > 0;
                int8_section(&call, a, b, a.len() / m, a_column_scales, c, accumulate, &mut panels);
            }
            PANELS.set(panels);
        };
        if call.parallel { self.install(sections) } else { sections() }
    }
}

#[allow(clippy::too_many_arguments)]
fn int8_section(
    call: &Call<'_>,
    a: &[i8],
    b: &[i8],
    tokens: usize,
    scales: &[f32],
    c: &mut [f32],
    accumulate: bool,
    panels: &mut AlignedBuffer<u8>,
) {
    let (m, n, kernels) = (scales.len(), c.len() / scales.len(), call.kernels);
    let shape = kernels.int8_panels();
    let (a_bytes, b_bytes) = (shape.bytes(shape.a_width, tokens), shape.bytes(shape.b_width, tokens));
    let a_total = m.div_ceil(shape.a_width) * a_bytes;
    let total = a_total + n.div_ceil(shape.b_width) * b_bytes;
    if panels.len() < total {
        *panels = AlignedBuffer::zeroed(total);
    }
    let (a_panels, b_panels) = panels[..total].split_at_mut(a_total);
    let left = Packing { x: a, tokens, width: shape.a_width, bytes: a_bytes };
    let right = Packing { x: b, tokens, width: shape.b_width, bytes: b_bytes };
    let pack_left = |(strip, panels): (usize, &mut [u8])| {
        left.pack(strip, panels, |x, stride, cols, panel| kernels.int8_pack_a(x, tokens, stride, cols, panel));
    };
    let pack_right = |(strip, panels): (usize, &mut [u8])| {
        right.pack(strip, panels, |x, stride, cols, panel| kernels.int8_pack_b(x, tokens, stride, cols, panel));
    };
    let (left_strip, right_strip) = (left.panels_of_strip() * a_bytes, right.panels_of_strip() * b_bytes);
    if call.parallel {
        a_panels.par_chunks_mut(left_strip).enumerate().for_each(pack_left);
        b_panels.par_chunks_mut(right_strip).enumerate().for_each(pack_right);
    } else {
        a_panels.chunks_mut(left_strip).enumerate().for_each(pack_left);
        b_panels.chunks_mut(right_strip).enumerate().for_each(pack_right);
    }
    // A block of output rows goes through all right panels: the block's left panels stay in the second-level cache.
    let block_panels = ((1 << 18) / a_bytes).clamp(1, 16);
    let block_rows = block_panels * shape.a_width;
    let multiply = |((c, scales), a_panels): ((&mut [f32], &[f32]), &[u8])| {
        for (panel, b_panel) in b_panels.chunks(b_bytes).enumerate() {
            let first = panel * shape.b_width;
            let cols = shape.b_width.min(n - first);
            let tiles = c.chunks_mut(shape.a_width * n).zip(scales.chunks(shape.a_width));
            for ((c, scales), a_panel) in tiles.zip(a_panels.chunks(a_bytes)) {
                kernels.int8_product(a_panel, b_panel, tokens, cols, scales, accumulate, &mut c[first..], n);
            }
        }
    };
    if call.parallel {
        let blocks = c.par_chunks_mut(block_rows * n).zip(scales.par_chunks(block_rows));
        blocks.zip(a_panels.par_chunks(block_panels * a_bytes)).for_each(multiply);
    } else {
        let blocks = c.chunks_mut(block_rows * n).zip(scales.chunks(block_rows));
        blocks.zip(a_panels.chunks(block_panels * a_bytes)).for_each(multiply);
    }
}
