//! The iteration on int8 products: of each factor what is off the diagonal is rounded, one scale a row.
//!
//! A polynomial is applied as `X -> a X + R X`, `R = b A + c A^2`, with `a X` in f32. A direction of small singular values is
//! one of small values of `R` too, so what rounding adds to it is of second order; the large ones bear the rest. Diagonals
//! stay in f32, or many small elements beside a large one would be lost together.
//!
//! Integer sums are exact and every float operation has its place: the same bits on every machine.
#![forbid(unsafe_code)]

use std::slice;

use crate::kernels::{KernelTable, SymmetricFactor};
use crate::tensor::AlignedBuffer;

/// Rows of a tall matrix multiplied at a time.
const TALL_ROWS: usize = 96;

/// Polynomials whose Gram matrices follow one from the other, where there are no more; of a longer chain the first ones are so
/// steep that this would not hold, and each takes its Gram matrix from what it is applied to.
const MOST_CHAINED: usize = 2;

/// What the largest singular value may be of a chain's interval: beyond it a polynomial grows without bound. The margin is for
/// what [`Symmetric::largest_eigenvalue`] does not see among many values of one size.
const BELOW_INTERVAL: f64 = 0.97;

/// Steps of the power iteration that finds the largest singular value between chains. One far above the others, which alone can
/// be beyond the interval, shows in a few.
const POWER_STEPS: usize = 4;

/// Buffers of one thread.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    gram: Symmetric,
    step: Symmetric,
    factor: Symmetric,
    next: Symmetric,
    panels: Panels,
    /// The rounded input, and its scales: of rows, or of the columns of a tall one.
    codes: Vec<i8>,
    scales: Vec<f32>,
    /// Sums of rows of codes, which nobody needs.
    sums: Vec<i32>,
    ones: Vec<f32>,
    of_input: Vec<f32>,
    block: Vec<f32>,
}

/// A symmetric matrix in f32, and its rounded form.
#[derive(Debug, Default)]
struct Symmetric {
    /// `side x side`, zeros on the diagonal.
    off: Vec<f32>,
    diagonal: Vec<f32>,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl Symmetric {
    fn resize(&mut self, side: usize) {
        self.off.resize(side * side, 0.0);
        self.codes.resize(side * side, 0);
        self.diagonal.resize(side, 0.0);
        self.scales.resize(side, 0.0);
    }

    fn round(&mut self, kernels: &KernelTable, sums: &mut [i32]) {
        let side = self.scales.len();
        kernels.quantize_rows(&self.off, side, &mut self.codes, &mut self.scales, &mut sums[..side]);
    }

    fn rows(&self) -> Codes<'_> {
        Codes { data: &self.codes, stride: self.scales.len(), sums_in_rows: true }
    }

    /// An estimate of the largest eigenvalue, from below: [`POWER_STEPS`] from the row with the largest diagonal element on.
    fn largest_eigenvalue(&self, kernels: &KernelTable, [vector, next]: [&mut Vec<f32>; 2]) -> f64 {
        let side = self.diagonal.len();
        let first = (0..side).max_by(|&i, &j| self.diagonal[i].total_cmp(&self.diagonal[j])).unwrap_or(0);
        vector.clear();
        vector.resize(side, 0.0);
        vector[first] = 1.0;
        let mut length = 0.0;
        for _ in 0..POWER_STEPS {
            let rows = self.off.chunks(side).zip(&self.diagonal).zip(&**vector);
            next.clear();
            next.extend(rows.map(|((row, diagonal), of)| kernels.dot(row, vector) as f32 + diagonal * of));
            length = kernels.sum_squares(next).sqrt();
            std::mem::swap(vector, next);
            // A length of 0 ends as not a number, which is above no bound.
            kernels.scale(vector, (1.0 / length) as f32);
        }
        length
    }

    fn factor(&self, share: f64) -> SymmetricFactor<'_> {
        SymmetricFactor { off: &self.off, diagonal: &self.diagonal, share: share as f32 }
    }
}

