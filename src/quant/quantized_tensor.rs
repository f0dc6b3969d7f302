//! Codes and scales of a quantized matrix.
#![forbid(unsafe_code)]

use super::{Granularity, Precision};
use crate::dispatch::Context;

/// Values of one block of work where a single scale serves the whole matrix.
const BLOCK: usize = 1 << 14;

/// How a matrix falls into pieces of work and, within a piece, into runs that share a scale.
pub(super) struct Runs {
    /// Values of a piece: a row, or a fixed block if one scale serves all.
    pub(super) piece: usize,
    /// Values of a run.
    pub(super) run: usize,
    scales_per_piece: usize,
}

impl Runs {
    pub(super) fn new(granularity: Granularity, cols: usize) -> Self {
        let cols = cols.max(1);
        match granularity {
            Granularity::Tensor => Runs { piece: BLOCK, run: BLOCK, scales_per_piece: 0 },
            Granularity::Row => Runs { piece: cols, run: cols, scales_per_piece: 1 },
            Granularity::Group(size) => Runs { piece: cols, run: size, scales_per_piece: cols.div_ceil(size) },
        }
    }

    /// The scales of the runs of piece `index`.
    pub(super) fn scales_of<'a>(&self, index: usize, scales: &'a [f32]) -> &'a [f32] {
        &scales[index * self.scales_per_piece..]
    }
}

/// A quantized matrix `[rows, cols]`, one code a byte: `w[r][c] ~ codes[r][c] * unit * scale`, where `unit` is 1/2 for
/// five-level and 2-bit grids and 1 for the others.
#[derive(Clone, PartialEq, Debug)]
pub struct QuantizedTensor {
    /// The grid.
    pub precision: Precision,
    /// Values that share a scale.
    pub granularity: Granularity,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Codes, row-major.
    pub codes: Vec<i8>,
    /// One scale for the matrix, each row, or each group of each row.
    pub scales: Vec<f32>,
}

impl QuantizedTensor {
    /// The values the codes stand for, row-major `[rows, cols]`.
    pub fn dequantize(&self, context: &Context) -> Vec<f32> {
        let mut values = vec![0.0; self.codes.len()];
        let runs = Runs::new(self.granularity, self.cols);
        let pieces = values.chunks_mut(runs.piece).zip(self.codes.chunks(runs.piece)).enumerate();
        context.for_each(pieces, |(index, (values, codes))| {
            let scales = runs.scales_of(index, &self.scales);
            for ((values, codes), &scale) in values.chunks_mut(runs.run).zip(codes.chunks(runs.run)).zip(scales) {
                let step = self.precision.unit() * scale;
                values.iter_mut().zip(codes).for_each(|(v, &c)| *v = f32::from(c) * step);
            }
        });
        values
    }

    /// `mean((w - dequantized)^2)`, in f64.
    ///
    /// # Panics
    /// If `weights` is not `rows * cols` long.
    pub fn mean_squared_error(&self, context: &Context, weights: &[f32]) -> f64 {
        assert_eq!(weights.len(), self.codes.len(), "mean_squared_error: another shape");
        let values = self.dequantize(context);
        let error: f64 = values.iter().zip(weights).map(|(&v, &w)| (f64::from(v) - f64::from(w)).powi(2)).sum();
        error / weights.len().max(1) as f64
    }

    /// Replaces each scale by the one of least squared error for the codes, `<w, q> / <q, q>`; a run of zero codes
    /// keeps its scale.
    pub(super) fn fit_scales(&mut self, context: &Context, weights: &[f32]) {
        let runs = Runs::new(self.granularity, self.cols);
        let products = |(codes, weights): (&[i8], &[f32])| -> (f64, f64) {
            let pairs = codes.iter().zip(weights).map(|(&c, &w)| (f64::from(c), f64::from(w)));
            pairs.fold((0.0, 0.0), |(wq, qq), (c, w)| (wq + w * c, qq + c * c))
        };
        let pieces = self.codes.chunks(runs.piece).zip(weights.chunks(runs.piece));
        let of_piece =
            |(c, w): (&[i8], &[f32])| -> Vec<_> { c.chunks(runs.run).zip(w.chunks(runs.run)).map(products).collect() };
        let mut sums: Vec<(f64, f64)> = context.map(pieces, of_piece).into_iter().flatten().collect();
        if self.granularity == Granularity::Tensor {
            sums = vec![sums.iter().fold((0.0, 0.0), |total, part| (total.0 + part.0, total.1 + part.1))];
        }
        for (scale, (wq, qq)) in self.scales.iter_mut().zip(sums) {
            if qq > 0.0 {
                *scale = (wq / qq / f64::from(self.precision.unit())) as f32;
            }
        }
    }
}
