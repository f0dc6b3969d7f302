//! Nonlinearities, element by element (csrc/README.md, "activation").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

type Values = unsafe extern "C" fn(*const f32, usize, *mut f32);
type Binary = unsafe extern "C" fn(*const f32, *const f32, usize, *mut f32);
type GateBackward = unsafe extern "C" fn(*const f32, *const f32, *const f32, usize, *mut f32, *mut f32);

/// The activation family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct ActivationKernels {
    exp_values: Values,
    log_values: Values,
    tanh_values: Values,
    sigmoid_values: Values,
    gelu: Values,
    gelu_backward: Binary,
    gelu_exact: Values,
    gelu_exact_backward: Binary,
    relu2: Values,
    relu2_backward: Binary,
    silu_gate: Binary,
    silu_gate_backward: GateBackward,
    relu2_gate: Binary,
    relu2_gate_backward: GateBackward,
}

impl ActivationKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = ActivationKernels {
            exp_values: c::hqk_exp_values_portable,
            log_values: c::hqk_log_values_portable,
            tanh_values: c::hqk_tanh_values_portable,
            sigmoid_values: c::hqk_sigmoid_values_portable,
            gelu: c::hqk_gelu_portable,
            gelu_backward: c::hqk_gelu_backward_portable,
            gelu_exact: c::hqk_gelu_exact_portable,
            gelu_exact_backward: c::hqk_gelu_exact_backward_portable,
            relu2: c::hqk_relu2_portable,
            relu2_backward: c::hqk_relu2_backward_portable,
            silu_gate: c::hqk_silu_gate_portable,
            silu_gate_backward: c::hqk_silu_gate_backward_portable,
            relu2_gate: c::hqk_relu2_gate_portable,
            relu2_gate_backward: c::hqk_relu2_gate_backward_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = ActivationKernels {
                exp_values: c::hqk_exp_values_avx2,
                log_values: c::hqk_log_values_avx2,
                tanh_values: c::hqk_tanh_values_avx2,
                sigmoid_values: c::hqk_sigmoid_values_avx2,
                gelu: c::hqk_gelu_avx2,
                gelu_backward: c::hqk_gelu_backward_avx2,
                gelu_exact: c::hqk_gelu_exact_avx2,
                gelu_exact_backward: c::hqk_gelu_exact_backward_avx2,
                relu2: c::hqk_relu2_avx2,
                relu2_backward: c::hqk_relu2_backward_avx2,
                silu_gate: c::hqk_silu_gate_avx2,
                silu_gate_backward: c::hqk_silu_gate_backward_avx2,
                relu2_gate: c::hqk_relu2_gate_avx2,
                relu2_gate_backward: c::hqk_relu2_gate_backward_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = ActivationKernels {
                exp_values: c::hqk_exp_values_avx512,
                log_values: c::hqk_log_values_avx512,
                tanh_values: c::hqk_tanh_values_avx512,
                sigmoid_values: c::hqk_sigmoid_values_avx512,
                gelu: c::hqk_gelu_avx512,
                gelu_backward: c::hqk_gelu_backward_avx512,
                gelu_exact: c::hqk_gelu_exact_avx512,
                gelu_exact_backward: c::hqk_gelu_exact_backward_avx512,
                relu2: c::hqk_relu2_avx512,
                relu2_backward: c::hqk_relu2_backward_avx512,
                silu_gate: c::hqk_silu_gate_avx512,
                silu_gate_backward: c::hqk_silu_gate_backward_avx512,
                relu2_gate: c::hqk_relu2_gate_avx512,
                relu2_gate_backward: c::hqk_relu2_gate_backward_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = ActivationKernels {
                exp_values: c::hqk_exp_values_neon,
                log_values: c::hqk_log_values_neon,
                tanh_values: c::hqk_tanh_values_neon,
                sigmoid_values: c::hqk_sigmoid_values_neon,
                gelu: c::hqk_gelu_neon,
                gelu_backward: c::hqk_gelu_backward_neon,
                gelu_exact: c::hqk_gelu_exact_neon,
                gelu_exact_backward: c::hqk_gelu_exact_backward_neon,
                relu2: c::hqk_relu2_neon,
                relu2_backward: c::hqk_relu2_backward_neon,
                silu_gate: c::hqk_silu_gate_neon,
                silu_gate_backward: c::hqk_silu_gate_backward_neon,
                relu2_gate: c::hqk_relu2_gate_neon,
                relu2_gate_backward: c::hqk_relu2_gate_backward_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

impl KernelTable {
    /// `y = exp(x)`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn exp_values(&self, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "exp_values: lengths differ");
        // SAFETY: both hold `x.len()` floats.
        unsafe { (self.activation.exp_values)(x.as_ptr(), x.len(), y.as_mut_ptr()) };
    }

    /// `y = ln(x)`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn log_values(&self, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "log_values: lengths differ");
        // SAFETY: both hold `x.len()` floats.
        unsafe { (self.activation.log_values)(x.as_ptr(), x.len(), y.as_mut_ptr()) };
    }

    /// `y = tanh(x)`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn tanh_values(&self, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "tanh_values: lengths differ");
        // SAFETY: both hold `x.len()` floats.
        unsafe { (self.activation.tanh_values)(x.as_ptr(), x.len(), y.as_mut_ptr()) };
    }

    /// `y = 1 / (1 + exp(-x))`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn sigmoid_values(&self, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "sigmoid_values: lengths differ");
        // SAFETY: both hold `x.len()` floats.
        unsafe { (self.activation.sigmoid_values)(x.as_ptr(), x.len(), y.as_mut_ptr()) };
    }

