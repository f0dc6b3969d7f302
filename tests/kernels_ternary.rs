//! The ternary kernels of every ISA this machine runs, against the obvious reference.

use hybridq::dispatch::{Context, ContextOptions};
use hybridq::kernels::reference;
use hybridq::kernels::{
    Activations, KernelTable, MatrixMut, TERNARY_MAX_K, panels_len, ternary_block_len, ternary_packed_len,
};
use hybridq::quant::{Granularity, PackedTernary, QuantizedRows};
use hybridq::tensor::RandomStream;
use proptest::prelude::*;

const SIZES: [usize; 14] = [0, 1, 3, 15, 16, 17, 31, 63, 64, 65, 97, 128, 131, 257];
const CANARY: f32 = 12345.5;

fn random(seed: u32) -> RandomStream {
    RandomStream::new(7, 0, 0, seed)
}

fn trits(count: usize, seed: u32) -> Vec<i8> {
    let mut stream = random(seed);
    (0..count).map(|_| (stream.next_u32() % 3) as i8 - 1).collect()
}

fn bytes(count: usize, seed: u32) -> Vec<i8> {
    let mut stream = random(seed);
    (0..count).map(|_| stream.next_u32() as u8 as i8).collect()
}

/// int8 activations `[tokens, k]` with their sums and made-up scales; `values` begins off any boundary.
struct Input {
    values: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl Input {
    fn new(values: &[i8], tokens: usize) -> Self {
        let k = values.len() / tokens.max(1);
        let sum = |t: usize| values[t * k..(t + 1) * k].iter().map(|&v| i32::from(v)).sum();
        let scales = (0..tokens).map(|t| 0.37 / (t + 1) as f32).collect();
        let misaligned = [&[99, 99, 99], values].concat();
        Input { values: misaligned, scales, sums: (0..tokens).map(sum).collect() }
    }

    fn activations(&self) -> Activations<'_> {
        Activations { values: &self.values[3..], scales: &self.scales, sums: &self.sums }
    }
}

fn pack(table: &KernelTable, trits: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let mut packed = vec![0xEE; ternary_packed_len(rows, cols) + 1];
    table.ternary_pack(trits, rows, cols, &mut packed[1..]);
    packed.remove(0);
    packed
}

/// The integers of all three products of one table, computed block by block.
struct Products<'a> {
    table: &'a KernelTable,
    packed: &'a [u8],
    rows: usize,
    cols: usize,
}

impl Products<'_> {
    fn panels(&self, first: usize, transposed: bool) -> Vec<u8> {
        let k = if transposed { self.rows } else { self.cols };
        let mut panels = vec![0xEE; panels_len(k) + 1];
        if transposed {
            self.table.ternary_panels_transposed(self.packed, self.rows, self.cols, first, &mut panels[1..]);
        } else {
            let block = &self.packed[first / 64 * ternary_block_len(self.cols)..][..ternary_block_len(self.cols)];
            self.table.ternary_panels(block, self.cols, &mut panels[1..]);
        }
        panels
    }

    fn matmul(&self, x: Activations<'_>, transposed: bool) -> Vec<i64> {
        let (outputs, k) = if transposed { (self.cols, self.rows) } else { (self.rows, self.cols) };
        let tokens = x.sums.len();
        let mut y = vec![i32::MIN; tokens * outputs];
        let mut rest = MatrixMut::new(&mut y, tokens, outputs);
        for first in (0..outputs).step_by(64) {
            let (tile, right) = rest.split_cols_at((outputs - first).min(64));
            let panels = self.panels(first, transposed);
            self.table.panel_matmul_i32(&panels[1..], k, x, tile);
            rest = right;
        }
        y.into_iter().map(i64::from).collect()
    }

    fn matmul_packed(&self, x: Activations<'_>) -> Vec<i64> {
        let tokens = x.sums.len();
        let mut y = vec![i32::MIN; tokens * self.rows];
        self.table.ternary_matmul_i32(self.packed, self.cols, x, MatrixMut::new(&mut y, tokens, self.rows));
        y.into_iter().map(i64::from).collect()
    }

    /// Straight from the packed form, all columns at once: the floats that integers and scales ask for.
    fn transposed_packed(&self, x: Activations<'_>) -> Vec<f32> {
        let tokens = x.sums.len();
        let mut y = vec![CANARY; (tokens + 2) * (self.cols + 2)];
        let window = MatrixMut::new(&mut y, tokens + 2, self.cols + 2).split_rows_at(1).1.split_rows_at(tokens).0;
        let window = window.split_cols_at(1).1.split_cols_at(self.cols).0;
        self.table.ternary_matmul_transposed(self.packed, self.rows, self.cols, 0, x, window);
        y
    }

    fn matvec(&self, x: Activations<'_>) -> Vec<i64> {
        let mut y = vec![i32::MIN; self.rows];
        self.table.ternary_matvec_i32(self.packed, self.cols, x, &mut y);
        y.into_iter().map(i64::from).collect()
    }
}

