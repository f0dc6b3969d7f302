//! RMSNorm and LayerNorm, row by row (csrc/README.md, "row_norm").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

type RmsNorm = unsafe extern "C" fn(*const f32, *const f32, usize, usize, f32, *mut f32, *mut f32);
type RmsNormQuantize =
    unsafe extern "C" fn(*const f32, *const f32, usize, usize, f32, *mut i8, *mut f32, *mut i32, *mut f32);
type RmsNormBackward =
    unsafe extern "C" fn(*const f32, *const f32, *const f32, *const f32, usize, usize, *mut f32, *mut f32);
type LayerNorm = unsafe extern "C" fn(*const f32, *const f32, *const f32, usize, usize, f32, *mut f32, *mut f32);
type LayerNormBackward =
    unsafe extern "C" fn(*const f32, *const f32, *const f32, *const f32, usize, usize, *mut f32, *mut f32, *mut f32);

/// The row_norm family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowNormKernels {
    rms_norm: RmsNorm,
    rms_norm_quantize: RmsNormQuantize,
    rms_norm_backward: RmsNormBackward,
    layer_norm: LayerNorm,
    layer_norm_backward: LayerNormBackward,
}

impl RowNormKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = RowNormKernels {
            rms_norm: c::hqk_rms_norm_rows_portable,
            rms_norm_quantize: c::hqk_rms_norm_quantize_rows_portable,
            rms_norm_backward: c::hqk_rms_norm_backward_rows_portable,
            layer_norm: c::hqk_layer_norm_rows_portable,
            layer_norm_backward: c::hqk_layer_norm_backward_rows_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = RowNormKernels {
                rms_norm: c::hqk_rms_norm_rows_avx2,
                rms_norm_quantize: c::hqk_rms_norm_quantize_rows_avx2,
                rms_norm_backward: c::hqk_rms_norm_backward_rows_avx2,
                layer_norm: c::hqk_layer_norm_rows_avx2,
                layer_norm_backward: c::hqk_layer_norm_backward_rows_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = RowNormKernels {
                rms_norm: c::hqk_rms_norm_rows_avx512,
                rms_norm_quantize: c::hqk_rms_norm_quantize_rows_avx512,
                rms_norm_backward: c::hqk_rms_norm_backward_rows_avx512,
                layer_norm: c::hqk_layer_norm_rows_avx512,
                layer_norm_backward: c::hqk_layer_norm_backward_rows_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = RowNormKernels {
                rms_norm: c::hqk_rms_norm_rows_neon,
                rms_norm_quantize: c::hqk_rms_norm_quantize_rows_neon,
                rms_norm_backward: c::hqk_rms_norm_backward_rows_neon,
                layer_norm: c::hqk_layer_norm_rows_neon,
                layer_norm_backward: c::hqk_layer_norm_backward_rows_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// RMSNorm of each row (Zhang and Sennrich 2019): `y = x * inverse * gain` with `inverse = 1 / sqrt(mean(x^2) + eps)`,
    /// kept in `inverses`. A row has `gain.len()` elements.
    ///
    /// # Panics
    /// If lengths do not fit together.
    pub fn rms_norm_rows(&self, x: &[f32], gain: &[f32], eps: f32, y: &mut [f32], inverses: &mut [f32]) {
        let (rows, width) = (inverses.len(), gain.len());
        assert!(x.len() == rows * width && y.len() == x.len(), "rms_norm_rows: lengths differ");
        let (y, inverses) = (y.as_mut_ptr(), inverses.as_mut_ptr());
        // SAFETY: lengths were checked.
        unsafe { (self.row_norm.rms_norm)(x.as_ptr(), gain.as_ptr(), rows, width, eps, y, inverses) };
    }

    /// [`KernelTable::rms_norm_rows`] and int8 quantization of its output in one pass: `largest = max(max|y|, 1e-5)`,
    /// `values = clamp(rint(y * (127 / largest)), -128, 127)` (half to even), `scales = largest / 127`, `sums` of the
    /// values of each row. A row with NaN or infinity has values 0 and a NaN scale.
    ///
    /// # Panics
    /// If lengths do not fit together.
    #[allow(clippy::too_many_arguments)]
    pub fn rms_norm_quantize_rows(
        &self,
        x: &[f32],
        gain: &[f32],
        eps: f32,
        values: &mut [i8],
        scales: &mut [f32],
        sums: &mut [i32],
        inverses: &mut [f32],
    ) {
        let (rows, width) = (inverses.len(), gain.len());
        assert!(x.len() == rows * width && values.len() == x.len(), "rms_norm_quantize_rows: lengths differ");
        assert!(scales.len() == rows && sums.len() == rows, "rms_norm_quantize_rows: not one scale and sum a row");
        let (values, scales) = (values.as_mut_ptr(), scales.as_mut_ptr());
        let (sums, inverses) = (sums.as_mut_ptr(), inverses.as_mut_ptr());
        let kernel = self.row_norm.rms_norm_quantize;
        // SAFETY: lengths were checked.
        unsafe { kernel(x.as_ptr(), gain.as_ptr(), rows, width, eps, values, scales, sums, inverses) };
    }

    /// Gradients of RMSNorm: `dx` is written, the gain's is *added to* `gain_gradient`, row after row.
    ///
    /// # Panics
    /// If lengths do not fit together.
    pub fn rms_norm_backward_rows(
        &self,
        x: &[f32],
        gain: &[f32],
        inverses: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        gain_gradient: &mut [f32],
    ) {
        let (rows, width) = (inverses.len(), gain.len());
        assert!([x.len(), dy.len(), dx.len()] == [rows * width; 3], "rms_norm_backward_rows: lengths differ");
        assert_eq!(gain_gradient.len(), width, "rms_norm_backward_rows: gain gradient is not as wide as a row");
        let (x, gain, inverses, dy) = (x.as_ptr(), gain.as_ptr(), inverses.as_ptr(), dy.as_ptr());
        let (dx, gain_gradient) = (dx.as_mut_ptr(), gain_gradient.as_mut_ptr());
        // SAFETY: lengths were checked.
        unsafe { (self.row_norm.rms_norm_backward)(x, gain, inverses, dy, rows, width, dx, gain_gradient) };
    }

    /// LayerNorm of each row (Ba et al. 2016): `y = (x - mean) / sqrt(variance + eps) * gain + bias`, biased variance.
    /// `statistics` keeps (mean, 1 / sqrt(variance + eps)) of each row.
    ///
    /// # Panics
    /// If lengths do not fit together.
    pub fn layer_norm_rows(
        &self,
        x: &[f32],
        gain: &[f32],
        bias: &[f32],
        eps: f32,
        y: &mut [f32],
        statistics: &mut [f32],
    ) {
        let (rows, width) = (statistics.len() / 2, gain.len());
        assert!([x.len(), y.len()] == [rows * width; 2] && statistics.len() == 2 * rows, "layer_norm_rows: lengths");
        assert_eq!(bias.len(), width, "layer_norm_rows: bias is not as wide as the gain");
        let (x, gain, bias) = (x.as_ptr(), gain.as_ptr(), bias.as_ptr());
        let (y, statistics) = (y.as_mut_ptr(), statistics.as_mut_ptr());
        // SAFETY: lengths were checked.
        unsafe { (self.row_norm.layer_norm)(x, gain, bias, rows, width, eps, y, statistics) };
    }

    /// Gradients of LayerNorm: `dx` is written, those of gain and bias are *added to*, row after row.
    ///
    /// # Panics
    /// If lengths do not fit together.
    #[allow(clippy::too_many_arguments)]
    pub fn layer_norm_backward_rows(
        &self,
        x: &[f32],
        gain: &[f32],
        statistics: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        gain_gradient: &mut [f32],
        bias_gradient: &mut [f32],
    ) {
        let (rows, width) = (statistics.len() / 2, gain.len());
        assert!([x.len(), dy.len(), dx.len()] == [rows * width; 3], "layer_norm_backward_rows: lengths differ");
        assert_eq!(statistics.len(), 2 * rows, "layer_norm_backward_rows: statistics are not pairs");
        assert!([gain_gradient.len(), bias_gradient.len()] == [width; 2], "layer_norm_backward_rows: widths differ");
        let (x, gain, statistics, dy) = (x.as_ptr(), gain.as_ptr(), statistics.as_ptr(), dy.as_ptr());
        let (dx, dgain, dbias) = (dx.as_mut_ptr(), gain_gradient.as_mut_ptr(), bias_gradient.as_mut_ptr());
        // SAFETY: lengths were checked.
        unsafe { (self.row_norm.layer_norm_backward)(x, gain, statistics, dy, rows, width, dx, dgain, dbias) };
    }
}
