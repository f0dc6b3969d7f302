//! Gradients of full-precision operations against central finite differences.
//!
//! [`check`] builds a plan `source -> operations -> loss`: the source copies parameters into buffers, so that gradients
//! of inputs are gradients of parameters too; the loss is a fixed random weighting of the output, summed in f64.

use std::sync::Arc;

use hybridq::Result;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::nn::ops::{AttentionShape, Elementwise, RotaryTable};
use hybridq::nn::{
    Batch, BufferId, BufferKind, Executor, GradPrecision, HeadPrecision, Init, Mode, Operation, ParamId, ParamKind,
    ParamStore, Pass, Plan, PlanBuilder, Precision, Rows, StepRandomness,
};
use hybridq::tensor::RandomStream;

/// Copies a parameter `[tokens, width]` into a buffer.
#[derive(Debug)]
struct Source {
    parameter: ParamId,
    y: BufferId,
}

impl Operation for Source {
    fn name(&self) -> &'static str {
        "source"
    }
    fn inputs(&self) -> Vec<BufferId> {
        Vec::new()
    }
    fn outputs(&self) -> Vec<BufferId> {
        vec![self.y]
    }
    fn parameters(&self) -> Vec<ParamId> {
        vec![self.parameter]
    }
    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut y = pass.buffers.take_float(self.y);
        let len = pass.buffers.len(self.y);
        y[..len].copy_from_slice(pass.store.weight(self.parameter));
        pass.buffers.put_float(self.y, y);
        Ok(())
    }
    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let dy = pass.buffers.gradient(self.y);
        pass.store.gradient_mut(self.parameter).iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
        Ok(())
    }
}

/// `loss = sum(weights * x)`.
#[derive(Debug)]
struct WeightedSum {
    x: BufferId,
    weights: Vec<f32>,
}

impl Operation for WeightedSum {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }
    fn inputs(&self) -> Vec<BufferId> {
        vec![self.x]
    }
    fn outputs(&self) -> Vec<BufferId> {
        Vec::new()
    }
    fn forward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let x = pass.buffers.float(self.x);
        pass.loss = x.iter().zip(&self.weights).map(|(x, weight)| f64::from(*x) * f64::from(*weight)).sum();
        Ok(())
    }
    fn backward(&self, pass: &mut Pass<'_>) -> Result<()> {
        let mut dx = pass.buffers.take_gradient(self.x);
        dx[..self.weights.len()].copy_from_slice(&self.weights);
        pass.buffers.put_gradient(pass.context, self.x, dx);
        Ok(())
    }
}

/// Token ids are below this.
const VOCABULARY: usize = 7;

/// A plan under construction: sources are declared with [`Harness::input`], parameters on `builder`.
struct Harness {
    builder: PlanBuilder,
    tokens: usize,
}