/// A rounded factor whose elements of a sum lie side by side, or one `stride` after the other.
#[derive(Clone, Copy)]
struct Codes<'a> {
    data: &'a [i8],
    stride: usize,
    sums_in_rows: bool,
}

/// Packed factors of a product.
#[derive(Debug, Default)]
struct Panels {
    left: AlignedBuffer<u8>,
    right: AlignedBuffer<u8>,
}

impl Panels {
    /// A left factor of `rows` rows, sums over `inner`.
    fn pack_left(&mut self, kernels: &KernelTable, codes: Codes<'_>, rows: usize, inner: usize) {
        let shape = kernels.int8_panels();
        let bytes = rows.div_ceil(shape.a_width) * shape.bytes(shape.a_width, inner);
        if self.left.len() < bytes {
            self.left = AlignedBuffer::zeroed(bytes);
        }
        match codes.sums_in_rows {
            true => kernels.int8_pack_a_rows(codes.data, inner, codes.stride, rows, &mut self.left),
            false => kernels.int8_pack_a(codes.data, inner, codes.stride, rows, &mut self.left),
        }
    }

    /// A right factor of `cols` columns.
    fn pack_right(&mut self, kernels: &KernelTable, codes: Codes<'_>, cols: usize, inner: usize) {
        let shape = kernels.int8_panels();
        let bytes = cols.div_ceil(shape.b_width) * shape.bytes(shape.b_width, inner);
        if self.right.len() < bytes {
            self.right = AlignedBuffer::zeroed(bytes);
        }
        match codes.sums_in_rows {
            true => kernels.int8_pack_b_rows(codes.data, inner, codes.stride, cols, &mut self.right),
            false => kernels.int8_pack_b(codes.data, inner, codes.stride, cols, &mut self.right),
        }
    }

    /// `out (+)= scales * (left right)`, a scale a row.
    fn multiply(
        &self,
        kernels: &KernelTable,
        (cols, inner): (usize, usize),
        scales: &[f32],
        part: Part,
        out: &mut [f32],
    ) {
        let shape = kernels.int8_panels();
        let (a_bytes, b_bytes) = (shape.bytes(shape.a_width, inner), shape.bytes(shape.b_width, inner));
        for (first, right) in (0..cols).step_by(shape.b_width).zip(self.right.chunks(b_bytes)) {
            let width = shape.b_width.min(cols - first);
            let above = if part == Part::LowerHalf { first / shape.a_width } else { 0 };
            let rows = scales.chunks(shape.a_width).zip(self.left.chunks(a_bytes));
            for ((scales, left), out) in rows.zip(out.chunks_mut(shape.a_width * cols)).skip(above) {
                let accumulate = part == Part::AddedToAll;
                kernels.int8_product(left, right, inner, width, scales, accumulate, &mut out[first..], cols);
            }
        }
    }

    /// `out = of_product a b + of_a a + of_b b`, `a` and `b` being polynomials in one symmetric matrix, and rounded.
    fn multiply_symmetric(
        &mut self,
        kernels: &KernelTable,
        of_product: f64,
        (a, of_a): (&Symmetric, f64),
        (b, of_b): (&Symmetric, f64),
        out: &mut Symmetric,
    ) {
        let side = a.scales.len();
        self.pack_left(kernels, a.rows(), side, side);
        self.pack_right(kernels, b.rows(), side, side);
        self.multiply(kernels, (side, side), &a.scales, Part::LowerHalf, &mut out.off);
        let factors = Some([a.factor(of_a), b.factor(of_b)]);
        kernels.newton_schulz_finish(&b.scales, factors, of_product as f32, &mut out.off, &mut out.diagonal);
    }
}

/// What is computed of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    AddedToAll,
    /// Of a symmetric one: the tiles that reach below the diagonal.
    LowerHalf,
}

