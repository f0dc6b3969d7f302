//! A nonlinearity, the norm after it and the rounding to int8 in one: what lies between two quantized linear layers of a
//! feed-forward network. Between the steps a row stays in the first-level cache.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use super::elementwise::Elementwise;
use super::row_blocks::{ROWS, add_blocks, chunks_or_empty, sums_of_blocks};
use crate::Result;
use crate::nn::{BufferId, BufferKind, Mode, Operation, ParamId, Pass, Plan, PlanBuilder, Scratch};

/// `y = q(f(x))`, or with a norm `y = q(rms_norm(f(x)))`: [`super::Activation`], [`super::RmsNorm`] and
/// [`super::QuantizeRows`] to the bit.
#[derive(Debug)]
pub struct ActivationQuantize {
    function: Elementwise,
    x: BufferId,
    /// A gate's second input.
    up: Option<BufferId>,
    /// A norm's gain and epsilon.
    norm: Option<(ParamId, f32)>,
    y: BufferId,
    /// Of a norm: `1 / sqrt(mean(f(x)^2) + eps)` of each row.
    inverses: BufferId,
}

thread_local! {
    /// A row of values and one of gradients.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

fn with_two_rows<R>(width: usize, work: impl FnOnce(&mut [f32], &mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|rows| {
        if rows.len() < 2 * width {
            rows.resize(2 * width, 0.0);
        }
        let (values, gradients) = rows[..2 * width].split_at_mut(width);
        work(values, gradients)
    })
}

impl PlanBuilder {
    /// A nonlinearity of a float buffer (`up`: a gate's second input), its RMSNorm with this gain and epsilon, if any, and
    /// int8 rows of that. The gradient goes straight through the rounding (Bengio et al. 2013).
    ///
    /// # Panics
    /// As [`PlanBuilder::activation`], if the gain is not as wide as a row, or for tanh, whose slope needs its value.
    pub fn activation_quantize(
        &mut self,
        function: Elementwise,
        x: BufferId,
        up: Option<BufferId>,
        norm: Option<(ParamId, f32)>,
    ) -> BufferId {
        self.check_gate(function, x, up);
        assert!(function != Elementwise::Tanh, "activation_quantize: tanh");
        let width = self.buffer_spec(x).width;
        let gain = norm.map_or(width, |(gain, _)| self.parameter_spec(gain).len());
        assert_eq!(gain, width, "activation_quantize: gain is not as wide as a row");
        let y = self.buffer_beside(x, BufferKind::Quantized, width);
        let inverses = self.buffer_beside(x, BufferKind::Float, 1);
        self.push(ActivationQuantize { function, x, up, norm, y, inverses });
        y
    }
}

impl Operation for ActivationQuantize {
    fn name(&self) -> &'static str {
        "activation_quantize"
    }

    fn inputs(&self) -> Vec<BufferId> {
        [Some(self.x), self.up].into_iter().flatten().collect()
    }

    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y, self.inverses]
    }

    fn saved(&self) -> Vec<BufferId> {
        [Some(self.x), self.up, Some(self.inverses)].into_iter().flatten().collect()
    }

    fn parameters(&self) -> Vec<ParamId> {
        self.norm.iter().map(|(gain, _)| *gain).collect()
    }

    /// As the norm alone; without one the int8 rows are kept, as those of [`super::QuantizeRows`].
    fn is_cheap(&self) -> bool {
        self.norm.is_some()
    }

    fn scratch(&self, plan: &Plan, mode: Mode, rows: usize) -> Vec<Scratch> {
        self.norm.map_or_else(Vec::new, |_| sums_of_blocks(mode, rows, [plan.buffer(self.x).width]))
    }

    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let (kernels, function) = (pass.context.kernels(), self.function);
        let (tokens, width) = (pass.buffers.rows(self.x), pass.buffers.width(self.x));
        let mut y = pass.buffers.take_quantized(self.y);
        let mut inverses = pass.buffers.take_float(self.inverses);
        let norm = self.norm.map(|(gain, eps)| (pass.store.weight(gain), eps));
        let x = pass.buffers.float(self.x);
        let up = self.up.map_or(&[][..], |up| pass.buffers.float(up));
        let of_rows = y.scales[..tokens].chunks_mut(ROWS).zip(y.sums[..tokens].chunks_mut(ROWS));
        let of_rows = of_rows.zip(inverses[..tokens].chunks_mut(ROWS));
        let blocks = y.values[..x.len()].chunks_mut(ROWS * width).zip(of_rows).enumerate();
        pass.context.for_each(blocks, |(block, (values, ((scales, sums), inverses)))| {
            let of_rows = scales.chunks_mut(1).zip(sums.chunks_mut(1)).zip(inverses.chunks_mut(1));
            let rows = values.chunks_mut(width).zip(of_rows).enumerate();
            with_two_rows(width, |activated, _| {
                for (row, (values, ((scale, sum), inverse))) in rows {
                    let row = block * ROWS + row;
                    function.values(kernels, row_of(x, row, width), row_of(up, row, width), activated);
                    match norm {
                        None => kernels.quantize_rows(activated, width, values, scale, sum),
                        Some((gain, eps)) => {
                            kernels.rms_norm_quantize_rows(activated, gain, eps, values, scale, sum, inverse);
                        }
                    }
                }
            });
        });
        pass.buffers.put_quantized(self.y, y);
        pass.buffers.put_float(self.inverses, inverses);
        Ok(())
    }

    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let (kernels, function) = (pass.context.kernels(), self.function);
        let width = pass.buffers.width(self.x);
        let mut dx = pass.buffers.take_gradient(self.x);
        let mut dup = self.up.map(|up| pass.buffers.take_gradient(up));
        let (x, dy) = (pass.buffers.float(self.x), pass.buffers.gradient(self.y));
        let inverses = pass.buffers.float(self.inverses);
        let up = self.up.map_or(&[][..], |up| pass.buffers.float(up));
        let (gain, gain_gradient) = match self.norm {
            None => (&[][..], &mut [][..]),
            Some((gain, _)) => {
                let (gain, gain_gradient, _) = pass.store.backward_view(gain);
                (gain, gain_gradient)
            }
        };
        let blocks = inverses.len().div_ceil(ROWS);
        let mut kept = pass.workspace.take_float(blocks * gain.len());
        let partials = &mut kept[..blocks * gain.len()];
        partials.fill(0.0);

        let of_up = dup.as_mut().map_or(&mut [][..], |dup| &mut dup[..x.len()]);
        let outputs = dx[..x.len()].chunks_mut(ROWS * width).zip(chunks_or_empty(of_up, ROWS * width, blocks));
        let outputs = outputs.zip(chunks_or_empty(partials, width, blocks)).enumerate();
        pass.context.for_each(outputs, |(block, ((dx, dup), partial))| {
            let rows = dx.len() / width;
            let rows = dx.chunks_mut(width).zip(chunks_or_empty(dup, width, rows)).enumerate();
            with_two_rows(width, |activated, gradient| {
                for (row, (dx, dup)) in rows {
                    let row = block * ROWS + row;
                    let [x, up, dy] = [x, up, dy].map(|values| row_of(values, row, width));
                    let mut dy = dy;
                    if !gain.is_empty() {
                        function.values(kernels, x, up, activated);
                        let inverse = &inverses[row..=row];
                        kernels.rms_norm_backward_rows(activated, gain, inverse, dy, gradient, partial);
                        dy = gradient;
                    }
                    function.gradients(kernels, x, up, dy, dx, dup);
                }
            });
        });
        if !gain.is_empty() {
            add_blocks(partials, gain_gradient);
        }
        pass.workspace.put_float(kept);
        pass.buffers.put_gradient(pass.context, self.x, dx);
        if let (Some(up), Some(dup)) = (self.up, dup) {
            pass.buffers.put_gradient(pass.context, up, dup);
        }
        Ok(())
    }
}

/// A row of `values`, or none of no values.
fn row_of(values: &[f32], row: usize, width: usize) -> &[f32] {
    if values.is_empty() { values } else { &values[row * width..][..width] }
}
