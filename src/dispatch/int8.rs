//! int8 x int8 products that sum over tokens, on the context's threads: weight gradients.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use rayon::prelude::*;

use super::Context;
use crate::kernels::KernelTable;
use crate::tensor::AlignedBuffer;

/// Tokens summed in integers before the sum goes to floats.
const SECTION: usize = 1 << 16;
const _: () = assert!(SECTION <= KernelTable::INT8_LONGEST_SUM);

thread_local! {
    /// Panels of both factors: kept, so that a step allocates nothing.
    static PANELS: RefCell<AlignedBuffer<u8>> = RefCell::default();
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
        self.install(|| {
            let mut panels = PANELS.take();
            for (section, (a, b)) in a.chunks(SECTION * m).zip(b.chunks(SECTION * n)).enumerate() {
                let accumulate = accumulate || section > 0;
                self.int8_section(a, b, a.len() / m, a_column_scales, c, accumulate, &mut panels);
            }
            PANELS.set(panels);
        });
    }

    #[allow(clippy::too_many_arguments)]
    fn int8_section(
        &self,
        a: &[i8],
        b: &[i8],
        tokens: usize,
        scales: &[f32],
        c: &mut [f32],
        accumulate: bool,
        panels: &mut AlignedBuffer<u8>,
    ) {
        let (m, n, kernels) = (scales.len(), c.len() / scales.len(), self.kernels());
        let shape = kernels.int8_panels();
        let (a_bytes, b_bytes) = (shape.bytes(shape.a_width, tokens), shape.bytes(shape.b_width, tokens));
        let a_total = m.div_ceil(shape.a_width) * a_bytes;
        let total = a_total + n.div_ceil(shape.b_width) * b_bytes;
        if panels.len() < total {
            *panels = AlignedBuffer::zeroed(total);
        }
        let (a_panels, b_panels) = panels[..total].split_at_mut(a_total);
        a_panels.par_chunks_mut(a_bytes).enumerate().for_each(|(panel, packed)| {
            let first = panel * shape.a_width;
            kernels.int8_pack_a(&a[first..], tokens, m, shape.a_width.min(m - first), packed);
        });
        b_panels.par_chunks_mut(b_bytes).enumerate().for_each(|(panel, packed)| {
            let first = panel * shape.b_width;
            kernels.int8_pack_b(&b[first..], tokens, n, shape.b_width.min(n - first), packed);
        });
        // A block of output rows goes through all right panels: the block's left panels stay in the second-level cache.
        let block_panels = ((1 << 18) / a_bytes).clamp(1, 16);
        let block_rows = block_panels * shape.a_width;
        let blocks = c.par_chunks_mut(block_rows * n).zip(scales.par_chunks(block_rows));
        blocks.zip(a_panels.par_chunks(block_panels * a_bytes)).for_each(|((c, scales), a_panels)| {
            for (panel, b_panel) in b_panels.chunks(b_bytes).enumerate() {
                let first = panel * shape.b_width;
                let cols = shape.b_width.min(n - first);
                let tiles = c.chunks_mut(shape.a_width * n).zip(scales.chunks(shape.a_width));
                for ((c, scales), a_panel) in tiles.zip(a_panels.chunks(a_bytes)) {
                    kernels.int8_product(a_panel, b_panel, tokens, cols, scales, accumulate, &mut c[first..], n);
                }
            }
        });
    }
}
