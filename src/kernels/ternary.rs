//! Products of int8 activations with ternary weights in the 2-bit layout (csrc/README.md, "ternary").

use super::bindings as c;
use super::isa::Isa;
use super::matrix_mut::MatrixMut;
use super::table::KernelTable;

/// Rows of a block of the 2-bit layout, and outputs of a panel.
pub const TERNARY_BLOCK_ROWS: usize = 64;

/// The longest reduction of a product: above it an i32 accumulator could overflow.
pub const TERNARY_MAX_K: usize = 1 << 18;

/// Bytes of one 64-row block of the 2-bit layout.
pub fn ternary_block_len(cols: usize) -> usize {
    cols.div_ceil(16).checked_mul(256).expect("ternary matrix larger than the address space")
}

/// Bytes of a ternary matrix `[rows, cols]` in the 2-bit layout.
pub fn ternary_packed_len(rows: usize, cols: usize) -> usize {
    let blocks = rows.div_ceil(TERNARY_BLOCK_ROWS);
    blocks.checked_mul(ternary_block_len(cols)).expect("ternary matrix larger than the address space")
}

/// Bytes of the panels of a reduction of length `k`: 64 outputs, `k` rounded up to a multiple of 16.
pub fn panels_len(k: usize) -> usize {
    k.div_ceil(16) * 16 * TERNARY_BLOCK_ROWS
}

type Matmul = unsafe extern "C" fn(
    *const u8,
    usize,
    usize,
    *const i8,
    usize,
    usize,
    *const f32,
    *const i32,
    *const f32,
    usize,
    *mut f32,
    usize,
);
type MatmulTransposed = unsafe extern "C" fn(
    *const u8,
    usize,
    usize,
    usize,
    usize,
    *const i8,
    usize,
    usize,
    *const f32,
    *const i32,
    *mut f32,
    usize,
);
type MatmulI32 = unsafe extern "C" fn(*const u8, usize, usize, *const i8, usize, usize, *const i32, *mut i32, usize);

/// Columns of a block that count as few: for more than [`NARROW_DIRECT_TOKENS`] panels of them are faster than the direct
/// transposed product, which computes all 64.
const NARROW: usize = 48;
const NARROW_DIRECT_TOKENS: usize = 3;

/// The ternary family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct TernaryKernels {
    /// Most tokens for which `matmul` is faster than `panels` and `panel_matmul`.
    direct_tokens: usize,
    panels: unsafe extern "C" fn(*const u8, usize, *mut u8),
    panels_transposed: unsafe extern "C" fn(*const u8, usize, usize, usize, *mut u8),
    panel_matmul: Matmul,
    panel_matmul_i32: MatmulI32,
    matmul: Matmul,
    matmul_i32: MatmulI32,
    /// Most tokens for which `matmul_transposed` is faster than `panels_transposed` and `panel_matmul`; 0 where it is portable C.
    direct_transposed_tokens: usize,
    matmul_transposed: MatmulTransposed,
}