fn check_products(w: &[i8], rows: usize, cols: usize, tokens: usize, x: &[i8], dy: &[i8]) {
    let (input, gradient) = (Input::new(x, tokens), Input::new(dy, tokens));
    let forward = reference::ternary_matmul(w, x, rows, cols, tokens);
    let backward = reference::ternary_matmul_transposed(w, dy, rows, cols, tokens);
    for table in KernelTable::available() {
        let at = format!("{} {rows} x {cols}, {tokens} tokens", table.isa().name());
        let packed = pack(table, w, rows, cols);
        let products = Products { table, packed: &packed, rows, cols };
        assert_eq!(products.matmul(input.activations(), false), forward, "matmul {at}");
        assert_eq!(products.matmul_packed(input.activations()), forward, "matmul from the packed form {at}");
        assert_eq!(products.matmul(gradient.activations(), true), backward, "transposed {at}");
        let mut scaled = vec![CANARY; (tokens + 2) * (cols + 2)];
        for (i, &sum) in backward.iter().enumerate() {
            let (t, c) = (i / cols, i % cols);
            scaled[(t + 1) * (cols + 2) + c + 1] = sum as i32 as f32 * gradient.scales[t];
        }
        assert_eq!(products.transposed_packed(gradient.activations()), scaled, "transposed from the packed form {at}");
        for t in 0..tokens.min(2) {
            let y = products.matvec(input.activations().tokens(t..t + 1, cols));
            assert_eq!(y, forward[t * rows..(t + 1) * rows], "matvec {at}");
        }
    }
}

#[test]
fn the_layout_is_as_documented() {
    // One weight of +1 at [37][22]: block 0, step 1, tile 2, row 5 of the tile, k 6 of the step: field 1 of byte 4*5+2.
    let mut w = vec![0i8; 64 * 32];
    w[37 * 32 + 22] = 1;
    w[63 * 32] = -1;
    for table in KernelTable::available() {
        let mut expected = vec![0x55u8; 512];
        expected[256 + 2 * 64 + 4 * 5 + 2] = 0x55 + (1 << 2);
        expected[3 * 64 + 4 * 15] = 0x54;
        assert_eq!(pack(table, &w, 64, 32), expected, "{}", table.isa().name());
    }
}

#[test]
fn products_equal_the_reference_at_every_size() {
    for (at, (rows, cols)) in SIZES.into_iter().flat_map(|rows| SIZES.map(|cols| (rows, cols))).enumerate() {
        let tokens = [1, 2, 5, 7, 13][at % 5];
        let w = trits(rows * cols, 3);
        check_products(&w, rows, cols, tokens, &bytes(tokens * cols, 4), &bytes(tokens * rows, 5));
    }
    for tokens in 0..20 {
        let w = trits(70 * 100, 3);
        check_products(&w, 70, 100, tokens, &bytes(tokens * 100, 4), &bytes(tokens * 70, 5));
    }
}

#[test]
fn extremes_do_not_overflow() {
    for (weight, value) in [(1, 127), (1, -128), (-1, 127), (-1, -128)] {
        for (rows, cols) in [(64, 4097), (513, 66), (2, TERNARY_MAX_K), (TERNARY_MAX_K, 2)] {
            let (w, tokens) = (vec![weight; rows * cols], 2);
            let (x, dy) = (vec![value; tokens * cols], vec![value; tokens * rows]);
            check_products(&w, rows, cols, tokens, &x, &dy);
        }
    }
}