impl Harness {
    fn input(&mut self, name: &str, width: usize) -> BufferId {
        let shape = [self.tokens, width];
        let init = Init::Normal { std: 1.0 };
        let parameter = self.builder.parameter(name, &shape, ParamKind::Embedding, Precision::F32, init);
        let y = self.builder.buffer(BufferKind::Float, width);
        self.builder.push(Source { parameter, y });
        y
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> ParamId {
        let init = Init::Normal { std: 1.0 };
        self.builder.parameter(name, &[rows, cols], ParamKind::Linear, Precision::F32, init)
    }

    fn vector(&mut self, name: &str, width: usize) -> ParamId {
        self.builder.parameter(name, &[width], ParamKind::Gain, Precision::F32, Init::Normal { std: 1.0 })
    }
}

/// The plan that `build` writes, with a loss if it ends without, and its parameters.
fn prepare<Output: Into<Option<BufferId>>>(
    sequences: usize,
    length: usize,
    build: impl FnOnce(&mut Harness) -> Output,
) -> (Plan, ParamStore) {
    let tokens = sequences * length;
    let mut harness = Harness { builder: PlanBuilder::new(), tokens };
    if let Some(x) = build(&mut harness).into() {
        let spec = harness.builder.buffer_spec(x);
        let rows = if spec.rows == Rows::Sequences { sequences } else { tokens };
        let mut stream = RandomStream::new(11, 2, 0, 0);
        let weights = (0..rows * spec.width).map(|_| stream.normal() as f32).collect();
        harness.builder.push(WeightedSum { x, weights });
    }
    let (plan, specs) = harness.builder.finish();
    let mut store = ParamStore::new(specs).unwrap();
    store.initialize(5);
    (plan, store)
}

/// Compares the gradient of every parameter of the plan that `build` writes with central differences. Sequences of
/// `length` tokens below [`VOCABULARY`]; `tolerance` is relative to the largest gradient of the parameter. A plan that
/// ends in its own loss gives no buffer.
fn check<Output: Into<Option<BufferId>>>(
    sequences: usize,
    length: usize,
    tolerance: f64,
    build: impl FnOnce(&mut Harness) -> Output,
) {
    let tokens = sequences * length;
    let (plan, mut store) = prepare(sequences, length, build);
    let context = Context::new(ContextOptions { threads: Some(2), isa: None }).unwrap();
    let mut executor = Executor::new(&plan, Mode::Train, tokens);
    let ids: Vec<u32> = (0..tokens).map(|token| (token * token % VOCABULARY) as u32).collect();
    let batch = Batch { tokens: &ids, targets: &ids, sequences, length, ..Batch::default() };
    let mut step = |store: &mut ParamStore| {
        store.zero_gradients();
        executor.step(&plan, &context, store, batch, StepRandomness { seed: 3, step: 1 }, 1.0).unwrap()
    };

    step(&mut store);
    let parameters: Vec<ParamId> = store.ids().collect();
    let analytic: Vec<Vec<f32>> = parameters.iter().map(|&id| store.gradient(id).to_vec()).collect();
    for (&id, analytic) in parameters.iter().zip(&analytic) {
        let largest = analytic.iter().fold(0.0f64, |most, &g| most.max(f64::from(g.abs())));
        assert!(largest > 0.0, "{}: no gradient at all", store.spec(id).name);
        for (element, &gradient) in analytic.iter().enumerate() {
            let value = store.weight(id)[element];
            let (above, below) = (value + 1e-2, value - 1e-2);
            store.weight_mut(id)[element] = above;
            let loss_above = step(&mut store);
            store.weight_mut(id)[element] = below;
            let loss_below = step(&mut store);
            store.weight_mut(id)[element] = value;
            let difference = (loss_above - loss_below) / (f64::from(above) - f64::from(below));
            let error = (difference - f64::from(gradient)).abs();
            let name = &store.spec(id).name;
            assert!(error <= tolerance * largest, "{name}[{element}]: gradient {gradient}, differences {difference}");
        }
    }
}

#[test]
fn rms_norm() {
    for width in [1, 7, 16, 37] {
        check(1, 3, 2e-3, |harness| {
            let x = harness.input("x", width);
            let gain = harness.vector("gain", width);
            // A large eps keeps rows of one element away from the step at zero.
            harness.builder.rms_norm(x, gain, 0.5, BufferKind::Float)
        });
    }
}

#[test]
fn rms_norm_over_several_row_blocks() {
    check(5, 15, 2e-3, |harness| {
        let x = harness.input("x", 3);
        let gain = harness.vector("gain", 3);
        harness.builder.rms_norm(x, gain, 0.5, BufferKind::Float)
    });
}

#[test]
fn layer_norm() {
    for (length, width) in [(3, 7), (3, 16), (2, 37), (70, 3)] {
        check(1, length, 2e-3, |harness| {
            let x = harness.input("x", width);
            let (gain, bias) = (harness.vector("gain", width), harness.vector("bias", width));
            harness.builder.layer_norm(x, gain, bias, 0.5)
        });
    }
}

#[test]
fn activations() {
    for width in [1, 16, 31] {
        check(1, 3, 1e-3, |harness| {
            let x = harness.input("x", width);
            harness.builder.activation(Elementwise::Gelu, x, None)
        });
        check(1, 3, 1e-3, |harness| {
            let x = harness.input("x", width);
            harness.builder.activation(Elementwise::GeluExact, x, None)
        });
        check(1, 3, 1e-3, |harness| {
            let x = harness.input("x", width);
            harness.builder.activation(Elementwise::Tanh, x, None)
        });
        // The second derivative jumps at zero: an element there is off by half the step.
        check(1, 3, 1e-2, |harness| {
            let x = harness.input("x", width);
            harness.builder.activation(Elementwise::Relu2, x, None)
        });
    }
}

#[test]
fn gates() {
    for width in [2, 16, 31] {
        check(1, 3, 1e-3, |harness| {
            let (gate, up) = (harness.input("gate", width), harness.input("up", width));
            harness.builder.activation(Elementwise::SiluGate, gate, Some(up))
        });
        check(1, 3, 1e-2, |harness| {
            let (gate, up) = (harness.input("gate", width), harness.input("up", width));
            harness.builder.activation(Elementwise::Relu2Gate, gate, Some(up))
        });
    }
}

/// Loss and gradients of a plan whose last operation is a ternary linear layer of `input`'s int8 rows.
fn loss_and_gradients(
    tokens: usize,
    threads: usize,
    input: impl FnOnce(&mut Harness) -> BufferId,
) -> (f64, Vec<Vec<f32>>) {
    let (plan, mut store) = prepare(1, tokens, |harness| {
        let x = input(harness);
        let (init, shape) = (Init::Normal { std: 1.0 }, [5, harness.builder.buffer_spec(x).width]);
        let weight = harness.builder.parameter("w", &shape, ParamKind::Linear, Precision::Ternary, init);
        harness.builder.linear(x, weight, None, GradPrecision::F32)
    });
    let context = Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap();
    store.quantize(&context).unwrap();
    let ids = vec![0; tokens];
    let batch = Batch { tokens: &ids, targets: &ids, sequences: 1, length: tokens, ..Batch::default() };
    let mut executor = Executor::new(&plan, Mode::Train, tokens);
    let randomness = StepRandomness { seed: 3, step: 1 };
    let loss = executor.step(&plan, &context, &mut store, batch, randomness, 1.0).unwrap();
    let gradients: Vec<Vec<f32>> = store.ids().map(|id| store.gradient(id).to_vec()).collect();
    assert!(gradients.iter().all(|gradient| gradient.iter().any(|&g| g != 0.0)));
    (loss, gradients)
}

#[test]
fn activation_quantize_is_its_parts_to_the_bit() {
    use Elementwise::{Gelu, GeluExact, Relu, Relu2, Relu2Gate, SiluGate};
    for function in [Gelu, GeluExact, Relu, Relu2, SiluGate, Relu2Gate] {
        for (tokens, width, normed) in [(1, 7, true), (33, 48, true), (70, 5, true), (33, 48, false), (70, 7, false)] {
            let inputs = |harness: &mut Harness| {
                let x = harness.input("x", width);
                let up = matches!(function, SiluGate | Relu2Gate).then(|| harness.input("up", width));
                (x, up, normed.then(|| (harness.vector("gain", width), 1e-5)))
            };
            let parts = loss_and_gradients(tokens, 1, |harness| {
                let (x, up, norm) = inputs(harness);
                let y = harness.builder.activation(function, x, up);
                match norm {
                    Some((gain, eps)) => harness.builder.rms_norm(y, gain, eps, BufferKind::Quantized),
                    None => harness.builder.quantize_rows(y),
                }
            });
            for threads in [1, 3] {
                let fused = loss_and_gradients(tokens, threads, |harness| {
                    let (x, up, norm) = inputs(harness);
                    harness.builder.activation_quantize(function, x, up, norm)
                });
                assert_eq!(fused, parts, "{function:?}, {tokens} x {width}, norm: {normed}");
            }
        }
    }
}

#[test]
fn dropout_and_several_readers() {
    check(1, 5, 1e-3, |harness| {
        let x = harness.input("x", 19);
        let dropped = harness.builder.dropout(x, 0.3);
        harness.builder.add(x, dropped)
    });
}

#[test]
fn embeddings_add_up_over_equal_tokens() {
    check(2, 5, 1e-3, |harness| {
        let table = harness.matrix("table", VOCABULARY, 9);
        let positions = harness.matrix("positions", 5, 9);
        let x = harness.builder.embedding(table);
        let y = harness.builder.position_embedding(x, positions);
        // Twice, so that the gradient of the table is a sum over two readers as well.
        harness.builder.add(x, y)
    });
}

#[test]
fn linear() {
    for (length, inputs, outputs) in [(1, 1, 1), (3, 17, 5), (66, 4, 67)] {
        check(1, length, 1e-3, |harness| {
            let x = harness.input("x", inputs);
            let (weight, bias) = (harness.matrix("weight", outputs, inputs), harness.vector("bias", outputs));
            harness.builder.linear(x, weight, Some(bias), GradPrecision::F32)
        });
    }
}

#[test]
fn rope() {
    check(2, 3, 1e-3, |harness| {
        let x = harness.input("x", 12);
        harness.builder.rope(x, &Arc::new(RotaryTable::new(4, 4, 100.0, None)))
    });
}

#[test]
fn attention_of_several_blocks() {
    for length in [1, 3, 63, 64, 67] {
        check(1, length, 2e-3, |harness| {
            let qkv = harness.input("qkv", 3 * 2);
            let shape = AttentionShape { heads: 2, kv_heads: 2, head_dim: 1, window: None, dropout: 0.0 };
            harness.builder.attention_fused(qkv, shape)
        });
    }
}

#[test]
fn attention_of_grouped_heads_in_a_window() {
    for (length, window) in [(5, None), (5, Some(2)), (5, Some(3)), (70, Some(4)), (70, Some(66))] {
        check(2, length, 2e-3, |harness| {
            let [q, k, v] = [("q", 4), ("k", 2), ("v", 2)].map(|(name, heads)| harness.input(name, heads));
            let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 1, window, dropout: 0.0 };
            harness.builder.attention(q, k, v, shape)
        });
    }
}