impl TernaryKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = TernaryKernels {
            direct_tokens: 3,
            panels: c::hqk_ternary_panels_portable,
            panels_transposed: c::hqk_ternary_panels_transposed_portable,
            panel_matmul: c::hqk_panel_matmul_portable,
            panel_matmul_i32: c::hqk_panel_matmul_i32_portable,
            matmul: c::hqk_ternary_matmul_portable,
            matmul_i32: c::hqk_ternary_matmul_i32_portable,
            direct_transposed_tokens: 0,
            matmul_transposed: c::hqk_ternary_matmul_transposed_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = TernaryKernels {
                direct_tokens: 16,
                panels: c::hqk_ternary_panels_avx2,
                panels_transposed: c::hqk_ternary_panels_transposed_avx2,
                panel_matmul: c::hqk_panel_matmul_avx2,
                panel_matmul_i32: c::hqk_panel_matmul_i32_avx2,
                matmul: c::hqk_ternary_matmul_avx2,
                matmul_i32: c::hqk_ternary_matmul_i32_avx2,
                ..kernels
            };
        }
        #[cfg(hqk_avxvnni)]
        if isa.includes(Isa::AvxVnni) {
            kernels = TernaryKernels {
                direct_tokens: usize::MAX,
                panel_matmul: c::hqk_panel_matmul_avxvnni,
                panel_matmul_i32: c::hqk_panel_matmul_i32_avxvnni,
                matmul: c::hqk_ternary_matmul_avxvnni,
                matmul_i32: c::hqk_ternary_matmul_i32_avxvnni,
                ..kernels
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = TernaryKernels {
                direct_tokens: 64,
                panels: c::hqk_ternary_panels_avx512,
                panels_transposed: c::hqk_ternary_panels_transposed_avx512,
                panel_matmul: c::hqk_panel_matmul_avx512,
                panel_matmul_i32: c::hqk_panel_matmul_i32_avx512,
                matmul: c::hqk_ternary_matmul_avx512,
                matmul_i32: c::hqk_ternary_matmul_i32_avx512,
                direct_transposed_tokens: 12,
                matmul_transposed: c::hqk_ternary_matmul_transposed_avx512,
            };
        }
        #[cfg(hqk_avx512vnni)]
        if isa.includes(Isa::Avx512Vnni) {
            kernels = TernaryKernels {
                direct_tokens: usize::MAX,
                panel_matmul: c::hqk_panel_matmul_avx512vnni,
                panel_matmul_i32: c::hqk_panel_matmul_i32_avx512vnni,
                matmul: c::hqk_ternary_matmul_avx512vnni,
                matmul_i32: c::hqk_ternary_matmul_i32_avx512vnni,
                direct_transposed_tokens: 64,
                matmul_transposed: c::hqk_ternary_matmul_transposed_avx512vnni,
                ..kernels
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = TernaryKernels {
                direct_tokens: 16, // by instruction counts, never timed
                panels: c::hqk_ternary_panels_neon,
                panels_transposed: c::hqk_ternary_panels_transposed_neon,
                panel_matmul: c::hqk_panel_matmul_neon,
                panel_matmul_i32: c::hqk_panel_matmul_i32_neon,
                matmul: c::hqk_ternary_matmul_neon,
                matmul_i32: c::hqk_ternary_matmul_i32_neon,
                ..kernels
            };
        }
        #[cfg(hqk_neondotprod)]
        if isa.includes(Isa::NeonDotprod) {
            kernels = TernaryKernels {
                panel_matmul: c::hqk_panel_matmul_neondotprod,
                panel_matmul_i32: c::hqk_panel_matmul_i32_neondotprod,
                matmul: c::hqk_ternary_matmul_neondotprod,
                matmul_i32: c::hqk_ternary_matmul_i32_neondotprod,
                ..kernels
            };
        }
        #[cfg(hqk_neoni8mm)]
        if isa.includes(Isa::NeonI8mm) {
            kernels = TernaryKernels {
                panel_matmul: c::hqk_panel_matmul_neoni8mm,
                panel_matmul_i32: c::hqk_panel_matmul_i32_neoni8mm,
                matmul: c::hqk_ternary_matmul_neoni8mm,
                matmul_i32: c::hqk_ternary_matmul_i32_neoni8mm,
                ..kernels
            };
        }
        let _ = (isa, &mut kernels);
        kernels
    }
}

/// Quantized activations `[tokens, k]` as the products read them: `x ~ scales[t] * values[t][..]`.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// int8, dense rows of `k`.
    pub values: &'a [i8],
    /// One scale a token.
    pub scales: &'a [f32],
    /// Sum of each token's int8 values.
    pub sums: &'a [i32],
}

impl Activations<'_> {
    /// The tokens `range` of rows of `k` values.
    pub fn tokens(&self, range: std::ops::Range<usize>, k: usize) -> Self {
        Activations {
            values: &self.values[range.start * k..range.end * k],
            scales: &self.scales[range.clone()],
            sums: &self.sums[range],
        }
    }

    /// # Panics
    /// If the slices do not hold `tokens` tokens of `k` values.
    pub(crate) fn check(&self, tokens: usize, k: usize) {
        assert_eq!(Some(self.values.len()), tokens.checked_mul(k), "activations: values are not {tokens} x {k}");
        assert_eq!(self.scales.len(), tokens, "activations: one scale a token");
        assert_eq!(self.sums.len(), tokens, "activations: one sum a token");
        assert!(k <= TERNARY_MAX_K, "activations: {k} values a token, at most {TERNARY_MAX_K}");
    }
}

/// Step from a row's scale to the next: 0 for one scale of the whole matrix.
pub(super) fn scale_stride(what: &str, scales: &[f32], rows: usize) -> usize {
    assert!(scales.len() == 1 || scales.len() == rows, "{what}: {} values, expected 1 or {rows}", scales.len());
    (scales.len() != 1) as usize
}

