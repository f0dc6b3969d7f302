//! Plain arrays with mean squared error: a linear model, or a perceptron with ReLU between its layers.
#![forbid(unsafe_code)]

use crate::dispatch::Context;
use crate::kernels::DenseMatrix;
use crate::nn::{Init, ParamId, ParamKind, ParamSpec, ParamStore, Precision, StepRandomness};
use crate::{Error, Result};

use super::objective::{Evaluation, Features, Objective};

/// Rows of inputs with the outputs to predict.
#[derive(Clone, PartialEq, Debug)]
pub struct ArrayData {
    /// `[rows, input_width]`, row-major.
    pub inputs: Vec<f32>,
    /// `[rows, output_width]`, row-major.
    pub outputs: Vec<f32>,
    /// Number of rows.
    pub rows: usize,
}

/// `mean((f(x) - y)^2)` over all rows and outputs, `f` a chain of layers `x W^T + b` with ReLU between them. Quantized
/// matrices are used in the forward and backward products; their gradient goes to the latent weights (straight-through).
#[derive(Debug)]
pub struct ArrayObjective {
    training: ArrayData,
    held_out: Option<ArrayData>,
    widths: Vec<usize>,
    layers: Vec<(ParamId, ParamId)>,
    store: ParamStore,
    /// Of the last batch.
    example_losses: Vec<f64>,
}

impl ArrayObjective {
    /// A model with the layer `widths` (input first, output last; two of them make a linear model), its matrices in
    /// `precision`, drawn from `seed`. `held_out` is what an evaluation measures.
    ///
    /// Errors: fewer than two widths or one of zero, no rows, arrays that do not fit, values that are not finite.
    pub fn new(
        training: ArrayData,
        held_out: Option<ArrayData>,
        widths: &[usize],
        precision: Precision,
        seed: u64,
    ) -> Result<Self> {
        let (Some(&first), Some(&last)) = (widths.first(), widths.last()) else {
            return Err(Error::invalid("widths", "at least two layer widths", "none"));
        };
        if widths.len() < 2 || widths.contains(&0) {
            return Err(Error::invalid("widths", "at least two layer widths above 0", format!("{widths:?}")));
        }
        for data in [Some(&training), held_out.as_ref()].into_iter().flatten() {
            check("inputs", &data.inputs, data.rows, first)?;
            check("outputs", &data.outputs, data.rows, last)?;
        }
        let mut specs = Vec::new();
        for (layer, pair) in widths.windows(2).enumerate() {
            let std = (1.0 / pair[0] as f64).sqrt() as f32;
            let spec = |name: &str, shape: &[usize], kind, precision, init| ParamSpec {
                name: format!("layers.{layer}.{name}"),
                shape: shape.to_vec(),
                kind,
                precision,
                init,
            };
            specs.push(spec("weight", &[pair[1], pair[0]], ParamKind::Linear, precision, Init::Normal { std }));
            specs.push(spec("bias", &[pair[1]], ParamKind::Bias, Precision::F32, Init::Constant(0.0)));
        }
        let mut store = ParamStore::new(specs)?;
        store.initialize(seed);
        let ids: Vec<ParamId> = store.ids().collect();
        let layers = ids.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(ArrayObjective { training, held_out, widths: widths.to_vec(), layers, store, example_losses: Vec::new() })
    }

    /// Outputs `[rows, output_width]` for `inputs` `[rows, input_width]`.
    pub fn predict(&self, context: &Context, inputs: &[f32], rows: usize) -> Result<Vec<f32>> {
        check("inputs", inputs, rows, self.widths[0])?;
        let weights = self.effective_weights(context);
        Ok(self.forward(context, &weights, inputs.to_vec(), rows).pop().unwrap_or_default())
    }

    /// The matrices as the forward pass sees them.
    fn effective_weights(&self, context: &Context) -> Vec<Vec<f32>> {
        let of = |&(weight, _): &(ParamId, ParamId)| match self.store.quantized(weight) {
            None => self.store.weight(weight).to_vec(),
            Some(form) => {
                let mut values = vec![0.0; self.store.weight(weight).len()];
                form.dequantize(context, &mut values);
                values
            }
        };
        self.layers.iter().map(of).collect()
    }

    /// The input of every layer, then the output.
    fn forward(&self, context: &Context, weights: &[Vec<f32>], inputs: Vec<f32>, rows: usize) -> Vec<Vec<f32>> {
        let mut values = vec![inputs];
        for (layer, pair) in self.widths.windows(2).enumerate() {
            let (width, out) = (pair[0], pair[1]);
            let bias = self.store.weight(self.layers[layer].1);
            let mut y = vec![0.0; rows * out];
            y.chunks_exact_mut(out).for_each(|row| row.copy_from_slice(bias));
            let x = DenseMatrix::new(&values[layer], width);
            context.matmul((rows, out, width), x, DenseMatrix::transposed(&weights[layer], width), true, &mut y);
            if layer + 2 < self.widths.len() {
                y.iter_mut().for_each(|value| *value = value.max(0.0));
            }
            values.push(y);
        }
        values
    }
}