/// More than 2^31 weights, most of them in pages nobody has touched (code 0, weight -1): the last block and the last
/// columns hold other weights and must be found there.
#[test]
fn more_than_2_to_the_31_weights_are_indexed_right() {
    let (rows, cols) = ((1 << 18) - 3, 8229);
    assert!(rows * cols > 1 << 31);
    let block_len = ternary_block_len(cols);
    let mut packed = vec![0u8; ternary_packed_len(rows, cols)];
    let (last_row, last_col) = (rows / 64 * 64, cols / 64 * 64);
    let (tail_rows, tail_cols) = (rows - last_row, cols - last_col);
    let tail = trits(tail_rows * cols, 11);
    let tail_at = packed.len() - block_len;
    KernelTable::available()[0].ternary_pack(&tail, tail_rows, cols, &mut packed[tail_at..]);
    let weight =
        |row: usize, col: usize| if row < last_row { -1 } else { i64::from(tail[(row - last_row) * cols + col]) };

    let (x, dy) = (bytes(cols, 12), bytes(rows, 13));
    let (input, gradient) = (Input::new(&x, 1), Input::new(&dy, 1));
    let sum_x: i64 = x.iter().map(|&x| i64::from(x)).sum();
    let last_sums = reference::ternary_matmul(&tail, &x, tail_rows, cols, 1);
    let backward: Vec<i64> = (0..tail_cols)
        .map(|c| dy.iter().enumerate().map(|(r, &d)| weight(r, last_col + c) * i64::from(d)).sum())
        .collect();
    for table in KernelTable::available() {
        let products = Products { table, packed: &packed, rows, cols };
        let panels = products.panels(last_col, true);
        let mut y = vec![0; tail_cols];
        let window = MatrixMut::new(&mut y, 1, tail_cols);
        table.panel_matmul_i32(&panels[1..], rows, gradient.activations(), window);
        let y: Vec<i64> = y.into_iter().map(i64::from).collect();
        assert_eq!(y, backward, "transposed, {}", table.isa().name());
        let mut y = vec![0.0; tail_cols];
        let window = MatrixMut::new(&mut y, 1, tail_cols);
        table.ternary_matmul_transposed(&packed, rows, cols, last_col, gradient.activations(), window);
        let scaled: Vec<f32> = backward.iter().map(|&sum| sum as i32 as f32 * gradient.scales[0]).collect();
        assert_eq!(y, scaled, "transposed from the packed form, {}", table.isa().name());
        for y in [products.matmul_packed(input.activations()), products.matvec(input.activations())] {
            assert!(y[..last_row].iter().all(|&y| y == -sum_x), "first rows, {}", table.isa().name());
            assert_eq!(y[last_row..], last_sums, "last rows, {}", table.isa().name());
        }
    }
}