    /// `y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gelu(&self, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "gelu: lengths differ");
        // SAFETY: both hold `x.len()` floats.
        unsafe { (self.activation.gelu)(x.as_ptr(), x.len(), y.as_mut_ptr()) };
    }

    /// Gradient of [`KernelTable::gelu`]; `|x| < 1e18`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gelu_backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        assert!(x.len() == dy.len() && x.len() == dx.len(), "gelu_backward: lengths differ");
        // SAFETY: all hold `x.len()` floats.
        unsafe { (self.activation.gelu_backward)(x.as_ptr(), dy.as_ptr(), x.len(), dx.as_mut_ptr()) };
    }

    /// `y = x Phi(x)`, `Phi` the normal distribution: GELU without its tanh approximation.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gelu_exact(&self, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "gelu_exact: lengths differ");
        // SAFETY: both hold `x.len()` floats.
        unsafe { (self.activation.gelu_exact)(x.as_ptr(), x.len(), y.as_mut_ptr()) };
    }

    /// Gradient of [`KernelTable::gelu_exact`].
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gelu_exact_backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        assert!(x.len() == dy.len() && x.len() == dx.len(), "gelu_exact_backward: lengths differ");
        // SAFETY: all hold `x.len()` floats.
        unsafe { (self.activation.gelu_exact_backward)(x.as_ptr(), dy.as_ptr(), x.len(), dx.as_mut_ptr()) };
    }

    /// `y = max(x, 0)^2` (So et al. 2021).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn relu2(&self, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "relu2: lengths differ");
        // SAFETY: both hold `x.len()` floats.
        unsafe { (self.activation.relu2)(x.as_ptr(), x.len(), y.as_mut_ptr()) };
    }

    /// Gradient of [`KernelTable::relu2`].
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn relu2_backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        assert!(x.len() == dy.len() && x.len() == dx.len(), "relu2_backward: lengths differ");
        // SAFETY: all hold `x.len()` floats.
        unsafe { (self.activation.relu2_backward)(x.as_ptr(), dy.as_ptr(), x.len(), dx.as_mut_ptr()) };
    }

    /// `y = silu(gate) * up` with `silu(g) = g * sigmoid(g)` (Shazeer 2020, SwiGLU).
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn silu_gate(&self, gate: &[f32], up: &[f32], y: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == y.len(), "silu_gate: lengths differ");
        // SAFETY: all hold `gate.len()` floats.
        unsafe { (self.activation.silu_gate)(gate.as_ptr(), up.as_ptr(), gate.len(), y.as_mut_ptr()) };
    }

    /// Gradients of [`KernelTable::silu_gate`].
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn silu_gate_backward(&self, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let n = gate.len();
        let same = [up.len(), dy.len(), dgate.len(), dup.len()] == [n; 4];
        assert!(same, "silu_gate_backward: lengths differ");
        let (dgate, dup) = (dgate.as_mut_ptr(), dup.as_mut_ptr());
        // SAFETY: all hold `n` floats.
        unsafe { (self.activation.silu_gate_backward)(gate.as_ptr(), up.as_ptr(), dy.as_ptr(), n, dgate, dup) };
    }

    /// `y = max(gate, 0)^2 * up`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn relu2_gate(&self, gate: &[f32], up: &[f32], y: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == y.len(), "relu2_gate: lengths differ");
        // SAFETY: all hold `gate.len()` floats.
        unsafe { (self.activation.relu2_gate)(gate.as_ptr(), up.as_ptr(), gate.len(), y.as_mut_ptr()) };
    }

    /// Gradients of [`KernelTable::relu2_gate`].
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn relu2_gate_backward(&self, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let n = gate.len();
        let same = [up.len(), dy.len(), dgate.len(), dup.len()] == [n; 4];
        assert!(same, "relu2_gate_backward: lengths differ");
        let (dgate, dup) = (dgate.as_mut_ptr(), dup.as_mut_ptr());
        // SAFETY: all hold `n` floats.
        unsafe { (self.activation.relu2_gate_backward)(gate.as_ptr(), up.as_ptr(), dy.as_ptr(), n, dgate, dup) };
    }
}
