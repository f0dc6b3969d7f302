//! The nonlinearities: of one input, and gates of two.
#![forbid(unsafe_code)]

use crate::kernels::KernelTable;

/// A nonlinearity, element by element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Elementwise {
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: PyTorch's GELU with `approximate='tanh'`.
    Gelu,
    /// `x Phi(x)` with the normal distribution `Phi`: PyTorch's GELU.
    GeluExact,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    Relu2,
    /// `tanh(x)`.
    Tanh,
    /// `silu(x) * up` (Shazeer 2020, "GLU Variants Improve Transformer").
    SiluGate,
    /// `max(x, 0)^2 * up`.
    Relu2Gate,
}

impl Elementwise {
    pub(super) fn name(self) -> &'static str {
        match self {
            Elementwise::Gelu => "gelu",
            Elementwise::GeluExact => "gelu_exact",
            Elementwise::Relu => "relu",
            Elementwise::Relu2 => "relu2",
            Elementwise::Tanh => "tanh",
            Elementwise::SiluGate => "silu_gate",
            Elementwise::Relu2Gate => "relu2_gate",
        }
    }

    /// Whether there is a second input, `up`.
    pub(super) fn is_gate(self) -> bool {
        matches!(self, Elementwise::SiluGate | Elementwise::Relu2Gate)
    }

    /// `y = f(x)`, or of a gate `f(x, up)`; `up` is empty where there is none.
    #[inline(never)]
    pub(super) fn values(self, kernels: &KernelTable, x: &[f32], up: &[f32], y: &mut [f32]) {
        match self {
            Elementwise::Gelu => kernels.gelu(x, y),
            Elementwise::GeluExact => kernels.gelu_exact(x, y),
            Elementwise::Relu => y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x < 0.0 { 0.0 } else { *x }),
            Elementwise::Relu2 => kernels.relu2(x, y),
            Elementwise::Tanh => kernels.tanh_values(x, y),
            Elementwise::SiluGate => kernels.silu_gate(x, up, y),
            Elementwise::Relu2Gate => kernels.relu2_gate(x, up, y),
        }
    }

    /// The gradients of `x` and `up` from that of `y`. Tanh takes `y` for `x`: its slope is had from that.
    #[inline(never)]
    pub(super) fn gradients(
        self,
        kernels: &KernelTable,
        x: &[f32],
        up: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        dup: &mut [f32],
    ) {
        match self {
            Elementwise::Gelu => kernels.gelu_backward(x, dy, dx),
            Elementwise::GeluExact => kernels.gelu_exact_backward(x, dy, dx),
            Elementwise::Relu => each(x, dy, dx, |x, dy| if x > 0.0 { dy } else { 0.0 }),
            Elementwise::Relu2 => kernels.relu2_backward(x, dy, dx),
            Elementwise::Tanh => each(x, dy, dx, |y, dy| dy * (1.0 - y * y)),
            Elementwise::SiluGate => kernels.silu_gate_backward(x, up, dy, dx, dup),
            Elementwise::Relu2Gate => kernels.relu2_gate_backward(x, up, dy, dx, dup),
        }
    }
}

/// `dx = slope(saved, dy)`, element by element.
fn each(saved: &[f32], dy: &[f32], dx: &mut [f32], slope: impl Fn(f32, f32) -> f32) {
    dx.iter_mut().zip(saved.iter().zip(dy)).for_each(|(dx, (&saved, &dy))| *dx = slope(saved, dy));
}
