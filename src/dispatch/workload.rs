//! One call of an operation on made-up data of a given size: what calibration and the benchmark time.
#![forbid(unsafe_code)]

use super::{Context, Int8Matrix, Lloyd, Operation, StochasticRounding};
use crate::kernels::{DenseMatrix, ternary_packed_len};
use crate::tensor::AlignedBuffer;

/// The size of a call. Element-wise operations: `rows x cols` elements, `depth` 1. Products: `rows` outputs, `cols` inputs,
/// `depth` tokens. k-means: `rows` points of `cols` coordinates, `depth` centroids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Rows, outputs or points.
    pub rows: usize,
    /// Columns, inputs or coordinates.
    pub cols: usize,
    /// Tokens or centroids.
    pub depth: usize,
}

impl Size {
    /// Step `step` of `steps` from small to large, geometrically spaced by work; shapes and depths alternate.
    pub fn along(operation: Operation, step: usize, steps: usize) -> Self {
        let (least, most) = match operation {
            Operation::TernaryMatvec => (10.0f64, 24.0),
            Operation::QuantizeRowsStochastic | Operation::QuantizeColumnsStochastic => (6.0, 21.0),
            _ if operation.multiplies() => (12.0, 29.0),
            _ => (6.0, 22.5),
        };
        let work = (least + (most - least) * step as f64 / (steps.max(2) - 1) as f64).exp2();
        let depths: &[usize] = match operation {
            Operation::TernaryMatmul => &[2, 4, 3, 16, 8, 64, 128],
            Operation::TernaryMatmulTransposed => &[1, 8, 4, 64, 128],
            Operation::KmeansAssign | Operation::KmeansIteration => &[4, 16, 10, 64],
            Operation::DenseMatmul | Operation::Int8Matmul => &[32, 128, 8, 256],
            _ => &[1],
        };
        let depth = depths[step % depths.len()];
        let area = (work / depth as f64).max(1.0);
        let cols = match operation {
            Operation::KmeansAssign | Operation::KmeansIteration => [8.0, 64.0, 3.0][step % 3],
            // Tall, square and wide matrices in turn.
            _ if operation.multiplies() => area.sqrt() * [1.0, 2.0, 0.5][step % 3],
            _ => area.min(1024.0),
        };
        let cols = (cols.round() as usize).max(1);
        Size { rows: ((area / cols as f64).round() as usize).max(1), cols, depth }
    }

    /// The work of a call, in [`Operation::unit`], with what an output of an int8 product or a point of k-means costs beside its
    /// sums: 32 and 1,024 more. Without that, few tokens or coordinates would count too little.
    pub fn work(self, operation: Operation) -> usize {
        let area = self.rows.saturating_mul(self.cols);
        match operation {
            Operation::Int8Matmul => area.saturating_mul(self.depth.saturating_add(32)),
            Operation::KmeansAssign | Operation::KmeansIteration => {
                area.saturating_mul(self.depth).saturating_add(self.rows.saturating_mul(1024))
            }
            _ if operation.multiplies() => area.saturating_mul(self.depth),
            _ => area,
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {}", self.rows, self.cols)?;
        if self.depth > 1 { write!(f, " x {}", self.depth) } else { Ok(()) }
    }
}

/// Buffers for calls of one operation at one size, aligned as tensors are: where a plain allocation falls would decide between
/// levels that are close.
#[derive(Debug)]
pub struct Workload {
    operation: Operation,
    size: Size,
    floats: AlignedBuffer<f32>,
    more_floats: AlignedBuffer<f32>,
    out: AlignedBuffer<f32>,
    values: AlignedBuffer<i8>,
    more_values: AlignedBuffer<i8>,
    scales: AlignedBuffer<f32>,
    sums: AlignedBuffer<i32>,
    packed: AlignedBuffer<u8>,
    labels: Vec<u32>,
    totals: Vec<f64>,
}

/// Numbers that look random, of any sign.
fn scrambled(n: usize) -> impl Iterator<Item = u32> {
    (0..n as u32).map(|i| i.wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b))
}

fn floats(n: usize) -> AlignedBuffer<f32> {
    filled(scrambled(n).map(|bits| bits as i32 as f32 / i32::MAX as f32))
}

fn values(n: usize) -> AlignedBuffer<i8> {
    filled(scrambled(n).map(|bits| (bits >> 24) as i8))
}

fn filled<T: bytemuck::Pod>(values: impl Iterator<Item = T>) -> AlignedBuffer<T> {
    AlignedBuffer::from_slice(&values.collect::<Vec<T>>())
}

/// The threshold that makes about a third of the floats zeros.
const THRESHOLD: f32 = 0.33;
const ROUNDING: StochasticRounding = StochasticRounding { key: [1, 2], step: 3, tensor: 4 };

