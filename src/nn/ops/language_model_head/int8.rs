//! The head's products in integers.
//!
//! The table `E` is rounded to int8 with a scale for each column, once a step. The scales are folded into `x` before its
//! tokens are rounded, so that `x * E^T` needs one scale a token, and come back on `dX`. The gradient of the logits is
//! rounded twice, by token for `dX` and by vocabulary entry for `dE`, some entries at a time: only their integers exist at
//! once. Its entry of the target dwarfs the others of its row: it is left out there, and its share of both gradients added in
//! f32. All roundings but that of `x` for the logits are stochastic: the gradients at these logits are unbiased.
//!
//! Where a chunk's logits and the rounded table fit, they lie in the gradients of the layers, which a step's first batch
//! has yet to compute.

use super::{BLOCK_ENTRIES, BLOCK_TOKENS, KEPT_GRADIENT_PURPOSE, LanguageModelHead};
use crate::dispatch::{Context, Gradient, Int8Matrix};
use crate::kernels::StochasticRounding;
use crate::nn::ops::cross_entropy::{cross_entropy, sum_by_sequence};
use crate::nn::ops::linear::add_gradient;
use crate::nn::{IGNORED, Pass, Scratch};
use crate::quant::{BLOCK, Stored};

/// Random streams of the roundings (see [`crate::tensor::RandomStream::new`]).
const TABLE_PURPOSE: u32 = 53;
const GRADIENT_PURPOSE: u32 = 54;
const X_PURPOSE: u32 = 56;

/// Columns of a parallel block of column maxima.
const BLOCK_COLUMNS: usize = 128;

/// What [`LanguageModelHead::train_in_int8`] takes from the workspace for chunks of `chunk` tokens. `of_sum`: elements of the
/// table's gradient that are computed at a time where their sum is not kept in f32. `idle_gradients`: elements of gradients in
/// f32 that are free.
pub(super) fn scratch(width: usize, vocabulary: usize, chunk: usize, of_sum: usize, idle_gradients: usize) -> Scratch {
    let (entries, maxima) = (BLOCK_ENTRIES.min(vocabulary), Context::gradient_scratch(vocabulary));
    let [logits, table] = logits_and_table(chunk, width, vocabulary);
    let large = if logits + table > idle_gradients { vec![logits, table] } else { Vec::new() };
    let small = [vocabulary, vocabulary, maxima, chunk * width, width, 3 * chunk, of_sum];
    Scratch {
        floats: large.into_iter().chain(small).collect(),
        quantized: vec![(chunk, width), (chunk, entries), (chunk, entries)],
        int8_products: vec![(chunk, entries, width), (chunk, width, entries), (entries, width, chunk)],
        ..Scratch::default()
    }
}

/// Lengths in floats of a chunk's logits, up to where a vector begins, and of the rounded table.
fn logits_and_table(chunk: usize, width: usize, vocabulary: usize) -> [usize; 2] {
    [(chunk * vocabulary).next_multiple_of(16), (vocabulary * width).div_ceil(4)]
}