/// Bytes of a workspace.
pub(super) fn workspace_bytes(kernels: &KernelTable, rows: usize, cols: usize) -> usize {
    let (side, long) = (rows.min(cols), rows.max(cols));
    let shape = kernels.int8_panels();
    let of = |width: usize, cols: usize, inner: usize| cols.div_ceil(width) * shape.bytes(width, inner);
    let left = of(shape.a_width, side, long);
    let right = of(shape.b_width, side, long).max(if rows > cols { 0 } else { of(shape.b_width, cols, side) });
    let block = if rows > cols { size_of::<f32>() * TALL_ROWS * side } else { 0 };
    4 * side * (side + 3) * size_of::<f32>() + 4 * side * side + rows * cols + left + right + block
}

/// As [`super::NewtonSchulz::orthogonalize`] for `x` with elements of root mean square 1, whose largest singular value is scaled
/// to `below_bound` of its bound; what is to be 1 becomes `length`.
pub(super) fn apply(
    kernels: &KernelTable,
    workspace: &mut Workspace,
    coefficients: &[[f64; 3]],
    (below_bound, length): (f64, f64),
    shape: (usize, usize),
    x: &mut [f32],
) {
    let chained = if coefficients.len() > MOST_CHAINED { 1 } else { MOST_CHAINED };
    let last = coefficients.chunks(chained).len() - 1;
    // The end of each chain's interval: where the polynomials before take 1 to.
    let mut end = 1.0;
    for (index, chain) in coefficients.chunks(chained).enumerate() {
        let scaling = if index == 0 { Scaling::ByBound(below_bound) } else { Scaling::Below(end) };
        apply_chain(kernels, workspace, chain, scaling, if index == last { length } else { 1.0 }, shape, x);
        end = chain.iter().fold(end, |s, [a, b, c]| s * (a + s * s * (b + s * s * c)));
    }
}

/// How the input of a chain is brought into its interval.
#[derive(Clone, Copy)]
enum Scaling {
    /// The bound on the largest singular value becomes this.
    ByBound(f64),
    /// The largest singular value, which is about this or less, becomes at most [`BELOW_INTERVAL`] of it. Rounding of the chain
    /// before lifts it, in matrices with very uneven rows by several percent.
    Below(f64),
}

