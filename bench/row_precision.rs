//! Precisions by clusters of rows against ternary with a scale a row, both with least-squares scales, on the matrices of a trained
//! model: what is lost of the weights, and of the loss on held-out text, at the same bits.
//!
//! ```text
//! cargo run --release --example row_precision -- MODEL TEXT > bench/experiments/row-precision.md
//! ```
//!
//! The table there is of `hybridq train --data TEXT --model bench/experiments/bitnet-4x128.json --config
//! bench/experiments/row-precision.toml --seed 0 --out MODEL` on tiny Shakespeare.
//!
//! MODEL: a run or model folder whose linear layers are quantized. Every number of bits counts the scales (32 bits each) and, for
//! clusters, each row's cluster number. Bits are allotted over all clusters of all matrices together, by their energy: that
//! minimises `||W - Q||^2` under the budget ([`AdaptiveQuantizer`]). Losses are taken without training after the change.

use hybridq::cluster::ParameterClustering;
use hybridq::dispatch::{Context, ContextOptions};
use hybridq::nn::{ParamId, Precision};
use hybridq::quant::{AdaptiveQuantizer, BitUnit, Granularity, OutputScale, Quantizer};
use hybridq::train::{LanguageModelTrainer, Objective, RunPlace, TrainConfig};
use hybridq::{Error, Result};

const SCALE_BITS: f64 = 32.0;

struct Matrix {
    id: ParamId,
    rows: usize,
    cols: usize,
    weights: Vec<f32>,
}

/// One way to quantize all matrices.
struct Outcome {
    name: String,
    bits: f64,
    /// Values of each matrix.
    values: Vec<Vec<f32>>,
    /// Share of the weights in each precision.
    shares: Vec<(Precision, f64)>,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(text)) = (arguments.next(), arguments.next()) else {
        return Err(Error::invalid("arguments", "MODEL TEXT", "fewer"));
    };
    let context = Context::new(ContextOptions { threads: None, isa: None })?;
    let config = TrainConfig {
        data: Some(text.into()),
        init: Some(model.into()),
        use_clustering: false,
        eval_windows: 64,
        ..TrainConfig::default()
    };
    let mut trainer = LanguageModelTrainer::open(&context, config, RunPlace::Nowhere)?;
    let trained = loss(&mut trainer)?;
    let store = trainer.objective().store();
    let quantized = store.ids().filter(|&id| store.spec(id).precision != Precision::F32);
    let matrices: Vec<Matrix> = quantized
        .map(|id| {
            let shape = &store.spec(id).shape;
            Matrix { id, rows: shape[0], cols: shape[1], weights: store.weight_values(id).into_owned() }
        })
        .collect();
    let elements: usize = matrices.iter().map(|matrix| matrix.weights.len()).sum();
    let row_scales: usize = matrices.iter().map(|matrix| matrix.rows).sum();
    let ternary = Precision::Ternary.bits();
    let by_row = ternary + SCALE_BITS * row_scales as f64 / elements as f64;

    let mut outcomes = vec![
        uniform(&context, &matrices, "ternary, absmean scale a matrix", Granularity::Tensor, false)?,
        uniform(&context, &matrices, "ternary, least-squares scale a matrix", Granularity::Tensor, true)?,
        uniform(&context, &matrices, "ternary, least-squares scale a row", Granularity::Row, true)?,
    ];
    for clusters in [1, 4, 16] {
        for (granularity, budget) in
            [(Granularity::Row, by_row), (Granularity::Tensor, by_row), (Granularity::Tensor, ternary)]
        {
            outcomes.extend(adaptive(&context, &matrices, clusters, granularity, budget)?);
        }
    }
    println!("# Precision by clusters of rows on trained matrices\n");
    println!("{} matrices, {elements} weights. Rows' mean squares:\n", matrices.len());
    spread(&matrices);
    println!("\nTernary with a least-squares scale a row is what the errors are compared with.\n");
    println!("| quantizer | bits a weight | squared error | compared | validation loss | weights in |");
    println!("|---|---|---|---|---|---|");
    println!("| as trained | | | | {trained:.4} | |");
    let reference = error(&matrices, &outcomes[2]);
    for outcome in &outcomes {
        let error = error(&matrices, outcome);
        let loss = loss_with(&context, &mut trainer, &matrices, outcome)?;
        let shares: Vec<String> =
            outcome.shares.iter().map(|(precision, share)| format!("{precision} {:.0} %", 100.0 * share)).collect();
        println!(
            "| {} | {:.3} | {error:.4} | {:+.1} % | {loss:.4} | {} |",
            outcome.name,
            outcome.bits,
            100.0 * (error / reference - 1.0),
            shares.join(", ")
        );
    }
    Ok(())
}

