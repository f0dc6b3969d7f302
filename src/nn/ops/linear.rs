//! Linear layers `y = x * W^T + b`, in f32 or on int8 activations with quantized weights.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::dispatch::{Context, Gradient, Int8Matrix};
use crate::kernels::{DenseMatrix, StochasticRounding};
use crate::nn::{
    BufferId, BufferKind, KeptPrecision, Mode, Operation, ParamId, Pass, Plan, PlanBuilder, Precision, Products,
    Scratch, Workspace,
};
use crate::quant::{QuantizedRows, QuantizedWeight, StoredMut};
use crate::{Error, Result};

/// Random streams of the rounding of the output's gradient (see [`crate::tensor::RandomStream::new`]): for both products,
/// and for the input's gradient alone.
const GRADIENT_PURPOSE: u32 = 51;
const INPUT_GRADIENT_PURPOSE: u32 = 52;
/// Of the rounding of a sum of gradients that is kept in bf16.
const KEPT_GRADIENT_PURPOSE: u32 = 57;

/// Tokens of a parallel block of element-wise work.
const BLOCK_TOKENS: usize = 64;
/// Output features of a parallel block of the bias gradient.
const BLOCK_FEATURES: usize = 64;

/// Arithmetic of the backward products of a quantized linear layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GradPrecision {
    /// Dense f32 products on dequantized operands: the exact straight-through gradient.
    #[default]
    F32,
    /// The weight's gradient from the output's in bf16, which keeps its range: no outlier spoils it. The input's as with
    /// `int8`.
    Bf16,
    /// Integer products on stochastically rounded int8 gradients: unbiased, and faster.
    Int8,
}

/// `y = x * W^T + b`, `W` `[out, in]`. Gradients of a quantized layer are straight-through (Bengio et al. 2013): those of
/// the product of the dequantized operands, handed to the latent weights and to what the activations were rounded from.
#[derive(Debug)]
pub struct Linear {
    x: BufferId,
    weight: ParamId,
    bias: Option<ParamId>,
    gradients: GradPrecision,
    quantized: bool,
    /// Whether the integer kernels multiply the weight.
    packed: bool,
    y: BufferId,
}

impl PlanBuilder {
    /// A linear layer. Either `x` is a float buffer and `weight` `[out, in]` has [`Precision::F32`], or `x` is a
    /// quantized buffer and the weight has another precision; `gradients` matters only for the second.
    pub fn linear(
        &mut self,
        x: BufferId,
        weight: ParamId,
        bias: Option<ParamId>,
        gradients: GradPrecision,
    ) -> BufferId {
        let (input, spec) = (self.buffer_spec(x), self.parameter_spec(weight));
        let quantized = input.kind == BufferKind::Quantized;
        assert_eq!(spec.shape[1], input.width, "{}: input width", spec.name);
        assert_eq!(quantized, spec.precision != Precision::F32, "{}: kind of the input buffer", spec.name);
        let (width, packed) = (spec.shape[0], matches!(spec.precision, Precision::Ternary | Precision::Binary));
        let y = self.buffer_beside(x, BufferKind::Float, width);
        self.push(Linear { x, weight, bias, gradients, quantized, packed, y });
        y
    }
}

