//! Products with ternary weights on the context's threads. Blocks are of fixed size and every
//! output has one writer and one order of additions: results do not depend on the number of threads.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use super::backend::Call;
use super::cuda::Traffic;
use super::{Context, Operation};
use crate::gpu::HostCall;
use crate::kernels::{
    Activations, KernelTable, MatrixMut, TERNARY_BLOCK_ROWS, panels_len, ternary_block_len, ternary_packed_len,
};
use crate::tensor::AlignedBuffer;

/// Tokens of one task: enough for unpacking a block to cost under 1 % of its product.
const BLOCK_TOKENS: usize = 512;

/// Most tokens and blocks of one task that unpacks nothing: its weights and activations stay in the second-level cache.
const DIRECT_TOKENS: usize = 128;
const DIRECT_BLOCKS: usize = 4;

/// Tokens the kernels take at a time; a tile of a multiple of them leaves no small rest.
const TOKEN_GROUP: usize = 6;

/// Tasks a thread should have, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 8;

/// Multiply-adds a task should not fall below: splitting and stealing it then cost little.
const LEAST_TASK: usize = 1 << 20;

thread_local! {
    /// Panels of the block a thread works on. Grows to the largest block seen.
    static WORKSPACE: RefCell<AlignedBuffer<u8>> = RefCell::default();
    /// A block's trits, and the block at two bits a weight, where it comes at five trits a byte.
    static REPACKED: RefCell<(Vec<i8>, Vec<u8>)> = RefCell::default();
}

fn with_workspace<R>(len: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    WORKSPACE.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            *buffer = AlignedBuffer::zeroed(len);
        }
        work(&mut buffer[..len])
    })
}

/// The scales of outputs `first..first + len`: the one scale of the matrix, or a part of one a row.
pub(super) fn part_of(scales: &[f32], first: usize, len: usize) -> &[f32] {
    if scales.len() == 1 { scales } else { &scales[first..first + len] }
}

/// Largest tile of one task.
#[derive(Clone, Copy)]
struct Tile {
    tokens: usize,
    outputs: usize,
}

/// The tile of a task that unpacks its weights.
const PANEL_TILE: Tile = Tile { tokens: BLOCK_TOKENS, outputs: TERNARY_BLOCK_ROWS };