impl Workload {
    /// Buffers and inputs for `operation` at `size`.
    pub fn new(operation: Operation, size: Size) -> Self {
        let Size { rows, cols, depth } = size;
        let (area, packed_len) = (rows * cols, ternary_packed_len(rows, cols));
        let mut load = Workload {
            operation,
            size,
            floats: AlignedBuffer::default(),
            more_floats: AlignedBuffer::default(),
            out: AlignedBuffer::default(),
            values: AlignedBuffer::default(),
            more_values: AlignedBuffer::default(),
            scales: AlignedBuffer::default(),
            sums: AlignedBuffer::default(),
            packed: AlignedBuffer::default(),
            labels: vec![],
            totals: vec![],
        };
        match operation {
            Operation::QuantizeRows | Operation::QuantizeRowsStochastic | Operation::QuantizeColumnsStochastic => {
                load.floats = floats(area);
                load.more_floats = filled((0..rows).map(|_| 1.0));
                load.values = AlignedBuffer::zeroed(area);
                let scales = if operation == Operation::QuantizeColumnsStochastic { cols } else { rows };
                (load.scales, load.sums) = (AlignedBuffer::zeroed(scales), AlignedBuffer::zeroed(rows));
            }
            Operation::DenseMatmul => {
                (load.floats, load.more_floats) = (floats(depth * cols), floats(area));
                load.out = AlignedBuffer::zeroed(depth * rows);
            }
            Operation::Int8Matmul => {
                (load.values, load.more_values) = (values(depth * rows), values(depth * cols));
                (load.scales, load.out) = (filled((0..rows).map(|_| 1.0)), AlignedBuffer::zeroed(area));
            }
            Operation::KmeansAssign | Operation::KmeansIteration => {
                (load.floats, load.more_floats) = (floats(area), floats(depth * cols));
                (load.labels, load.out) = (vec![0; rows], AlignedBuffer::zeroed(rows));
            }
            Operation::Norm | Operation::Scale => load.floats = floats(area),
            Operation::TernaryQuantizePack => {
                (load.floats, load.packed) = (floats(area), AlignedBuffer::zeroed(packed_len))
            }
            Operation::TernaryPack => (load.values, load.packed) = (values(area), AlignedBuffer::zeroed(packed_len)),
            Operation::TernaryUnpack => {
                (load.values, load.packed) = (AlignedBuffer::zeroed(area), filled((0..packed_len).map(|_| 0x49)))
            }
            Operation::TernaryMatvec | Operation::TernaryMatmul | Operation::TernaryMatmulTransposed => {
                let transposed = operation == Operation::TernaryMatmulTransposed;
                let (inner, outer) = if transposed { (rows, cols) } else { (cols, rows) };
                load.values = values(depth * inner);
                load.sums = filled(load.values.chunks(inner).map(|row| row.iter().map(|&x| i32::from(x)).sum()));
                (load.scales, load.out) = (filled((0..depth).map(|_| 0.5)), AlignedBuffer::zeroed(depth * outer));
                // Any code but 3 is a weight: 0x49 holds 1, 2, 0, 1.
                load.packed = filled((0..packed_len).map(|_| 0x49));
            }
        }
        load
    }

    /// The call.
    pub fn run(&mut self, context: &Context) {
        let Size { rows, cols, depth } = self.size;
        let Workload { floats: x, values, scales, sums, packed, out, .. } = self;
        match self.operation {
            Operation::QuantizeRows => context.quantize_rows(x, cols, values, scales, sums),
            Operation::QuantizeRowsStochastic => {
                context.quantize_rows_stochastic(x, cols, ROUNDING, values, scales, sums);
            }
            Operation::QuantizeColumnsStochastic => {
                context.quantize_columns_stochastic(x, cols, &self.more_floats, ROUNDING, values, scales);
            }
            Operation::DenseMatmul => {
                let a = DenseMatrix { data: x, stride: cols, transposed: false };
                let b = DenseMatrix { data: &self.more_floats, stride: cols, transposed: true };
                context.matmul((depth, rows, cols), a, b, false, out);
            }
            Operation::Int8Matmul => {
                let (a, b) = (Int8Matrix::transposed(values, rows), Int8Matrix::new(&self.more_values, cols));
                context.int8_matmul((rows, cols, depth), a, b, scales, false, out, cols);
            }
            Operation::KmeansAssign => {
                context.kmeans_assign(x, rows, cols, &self.more_floats, depth, &mut self.labels, out);
            }
            Operation::KmeansIteration => {
                let mut lloyd = Lloyd::new(context, x, cols, depth, false);
                lloyd.assign(&self.more_floats);
                let means = &mut self.totals;
                means.clear();
                let mut centroids = self.more_floats.to_vec();
                lloyd.means(&mut centroids);
                means.extend(centroids.into_iter().map(f64::from));
                self.labels = lloyd.into_labels();
            }
            Operation::Norm => self.totals = vec![context.sum_squares(x)],
            Operation::Scale => context.scale(x, 1.0),
            Operation::TernaryQuantizePack => {
                context.ternary_repack(x, rows, cols, &[THRESHOLD], packed);
            }
            Operation::TernaryPack => context.ternary_pack(values, rows, cols, packed),
            Operation::TernaryUnpack => context.ternary_unpack(packed, rows, cols, values),
            Operation::TernaryMatvec | Operation::TernaryMatmul => {
                context.ternary_matmul(packed, rows, cols, &[1.0], values, scales, sums, out);
            }
            Operation::TernaryMatmulTransposed => {
                context.ternary_matmul_transposed(packed, rows, cols, values, scales, sums, out);
            }
        }
    }

    /// A digest of every bit of the result.
    pub fn digest(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        let floats = [&self.floats, &self.out, &self.scales];
        floats.into_iter().flat_map(|buffer| buffer.iter()).for_each(|value| value.to_bits().hash(&mut hasher));
        self.totals.iter().for_each(|value| value.to_bits().hash(&mut hasher));
        (&*self.values, &*self.sums, &*self.packed, &self.labels).hash(&mut hasher);
        hasher.finish()
    }
}