impl Operation for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }

    fn saved(&self) -> Vec<BufferId> {
        vec![self.x]
    }

    fn parameters(&self) -> Vec<ParamId> {
        [Some(self.weight), self.bias].into_iter().flatten().collect()
    }

    fn fewest_bits(&self, id: ParamId) -> KeptPrecision {
        if self.quantized && id == self.weight { KeptPrecision::Int8 } else { KeptPrecision::F32 }
    }

    fn scratch(&self, plan: &Plan, mode: Mode, rows: usize) -> Vec<Scratch> {
        let (outputs, inputs) = (plan.buffer(self.y).width, plan.buffer(self.x).width);
        // The gradient of this batch, where the sum of gradients is not f32.
        let of_sum = if plan.in_fewer_bits()[1] { outputs * inputs } else { 0 };
        let (forward, of_input) = ((rows, outputs, inputs), (rows, inputs, outputs));
        let of_weight = (outputs, inputs, rows);
        let dense = |floats: Vec<usize>, dense_products| Scratch { floats, dense_products, ..Scratch::default() };
        match (self.quantized, self.packed, mode == Mode::Train) {
            (true, true, false) => Vec::new(),
            (false, _, false) => vec![dense(Vec::new(), vec![forward])],
            (false, _, true) => vec![dense(Vec::new(), vec![forward, of_input, of_weight])],
            (true, true, true) if self.gradients == GradPrecision::Int8 => vec![Scratch {
                floats: vec![outputs, outputs, Context::gradient_scratch(outputs), of_sum],
                quantized: vec![(rows, outputs), (rows, outputs)],
                int8_products: vec![of_weight],
                ..Scratch::default()
            }],
            (true, true, true) if self.gradients == GradPrecision::Bf16 => vec![Scratch {
                floats: vec![of_sum],
                quantized: vec![(rows, outputs)],
                bf16_products: vec![of_weight],
                ..Scratch::default()
            }],
            (true, _, false) => vec![dense(vec![rows * inputs], vec![forward])],
            (true, ..) => vec![
                dense(vec![rows * inputs, of_sum], vec![forward, of_weight]),
                dense(vec![outputs * inputs], vec![of_input]),
            ],
        }
    }

    fn products(&self, plan: &Plan, rows: usize, _length: usize) -> [Products; 2] {
        let each = rows as f64 * plan.buffer(self.x).width as f64 * plan.buffer(self.y).width as f64;
        let (int8, f32) =
            (Products { int8: each, ..Products::default() }, Products { f32: each, ..Products::default() });
        match (self.packed && self.quantized, self.gradients) {
            (false, _) => [f32, Products { f32: 2.0 * each, ..f32 }],
            (true, GradPrecision::F32) => [int8, Products { f32: 2.0 * each, ..f32 }],
            (true, GradPrecision::Bf16) => [int8, Products { bf16: each, ..int8 }],
            (true, GradPrecision::Int8) => [int8, Products { int8: 2.0 * each, ..int8 }],
        }
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut y = pass.buffers.take_float(self.y);
        let shape @ (tokens, outputs, inputs) = self.shape(pass);
        let (context, out) = (pass.context, &mut y[..tokens * outputs]);
        if self.quantized {
            let (x, weight) = (pass.buffers.quantized(self.x), pass.store.quantized_or_error(self.weight)?);
            quantized_product(context, pass.workspace, weight, x, shape, out)?;
        } else {
            let (x, weight) = (pass.buffers.float(self.x), pass.store.weight(self.weight));
            context.matmul(shape, DenseMatrix::new(x, inputs), DenseMatrix::transposed(weight, inputs), false, out);
        }
        if let Some(bias) = self.bias {
            let bias = pass.store.weight(bias);
            context.for_each(out.chunks_mut(BLOCK_TOKENS * outputs), |block| {
                for y in block.chunks_exact_mut(outputs) {
                    y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
                }
            });
        }
        pass.buffers.put_float(self.y, y);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        if let Some(bias) = self.bias {
            let dy = pass.buffers.gradient(self.y);
            add_column_sums(pass.context, dy, pass.buffers.width(self.y), pass.store.gradient_mut(bias));
        }
        let mut dx = pass.buffers.take_gradient(self.x);
        if !self.quantized {
            let (dy, x) = (pass.buffers.gradient(self.y), pass.buffers.float(self.x));
            let shape = self.shape(pass);
            let (weight, dw, _) = pass.store.backward_view(self.weight);
            dense_gradients(pass.context, shape, dy, x, weight, dw, &mut dx);
        } else {
            self.quantized_backward(pass, &mut dx)?;
        }
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}

impl Linear {
    /// (rows, outputs, inputs).
    fn shape(&self, pass: &Pass<'_>) -> (usize, usize, usize) {
        (pass.buffers.rows(self.x), pass.buffers.width(self.y), pass.buffers.width(self.x))
    }