impl Context {
    /// `y = x * W^T` with ternary `W` `[rows, cols]` in the 2-bit layout and int8 activations:
    /// `y[t][r] = (f32)(sum_c w[r][c] * x[t][c]) * (x_scales[t] * weight_scale[r])`.
    /// `weight_scales`: one for the matrix or one a row; `x`: `[tokens, cols]`; `y`: `[tokens, rows]`.
    ///
    /// # Panics
    /// If a slice has the wrong length or `cols` exceeds [`crate::kernels::TERNARY_MAX_K`].
    #[allow(clippy::too_many_arguments)]
    pub fn ternary_matmul(
        &self,
        packed: &[u8],
        rows: usize,
        cols: usize,
        weight_scales: &[f32],
        x: &[i8],
        x_scales: &[f32],
        x_sums: &[i32],
        y: &mut [f32],
    ) {
        let tokens = x_scales.len();
        let x = Activations { values: x, scales: x_scales, sums: x_sums };
        x.check(tokens, cols);
        assert_eq!(packed.len(), ternary_packed_len(rows, cols), "ternary_matmul: length of the packed matrix");
        assert!(weight_scales.len() == 1 || weight_scales.len() == rows, "ternary_matmul: 1 or {rows} weight scales");
        assert_eq!(Some(y.len()), tokens.checked_mul(rows), "ternary_matmul: output is not {tokens} x {rows}");
        if y.is_empty() {
            return;
        }
        let operation = if tokens == 1 { Operation::TernaryMatvec } else { Operation::TernaryMatmul };
        let work = y.len().saturating_mul(cols);
        let traffic = Traffic::ternary(packed.len(), cols, rows, tokens);
        let call = HostCall::TernaryMatmul { packed, shape: (rows, cols), weight_scales, x, y };
        if self.on_cuda(operation, work, traffic, call) {
            return;
        }
        let call = self.product_call(operation, work, tokens);
        let kernels = call.kernels;
        if tokens == 1 {
            return self.ternary_matvec(&call, packed, cols, weight_scales, x, y);
        }
        let block_len = ternary_block_len(cols);
        if call.direct {
            let tile = self.direct_tile(rows, cols, tokens);
            let work = |y: MatrixMut<'_, f32>, token: usize, row: usize| {
                let scales = part_of(weight_scales, row, y.cols());
                let packed = &packed[row / TERNARY_BLOCK_ROWS * block_len..][..ternary_packed_len(y.cols(), cols)];
                kernels.ternary_matmul(packed, cols, x.tokens(token..token + y.rows(), cols), scales, y);
            };
            return self.run_tiles(&call, tile, MatrixMut::new(y, tokens, rows), &work);
        }
        let tile = |y: MatrixMut<'_, f32>, token: usize, row: usize| {
            let block = &packed[row / TERNARY_BLOCK_ROWS * block_len..][..block_len];
            let scales = part_of(weight_scales, row, y.cols());
            with_workspace(panels_len(cols), |panels| {
                kernels.ternary_panels(block, cols, panels);
                kernels.panel_matmul(panels, cols, x.tokens(token..token + y.rows(), cols), scales, y);
            });
        };
        let y = MatrixMut::new(y, tokens, rows);
        self.run_tiles(&call, PANEL_TILE, y, &tile);
    }

    /// [`Context::ternary_matmul`] for weights at five trits a byte. Several tokens: each block is repacked to two bits a
    /// weight on its way to the product.
    ///
    /// # Panics
    /// If a slice has the wrong length or `cols` exceeds [`crate::kernels::TERNARY_MAX_K`].
    pub fn pack5_matmul(
        &self,
        packed: &[u8],
        rows: usize,
        cols: usize,
        weight_scales: &[f32],
        x: Activations<'_>,
        y: &mut [f32],
    ) {
        let tokens = x.scales.len();
        x.check(tokens, cols);
        assert_eq!(packed.len(), KernelTable::pack5_bytes(rows, cols), "pack5_matmul: length of the packed matrix");
        assert!(weight_scales.len() == 1 || weight_scales.len() == rows, "pack5_matmul: 1 or {rows} weight scales");
        assert_eq!(Some(y.len()), tokens.checked_mul(rows), "pack5_matmul: output is not {tokens} x {rows}");
        if y.is_empty() {
            return;
        }
        if tokens == 1 {
            return self.pack5_matvec(packed, cols, weight_scales, x, y);
        }
        let call = self.product_call(Operation::TernaryMatmul, y.len().saturating_mul(cols), usize::MAX);
        let kernels = call.kernels;
        let len = KernelTable::pack5_bytes(TERNARY_BLOCK_ROWS, cols);
        let work = |y: MatrixMut<'_, f32>, token: usize, row: usize| {
            let block = &packed[row / TERNARY_BLOCK_ROWS * len..][..len];
            let (rows, scales) = (y.cols(), part_of(weight_scales, row, y.cols()));
            REPACKED.with_borrow_mut(|(trits, two_bits)| {
                trits.resize(rows * cols, 0);
                two_bits.resize(ternary_block_len(cols), 0);
                kernels.unpack5(block, rows, cols, trits);
                kernels.ternary_pack(trits, rows, cols, two_bits);
                with_workspace(panels_len(cols), |panels| {
                    kernels.ternary_panels(two_bits, cols, panels);
                    kernels.panel_matmul(panels, cols, x.tokens(token..token + y.rows(), cols), scales, y);
                });
            });
        };
        let tile = Tile { tokens: usize::MAX, outputs: TERNARY_BLOCK_ROWS };
        self.run_tiles(&call, tile, MatrixMut::new(y, tokens, rows), &work);
    }

    /// The tile of a product on packed weights: tokens split evenly, and enough tiles for the threads to end together.
    fn direct_tile(&self, rows: usize, cols: usize, tokens: usize) -> Tile {
        let token_tiles = tokens.div_ceil(DIRECT_TOKENS);
        let tile_tokens = tokens.div_ceil(token_tiles).next_multiple_of(TOKEN_GROUP);
        let tiles = rows.div_ceil(TERNARY_BLOCK_ROWS) * token_tiles;
        let least = LEAST_TASK / (tile_tokens * cols * TERNARY_BLOCK_ROWS).max(1);
        let blocks = (tiles / (TASKS_PER_THREAD * self.threads())).clamp(1, DIRECT_BLOCKS).max(least);
        Tile { tokens: tile_tokens, outputs: blocks * TERNARY_BLOCK_ROWS }
    }

    fn run_tiles(
        &self,
        call: &Call<'_>,
        tile: Tile,
        y: MatrixMut<'_, f32>,
        work: &(dyn Fn(MatrixMut<'_, f32>, usize, usize) + Sync),
    ) {
        // Tokens first: what a thread reads and writes is then of the tokens that it works on in the operations around this one.
        let tiles = y.tiles(tile.tokens, tile.outputs);
        self.for_each_if(call.parallel, tiles, |(token, output, y)| work(y, token, output));
    }

    /// `dx = dy * W` with ternary `W` `[rows, cols]` in the 2-bit layout and int8 `dy` `[tokens, rows]`:
    /// `dx[t][c] = (f32)(sum_r w[r][c] * dy[t][r]) * dy_scales[t]`. The caller has folded the scales of `W` into
    /// `dy` or `dy_scales`. `dx`: `[tokens, cols]`.
    ///
    /// # Panics
    /// If a slice has the wrong length or `rows` exceeds [`crate::kernels::TERNARY_MAX_K`].
    #[allow(clippy::too_many_arguments)]
    pub fn ternary_matmul_transposed(
        &self,
        packed: &[u8],
        rows: usize,
        cols: usize,
        dy: &[i8],
        dy_scales: &[f32],
        dy_sums: &[i32],
        dx: &mut [f32],
    ) {
        let tokens = dy_scales.len();
        let dy = Activations { values: dy, scales: dy_scales, sums: dy_sums };
        dy.check(tokens, rows);
        let packed_len = ternary_packed_len(rows, cols);
        assert_eq!(packed.len(), packed_len, "ternary_matmul_transposed: length of the packed matrix");
        assert_eq!(
            Some(dx.len()),
            tokens.checked_mul(cols),
            "ternary_matmul_transposed: output is not {tokens} x {cols}"
        );
        if dx.is_empty() {
            return;
        }
        let operation = Operation::TernaryMatmulTransposed;
        let (work, traffic) = (dx.len().saturating_mul(rows), Traffic::ternary(packed_len, rows, cols, tokens));
        if self.on_cuda(
            operation,
            work,
            traffic,
            HostCall::TernaryMatmulTransposed { packed, shape: (rows, cols), dy, dx },
        ) {
            return;
        }
        let call = self.call(operation, work);
        let kernels = call.kernels;
        // The first columns straight from the layout, the others through panels.
        let direct_cols = kernels.ternary_direct_transposed_cols(tokens, cols);
        let tile = |dx: MatrixMut<'_, f32>, token: usize, col: usize| {
            let dy = dy.tokens(token..token + dx.rows(), rows);
            let direct = direct_cols.saturating_sub(col).min(dx.cols());
            let (left, right) = dx.split_cols_at(direct);
            if direct > 0 {
                kernels.ternary_matmul_transposed(packed, rows, cols, col, dy, left);
            }
            if right.cols() > 0 {
                with_workspace(panels_len(rows), |panels| {
                    kernels.ternary_panels_transposed(packed, rows, cols, col + direct, panels);
                    kernels.panel_matmul(panels, rows, dy, &[1.0], right);
                });
            }
        };
        let size = if direct_cols > 0 { self.direct_tile(cols, rows, tokens) } else { PANEL_TILE };
        self.run_tiles(&call, size, MatrixMut::new(dx, tokens, cols), &tile);
    }
}