#[test]
fn language_model_head_on_a_shared_table() {
    check(2, 9, 1e-3, |harness| {
        let table = harness.matrix("table", VOCABULARY, 5);
        let x = harness.builder.embedding(table);
        let mixed = harness.matrix("mixed", 5, 5);
        let y = harness.builder.linear(x, mixed, None, GradPrecision::F32);
        harness.builder.language_model_head(y, table, HeadPrecision::F32);
        None
    });
}

#[test]
fn attention_that_drops_probabilities() {
    // The longest takes several tasks of the forward pass.
    for (length, window, causal) in [(5, None, true), (9, Some(6), true), (101, Some(7), true), (9, None, false)] {
        check(2, length, 2e-3, |harness| {
            let [q, k, v] = [("q", 4), ("k", 2), ("v", 2)].map(|(name, heads)| harness.input(name, heads));
            let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 1, window, dropout: 0.4 };
            if causal {
                harness.builder.attention(q, k, v, shape)
            } else {
                harness.builder.attention_to_all(q, k, v, shape)
            }
        });
    }
}

#[test]
fn attention_to_all_of_grouped_heads() {
    for (length, heads, kv_heads) in [(2, 2, 2), (5, 4, 2), (70, 1, 1)] {
        check(2, length, 2e-3, |harness| {
            let [q, k, v] =
                [("q", heads), ("k", kv_heads), ("v", kv_heads)].map(|(name, n)| harness.input(name, n * 2));
            let shape = AttentionShape { heads, kv_heads, head_dim: 2, window: None, dropout: 0.0 };
            harness.builder.attention_to_all(q, k, v, shape)
        });
    }
}