    fn quantized_backward(&self, pass: &mut Pass<'_>, dx: &mut [f32]) -> Result<()> {
        let is_packed = pass.store.quantized(self.weight).and_then(QuantizedWeight::packed).is_some();
        if !is_packed || self.gradients == GradPrecision::F32 {
            self.f32_weight_gradient(pass);
            return self.f32_input_gradient(pass, dx);
        }
        if self.gradients == GradPrecision::Int8 {
            return self.int8_backward(pass, dx);
        }
        self.bf16_weight_gradient(pass);
        if self.int8_input_gradient(pass, dx) { Ok(()) } else { self.f32_input_gradient(pass, dx) }
    }

    /// `dW[o][k] += sum over t of bf16(dY[t][o] * s[t]) * Xq[t][k]`, with the token scales `s` of the saved activations.
    fn bf16_weight_gradient(&self, pass: &mut Pass<'_>) {
        if pass.store.is_frozen(self.weight) {
            return; // nobody reads it
        }
        let (tokens, outputs, inputs) = self.shape(pass);
        let (dy, x) = (pass.buffers.gradient(self.y), pass.buffers.quantized(self.x));
        let rounding = self.rounding(pass, KEPT_GRADIENT_PURPOSE);
        let (_, dw, _) = pass.store.stored_for_backward(self.weight);
        let (factors, x) = (&x.scales[..tokens], &x.values[..tokens * inputs]);
        add_gradient(pass.context, pass.workspace, dw, 0, rounding, |dw, accumulate| {
            pass.context.bf16_matmul((outputs, inputs, tokens), dy, factors, x, accumulate, dw);
        });
    }

    /// `dW += dY^T * X` with the dequantized activations.
    fn f32_weight_gradient(&self, pass: &mut Pass<'_>) {
        if pass.store.is_frozen(self.weight) {
            return;
        }
        let (tokens, outputs, inputs) = self.shape(pass);
        let (dy, x) = (pass.buffers.gradient(self.y), pass.buffers.quantized(self.x));
        let mut dense = pass.workspace.take_float(tokens * inputs);
        dequantize_rows(pass.context, x, inputs, &mut dense[..tokens * inputs]);
        let (columns, rows) = (DenseMatrix::transposed(dy, outputs), DenseMatrix::new(&dense, inputs));
        let rounding = self.rounding(pass, KEPT_GRADIENT_PURPOSE);
        let (_, dw, _) = pass.store.stored_for_backward(self.weight);
        add_gradient(pass.context, pass.workspace, dw, 0, rounding, |dw, accumulate| {
            pass.context.matmul((outputs, inputs, tokens), columns, rows, accumulate, dw);
        });
        pass.workspace.put_float(dense);
    }

    /// `dX = dY * W` with the dequantized weight.
    fn f32_input_gradient(&self, pass: &mut Pass<'_>, dx: &mut [f32]) -> Result<()> {
        let (tokens, outputs, inputs) = self.shape(pass);
        let dy = pass.buffers.gradient(self.y);
        let weight = pass.store.quantized_or_error(self.weight)?;
        let mut values = pass.workspace.take_float(outputs * inputs);
        let weight = dense_weight(pass.context, weight, &mut values[..outputs * inputs])?;
        let (rows, weight) = (DenseMatrix::new(dy, outputs), DenseMatrix::new(weight, inputs));
        pass.context.matmul((tokens, inputs, outputs), rows, weight, false, &mut dx[..tokens * inputs]);
        pass.workspace.put_float(values);
        Ok(())
    }