impl KernelTable {
    /// Unpacks one 64-row block into panels: outputs are the block's rows, the reduction runs over `cols`.
    ///
    /// # Panics
    /// If a slice has the wrong length.
    pub fn ternary_panels(&self, block: &[u8], cols: usize, panels: &mut [u8]) {
        assert_eq!(block.len(), ternary_block_len(cols), "ternary_panels: length of the block");
        assert_eq!(panels.len(), panels_len(cols), "ternary_panels: length of the panels");
        // SAFETY: both lengths were checked above.
        unsafe { (self.ternary.panels)(block.as_ptr(), cols, panels.as_mut_ptr()) };
    }

    /// Unpacks 64 columns from `first_col` (a multiple of 64) into panels: outputs are the columns, the reduction
    /// runs over `rows`.
    ///
    /// # Panics
    /// If a slice has the wrong length or `first_col` does not name a column.
    pub fn ternary_panels_transposed(
        &self,
        packed: &[u8],
        rows: usize,
        cols: usize,
        first_col: usize,
        panels: &mut [u8],
    ) {
        assert_eq!(packed.len(), ternary_packed_len(rows, cols), "ternary_panels_transposed: length of the matrix");
        assert_eq!(panels.len(), panels_len(rows), "ternary_panels_transposed: length of the panels");
        assert!(
            first_col < cols && first_col.is_multiple_of(TERNARY_BLOCK_ROWS),
            "ternary_panels_transposed: first column"
        );
        // SAFETY: lengths and the first column were checked above.
        unsafe { (self.ternary.panels_transposed)(packed.as_ptr(), rows, cols, first_col, panels.as_mut_ptr()) };
    }

    /// `y[t][o] = (f32)(sum_k (panel[o][k] - 1) * x[t][k]) * (x_scale[t] * weight_scale[o])` for the at most 64
    /// columns of `y`. `weight_scales`: one, or one a column of `y`.
    ///
    /// # Panics
    /// If a size does not fit.
    pub fn panel_matmul(
        &self,
        panels: &[u8],
        k: usize,
        x: Activations<'_>,
        weight_scales: &[f32],
        mut y: MatrixMut<'_, f32>,
    ) {
        let (tokens, outputs) = (y.rows(), y.cols());
        x.check(tokens, k);
        assert_eq!(panels.len(), panels_len(k), "panel_matmul: length of the panels");
        assert!(outputs <= TERNARY_BLOCK_ROWS, "panel_matmul: {outputs} outputs of 64");
        let stride = scale_stride("panel_matmul: weight scales", weight_scales, outputs);
        // SAFETY: panels, activations and scales were checked above; `y` is a window of its rows and columns.
        unsafe {
            (self.ternary.panel_matmul)(
                panels.as_ptr(),
                outputs,
                k,
                x.values.as_ptr(),
                k,
                tokens,
                x.scales.as_ptr(),
                x.sums.as_ptr(),
                weight_scales.as_ptr(),
                stride,
                y.as_mut_ptr(),
                y.stride(),
            );
        }
    }

    /// The integers of [`KernelTable::panel_matmul`], before scaling (`x.scales` is not read).
    ///
    /// # Panics
    /// If a size does not fit.
    pub fn panel_matmul_i32(&self, panels: &[u8], k: usize, x: Activations<'_>, mut y: MatrixMut<'_, i32>) {
        let (tokens, outputs) = (y.rows(), y.cols());
        x.check(tokens, k);
        assert_eq!(panels.len(), panels_len(k), "panel_matmul_i32: length of the panels");
        assert!(outputs <= TERNARY_BLOCK_ROWS, "panel_matmul_i32: {outputs} outputs of 64");
        let (values, sums) = (x.values.as_ptr(), x.sums.as_ptr());
        // SAFETY: panels and activations were checked above; `y` is a window of its rows and columns.
        unsafe {
            let (y_start, y_stride) = (y.as_mut_ptr(), y.stride());
            (self.ternary.panel_matmul_i32)(panels.as_ptr(), outputs, k, values, k, tokens, sums, y_start, y_stride);
        }
    }

    /// Up to this many tokens [`KernelTable::ternary_matmul`] is faster than panels.
    pub fn ternary_direct_tokens(&self) -> usize {
        self.ternary.direct_tokens
    }