#[test]
fn scaled_outputs_follow_the_contract_and_stay_inside() {
    for (rows, cols, tokens) in [(1, 5, 4), (37, 19, 7), (64, 64, 6), (50, 130, 9), (64, 4, 1)] {
        let (w, x) = (trits(rows * cols, 6), bytes(tokens * cols, 7));
        let input = Input::new(&x, tokens);
        let sums = reference::ternary_matmul(&w, &x, rows, cols, tokens);
        let row_scales: Vec<f32> = (0..rows).map(|r| 0.011 * (r + 1) as f32).collect();
        for (table, scales) in KernelTable::available().iter().flat_map(|t| [(t, &row_scales[..]), (t, &[0.3])]) {
            let at = format!("{} {rows} x {cols}, {tokens} tokens", table.isa().name());
            let expected = |t: usize, r: usize| {
                sums[t * rows + r] as f32 * (input.scales[t] * scales[if scales.len() == 1 { 0 } else { r }])
            };
            let packed = pack(table, &w, rows, cols);
            let panels = Products { table, packed: &packed, rows, cols }.panels(0, false);
            let width = rows + 2;
            for from_panels in [true, false] {
                let mut y = vec![CANARY; (tokens + 2) * width];
                let window = MatrixMut::new(&mut y, tokens + 2, width).split_rows_at(1).1.split_rows_at(tokens).0;
                let window = window.split_cols_at(1).1.split_cols_at(rows).0;
                if from_panels {
                    table.panel_matmul(&panels[1..], cols, input.activations(), scales, window);
                } else {
                    table.ternary_matmul(&packed, cols, input.activations(), scales, window);
                }
                for (i, &found) in y.iter().enumerate() {
                    let (t, r) = (i / width, i % width);
                    let inside = (1..=tokens).contains(&t) && (1..=rows).contains(&r);
                    let expected = if inside { expected(t - 1, r - 1) } else { CANARY };
                    assert_eq!(found.to_bits(), expected.to_bits(), "panels {from_panels}, {at}, y[{t}][{r}]");
                }
            }
            let mut y = vec![CANARY; rows + 2];
            let token = input.activations().tokens(tokens - 1..tokens, cols);
            table.ternary_matvec(&packed, cols, token, scales, &mut y[1..=rows]);
            assert!(y[0] == CANARY && y[rows + 1] == CANARY, "matvec {at}: wrote outside");
            for r in 0..rows {
                assert_eq!(y[r + 1].to_bits(), expected(tokens - 1, r).to_bits(), "matvec {at}");
            }
        }
    }
}

fn context(threads: usize) -> Context {
    Context::new(ContextOptions { threads: Some(threads), isa: None }).unwrap()
}

#[test]
fn packed_matrices_give_the_same_bits_at_every_thread_count() {
    let (rows, cols, tokens) = (450, 300, 1030);
    let mut stream = random(8);
    let weights: Vec<f32> = (0..rows * cols).map(|_| stream.normal() as f32).collect();
    for granularity in [Granularity::Tensor, Granularity::Row] {
        let results = [1, 2, 3].map(|threads| {
            let ctx = context(threads);
            let packed = PackedTernary::pack(&ctx, &weights, rows, cols, granularity).unwrap();
            let quantized = |width: usize, seed: u32| {
                let input = Input::new(&bytes(tokens * width, seed), tokens);
                let mut x = QuantizedRows::zeroed(tokens, width);
                x.values.copy_from_slice(input.activations().values);
                x.scales.copy_from_slice(&input.scales);
                x.sums.copy_from_slice(&input.sums);
                x
            };
            let (x, dy) = (quantized(cols, 9), quantized(rows, 10));
            let (mut y, mut one) = (vec![0.0; tokens * rows], vec![0.0; 2 * rows]);
            let mut dx = vec![0.0; tokens * cols];
            packed.matmul(&ctx, &x, tokens, &mut y);
            packed.matmul(&ctx, &x, 2, &mut one);
            packed.matmul_transposed(&ctx, &dy, tokens, &mut dx);
            assert_eq!(one, y[..2 * rows], "one token and many give the same");
            let mut few = vec![0.0; 20 * cols];
            packed.matmul_transposed(&ctx, &dy, 20, &mut few);
            assert_eq!(few, dx[..20 * cols], "few tokens and many give the same");
            let q = packed.unpack(&ctx);
            let sums = reference::ternary_matmul_transposed(&q, &dy.values, rows, cols, tokens);
            let expected = |(i, &sum): (usize, &i64)| sum as f32 * dy.scales[i / cols];
            assert_eq!(dx, sums.iter().enumerate().map(expected).collect::<Vec<_>>());
            let mut values = vec![0.0; rows * cols];
            packed.dequantize(&ctx, &mut values);
            assert!(values.iter().zip(&q).enumerate().all(|(i, (v, &q))| *v == packed.scale(i / cols) * f32::from(q)));
            (packed.data.to_vec(), packed.scales, y, dx)
        });
        assert!(results[0] == results[1] && results[0] == results[2]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_products_equal_the_reference(rows in 0usize..150, cols in 0usize..150, tokens in 0usize..16, seed: u32) {
        let w = trits(rows * cols, seed);
        check_products(&w, rows, cols, tokens, &bytes(tokens * cols, !seed), &bytes(tokens * rows, seed ^ 1));
    }
}