    /// Both gradients on integers. `dW[o][k] += sum over t of dY[t][o] * s[t] * Xq[t][k]`: the token scales `s` of the saved
    /// activations are folded into dY, which is then rounded to int8 with a scale for each output feature. `dX = dY * W` on
    /// the packed weights, whose scales are folded into dY, which is rounded with a scale for each token. A product that the
    /// rounding would spoil is computed in f32.
    fn int8_backward(&self, pass: &mut Pass<'_>, dx: &mut [f32]) -> Result<()> {
        let (tokens, outputs, inputs) = self.shape(pass);
        let rounding = self.rounding(pass, GRADIENT_PURPOSE);
        let mut rows = pass.workspace.take_quantized(tokens, outputs);
        let mut columns = pass.workspace.take_quantized(tokens, outputs);
        let mut column_scales = pass.workspace.take_float(outputs);
        let mut column_factors = pass.workspace.take_float(outputs);
        let mut scratch = pass.workspace.take_float(Context::gradient_scratch(outputs));
        let (by_row, by_column) = (&mut rows.values[..tokens * outputs], &mut columns.values[..tokens * outputs]);
        let (row_scales, column_scales_used) = (&mut rows.scales[..tokens], &mut column_scales[..outputs]);

        let (context, dy) = (pass.context, pass.buffers.gradient(self.y));
        let x = pass.buffers.quantized(self.x);
        let packed = pass.store.quantized(self.weight).and_then(QuantizedWeight::packed);
        let packed = packed.expect("the caller has seen packed weights");
        match packed.scales[..] {
            [scale] => column_factors[..outputs].fill(scale),
            ref scales => column_factors[..outputs].copy_from_slice(scales),
        }
        let gradient = Gradient {
            values: dy,
            stride: outputs,
            first_column: 0,
            row_factors: &x.scales[..tokens],
            column_factors: &column_factors[..outputs],
        };
        let parts = &mut scratch[..Context::gradient_scratch(outputs)];
        context.gradient_scales(gradient, row_scales, column_scales_used, parts);
        let (mut of_weight, mut of_input) = (true, true);
        if pass.gradient_errors.limit.is_finite() {
            let error = columns_error(dy, gradient.row_factors, column_scales_used, &mut scratch[..outputs]);
            of_weight = pass.gradient_errors.allow(error, self.weight);
            let error = rows_error(dy, outputs, gradient.column_factors, row_scales);
            of_input = pass.gradient_errors.allow(error, self.weight);
        }
        let sums = &mut rows.sums[..tokens];
        context.quantize_gradient(gradient, row_scales, column_scales_used, rounding, by_row, by_column, sums);

        if of_input {
            packed.matmul_transposed(context, &rows, tokens, &mut dx[..tokens * inputs]);
        }
        if of_weight && !pass.store.is_frozen(self.weight) {
            let a = Int8Matrix::transposed(by_column, outputs);
            let b = Int8Matrix::new(&x.values[..tokens * inputs], inputs);
            let rounding = self.rounding(pass, KEPT_GRADIENT_PURPOSE);
            let (_, dw, _) = pass.store.stored_for_backward(self.weight);
            add_gradient(context, pass.workspace, dw, 0, rounding, |dw, accumulate| {
                context.int8_matmul((outputs, inputs, tokens), a, b, column_scales_used, accumulate, dw, inputs);
            });
        }
        for kept in [column_scales, column_factors, scratch] {
            pass.workspace.put_float(kept);
        }
        pass.workspace.put_quantized(rows);
        pass.workspace.put_quantized(columns);
        if !of_weight {
            self.f32_weight_gradient(pass);
        }
        if of_input { Ok(()) } else { self.f32_input_gradient(pass, dx) }
    }

    /// `dX = dY * W` on the packed weights: the weight scales are folded into dY, which is rounded to int8 by token.
    /// False: that is too far off, nothing was done.
    fn int8_input_gradient(&self, pass: &mut Pass<'_>, dx: &mut [f32]) -> bool {
        let (tokens, outputs, inputs) = self.shape(pass);
        let mut rounded = pass.workspace.take_quantized(tokens, outputs);
        let dy = pass.buffers.gradient(self.y);
        let rounding = self.rounding(pass, INPUT_GRADIENT_PURPOSE);
        let weight = pass.store.quantized(self.weight).and_then(QuantizedWeight::packed);
        let packed = weight.expect("the caller has seen packed weights");
        let mut error = 0.0;
        let watched = pass.gradient_errors.limit.is_finite();
        if let [scale] = packed.scales[..] {
            rounded.quantize_stochastic(pass.context, dy, tokens, outputs, rounding);
            if watched {
                error = rows_error(dy, outputs, &[1.0], &rounded.scales[..tokens]);
            }
            rounded.scales[..tokens].iter_mut().for_each(|token| *token *= scale);
        } else {
            let mut scaled = pass.workspace.take_float(tokens * outputs);
            let rows = scaled[..dy.len()].chunks_mut(outputs).zip(dy.chunks(outputs));
            pass.context.for_each(rows, |(scaled, dy)| {
                let products = dy.iter().zip(&packed.scales).map(|(dy, scale)| dy * scale);
                scaled.iter_mut().zip(products).for_each(|(scaled, product)| *scaled = product);
            });
            rounded.quantize_stochastic(pass.context, &scaled[..dy.len()], tokens, outputs, rounding);
            if watched {
                error = rows_error(&scaled[..dy.len()], outputs, &[1.0], &rounded.scales[..tokens]);
            }
            pass.workspace.put_float(scaled);
        }
        let allowed = pass.gradient_errors.allow(error, self.weight);
        if allowed {
            packed.matmul_transposed(pass.context, &rounded, tokens, &mut dx[..tokens * inputs]);
        }
        pass.workspace.put_quantized(rounded);
        allowed
    }

