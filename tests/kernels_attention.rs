//! The attention kernels against the formula in f64, on every ISA, at odd sizes, strides and positions.

use hybridq::kernels::{HeadRows, HeadShape, KernelTable, ProbabilityDropout};
use hybridq::tensor::{Philox, RandomStream};

/// Floats behind each output that must stay as they are.
const CANARIES: usize = 8;
const CANARY: f32 = 12345.0;

fn uniform(n: usize, seed: u64) -> Vec<f32> {
    let mut stream = RandomStream::new(seed, 0, 0, 0);
    (0..n).map(|_| 2.0 * stream.uniform() as f32 - 1.0).collect()
}

struct Case {
    shape: HeadShape,
    /// Of queries, keys, values and outputs.
    strides: [usize; 4],
    operands: [Vec<f32>; 4],
}

fn case(queries: usize, keys: usize, head_dim: usize, first: usize, causal: bool, window: Option<usize>) -> Case {
    let scale = 0.9 / (head_dim as f32).sqrt();
    let shape = HeadShape { queries, keys, head_dim, first, causal, window, scale, dropout: None };
    let strides = [head_dim + 3, head_dim, head_dim + 1, head_dim + 5];
    let rows = [queries, keys, keys, queries];
    // The last row ends where its elements end.
    let length = |role: usize| (rows[role].max(1) - 1) * strides[role] + head_dim;
    let operands = [0, 1, 2, 3].map(|role| uniform(length(role), role as u64 + 1));
    Case { shape, strides, operands }
}

/// y, dq, dk, dv, dense, in f64.
fn formula(case: &Case) -> [Vec<f64>; 4] {
    let HeadShape { queries, keys, head_dim, first, causal, window, scale, dropout } = case.shape;
    // What stays of the probability of key `j` for query `i`.
    let kept = |i: usize, j: usize| {
        let Some(drop) = dropout else { return 1.0 };
        let block = Philox::new(drop.key).block([(j / 4) as u32, drop.row + i as u32, drop.tensor, drop.step]);
        if block[j % 4] < drop.threshold { 0.0 } else { f64::from(drop.factor) }
    };
    let at = |role: usize, row: usize, d: usize| f64::from(case.operands[role][row * case.strides[role] + d]);
    let dot =
        |a: (usize, usize), b: (usize, usize)| (0..head_dim).map(|d| at(a.0, a.1, d) * at(b.0, b.1, d)).sum::<f64>();
    let mut out = [queries, queries, keys, keys].map(|rows| vec![0f64; rows * head_dim]);
    for i in 0..queries {
        let position = first + i;
        let begin = if causal { (position + 1).saturating_sub(window.unwrap_or(usize::MAX)) } else { 0 };
        let end = if causal { keys.min(position + 1) } else { keys };
        let scores: Vec<f64> = (begin..end).map(|j| f64::from(scale) * dot((0, i), (1, j))).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
        let p: Vec<f64> = scores.iter().map(|s| (s - most).exp() / sum).collect();
        let dp: Vec<f64> = (begin..end).map(|j| kept(i, j) * dot((3, i), (2, j))).collect();
        let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        for (j, (p, dp)) in (begin..end).zip(p.iter().zip(&dp)) {
            let ds = p * (dp - mean) * f64::from(scale);
            for d in 0..head_dim {
                out[0][i * head_dim + d] += kept(i, j) * p * at(2, j, d);
                out[1][i * head_dim + d] += ds * at(1, j, d);
                out[2][j * head_dim + d] += ds * at(0, i, d);
                out[3][j * head_dim + d] += kept(i, j) * p * at(3, i, d);
            }
        }
    }
    out
}

/// With about `share` of the probabilities dropped.
fn dropping(case: Case, share: f32) -> Case {
    let threshold = (f64::from(share) * 2f64.powi(32)) as u32;
    let factor = 1.0 / (1.0 - share);
    let dropout = ProbabilityDropout { threshold, factor, key: [7, 1 << 31], tensor: 3, step: 9, row: u32::MAX - 200 };
    Case { shape: HeadShape { dropout: Some(dropout), ..case.shape }, ..case }
}

