//! Weight gradients with the output's gradient in bf16, on the context's threads.
#![forbid(unsafe_code)]

use super::Context;
use super::int8::PANELS;
use crate::tensor::AlignedBuffer;

/// Bytes of left panels in a parallel block: they stay in the second-level cache.
const BLOCK_BYTES: usize = 1 << 18;
const BLOCK_PANELS: usize = 16;

/// Panels packed at a time: whole cache lines of each row.
const PACKED_PANELS: usize = 16;

impl Context {
    /// Bytes of panels that a product of this shape needs and its thread keeps.
    pub fn bf16_panel_bytes(&self, (m, n, k): (usize, usize, usize)) -> usize {
        let shape = self.kernels().bf16_panels();
        let of = |width: usize, cols: usize| cols.div_ceil(width) * shape.bytes(width, k);
        of(shape.a_width, m) + of(shape.b_width, n)
    }

    /// `c[i][j] = sum over t of bf16(a[t][i] * factors[t]) * b[t][j]`, or `c += ...` with `accumulate`. `a`: `k x m`, `b`: `k x n`,
    /// `c`: `m x n`, dense rows; bf16 rounds half to even. The same bits at every thread count and instruction set
    /// (csrc/README.md, "bf16").
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn bf16_matmul(
        &self,
        (m, n, k): (usize, usize, usize),
        a: &[f32],
        factors: &[f32],
        b: &[i8],
        accumulate: bool,
        c: &mut [f32],
    ) {
        assert!(a.len() == m * k && b.len() == k * n && factors.len() == k && c.len() == m * n, "bf16_matmul: lengths");
        if m == 0 || n == 0 {
            return;
        }
        self.install(|| {
            let mut panels = PANELS.take();
            let total = self.bf16_panel_bytes((m, n, k));
            if panels.len() < total {
                panels = AlignedBuffer::zeroed(total);
            }
            self.bf16_product((m, n, k), a, factors, b, accumulate, c, &mut panels[..total]);
            PANELS.set(panels);
        });
    }

    #[allow(clippy::too_many_arguments)]
    fn bf16_product(
        &self,
        (m, n, k): (usize, usize, usize),
        a: &[f32],
        factors: &[f32],
        b: &[i8],
        accumulate: bool,
        c: &mut [f32],
        panels: &mut [u8],
    ) {
        if k == 0 {
            if !accumulate {
                c.fill(0.0);
            }
            return;
        }
        let kernels = self.kernels();
        let shape = kernels.bf16_panels();
        let (a_width, b_width) = (shape.a_width, shape.b_width);
        let (a_bytes, b_bytes) = (shape.bytes(a_width, k), shape.bytes(b_width, k));
        let (a_panels, b_panels) = panels.split_at_mut(m.div_ceil(a_width) * a_bytes);
        self.for_each(a_panels.chunks_mut(PACKED_PANELS * a_bytes).enumerate(), |(strip, panels)| {
            for (panel, packed) in panels.chunks_mut(a_bytes).enumerate() {
                let first = (strip * PACKED_PANELS + panel) * a_width;
                kernels.bf16_pack_a(&a[first..], m, factors, a_width.min(m - first), packed);
            }
        });
        self.for_each(b_panels.chunks_mut(b_bytes).enumerate(), |(panel, packed)| {
            let first = panel * b_width;
            kernels.bf16_pack_b(&b[first..], k, n, b_width.min(n - first), packed);
        });
        // A block of output rows goes through all right panels.
        let block_panels = (BLOCK_BYTES / a_bytes).clamp(1, BLOCK_PANELS);
        let blocks = c.chunks_mut(block_panels * a_width * n).zip(a_panels.chunks(block_panels * a_bytes));
        self.for_each(blocks, |(c, a_panels)| {
            for (panel, b_panel) in b_panels.chunks(b_bytes).enumerate() {
                let first = panel * b_width;
                let cols = b_width.min(n - first);
                for (c, a_panel) in c.chunks_mut(a_width * n).zip(a_panels.chunks(a_bytes)) {
                    let tile = (c.len() / n, cols);
                    kernels.bf16_product(a_panel, b_panel, k, tile, accumulate, &mut c[first..], n);
                }
            }
        });
    }
}