    fn rounding(&self, pass: &Pass<'_>, purpose: u32) -> StochasticRounding {
        StochasticRounding::new(pass.randomness.seed, purpose, pass.randomness.step, pass.operation)
    }
}

/// Adds to a gradient what `write` computes: the slice it gets is to be added to if the flag says so, else overwritten. One
/// kept in bf16 is rounded by `rounding`, where it begins at element `first`.
pub(super) fn add_gradient(
    context: &Context,
    workspace: &mut Workspace,
    gradient: StoredMut<'_>,
    first: usize,
    rounding: StochasticRounding,
    write: impl FnOnce(&mut [f32], bool),
) {
    match gradient {
        StoredMut::F32(gradient) => write(gradient, true),
        StoredMut::Bf16(ref bits) => {
            let len = bits.len();
            let mut part = workspace.take_float(len);
            write(&mut part[..len], false);
            gradient.add(context, first, rounding, &part[..len]);
            workspace.put_float(part);
        }
        StoredMut::Int8(..) | StoredMut::Steps(..) => unreachable!("gradients in f32 or bf16"),
    }
}

/// Mean square of what stochastic rounding adds, in squares of the scale: `f (1 - f)` over all fractions `f`.
const ROUNDING_VARIANCE: f32 = 1.0 / 6.0;
/// Rows that the size of a gradient is taken from.
const SAMPLED_ROWS: usize = 32;

/// Relative error of a gradient rounded by columns: the root of the mean over the columns of `scale^2 / 6` over the square of
/// the column's mean magnitude, at most 1. An outlier makes its column's scale too large for all others of the column (and
/// would hide in a mean of squares). `sums`: scratch.
fn columns_error(dy: &[f32], factors: &[f32], scales: &[f32], sums: &mut [f32]) -> f32 {
    sums.fill(0.0);
    let stride = factors.len().div_ceil(SAMPLED_ROWS).max(1);
    let rows = dy.chunks_exact(scales.len().max(1)).zip(factors).step_by(stride);
    let count = rows.len() as f32;
    for (row, factor) in rows {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += (value * factor).abs());
    }
    let columns = scales.iter().zip(sums).filter(|(scale, _)| **scale > 0.0);
    mean_error(columns.map(|(&scale, &mut sum)| (scale, sum / count)))
}

/// The same of a gradient times `factors` (one, or one a column) rounded by rows, on a sample of them.
fn rows_error(dy: &[f32], width: usize, factors: &[f32], scales: &[f32]) -> f32 {
    let stride = scales.len().div_ceil(SAMPLED_ROWS).max(1);
    let rows = dy.chunks_exact(width.max(1)).zip(scales).step_by(stride).filter(|(_, scale)| **scale > 0.0);
    mean_error(rows.map(|(row, &scale)| {
        let magnitudes = row.iter().zip(factors.iter().cycle()).map(|(dy, factor)| f64::from((dy * factor).abs()));
        (scale, (magnitudes.sum::<f64>() / width as f64) as f32)
    }))
}