    /// `y[t][r] = (f32)(sum_c w[r][c] * x[t][c]) * (x_scale[t] * weight_scale[r])`, straight from the packed matrix
    /// `[y.cols(), cols]`, without panels. `weight_scales`: one, or one a row.
    ///
    /// # Panics
    /// If a size does not fit.
    pub fn ternary_matmul(
        &self,
        packed: &[u8],
        cols: usize,
        x: Activations<'_>,
        weight_scales: &[f32],
        mut y: MatrixMut<'_, f32>,
    ) {
        let (tokens, rows) = (y.rows(), y.cols());
        x.check(tokens, cols);
        assert_eq!(packed.len(), ternary_packed_len(rows, cols), "ternary_matmul: length of the packed matrix");
        let stride = scale_stride("ternary_matmul: weight scales", weight_scales, rows);
        // SAFETY: weights, activations and scales were checked above; `y` is a window of its rows and columns.
        unsafe {
            (self.ternary.matmul)(
                packed.as_ptr(),
                rows,
                cols,
                x.values.as_ptr(),
                cols,
                tokens,
                x.scales.as_ptr(),
                x.sums.as_ptr(),
                weight_scales.as_ptr(),
                stride,
                y.as_mut_ptr(),
                y.stride(),
            );
        }
    }

    /// The integers of [`KernelTable::ternary_matmul`], before scaling (`x.scales` is not read).
    ///
    /// # Panics
    /// If a size does not fit.
    pub fn ternary_matmul_i32(&self, packed: &[u8], cols: usize, x: Activations<'_>, mut y: MatrixMut<'_, i32>) {
        let (tokens, rows) = (y.rows(), y.cols());
        x.check(tokens, cols);
        assert_eq!(packed.len(), ternary_packed_len(rows, cols), "ternary_matmul_i32: length of the packed matrix");
        let (values, sums) = (x.values.as_ptr(), x.sums.as_ptr());
        // SAFETY: weights and activations were checked above; `y` is a window of its rows and columns.
        unsafe {
            let (start, stride) = (y.as_mut_ptr(), y.stride());
            (self.ternary.matmul_i32)(packed.as_ptr(), rows, cols, values, cols, tokens, sums, start, stride);
        }
    }

    /// For so many columns of a matrix, from the first on, [`KernelTable::ternary_matmul_transposed`] is faster than panels;
    /// less than a block of 64 is left beyond them, or all.
    pub fn ternary_direct_transposed_cols(&self, tokens: usize, cols: usize) -> usize {
        if tokens > self.ternary.direct_transposed_tokens {
            return 0;
        }
        // A block is computed whole, its missing columns too.
        let rest = cols % TERNARY_BLOCK_ROWS;
        if tokens > NARROW_DIRECT_TOKENS && rest <= NARROW { cols - rest } else { cols }
    }

    /// `y[t][o] = (f32)(sum_r w[r][first_col + o] * x[t][r]) * x_scale[t]`, straight from the packed matrix `[rows, cols]`, without
    /// panels: `y.cols()` columns from `first_col` (a multiple of 64) on.
    ///
    /// # Panics
    /// If a size does not fit.
    pub fn ternary_matmul_transposed(
        &self,
        packed: &[u8],
        rows: usize,
        cols: usize,
        first_col: usize,
        x: Activations<'_>,
        mut y: MatrixMut<'_, f32>,
    ) {
        let (tokens, outputs) = (y.rows(), y.cols());
        x.check(tokens, rows);
        assert_eq!(
            packed.len(),
            ternary_packed_len(rows, cols),
            "ternary_matmul_transposed: length of the packed matrix"
        );
        let fits = first_col.is_multiple_of(TERNARY_BLOCK_ROWS) && first_col <= cols && outputs <= cols - first_col;
        assert!(fits, "ternary_matmul_transposed: {outputs} columns from {first_col} on of {cols}");
        // SAFETY: weights, activations and columns were checked above; `y` is a window of its rows and columns.
        unsafe {
            (self.ternary.matmul_transposed)(
                packed.as_ptr(),
                rows,
                cols,
                first_col,
                outputs,
                x.values.as_ptr(),
                rows,
                tokens,
                x.scales.as_ptr(),
                x.sums.as_ptr(),
                y.as_mut_ptr(),
                y.stride(),
            );
        }
    }
}