/// How much rows differ: by the ratio of the arithmetic to the geometric mean of their mean squares, what uneven bits can gain.
fn spread(matrices: &[Matrix]) {
    let squares = |row: &[f32]| row.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>() / row.len() as f64;
    let ratio = |squares: &[f64]| {
        let count = squares.len() as f64;
        let geometric = (squares.iter().map(|s| s.max(1e-30).ln()).sum::<f64>() / count).exp();
        squares.iter().sum::<f64>() / count / geometric
    };
    let mut all = Vec::new();
    let (mut least, mut most, mut within) = (f64::INFINITY, 0f64, 0.0);
    let mut variation = 0.0;
    for matrix in matrices {
        let rows: Vec<f64> = matrix.weights.chunks_exact(matrix.cols).map(squares).collect();
        let mean = rows.iter().sum::<f64>() / rows.len() as f64;
        let deviation = (rows.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / rows.len() as f64).sqrt();
        let own = ratio(&rows);
        (least, most) = (least.min(own), most.max(own));
        within += own / matrices.len() as f64;
        variation += deviation / mean / matrices.len() as f64;
        all.extend(rows);
    }
    println!("| | |\n|---|---|");
    println!("| deviation over mean within a matrix, mean over matrices | {variation:.3} |");
    println!(
        "| arithmetic over geometric mean within a matrix: mean, least, most | {within:.3}, {least:.3}, {most:.3} |"
    );
    println!("| the same over all rows of all matrices | {:.3} |", ratio(&all));
}

/// `||W - Q||^2 / ||W||^2` over all matrices.
fn error(matrices: &[Matrix], outcome: &Outcome) -> f64 {
    let (mut errors, mut squares) = (0.0, 0.0);
    for (matrix, values) in matrices.iter().zip(&outcome.values) {
        for (&w, &q) in matrix.weights.iter().zip(values) {
            errors += f64::from(w - q).powi(2);
            squares += f64::from(w).powi(2);
        }
    }
    errors / squares
}

fn uniform(
    context: &Context,
    matrices: &[Matrix],
    name: &str,
    granularity: Granularity,
    least_squares: bool,
) -> Result<Outcome> {
    let quantizer = Quantizer { least_squares, ..Quantizer::new(Precision::Ternary).granularity(granularity) };
    let (mut values, mut bits, mut elements) = (Vec::new(), 0.0, 0);
    for matrix in matrices {
        let tensor = quantizer.quantize(context, &matrix.weights, matrix.rows, matrix.cols)?;
        bits += tensor.codes.len() as f64 * Precision::Ternary.bits() + SCALE_BITS * tensor.scales.len() as f64;
        elements += tensor.codes.len();
        values.push(tensor.dequantize(context));
    }
    Ok(Outcome { name: name.into(), bits: bits / elements as f64, values, shares: vec![(Precision::Ternary, 1.0)] })
}

