//! Attention of one head (csrc/README.md, "attention").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

type Shape = c::hqk_attention_shape;
type Forward = unsafe extern "C" fn(*const Shape, *const f32, *const f32, *const f32, *mut f32, *mut f32);
type Backward = unsafe extern "C" fn(
    *const Shape,
    *const f32,
    *const f32,
    *const f32,
    *const f32,
    *mut f32,
    *mut f32,
    *mut f32,
    *mut f32,
);

/// The attention family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionKernels {
    forward: Forward,
    backward: Backward,
}

impl AttentionKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = AttentionKernels {
            forward: c::hqk_attention_forward_portable,
            backward: c::hqk_attention_backward_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels =
                AttentionKernels { forward: c::hqk_attention_forward_avx2, backward: c::hqk_attention_backward_avx2 };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = AttentionKernels {
                forward: c::hqk_attention_forward_avx512,
                backward: c::hqk_attention_backward_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels =
                AttentionKernels { forward: c::hqk_attention_forward_neon, backward: c::hqk_attention_backward_neon };
        }
        let _ = isa;
        kernels
    }
}

/// Rows of one head in a wider matrix: row `r` is `rows[r * stride..][..head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct HeadRows<'a> {
    /// Elements, from the head's first one on.
    pub rows: &'a [f32],
    /// Elements from one row to the next.
    pub stride: usize,
}

impl<'a> HeadRows<'a> {
    /// From row `row` on.
    pub fn from(self, row: usize) -> Self {
        HeadRows { rows: &self.rows[row * self.stride..], ..self }
    }
}

/// Dropout of a head's probabilities, drawn where it is needed: the one of key `j` for query `i` is zeroed iff word `j % 4`
/// of the Philox block with this key and the counter (`j / 4`, `row + i`, tensor, step) is below the threshold.
#[derive(Clone, Copy, Debug)]
pub struct ProbabilityDropout {
    /// Draws below it drop; above 0.
    pub threshold: u32,
    /// Factor of what stays.
    pub factor: f32,
    /// Key of the generator.
    pub key: [u32; 2],
    /// Tensor that is drawn for.
    pub tensor: u32,
    /// Training step.
    pub step: u32,
    /// Row of the first query.
    pub row: u32,
}

/// What one call of the attention kernels works on.
#[derive(Clone, Copy, Debug)]
pub struct HeadShape {
    /// Query rows.
    pub queries: usize,
    /// Key and value rows.
    pub keys: usize,
    /// Elements of a row.
    pub head_dim: usize,
    /// Position of the first query; key `j` is at position `j`.
    pub first: usize,
    /// Whether a query sees no key behind its own position.
    pub causal: bool,
    /// Positions a query sees, itself included, where `causal`; `None`: all before it.
    pub window: Option<usize>,
    /// Factor on the scores, `1 / sqrt(head_dim)` as a rule; above 0.
    pub scale: f32,
    /// What is dropped in training.
    pub dropout: Option<ProbabilityDropout>,
}

impl HeadShape {
    /// Floats of scratch memory that [`KernelTable::attention_forward`] needs.
    pub fn scratch_len(&self) -> usize {
        (self.head_dim + c::HQK_ATTENTION_QUERIES as usize) * self.keys.next_multiple_of(16)
    }

    /// Floats of scratch memory that [`KernelTable::attention_backward`] needs.
    pub fn backward_scratch_len(&self) -> usize {
        2 * self.scratch_len()
    }

    /// Checks that `len` elements hold `rows` rows, `stride` apart.
    fn check(&self, what: &str, len: usize, stride: usize, rows: usize) {
        assert!(self.head_dim <= stride || rows <= 1, "attention: stride of {what} smaller than a row");
        let needed = if rows == 0 { 0 } else { (rows - 1) * stride + self.head_dim };
        assert!(len >= needed, "attention: {what} of {len} elements, {needed} needed");
    }