#[test]
fn first_tokens() {
    for (sequences, length) in [(1, 1), (3, 5)] {
        check(sequences, length, 2e-3, |harness| {
            let x = harness.input("x", 3);
            // Another reader of the same buffer, whose gradient reaches all rows.
            let mixed = harness.matrix("mixed", 3, 3);
            let y = harness.builder.linear(x, mixed, None, GradPrecision::F32);
            let (first, of_y) = (harness.builder.first_token(x), harness.builder.first_token(y));
            let bent = harness.builder.activation(Elementwise::Tanh, first, None);
            harness.builder.add(bent, of_y)
        });
    }
}

#[test]
fn heads_of_tasks() {
    // The harness's targets are ids below the vocabulary: classes of tokens.
    check(2, 9, 1e-3, |harness| {
        let scores = harness.input("scores", VOCABULARY);
        harness.builder.classes_head(scores);
        None
    });
    check(2, 9, 1e-3, |harness| {
        let x = harness.input("x", 5);
        let (table, bias) = (harness.matrix("table", VOCABULARY, 5), harness.vector("bias", VOCABULARY));
        harness.builder.masked_language_model_head(x, table, bias);
        None
    });
    // One sequence of two tokens has two targets: a span.
    check(1, 2, 1e-3, |harness| {
        let scores = harness.input("scores", 2);
        harness.builder.spans_head(scores);
        None
    });
}