impl LanguageModelHead {
    /// The sum of the losses, and both gradients.
    pub(super) fn train_in_int8(&self, pass: &mut Pass<'_>, counted: usize) -> f64 {
        let (context, targets) = (pass.context, pass.batch.targets);
        let (width, vocabulary) = (pass.buffers.width(self.x), self.vocabulary);
        let chunk = self.chunk_tokens(targets.len());
        let gradient_scale = pass.gradient_scale / counted as f32;
        let (randomness, operation) = (pass.randomness, pass.operation);
        // A plan has far fewer than 2^16 operations: every chunk draws from streams of its own.
        let rounding = |purpose, chunk: usize| {
            let stream = operation + ((chunk as u32) << 16);
            StochasticRounding::new(randomness.seed, purpose, randomness.step, stream)
        };
        // As `scratch` lists it.
        let lengths @ [of_logits, of_table] = logits_and_table(chunk, width, vocabulary);
        let (table, mut d_table, idle) = pass.store.stored_and_idle_gradients(self.table);
        let is_in_gradients = of_logits + of_table <= idle.len();
        let mut own = if is_in_gradients { None } else { Some(lengths.map(|len| pass.workspace.take_float(len))) };
        let (logits, table_rounded) = match &mut own {
            None => idle[..of_logits + of_table].split_at_mut(of_logits),
            Some([logits, table]) => (&mut logits[..], &mut table[..of_table]),
        };
        let mut of_entries = pass.workspace.take_float(vocabulary);
        let mut ones_kept = pass.workspace.take_float(vocabulary);
        let mut maxima = pass.workspace.take_float(Context::gradient_scratch(vocabulary));
        let mut folded = pass.workspace.take_float(chunk * width);
        let mut of_columns = pass.workspace.take_float(width);
        let mut of_tokens = pass.workspace.take_float(3 * chunk);
        let mut x_rounded = pass.workspace.take_quantized(chunk, width);
        let block_entries = BLOCK_ENTRIES.min(vocabulary);
        let mut by_token = pass.workspace.take_quantized(chunk, block_entries);
        let mut by_entry = pass.workspace.take_quantized(chunk, block_entries);
        let mut dx = pass.buffers.take_float(self.dx);
        let x = pass.buffers.float(self.x);

        let (column_scales, entry_scales) = (&mut of_columns[..width], &mut of_entries[..vocabulary]);
        let table8: &mut [i8] = &mut bytemuck::cast_slice_mut(table_rounded)[..vocabulary * width];
        let ones = &mut ones_kept[..vocabulary];
        ones.fill(1.0);
        let stream = rounding(TABLE_PURPOSE, 0);
        round_table(context, table, ones, stream, table8, column_scales);

        let mut total = 0f64;
        let chunks = x.chunks(chunk * width).zip(dx.chunks_mut(chunk * width)).zip(targets.chunks(chunk));
        for (index, ((x, dx), targets)) in chunks.enumerate() {
            let tokens = targets.len();
            let dx = &mut dx[..tokens * width];
            let (logits, folded) = (&mut logits[..tokens * vocabulary], &mut folded[..tokens * width]);
            let (losses, of_targets) = of_tokens[..3 * tokens].split_at_mut(tokens);
            let (of_targets, token_scales) = of_targets.split_at_mut(tokens);

            // Logits. The column scales are divided by the largest: rounding tokens has a floor under their maxima.
            let largest = column_scales.iter().fold(f32::MIN_POSITIVE, |most, &scale| scale.max(most));
            for (folded, x) in folded.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let products = x.iter().zip(column_scales.iter());
                folded.iter_mut().zip(products).for_each(|(folded, (x, scale))| *folded = x * (scale / largest));
            }
            x_rounded.quantize(context, folded, tokens, width);
            let scales = &mut x_rounded.scales[..tokens];
            scales.iter_mut().for_each(|scale| *scale *= largest);
            let x8 = Int8Matrix::new(&x_rounded.values[..tokens * width], width);
            for first in (0..vocabulary).step_by(BLOCK_ENTRIES) {
                let entries = BLOCK_ENTRIES.min(vocabulary - first);
                let entries8 = Int8Matrix::transposed(&table8[first * width..], width);
                let shape = (tokens, entries, width);
                context.int8_matmul(shape, x8, entries8, scales, false, &mut logits[first..], vocabulary);
            }

            let kernels = context.kernels();
            let rows = losses.chunks_mut(BLOCK_TOKENS).zip(targets.chunks(BLOCK_TOKENS));
            let blocks = logits.chunks_mut(BLOCK_TOKENS * vocabulary).zip(rows);
            context.for_each(blocks, |(logits, (losses, targets))| {
                cross_entropy(kernels, logits, vocabulary, targets, losses, Some(gradient_scale));
            });
            let sums = &mut pass.sequence_losses[..];
            sum_by_sequence(pass.batch, index * chunk, vocabulary, logits, losses, sums);
            let rows = of_targets.chunks_mut(BLOCK_TOKENS).zip(targets.chunks(BLOCK_TOKENS));
            context.for_each(
                logits.chunks_mut(BLOCK_TOKENS * vocabulary).zip(rows),
                |(logits, (of_targets, targets))| {
                    let rows = logits.chunks_exact_mut(vocabulary);
                    for ((logits, of_target), &target) in rows.zip(of_targets).zip(targets) {
                        *of_target = logits.get_mut(target as usize).map_or(0.0, std::mem::take);
                    }
                },
            );
            total += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();

            // dX and dE, but for the targets' share of dX.
            x_rounded.quantize_stochastic(context, x, tokens, width, rounding(X_PURPOSE, index));
            let x8 = Int8Matrix::new(&x_rounded.values[..tokens * width], width);
            let whole = Gradient {
                values: logits,
                stride: vocabulary,
                first_column: 0,
                row_factors: &x_rounded.scales[..tokens],
                column_factors: ones,
            };
            let scratch = &mut maxima[..Context::gradient_scratch(vocabulary)];
            context.gradient_scales(whole, token_scales, entry_scales, scratch);
            for first in (0..vocabulary).step_by(BLOCK_ENTRIES) {
                let entries = BLOCK_ENTRIES.min(vocabulary - first);
                let scales = &entry_scales[first..][..entries];
                let part = Gradient {
                    values: &logits[first..],
                    first_column: first,
                    column_factors: &whole.column_factors[..entries],
                    ..whole
                };
                let sums = &mut by_token.sums[..tokens];
                let by_token = &mut by_token.values[..tokens * entries];
                let by_entry = &mut by_entry.values[..tokens * entries];
                let stream = rounding(GRADIENT_PURPOSE, index);
                context.quantize_gradient(part, token_scales, scales, stream, by_token, by_entry, sums);

                let rows8 = Int8Matrix::new(by_token, entries);
                let entries8 = Int8Matrix::new(&table8[first * width..], width);
                context.int8_matmul((tokens, width, entries), rows8, entries8, token_scales, first > 0, dx, width);
                let columns8 = Int8Matrix::transposed(by_entry, entries);
                let rows = d_table.part(first * width..(first + entries) * width);
                let stream = rounding(KEPT_GRADIENT_PURPOSE, index);
                add_gradient(context, pass.workspace, rows, first * width, stream, |rows, accumulate| {
                    let shape = (entries, width, tokens);
                    context.int8_matmul(shape, columns8, x8, scales, accumulate, rows, width);
                    for ((x, &of_target), &target) in x.chunks_exact(width).zip(&*of_targets).zip(targets) {
                        let row = (target as usize).wrapping_sub(first);
                        if row < entries {
                            let row = &mut rows[row * width..][..width];
                            row.iter_mut().zip(x).for_each(|(row, x)| *row += of_target * x);
                        }
                    }
                });
            }
            for ((dx, &of_target), &target) in dx.chunks_exact_mut(width).zip(&*of_targets).zip(targets) {
                if target == IGNORED {
                    continue;
                }
                let first = target as usize * width;
                table.part(first..first + width).read(kernels, true, |row| {
                    for ((dx, scale), row) in dx.iter_mut().zip(&*column_scales).zip(row) {
                        *dx = *dx * scale + of_target * row;
                    }
                });
            }
        }
        pass.buffers.put_float(self.dx, dx);
        match own {
            Some(own) => own.into_iter().for_each(|kept| pass.workspace.put_float(kept)),
            None => context.for_each(idle[..of_logits + of_table].chunks_mut(BLOCK), |block| block.fill(0.0)),
        }
        for kept in [of_entries, ones_kept, maxima, folded, of_columns, of_tokens] {
            pass.workspace.put_float(kept);
        }
        for kept in [x_rounded, by_token, by_entry] {
            pass.workspace.put_quantized(kept);
        }
        total
    }
}