    fn checked(&self, [q, k, v]: [HeadRows<'_>; 3], y: (usize, usize)) -> Shape {
        assert!(self.scale > 0.0, "attention: scale {} is not positive", self.scale);
        self.check("queries", q.rows.len(), q.stride, self.queries);
        self.check("keys", k.rows.len(), k.stride, self.keys);
        self.check("values", v.rows.len(), v.stride, self.keys);
        self.check("outputs", y.0, y.1, self.queries);
        let none = ProbabilityDropout { threshold: 0, factor: 1.0, key: [0; 2], tensor: 0, step: 0, row: 0 };
        let drop = self.dropout.unwrap_or(none);
        Shape {
            queries: self.queries,
            keys: self.keys,
            head_dim: self.head_dim,
            first: self.first,
            window: self.window.unwrap_or(usize::MAX),
            causal: self.causal.into(),
            scale: self.scale,
            q_stride: q.stride,
            k_stride: k.stride,
            v_stride: v.stride,
            y_stride: y.1,
            drop_below: drop.threshold,
            keep_factor: drop.factor,
            drop_key: drop.key,
            drop_tensor: drop.tensor,
            drop_step: drop.step,
            drop_row: drop.row,
        }
    }
}

impl KernelTable {
    /// `softmax(scale * q * k^T) * v` over the keys each query sees, into rows of `y` that are `y_stride` apart.
    ///
    /// # Panics
    /// If an operand or `scratch` ([`HeadShape::scratch_len`]) is too short for `shape`, or the scale is not positive.
    pub fn attention_forward(
        &self,
        shape: &HeadShape,
        [q, k, v]: [HeadRows<'_>; 3],
        scratch: &mut [f32],
        y: &mut [f32],
        y_stride: usize,
    ) {
        let c_shape = shape.checked([q, k, v], (y.len(), y_stride));
        assert!(scratch.len() >= shape.scratch_len(), "attention: scratch too short");
        let (q, k, v) = (q.rows.as_ptr(), k.rows.as_ptr(), v.rows.as_ptr());
        // SAFETY: every operand holds the rows of the shape at its stride, scratch what the contract asks for.
        unsafe { (self.attention.forward)(&c_shape, q, k, v, scratch.as_mut_ptr(), y.as_mut_ptr()) };
    }

    /// Gradients of [`KernelTable::attention_forward`] from the gradient `dy` of its result: `dq` is written, `dk` and `dv`
    /// are added to. These three are dense, rows of `head_dim`.
    ///
    /// # Panics
    /// If an operand or `scratch` ([`HeadShape::backward_scratch_len`]) is too short for `shape`, or the scale is not
    /// positive.
    pub fn attention_backward(
        &self,
        shape: &HeadShape,
        [q, k, v]: [HeadRows<'_>; 3],
        dy: HeadRows<'_>,
        scratch: &mut [f32],
        [dq, dk, dv]: [&mut [f32]; 3],
    ) {
        let c_shape = shape.checked([q, k, v], (dy.rows.len(), dy.stride));
        assert!(scratch.len() >= shape.backward_scratch_len(), "attention: scratch too short");
        assert_eq!(dq.len(), shape.queries * shape.head_dim, "attention: dq is not queries x head_dim");
        assert_eq!(dk.len(), shape.keys * shape.head_dim, "attention: dk is not keys x head_dim");
        assert_eq!(dv.len(), shape.keys * shape.head_dim, "attention: dv is not keys x head_dim");
        let (q, k, v) = (q.rows.as_ptr(), k.rows.as_ptr(), v.rows.as_ptr());
        let (dq, dk, dv) = (dq.as_mut_ptr(), dk.as_mut_ptr(), dv.as_mut_ptr());
        // SAFETY: every operand holds the rows of the shape at its stride, scratch what the contract asks for.
        unsafe { (self.attention.backward)(&c_shape, q, k, v, dy.rows.as_ptr(), scratch.as_mut_ptr(), dq, dk, dv) };
    }
}