fn run(table: &KernelTable, case: &Case) -> [Vec<f32>; 4] {
    let HeadShape { queries, keys, head_dim, .. } = case.shape;
    let rows = |role: usize| HeadRows { rows: &case.operands[role], stride: case.strides[role] };
    let operands = [rows(0), rows(1), rows(2)];
    let stride = case.strides[3];
    let mut y = vec![CANARY; queries * stride + CANARIES];
    let mut scratch = vec![f32::NAN; case.shape.scratch_len()];
    table.attention_forward(&case.shape, operands, &mut scratch, &mut y, stride);
    let dense = |row: usize| &y[row * stride..][..head_dim];
    for (place, value) in y.iter().enumerate() {
        let inside = place / stride < queries && place % stride < head_dim;
        assert!(inside || *value == CANARY, "{}: written outside y", table.isa().name());
    }
    let y: Vec<f32> = (0..queries).flat_map(|row| dense(row).to_vec()).collect();
    let mut scratch = vec![f32::NAN; case.shape.backward_scratch_len()];
    // The gradients of keys and values are added to what is there.
    let mut gradients = [queries, keys, keys].map(|rows| vec![1f32; rows * head_dim]);
    let [dq, dk, dv] = &mut gradients;
    table.attention_backward(&case.shape, operands, rows(3), &mut scratch, [dq, dk, dv]);
    let [dq, mut dk, mut dv] = gradients;
    dk.iter_mut().chain(&mut dv).for_each(|value| *value -= 1.0);
    [y, dq, dk, dv]
}

#[test]
fn equals_the_formula_on_every_isa() {
    let cases = [
        case(1, 1, 1, 0, true, None),
        case(1, 50, 64, 49, true, None),
        case(1, 33, 19, 32, true, Some(7)),
        case(1, 9, 5, 20, false, None),
        case(5, 5, 7, 0, true, None),
        case(23, 23, 16, 0, true, None),
        case(24, 24, 15, 0, true, None),
        case(25, 25, 33, 0, true, Some(9)),
        case(31, 47, 17, 16, true, Some(20)),
        case(70, 70, 80, 0, true, None),
        case(70, 131, 65, 61, true, Some(40)),
        case(9, 30, 20, 0, false, None),
        case(61, 29, 31, 0, false, None),
        case(100, 100, 128, 0, true, Some(1)),
        case(50, 50, 3, 10, true, Some(4)),
        case(0, 5, 8, 0, true, None),
        dropping(case(1, 33, 19, 32, true, Some(7)), 0.3),
        dropping(case(25, 25, 33, 0, true, Some(9)), 0.5),
        dropping(case(70, 131, 65, 61, true, Some(40)), 0.1),
        dropping(case(61, 129, 31, 0, false, None), 0.9),
    ];
    for (number, case) in cases.iter().enumerate() {
        let expected = formula(case);
        let mut first: Option<[Vec<f32>; 4]> = None;
        for table in KernelTable::available() {
            let found = run(table, case);
            // dk and dv are added to 1, which rounds them to its ulps.
            let outputs = [("y", 0.1), ("dq", 0.1), ("dk", 1.0), ("dv", 1.0)];
            for ((name, least), (found, expected)) in outputs.iter().zip(found.iter().zip(&expected)) {
                let largest = expected.iter().map(|value| value.abs()).fold(*least, f64::max);
                for (element, (found, expected)) in found.iter().zip(expected).enumerate() {
                    let off = (f64::from(*found) - expected).abs() / largest;
                    let isa = table.isa().name();
                    assert!(off < 2e-6, "case {number}, {isa}: {name}[{element}] is {found}, {expected} expected");
                }
            }
            let first = first.get_or_insert_with(|| found.clone());
            assert!(*first == found, "case {number}: {} gives other bits than portable", table.isa().name());
        }
    }
}

#[test]
fn a_query_without_keys_gives_zeros() {
    let mut case = case(3, 4, 6, 0, true, None);
    case.shape.keys = 0;
    for table in KernelTable::available() {
        assert!(run(table, &case).iter().flatten().all(|&value| value == 0.0));
    }
}