/// [`Context::quantize_columns_stochastic`] of a table however it is kept; `ones`: a factor of 1 for each of its entries.
fn round_table(
    context: &Context,
    table: Stored<'_>,
    ones: &[f32],
    stream: StochasticRounding,
    values: &mut [i8],
    scales: &mut [f32],
) {
    let (width, kernels) = (scales.len(), context.kernels());
    let bits = match table {
        Stored::F32(table) => {
            return context.quantize_columns_stochastic(table, width, ones, stream, values, scales);
        }
        Stored::Bf16(bits) => bits,
        Stored::Int8(..) | Stored::Steps(..) => unreachable!("tables in f32 or bf16"),
    };
    context.for_each(scales.chunks_mut(BLOCK_COLUMNS).enumerate(), |(block, scales)| {
        // Magnitudes of bf16 are ordered as their bits are, a NaN above all others.
        let mut largest = [0u16; BLOCK_COLUMNS];
        for row in bits.chunks_exact(width) {
            let row = &row[block * BLOCK_COLUMNS..][..scales.len()];
            largest.iter_mut().zip(row).for_each(|(largest, bits)| *largest = (*largest).max(bits & 0x7FFF));
        }
        let largest = largest.map(|bits| f32::from_bits(u32::from(bits) << 16));
        kernels.column_scales(&largest[..scales.len()], scales.len(), &[1.0], scales);
    });
    let rows = (BLOCK / width).max(1);
    let blocks = values.chunks_mut(rows * width).zip(bits.chunks(rows * width)).enumerate();
    context.for_each(blocks, |(block, (values, bits))| {
        Stored::Bf16(bits).read(kernels, true, |x| {
            let ones = &ones[..x.len() / width];
            kernels.quantize_columns_stochastic(x, block * rows, ones, scales, stream, values);
        });
    });
}