/// The polynomials of a chain; what is to be 1 becomes `length`.
fn apply_chain(
    kernels: &KernelTable,
    workspace: &mut Workspace,
    coefficients: &[[f64; 3]],
    scaling: Scaling,
    length: f64,
    (rows, cols): (usize, usize),
    x: &mut [f32],
) {
    let (side, long, is_tall) = (rows.min(cols), rows.max(cols), rows > cols);
    let Workspace { gram, step, factor, next, panels, codes, scales, sums, ones, of_input, block } = workspace;
    for matrix in [&mut *gram, &mut *step, &mut *factor, &mut *next] {
        matrix.resize(side);
    }
    codes.resize(rows * cols, 0);
    scales.resize(side, 0.0);
    sums.resize(side, 0);
    if is_tall {
        ones.resize(rows, 1.0);
        kernels.column_scales(x, cols, ones, scales);
        kernels.newton_schulz_round_columns(x, scales, codes);
    } else {
        kernels.quantize_rows(x, cols, codes, scales, sums);
    }
    // The Gram matrix of the shorter side.
    let input = Codes { data: codes, stride: cols, sums_in_rows: !is_tall };
    panels.pack_left(kernels, input, side, long);
    panels.pack_right(kernels, input, side, long);
    panels.multiply(kernels, (side, long), scales, Part::LowerHalf, &mut gram.off);
    kernels.newton_schulz_finish(scales, None, 1.0, &mut gram.off, &mut gram.diagonal);
    let mut input_scale = match scaling {
        Scaling::ByBound(_) => 1.0,
        Scaling::Below(end) => {
            let largest = gram.largest_eigenvalue(kernels, [of_input, block]).sqrt();
            BELOW_INTERVAL * if largest > end { end / largest } else { 1.0 }
        }
    };
    // All polynomials so far are `alpha I + factor`.
    let mut alpha = 1.0;
    for (index, &[a, b, c]) in coefficients.iter().enumerate() {
        gram.round(kernels, sums);
        let mut of_gram = if index == 0 { input_scale.powi(2) } else { 1.0 };
        if let (0, Scaling::ByBound(below_bound)) = (index, scaling) {
            // The scale of the input is first known from the square.
            panels.multiply_symmetric(kernels, 1.0, (gram, 0.0), (gram, 0.0), step);
            let squares = kernels.sum_squares(&step.off) + kernels.sum_squares(&step.diagonal);
            input_scale = below_bound / squares.sqrt().sqrt().sqrt();
            of_gram = input_scale.powi(2);
            let (b, c) = ((b * of_gram) as f32, (c * of_gram.powi(2)) as f32);
            for (squares, gram) in [(&mut step.off, &gram.off), (&mut step.diagonal, &gram.diagonal)] {
                squares.iter_mut().zip(gram).for_each(|(square, gram)| *square = b * gram + c * *square);
            }
        } else {
            panels.multiply_symmetric(kernels, c * of_gram.powi(2), (gram, b * of_gram), (gram, 0.0), step);
        }
        step.round(kernels, sums);
        let is_last = index + 1 == coefficients.len();
        if !is_last {
            // P A, then P A P.
            panels.multiply_symmetric(kernels, of_gram, (step, 0.0), (gram, of_gram * a), next);
            next.round(kernels, sums);
            panels.multiply_symmetric(kernels, 1.0, (step, 0.0), (next, a), gram);
        }
        if index == 0 {
            // Its rounded form goes with it.
            std::mem::swap(factor, step);
        } else {
            panels.multiply_symmetric(kernels, 1.0, (step, alpha), (factor, a), next);
            std::mem::swap(factor, next);
            if !is_last {
                factor.round(kernels, sums);
            }
        }
        alpha *= a;
    }
    // The input's codes stand for it but for its scales, which go to the factor.
    let found = factor.codes.chunks_mut(side).zip(&mut factor.scales).zip(&mut *sums);
    for (row, ((codes, own), sum)) in factor.off.chunks_mut(side).zip(found) {
        row.iter_mut().zip(&*scales).for_each(|(element, scale)| *element *= scale);
        // While it is in the nearest cache.
        kernels.quantize_rows(row, side, codes, slice::from_mut(own), slice::from_mut(sum));
    }
    let scale = length * input_scale;
    of_input.clear();
    of_input.extend(factor.diagonal.iter().map(|diagonal| (scale * (alpha + f64::from(*diagonal))) as f32));
    scales.copy_from_slice(&factor.scales);
    kernels.scale(scales, scale as f32);
    if is_tall {
        panels.pack_right(kernels, factor.rows(), side, side);
        block.resize(TALL_ROWS.min(rows) * side, 0.0);
        for (x, codes) in x.chunks_mut(TALL_ROWS * cols).zip(codes.chunks(TALL_ROWS * cols)) {
            let (rows, sums) = (x.len() / cols, &mut block[..x.len()]);
            panels.pack_left(kernels, Codes { data: codes, stride: cols, sums_in_rows: true }, rows, side);
            panels.multiply(kernels, (side, side), &ones[..rows], Part::All, sums);
            kernels.newton_schulz_add_rows(sums, scales, of_input, x);
        }
    } else {
        x.chunks_mut(cols).zip(&*of_input).for_each(|(row, of_input)| kernels.scale(row, *of_input));
        panels.pack_left(kernels, factor.rows(), side, side);
        panels.pack_right(kernels, Codes { data: codes, stride: cols, sums_in_rows: false }, cols, side);
        panels.multiply(kernels, (cols, side), scales, Part::AddedToAll, x);
    }
}