impl Objective for ArrayObjective {
    fn store(&self) -> &ParamStore {
        &self.store
    }

    fn store_mut(&mut self) -> &mut ParamStore {
        &mut self.store
    }

    fn examples(&self) -> usize {
        self.training.rows
    }

    fn loss_and_gradients(
        &mut self,
        context: &Context,
        indices: &[usize],
        randomness: StepRandomness,
        gradient_scale: f32,
    ) -> Result<f64> {
        self.weighted_loss_and_gradients(context, indices, &[], randomness, gradient_scale)
    }

    fn example_losses(&self) -> &[f64] {
        &self.example_losses
    }

    fn weighted_loss_and_gradients(
        &mut self,
        context: &Context,
        indices: &[usize],
        example_weights: &[f32],
        _randomness: StepRandomness,
        gradient_scale: f32,
    ) -> Result<f64> {
        let rows = indices.len();
        let (inputs, outputs) = gather(&self.training, indices);
        let weights = self.effective_weights(context);
        let mut values = self.forward(context, &weights, inputs, rows);
        let mut gradient = values.pop().expect("a model has an output");
        let mut loss = squared_error(&gradient, &outputs);
        let width = gradient.len() / rows.max(1);
        let examples = gradient.chunks_exact(width).zip(outputs.chunks_exact(width));
        self.example_losses = examples.map(|(predicted, expected)| squared_error(predicted, expected)).collect();
        let factor = 2.0 * gradient_scale / gradient.len() as f32;
        gradient.iter_mut().zip(&outputs).for_each(|(y, target)| *y = factor * (*y - target));
        if !example_weights.is_empty() {
            let weighted = self.example_losses.iter().zip(example_weights);
            loss = weighted.map(|(loss, &weight)| loss * f64::from(weight)).sum::<f64>() / rows as f64;
            for (row, weight) in gradient.chunks_exact_mut(width).zip(example_weights) {
                row.iter_mut().for_each(|value| *value *= weight);
            }
        }
        for layer in (0..self.layers.len()).rev() {
            let (width, out) = (self.widths[layer], self.widths[layer + 1]);
            let (weight, bias) = self.layers[layer];
            let of_bias = self.store.gradient_mut(bias);
            for row in gradient.chunks_exact(out) {
                of_bias.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            let (dy, x) = (DenseMatrix::transposed(&gradient, out), DenseMatrix::new(&values[layer], width));
            context.matmul((out, width, rows), dy, x, true, self.store.gradient_mut(weight));
            if layer > 0 {
                let mut dx = vec![0.0; rows * width];
                let dy = DenseMatrix::new(&gradient, out);
                context.matmul((rows, width, out), dy, DenseMatrix::new(&weights[layer], width), false, &mut dx);
                dx.iter_mut().zip(&values[layer]).filter(|(_, x)| **x <= 0.0).for_each(|(dx, _)| *dx = 0.0);
                gradient = dx;
            }
        }
        Ok(loss)
    }

    fn evaluate(&mut self, context: &Context) -> Result<Option<Evaluation>> {
        let Some(data) = &self.held_out else { return Ok(None) };
        let predicted = self.predict(context, &data.inputs, data.rows)?;
        Ok(Some(Evaluation { loss: squared_error(&predicted, &data.outputs), bits_per_byte: None }))
    }

    fn features(&self, _context: &Context) -> Result<Option<Features>> {
        Ok(Some(Features { values: self.training.inputs.clone(), dim: self.widths[0] }))
    }

    fn identity(&self) -> String {
        let digest = |data: &ArrayData| {
            let bytes = [bytemuck::cast_slice::<f32, u8>(&data.inputs), bytemuck::cast_slice(&data.outputs)].concat();
            super::checkpoint::sha256(&bytes)
        };
        let held_out = self.held_out.as_ref().map_or_else(|| "none".into(), digest);
        format!("perceptron {:?}, data {}, held out {held_out}", self.widths, digest(&self.training))
    }
}

fn gather(data: &ArrayData, indices: &[usize]) -> (Vec<f32>, Vec<f32>) {
    let rows = |values: &[f32]| -> Vec<f32> {
        let width = values.len() / data.rows;
        indices.iter().flat_map(|&row| values[row * width..(row + 1) * width].iter().copied()).collect()
    };
    (rows(&data.inputs), rows(&data.outputs))
}

fn squared_error(predicted: &[f32], expected: &[f32]) -> f64 {
    let sum: f64 = predicted.iter().zip(expected).map(|(p, e)| (f64::from(*p) - f64::from(*e)).powi(2)).sum();
    sum / predicted.len() as f64
}

fn check(name: &'static str, values: &[f32], rows: usize, width: usize) -> Result<()> {
    if rows == 0 || rows.checked_mul(width) != Some(values.len()) {
        return Err(Error::shape("array objective", name, format!("1 or more rows x {width}"), values.len()));
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Error::NonFinite { tensor: name.into(), index, value: values[index] }),
        None => Ok(()),
    }
}