/// From scales and mean magnitudes.
fn mean_error(parts: impl Iterator<Item = (f32, f32)>) -> f32 {
    let errors = parts.map(|(scale, mean)| (ROUNDING_VARIANCE * (scale / mean) * (scale / mean)).min(1.0));
    let (sum, count) = errors.fold((0.0, 0), |(sum, count), error| (sum + error, count + 1));
    (sum / count.max(1) as f32).sqrt()
}

/// `y = x * W^T` on int8 rows: integers where `W` is packed. `shape`: (rows, outputs, inputs).
pub(super) fn quantized_product(
    context: &Context,
    workspace: &mut Workspace,
    weight: &QuantizedWeight,
    x: &QuantizedRows,
    shape: (usize, usize, usize),
    y: &mut [f32],
) -> Result<()> {
    let (rows, _, inputs) = shape;
    match weight {
        QuantizedWeight::Packed(packed) => packed.matmul(context, x, rows, y),
        QuantizedWeight::FiveTrits(packed) => packed.matmul(context, x, rows, y),
        QuantizedWeight::Q8(_) => return Err(Error::Unsupported("a linear layer in Q8_0".into())),
        QuantizedWeight::Dequantized { values, .. } => {
            let mut dense = workspace.take_float(rows * inputs);
            dequantize_rows(context, x, inputs, &mut dense[..rows * inputs]);
            let (x, weight) = (DenseMatrix::new(&dense, inputs), DenseMatrix::transposed(values, inputs));
            context.matmul(shape, x, weight, false, y);
            workspace.put_float(dense);
        }
    }
    Ok(())
}

/// The values of a quantized weight that is trained, in `scratch` if they are not at hand.
pub(super) fn dense_weight<'a>(
    context: &Context,
    weight: &'a QuantizedWeight,
    scratch: &'a mut [f32],
) -> Result<&'a [f32]> {
    match weight {
        QuantizedWeight::Packed(packed) => {
            packed.dequantize(context, scratch);
            Ok(scratch)
        }
        QuantizedWeight::Dequantized { values, .. } => Ok(values),
        QuantizedWeight::FiveTrits(_) | QuantizedWeight::Q8(_) => {
            Err(Error::Unsupported("training of a packed model".into()))
        }
    }
}

/// `dx = dy * W` and `dW += dy^T * x`.
fn dense_gradients(
    context: &Context,
    (tokens, outputs, inputs): (usize, usize, usize),
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    dw: &mut [f32],
    dx: &mut [f32],
) {
    let (dy_rows, dy_columns) = (DenseMatrix::new(dy, outputs), DenseMatrix::transposed(dy, outputs));
    let dx = &mut dx[..tokens * inputs];
    context.matmul((tokens, inputs, outputs), dy_rows, DenseMatrix::new(weight, inputs), false, dx);
    context.matmul((outputs, inputs, tokens), dy_columns, DenseMatrix::new(x, inputs), true, dw);
}

/// `x[t][c] = scales[t] * values[t][c]`.
pub(super) fn dequantize_rows(context: &Context, rows: &QuantizedRows, width: usize, x: &mut [f32]) {
    context.for_each(x.chunks_mut(BLOCK_TOKENS * width).enumerate(), |(block, x)| {
        for (row, x) in x.chunks_exact_mut(width).enumerate() {
            let token = block * BLOCK_TOKENS + row;
            let (values, scale) = (&rows.values[token * width..][..width], rows.scales[token]);
            x.iter_mut().zip(values).for_each(|(x, &value)| *x = scale * f32::from(value));
        }
    });
}

/// `sums[c] += sum over t of dy[t][c]`, in f64 over tokens in order.
pub(super) fn add_column_sums(context: &Context, dy: &[f32], width: usize, sums: &mut [f32]) {
    context.for_each(sums.chunks_mut(BLOCK_FEATURES).enumerate(), |(block, sums)| {
        let mut totals = [0f64; BLOCK_FEATURES];
        for dy in dy.chunks_exact(width) {
            let dy = &dy[block * BLOCK_FEATURES..];
            totals.iter_mut().zip(dy).take(sums.len()).for_each(|(total, &dy)| *total += f64::from(dy));
        }
        sums.iter_mut().zip(totals).for_each(|(sum, total)| *sum += total as f32);
    });
}