/// `clusters` clusters of each matrix's rows, a precision each, with a scale a row or one a cluster, within `budget` bits a weight;
/// none where the budget does not hold the smallest.
fn adaptive(
    context: &Context,
    matrices: &[Matrix],
    clusters: usize,
    granularity: Granularity,
    budget: f64,
) -> Result<Option<Outcome>> {
    let mut units = Vec::new();
    let mut members = Vec::new();
    let (mut elements, mut overhead) = (0, 0.0);
    for (index, matrix) in matrices.iter().enumerate() {
        let clustering = ParameterClustering::fit(context, &matrix.weights, matrix.cols, clusters, 0)?;
        let found = clustering.kmeans().clusters();
        let scales = if granularity == Granularity::Row { matrix.rows } else { found };
        overhead += SCALE_BITS * scales as f64 + matrix.rows as f64 * f64::from(found.next_power_of_two().ilog2());
        elements += matrix.weights.len();
        for cluster in 0..found {
            let rows = clustering.kmeans().cluster_info(cluster)?.members;
            let weights: Vec<f32> =
                rows.iter().flat_map(|&row| &matrix.weights[row * matrix.cols..][..matrix.cols]).copied().collect();
            let importance = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
            units.push(BitUnit { elements: weights.len(), importance, rows: 0 });
            members.push((index, rows, weights));
        }
    }
    let overhead = overhead / elements as f64;
    // Met to 0.005 bits by the quantizer: taken off, so that the budget holds.
    let quantizer = AdaptiveQuantizer { mean_bits: budget - overhead - 0.005, ..AdaptiveQuantizer::default() };
    if quantizer.mean_bits < 1.0 {
        return Ok(None);
    }
    let precisions = quantizer.allocate(&units)?;
    let mut values: Vec<Vec<f32>> = matrices.iter().map(|matrix| vec![0.0; matrix.weights.len()]).collect();
    for ((index, rows, weights), &precision) in members.iter().zip(&precisions) {
        let (cols, form) = (matrices[*index].cols, Quantizer::new(precision).granularity(granularity).least_squares());
        let dequantized = form.quantize(context, weights, rows.len(), cols)?.dequantize(context);
        for (&row, from) in rows.iter().zip(dequantized.chunks_exact(cols)) {
            values[*index][row * cols..][..cols].copy_from_slice(from);
        }
    }
    let bits = hybridq::quant::mean_bits(&units, &precisions) + overhead;
    let share = |precision: Precision| {
        let in_it = units.iter().zip(&precisions).filter(|&(_, &of)| of == precision);
        (precision, in_it.map(|(unit, _)| unit.elements as f64).sum::<f64>() / elements as f64)
    };
    let scale = if granularity == Granularity::Row { "a scale a row" } else { "one scale each" };
    let name = match clusters {
        1 => format!("adaptive by matrix, {scale}, at most {budget:.3} bits"),
        _ => format!("adaptive by {clusters} clusters of rows, {scale}, at most {budget:.3} bits"),
    };
    let shares = Precision::ALL.into_iter().map(share).filter(|(_, share)| *share > 0.0).collect();
    Ok(Some(Outcome { name, bits, values, shares }))
}

fn loss(trainer: &mut LanguageModelTrainer) -> Result<f64> {
    Ok(trainer.evaluate()?.map_or(f64::NAN, |evaluation| evaluation.val_loss))
}

/// Validation loss with an outcome's values in the place of the weights. Matrices of 8 bits and a scale a row carry them: rows of
/// ternary values exactly, others to within half a 127th of their largest.
fn loss_with(
    context: &Context,
    trainer: &mut LanguageModelTrainer,
    matrices: &[Matrix],
    outcome: &Outcome,
) -> Result<f64> {
    let store = trainer.objective_mut().store_mut();
    for (matrix, values) in matrices.iter().zip(&outcome.values) {
        store.weight_mut(matrix.id).copy_from_slice(values);
        store.set_precision(matrix.id, Precision::Int8)?;
        store.set_output_scale(matrix.id, OutputScale::default());
    }
    store.quantize(context)?;
    loss(trainer)
}
